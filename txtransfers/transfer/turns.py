"""Whose turn it is, where many want of what is scarce. Pure; :class:`.limit.Limit` asks.

The highest priority first. Between the jobs of one priority the one that got the least since it
began to wait: each gets the same number of bytes, however many streams it has, and however large
the pieces are that it asks for. Within a job the stream that began first: were they served alike,
all would end at the same time, late, and nothing could be seen to arrive before.
"""

from bisect import insort
from collections.abc import Hashable
from itertools import count
from typing import Generic, TypeVar

import attrs

T = TypeVar("T")


@attrs.frozen
class Turn:
    """In whose name something is asked for."""

    priority: int
    job: Hashable


@attrs.define
class _Queue(Generic[T]):
    """The items of a job. :ivar got: bytes, comparable within its level."""

    got: int
    items: list[tuple[int, int, T]] = attrs.field(factory=list)
    """With what they are sorted by: two numbers, of which the second is not given twice."""


@attrs.define
class _Level(Generic[T]):
    """The jobs of a priority. :ivar least: what the job had got that was served last."""

    least: int = 0
    queues: dict[Hashable, _Queue[T]] = attrs.field(factory=dict)
    waiting: int = 0


class Turns(Generic[T]):
    """Items that wait, each in the name of a :class:`Turn`."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level[T]] = {}
        self._added = count()

    def __bool__(self) -> bool:
        return bool(self._levels)

    def add(self, turn: Turn, item: T, stream: int = 0) -> None:
        """Let ``item`` wait. Who was away has no claim to what the others got meanwhile.

        :param stream: the smaller, the earlier it began; of one stream, in order.
        """
        level = self._levels.setdefault(turn.priority, _Level())
        queue = level.queues.setdefault(turn.job, _Queue(level.least))
        if not queue.items:
            queue.got = max(queue.got, level.least)
        insort(queue.items, (stream, next(self._added), item))
        level.waiting += 1

    def first(self) -> T:
        """Whose turn it is; somebody must be waiting."""
        level = self._levels[max(self._levels)]
        waiting = (queue for queue in level.queues.values() if queue.items)
        return min(waiting, key=lambda queue: queue.got).items[0][-1]

    def serve(self, turn: Turn, item: T, size: int) -> None:
        """``item`` has got ``size`` bytes, and waits no more."""
        level = self._levels[turn.priority]
        queue = level.queues[turn.job]
        level.least = max(level.least, queue.got)
        queue.got += size
        self.remove(turn, item)

    def remove(self, turn: Turn, item: T) -> None:
        """``item`` waits no more."""
        level = self._levels[turn.priority]
        items = level.queues[turn.job].items
        del items[next(n for n, waiting in enumerate(items) if waiting[-1] == item)]
        level.waiting -= 1
        if not level.waiting:
            del self._levels[turn.priority]
            return
        # Whoever comes back would begin there anyway.
        for job, queue in list(level.queues.items()):
            if not queue.items and queue.got <= level.least:
                del level.queues[job]
