"""The one door to threads: disk, SQL, gzip, MD5 and DICOM parsing go through one bounded pool.

The reactor never waits: whoever has blocking work hands a plain function to :class:`IThreads`.
Tests hand over :class:`SynchronousThreads`, which runs the function at once.
"""

import ctypes
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar

from twisted.internet.defer import Deferred, DeferredList, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
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


@implementer(IThreads)
class Threads:
    """A pool of at most ``count`` threads, started and stopped by the service."""

    def __init__(self, reactor: IReactorFromThreads, count: int) -> None:
        self._reactor = reactor
        self._pool = ThreadPool(minthreads=0, maxthreads=count, name="txtransfers")
        self._count = count
        self._given = 0

    @property
    def waiting(self) -> int:
        """How many functions wait for a thread."""
        return max(0, self._given - self._count)

    def start(self) -> None:
        """Accept work."""
        with suppress(AttributeError):  # musl has no arenas
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
        self._pool.start()

    def stop(self) -> None:
        """Wait for what is running, then end the threads."""
        self._pool.stop()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> "Deferred[T]":
        """See :meth:`IThreads.run`."""
        self._given += 1
        running = deferToThreadPool(self._reactor, self._pool, function, *args, **kwargs)
        return running.addBoth(self._done)

    def _done(self, result: T) -> T:
        self._given -= 1
        return result


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
