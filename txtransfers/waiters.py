"""Several who wait for one event: each has a Deferred of its own, and may cancel it."""

from typing import Any

from twisted.internet.defer import Deferred


class Waiters:
    """Those who wait."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[Any]] = []

    def wait(self) -> "Deferred[Any]":
        """Fires at the next :meth:`fire`. Cancelling it concerns nobody else."""
        waiter: Deferred[Any] = Deferred()
        self._waiting.append(waiter)
        return waiter

    def fire(self, result: Any = None) -> None:
        """Let all go who wait now; a Failure fails them."""
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(result)  # Twisted drops it where the waiter was cancelled
