"""What the daemon is made of: :mod:`..service` takes these parts, and starts and stops them."""
