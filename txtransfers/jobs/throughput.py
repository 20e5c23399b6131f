"""How a job's bytes have moved over its time: for a chart. Pure, and bounded however long it runs.

The runner adds a point every second; when there are too many, every other one is left out.
"""

from collections.abc import Sequence

MOST_POINTS = 120

Point = tuple[float, int, int]
"""Seconds of running, bytes that have arrived before compression, bytes that have travelled."""


def added(points: Sequence[Point], point: Point) -> list[Point]:
    """``points`` with one more at the end, thinned out where that is too many."""
    kept = [each for each in points if each[0] < point[0]]
    if len(kept) >= MOST_POINTS:
        kept = kept[::2]
    return [*kept, point]


def throughput_json(points: Sequence[Point]) -> dict[str, list[float]]:
    """The value as it travels: a column each."""
    seconds, done, network = zip(*points, strict=True) if points else ((), (), ())
    return {"Seconds": list(seconds), "Done": list(done), "Network": list(network)}
