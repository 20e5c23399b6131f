"""Imports that were cut off, by a crash of ours or by Orthanc's end: each is ended, in time.

It is tried again and again, with longer and longer pauses, until none is left.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..errors import TransfersError
from ..waiters import Waiters

_FIRST_PAUSE_S = 2.0
_LONGEST_PAUSE_S = 60.0
"""Seconds between two looks at imports that could not be ended."""

log = Logger()


class Unfinished:
    """See the module."""

    def __init__(
        self,
        clock: IReactorTime,
        names: Callable[[], Awaitable[Iterable[str]]],
        go_on: Callable[[str], Awaitable[None]],
    ) -> None:
        """:param names: tells which there are. :param go_on: ends one, or raises why it cannot."""
        self._clock = clock
        self._names = names
        self._go_on = go_on
        self._busy: dict[str, Waiters] = {}
        self._running: Deferred[None] | None = None
        self._has_more = False
        self._is_stopped = False

    def begin(self) -> None:
        """See to all that there are, in the background."""
        self._has_more = True
        if self._running is None and not self._is_stopped:
            running = self._running = Deferred.fromCoroutine(self._run())
            running.addBoth(self._ended)

    def stop(self) -> None:
        """Begin no more."""
        self._is_stopped = True
        if self._running is not None:
            self._running.cancel()

    async def wait_for(self, name: str) -> None:
        """Wait until nobody is at this one."""
        while name in self._busy:
            await self._busy[name].wait()

    def _ended(self, result: Any) -> None:
        self._running = None
        if not self._is_stopped and isinstance(result, Failure):
            log.failure("Imports that were cut off are left until the next start", result)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE_S
        while self._has_more:
            self._has_more = False
            for name in await self._names():
                if not await self._end(name):
                    self._has_more = True
            if self._has_more:
                await deferLater(self._clock, pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    async def _end(self, name: str) -> bool:
        """End one; tells whether that could be done."""
        self._busy[name] = Waiters()
        try:
            await self._go_on(name)
        except TransfersError as error:
            log.warn("The import {name} cannot be ended yet: {error}", name=name, error=error)
            return False
        finally:
            self._busy.pop(name).fire()
        return True
