"""What a peer that knows no extension holds, found out by its lookup."""

from collections.abc import Awaitable, Callable, Sequence

from ..errors import PeerRefused
from ..wire.messages import LookupAnswer, Resource
from ..wire.plan import Instance

_MOST_LOOKUPS = 64
"""Requests that it may take; what is not known then counts as not there."""

Lookup = Callable[[Sequence[Resource]], Awaitable[LookupAnswer]]


async def held_by_lookup(
    instances: Sequence[Instance], resources: Sequence[Resource], lookup: Lookup
) -> frozenset[int]:
    """Positions of those of ``instances`` that the peer holds, with the same MD5.

    :param resources: what ``instances`` are below. One that the peer has not fails a whole lookup,
        so they are asked for in halves then.
    """
    md5s: dict[str, str] = {}
    left = _MOST_LOOKUPS
    waiting = [resources]
    while waiting and left:
        some = waiting.pop()
        if not some:
            continue
        left -= 1
        try:
            answer = await lookup(some)
        except PeerRefused as error:
            if not error.is_unknown:
                raise
            half = len(some) // 2
            waiting.extend([some[half:], some[:half]] if half else [])
            continue
        md5s.update((instance.id, instance.md5) for instance in answer.instances)
    return frozenset(
        position
        for position, instance in enumerate(instances)
        if md5s.get(instance.id) == instance.md5
    )
