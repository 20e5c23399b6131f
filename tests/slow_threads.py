"""Threads that are busy until the test says otherwise."""

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, execute

from txtransfers.threads import SynchronousThreads


class SlowThreads(SynchronousThreads):
    """Run at once, or, while :attr:`is_slow`, when the test says so.

    :ivar waiting: what has not begun.
    """

    def __init__(self) -> None:
        self.is_slow = False
        self.waiting: list[Callable[[], Any]] = []

    def run(self, function: Any, *args: Any, **kwargs: Any) -> "Deferred[Any]":
        if not self.is_slow:
            return execute(function, *args, **kwargs)
        result: Deferred[Any] = Deferred()
        self.waiting.append(lambda: execute(function, *args, **kwargs).chainDeferred(result))
        return result

    def go_on(self) -> None:
        self.is_slow = False
        while self.waiting:
            self.waiting.pop(0)()
