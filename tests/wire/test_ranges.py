"""Sets of numbers as they travel."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadMessage
from txtransfers.wire.ranges import from_ranges, to_ranges


class RangeTests(SynchronousTestCase):
    def test_runs_become_pairs(self) -> None:
        self.assertEqual(to_ranges([]), [])
        self.assertEqual(to_ranges([7]), [[7, 7]])
        self.assertEqual(to_ranges([3, 1, 2, 9, 8, 5, 5]), [[1, 3], [5, 5], [8, 9]])

    @given(st.frozensets(st.integers(0, 300)))
    def test_there_and_back(self, numbers: frozenset[int]) -> None:
        ranges = to_ranges(numbers)
        self.assertEqual(from_ranges(ranges, 301, "x"), numbers)
        self.assertTrue(all(b[0] > a[1] + 1 for a, b in pairwise(ranges)))

    def test_what_is_no_range(self) -> None:
        for bad in (
            [[1]],
            [[1, 2, 3]],
            [[-1, 2]],
            [[3, 2]],
            [[0, 10]],
            [[0, 10**18]],
            [[]],
            [[0, 5], [5, 6]],
        ):
            error = self.assertRaises(BadMessage, from_ranges, bad, 10, "Missing")
            self.assertIn("Missing", str(error))
