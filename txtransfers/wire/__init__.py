"""What travels between peers: pure functions and frozen values, no I/O."""
