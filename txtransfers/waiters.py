"""Several who wait for one event: each has a Deferred of its own, and may cancel it."""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime


class Waiters:
    """Those who wait."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[Any]] = []

    def wait(self) -> "Deferred[Any]":
        """Fires at the next :meth:`fire`. Cancelling it concerns nobody else."""
        waiter: Deferred[Any] = Deferred()
        self._waiting.append(waiter)
        return waiter

    async def wait_within(self, clock: IReactorTime, seconds: float) -> None:
        """Wait for the next :meth:`fire`, for so long at the most."""
        waiter = self.wait()

        def end() -> None:
            self._waiting.remove(waiter)
            waiter.callback(None)

        timeout = clock.callLater(seconds, end)
        try:
            await waiter
        finally:
            if timeout.active():
                timeout.cancel()

    def fire(self, result: Any = None) -> None:
        """Let all go who wait now; a Failure fails them."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(result)  # Twisted drops it where the waiter was cancelled
