"""Moving bytes between peers."""
