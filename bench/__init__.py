"""Measures: each prints what the documentation claims, as ratios within one run."""
