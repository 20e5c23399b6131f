"""Who may run: Deferred-based limits on how many buckets travel at once.

:class:`Slots` limits the daemon's buckets in flight, so that their buffers fit in ``CacheSize``;
:func:`run_all` limits one transfer to its ``Threads``. Priorities: the highest first, then the one
that waits longest.
"""

import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from heapq import heappop, heappush
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, FirstError


class Slots:
    """A number of slots, and a queue of those who wait for one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._granting = False
        self._order = count()
        self._waiting: list[tuple[int, int, Deferred[None]]] = []

    @property
    def held(self) -> int:
        """How many slots are taken."""
        return self._held

    def resize(self, limit: int) -> None:
        """Change the number of slots; those taken beyond it stay taken until given back."""
        self._limit = limit
        self._grant()

    def acquire(self, priority: int = 0) -> "Deferred[None]":
        """Fires once a slot is the caller's, who gives it back by :meth:`release`.

        Cancelling leaves the queue.
        """
        waiter: Deferred[None] = Deferred()
        heappush(self._waiting, (-priority, next(self._order), waiter))
        self._grant()
        return waiter

    def release(self) -> None:
        """Give a slot back."""
        self._held -= 1
        self._grant()

    @asynccontextmanager
    async def slot(self, priority: int = 0) -> AsyncIterator[None]:
        """Hold a slot during a ``async with``."""
        await self.acquire(priority)
        try:
            yield
        finally:
            self.release()

    def _grant(self) -> None:
        if self._granting:  # a waiter gave back at once: the loop below goes on with the next
            return
        self._granting = True
        while self._waiting and self._held < self._limit:
            waiter = heappop(self._waiting)[2]
            if not waiter.called:  # a cancelled one has been called
                self._held += 1
                waiter.callback(None)
        self._granting = False


async def run_all(tasks: Iterable[Callable[[], Coroutine[Any, Any, None]]], at_once: int) -> None:
    """Run ``tasks``, started in order, at most ``at_once`` of them at the same time.

    The first failure cancels the others and is raised, once all have ended. Being cancelled
    cancels all likewise.
    """
    queue = iter(tasks)
    ending = False

    async def worker() -> None:
        for task in queue:
            if ending:
                return
            await task()

    coroutines = [worker() for _ in range(at_once)]
    workers = [Deferred.fromCoroutine(coroutine) for coroutine in coroutines]
    try:
        await DeferredList(workers, fireOnOneErrback=True, consumeErrors=True)
    except BaseException as error:
        ending = True
        for coroutine, deferred in zip(coroutines, workers, strict=True):
            # One that is at work at this moment, and made another fail, ends by itself.
            if inspect.getcoroutinestate(coroutine) != inspect.CORO_RUNNING:
                deferred.cancel()
        await DeferredList(workers, consumeErrors=True)
        if isinstance(error, FirstError):
            error.subFailure.raiseException()
        raise
