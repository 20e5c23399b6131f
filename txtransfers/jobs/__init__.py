"""Transfers as jobs: their states, their journal, the queue that runs them."""
