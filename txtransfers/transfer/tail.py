"""The end of a transfer, when few buckets are left: one that is late travels once more.

The last buckets cannot make good for each other: a connection that lost its last packets, or got
little of the link, would hold the whole transfer up. Where the peer minds nothing that comes twice,
a copy goes on another connection, soon, and the first to arrive counts; else the bucket changes its
connection, once, and what has arrived of it counts, as after any other broken connection.
"""

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from ..waiters import Waiters
from .link import Link
from .shield import to_its_end

_SHORTEST_PAUSE_S = 0.05
"""Seconds between two looks."""


@attrs.frozen
class Way:
    """What is done with a bucket that is late.

    :ivar patience: times what it should take. :ivar round_trips: that are added: for asking, for
        the answer, and for what is lost on any connection. :ivar tries: in all.
    :ivar is_copied: whether the earlier tries go on.
    """

    patience: float
    round_trips: float
    tries: int
    is_copied: bool


MOVE = Way(2.0, 4.0, 2, is_copied=False)
COPY = Way(1.0, 1.5, 3, is_copied=True)


class Tail:
    """Watches the buckets of one transfer."""

    def __init__(self, clock: IReactorTime, link: Link) -> None:
        self._clock = clock
        self._link = link
        self._waiting = 0
        self._under_way = 0

    def begins(self, count: int) -> None:
        """So many buckets are to travel from now on."""
        self._waiting = count
        self._under_way = 0

    async def travel(
        self, size: int, make: Callable[[], Coroutine[Any, Any, None]], way: Way = MOVE
    ) -> None:
        """Have a bucket travel, which has its slot now.

        :param size: its bytes. :param make: tries; it is called again where the first is late.
        """
        self._waiting -= 1
        self._under_way += 1
        race = _Race(self._clock)
        try:
            race.begin(make)
            for _ in range(way.tries - 1):
                if await self._in_time(race, size, way):
                    break
                if way.is_copied:
                    self._under_way += 1
                else:
                    await race.stop()
                race.begin(make)
            await race.result
        finally:
            self._under_way -= race.begun if way.is_copied else 1
            await race.stop()

    async def _in_time(self, race: "_Race", size: int, way: Way) -> bool:
        """Wait until it is decided, or late."""
        begun = self._clock.seconds()
        while not race.result.called:
            patience = self._patience(size, way)
            left = begun + (patience or 0.0) - self._clock.seconds()
            if left <= 0 and patience is not None and self._is_end(way):
                return False
            await race.wait(max(left, self._link.round_trip or 0.0, _SHORTEST_PAUSE_S))
        return True

    def _is_end(self, way: Way) -> bool:
        """Whether there is room for one more try: for a copy, any connection that is idle."""
        busy = self._under_way if way.is_copied else 2 * self._under_way - 1
        return not self._waiting and busy < self._link.limit

    def _patience(self, size: int, way: Way) -> float | None:
        """Seconds; None where nothing is gained."""
        link = self._link
        if link.goodput is None or link.round_trip is None or link.is_near:
            return None
        round_trip = max(link.round_trip, link.delay or 0.0)
        return way.patience * link.seconds(size) + way.round_trips * round_trip


class _Race:
    """Tries side by side: the first that succeeds decides, or the last that fails.

    :ivar begun: how many there were. :ivar result: fires when it is decided.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._tries: list[Deferred[None]] = []
        self.begun = 0
        self._waiters = Waiters()
        self.result: Deferred[None] = Deferred()

    def begin(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """One more."""
        self.begun += 1
        each = Deferred.fromCoroutine(make())
        self._tries.append(each)
        each.addBoth(self._ended, each)

    def _ended(self, result: Failure | None, each: "Deferred[None]") -> None:
        if each not in self._tries or self.result.called:  # stopped, or too late
            return
        self._tries.remove(each)
        if not isinstance(result, Failure) or not self._tries:
            self.result.callback(result)
            self._waiters.fire()

    async def stop(self) -> None:
        """End those that are under way; returns once they have: they write nothing any more."""
        tries, self._tries = self._tries, []
        for each in tries:
            each.cancel()
        _ended, cancelled = await to_its_end(DeferredList(tries, consumeErrors=True))
        if cancelled:
            raise CancelledError

    async def wait(self, seconds: float) -> None:
        """Wait until it is decided, for so long at the most."""
        await self._waiters.wait_within(self._clock, seconds)
