"""How large the buckets of a transfer are to be, from what is known of its link. Pure.

A bucket should take some round trips, or the wait for its answer counts; and not more than some
seconds, or a broken connection costs much, and the last ones end one by one.
"""

import attrs

from ..wire.plan import Cut

LARGEST = 4 * 2**20
"""Bytes; the default of stock peers."""

_NEAR = 8 * 2**20
"""Bytes, where a round trip costs nothing: each bucket costs a request, a broken one little."""

UNKNOWN = 2**20
"""Bytes, on a long link whose rate is not known yet."""

_SMALLEST = 256 * 1024
_SECONDS = 2.0
_LEAST = 64 * 1024
_LEAST_UNKNOWN = 128 * 1024
_LEAST_ROUND_TRIPS = 2.0
_ALLOWED_S = 4.0
"""Of a limit of bandwidth, which is given to one bucket after the other."""
_FIRST = 12 * 1024
"""Bytes: they, and the head of their request, are what a new connection carries at once."""


def choose_cut(
    wanted: int | None,
    limit: int,
    goodput: float | None,
    round_trip: float | None,
    is_near: bool,
    allowed: float | None = None,
) -> Cut:
    """The sizes for a transfer that begins.

    :param wanted: ``BucketSize`` in bytes; None where it follows the link.
    :param limit: buckets that will be in flight. :param goodput: of the link, bytes a second.
    :param round_trip: seconds. :param is_near: whether a round trip costs nothing.
    :param allowed: bytes a second that a limit of bandwidth leaves; None: no limit.
    """
    if wanted is not None:
        return Cut(wanted)
    cut = _cut_for(limit, goodput, round_trip, is_near)
    if allowed is None:
        return cut
    target = min(cut.target, max(_LEAST, int(_ALLOWED_S * allowed)))
    return attrs.evolve(cut, target=target, least=min(cut.least, target))


def _cut_for(limit: int, goodput: float | None, round_trip: float | None, is_near: bool) -> Cut:
    if is_near:  # a connection costs nothing to wait for, a request does
        return Cut(_NEAR)
    parts = 2 * limit
    if goodput is None or round_trip is None:
        return Cut(UNKNOWN, parts, _LEAST_UNKNOWN, _FIRST)
    each = goodput / limit
    target = min(LARGEST, max(_SMALLEST, int(_SECONDS * each)))
    least = min(target, max(_LEAST, int(_LEAST_ROUND_TRIPS * round_trip * each)))
    return Cut(target, parts, least, _FIRST)
