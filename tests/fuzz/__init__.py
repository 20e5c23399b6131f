"""Every parser of hostile input, a harness each: for the tests, and ``python -m tests.fuzz``."""
