"""The end of a transfer, when few buckets are left: one that is late changes its connection.

The last buckets cannot make good for each other: a connection that lost its last packets, or got
little of the link, would hold the whole transfer up. What has arrived of the bucket counts, as
after any other broken connection; each bucket is moved once at the most.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from .link import Link

_PATIENCE = 2.0
"""Times what a bucket should take, after which it is late."""

_SHORTEST_PAUSE_S = 0.1
"""Seconds between two looks."""

_ROUND_TRIPS = 4
"""That are added: for asking, for the answer, and for what is lost on any connection."""


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

    async def travel(self, size: int, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have a bucket travel, which has its slot now.

        :param size: its bytes. :param make: tries; it is called again where the first is late.
        """
        self._waiting -= 1
        self._under_way += 1
        try:
            if not await self._in_time(size, make):
                await make()
        finally:
            self._under_way -= 1

    async def _in_time(self, size: int, make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        trying = Deferred.fromCoroutine(make())
        begun = self._clock.seconds()
        is_late = False

        def check() -> None:
            nonlocal is_late
            patience = self._patience(size)
            if patience is None or not self._is_end or self._clock.seconds() - begun < patience:
                return
            is_late = True
            checking.stop()
            trying.cancel()

        checking = LoopingCall(check)
        checking.clock = self._clock
        checking.start(max(_SHORTEST_PAUSE_S, self._link.round_trip or 0.0), now=False)
        try:
            await trying
        except CancelledError:
            if not is_late:
                raise
            return False
        finally:
            if checking.running:
                checking.stop()
        return True

    @property
    def _is_end(self) -> bool:
        return not self._waiting and 2 * self._under_way <= self._link.limit

    def _patience(self, size: int) -> float | None:
        """Seconds; None where nothing is gained."""
        link = self._link
        if link.goodput is None or link.round_trip is None or link.is_near:
            return None
        round_trip = max(link.round_trip, link.delay or 0.0)
        return _PATIENCE * link.seconds(size) + _ROUND_TRIPS * round_trip
