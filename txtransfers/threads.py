"""The one door to threads: disk, SQL, gzip, MD5 and DICOM parsing go through one bounded pool.

The reactor never waits: whoever has blocking work hands a plain function to :class:`IThreads`.
Tests hand over :class:`SynchronousThreads`, which runs the function at once.
"""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.internet.defer import Deferred, DeferredList, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure
from zope.interface import Interface, implementer

P = ParamSpec("P")
T = TypeVar("T")


_M_ARENA_MAX = -8
_ARENAS = 2
"""Of the C library, for all threads together. Left alone it makes one for each thread, and each
keeps the large buffers that were freed in it."""


class IThreads(Interface):
    """Runs blocking functions away from the reactor."""

    def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> "Deferred[Any]":  # noqa: N805
        """Call ``function`` in a thread; fires with its result, or fails with its exception.

        Cancelling the Deferred does not stop the function: its result is then dropped.
        """


@attrs.frozen
class _Call:
    """A function that is to be called, and who waits for its result."""

    deferred: "Deferred[Any]"
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@implementer(IThreads)
class Threads:
    """A pool of at most ``count`` threads, started and stopped by the service.

    Each way, to a thread and back, costs a third of what it does with Twisted's ``ThreadPool``:
    there are some for each megabyte that is moved.
    """

    def __init__(self, reactor: IReactorFromThreads, count: int) -> None:
        self._reactor = reactor
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._count = count
        self._given = 0
        self._is_started = self._is_stopped = False

    @property
    def waiting(self) -> int:
        """How many functions wait for a thread."""
        return max(0, self._given - self._count)

    def start(self) -> None:
        """Accept work, and begin with what was given before."""
        with suppress(AttributeError):  # musl has no arenas
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
        self._is_started = True
        self._fit()

    def stop(self) -> None:
        """Wait for what was given, then end the threads."""
        self._is_stopped = True
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads:
            thread.join()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Deferred[T]":
        """See :meth:`IThreads.run`."""
        deferred: Deferred[T] = Deferred()
        if not self._is_stopped:
            self._given += 1
            self._calls.put(_Call(deferred, function, args, kwargs))
            self._fit()
        return deferred

    def _fit(self) -> None:
        """Begin threads, where there is more to do than there are."""
        wanted = min(self._given, self._count) if self._is_started else 0
        while len(self._threads) < wanted:
            thread = Thread(target=self._work, name=f"txtransfers-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while self._serve(self._calls.get()):
            pass  # nothing of the last call is kept while it waits

    def _serve(self, call: _Call | None) -> bool:
        if call is None:
            return False
        result: Any
        try:
            result = call.function(*call.args, **call.kwargs)
        except BaseException:
            result = Failure()
        self._reactor.callFromThread(self._done, call.deferred, result)
        return True

    def _done(self, deferred: "Deferred[Any]", result: Any) -> None:
        self._given -= 1
        deferred.callback(result)


@implementer(IThreads)
class SynchronousThreads:
    """The twin for tests: calls at once, in the caller's thread."""

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Deferred[T]":
        """See :meth:`IThreads.run`."""
        return execute(function, *args, **kwargs)


async def run_in_parallel(
    threads: IThreads, count: int, function: Callable[[T], Any], items: Sequence[T]
) -> None:
    """Call ``function`` with each item, in at most ``count`` threads at once.

    Raises an exception of one of them, once all have ended.
    """

    def some(part: Iterable[T]) -> None:
        for item in part:
            function(item)

    parts = [items[n::count] for n in range(min(count, len(items)))]
    results = await DeferredList([threads.run(some, part) for part in parts], consumeErrors=True)
    for succeeded, result in results:
        if not succeeded:
            result.raiseException()
