"""Measures transfers over long links, beside other programs: ``python -m bench.wan --help``."""
