"""Who may run: Deferred-based limits on how many buckets travel at once.

One :class:`Slots` for each peer limits its buckets in flight, one for the daemon their memory, so
that it fits in ``CacheSize``; :func:`run_all` limits one transfer.
"""

import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from itertools import count
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, DeferredList, FirstError


class _Waiter(NamedTuple):
    """One that waits, and what it will take."""

    deferred: "Deferred[None]"
    order: int
    cost: int


class Slots:
    """An amount that is shared, and queues of those who wait for some of it.

    Whoever has the highest priority is served first; among equals, the owner who holds least, so
    that two jobs share alike; of one owner, in order. Nobody overtakes one that is next and whose
    cost is too large for what is left; a cost beyond the whole amount is served when nothing else
    is held.
    """

    def __init__(self, limit: int) -> None:
        """:param limit: the amount: a number of slots, or bytes of memory."""
        self._limit = limit
        self._held: dict[object, int] = {}
        self._granting = False
        self._order = count()
        self._waiting: dict[tuple[int, object], deque[_Waiter]] = {}

    @property
    def limit(self) -> int:
        """The whole amount."""
        return self._limit

    @property
    def held(self) -> int:
        """How much is taken."""
        return sum(self._held.values())

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not w.deferred.called for queue in self._waiting.values() for w in queue)

    @property
    def contended(self) -> bool:
        """Whether somebody waits."""
        return any(not w.deferred.called for queue in self._waiting.values() for w in queue)

    def resize(self, limit: int) -> None:
        """Change the amount; what is taken beyond it stays taken until given back."""
        self._limit = limit
        self._grant()

    def acquire(self, priority: int = 0, cost: int = 1, owner: object = None) -> "Deferred[None]":
        """Fires once ``cost`` is the caller's, who gives it back by :meth:`release`.

        Cancelling leaves the queue.
        """
        waiter = _Waiter(Deferred(), next(self._order), cost)
        self._waiting.setdefault((priority, owner), deque()).append(waiter)
        self._grant()
        return waiter.deferred

    def release(self, cost: int = 1, owner: object = None) -> None:
        """Give back what :meth:`acquire` took."""
        left = self._held[owner] - cost
        if left:
            self._held[owner] = left
        else:
            del self._held[owner]
        self._grant()

    @asynccontextmanager
    async def slot(
        self, priority: int = 0, cost: int = 1, owner: object = None
    ) -> AsyncIterator[Callable[[], None]]:
        """Hold ``cost`` during a ``async with``, or until what it gives is called."""
        await self.acquire(priority, cost, owner)
        is_held = True

        def release() -> None:
            nonlocal is_held
            if is_held:
                is_held = False
                self.release(cost, owner)

        try:
            yield release
        finally:
            release()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Serve nobody meanwhile."""
        before, self._granting = self._granting, True
        try:
            yield
        finally:
            self._granting = before
            self._grant()

    def _grant(self) -> None:
        if self._granting:  # a waiter gave back at once: the loop below goes on with the next
            return
        self._granting = True
        while (next_ := self._next()) is not None:
            key, waiter = next_
            if self._is_too_much(waiter.cost):
                break
            self._waiting[key].popleft()
            self._held[key[1]] = self._held.get(key[1], 0) + waiter.cost
            waiter.deferred.callback(None)
        self._granting = False

    def _next(self) -> tuple[tuple[int, object], _Waiter] | None:
        """Who is served next; the cancelled leave."""
        for key, queue in list(self._waiting.items()):
            while queue and queue[0].deferred.called:
                queue.popleft()
            if not queue:
                del self._waiting[key]
        if not self._waiting:
            return None
        best = min(
            self._waiting,
            key=lambda key: (-key[0], self._held.get(key[1], 0), self._waiting[key][0].order),
        )
        return best, self._waiting[best][0]

    def _is_too_much(self, cost: int) -> bool:
        return bool(self._held) and self.held + cost > self._limit


async def run_all(
    tasks: Iterable[Callable[[], Coroutine[Any, Any, None]]],
    at_once: int,
    places: Sequence[Slots] = (),
) -> None:
    """Run ``tasks``, started in order, at most ``at_once`` of them at the same time.

    The first failure cancels the others and is raised, once all have ended. Being cancelled
    cancels all likewise.

    :param places: what tasks wait for: where all are cancelled, none is served by another's end.
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
    ended: Deferred[Any] = Deferred()  # which cancels nobody by itself
    DeferredList(workers, fireOnOneErrback=True, consumeErrors=True).addBoth(ended.callback)
    try:
        await ended
    except BaseException as error:
        ending = True
        with ExitStack() as stack:
            for each in places:
                stack.enter_context(each.frozen())
            for coroutine, deferred in zip(coroutines, workers, strict=True):
                # One that is at work at this moment, and made another fail, ends by itself.
                if inspect.getcoroutinestate(coroutine) != inspect.CORO_RUNNING:
                    deferred.cancel()
        await DeferredList(workers, consumeErrors=True)
        if isinstance(error, FirstError):
            error.subFailure.raiseException()
        raise
