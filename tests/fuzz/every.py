"""All harnesses by name."""

from tests.fuzz import exchanges, values
from tests.fuzz.harness import Harness

HARNESSES = {each.name: each for each in (*values.HARNESSES, *exchanges.HARNESSES)}

__all__ = ["HARNESSES", "Harness"]
