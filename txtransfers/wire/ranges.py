"""Sets of small numbers (buckets, positions) as they travel: ``[[0, 9], [12, 12]]``."""

from collections.abc import Iterable, Sequence

from ..errors import BadMessage


def to_ranges(numbers: Iterable[int]) -> list[list[int]]:
    """First and last of each run of numbers, in order."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] >= number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def from_ranges(ranges: Sequence[Sequence[int]], count: int, what: str) -> frozenset[int]:
    """The numbers of ``ranges``, which grow, each from 0 up to, without, ``count``.

    :raises BadMessage: they are no such ranges; the text names ``what``.
    """
    numbers: set[int] = set()
    first = 0
    for pair in ranges:
        if len(pair) != 2 or not first <= pair[0] <= pair[1] < count:
            raise BadMessage(f"{what}: {list(pair)[:3]} is no range within {first}..{count - 1}")
        numbers.update(range(pair[0], pair[1] + 1))
        first = pair[1] + 1
    return frozenset(numbers)
