"""The one door to threads, and its twin."""

import threading
from queue import Queue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from txtransfers.threads import IThreads, SynchronousThreads, Threads, run_in_parallel

PATIENCE_S = 60


class Reactor:
    """The part of a reactor that threads call; the test runs what they hand over."""

    def __init__(self) -> None:
        self._calls: Queue[Any] = Queue()

    def callFromThread(self, function: Any, *args: Any, **kwargs: Any) -> None:
        self._calls.put((function, args, kwargs))

    def run_one(self) -> None:
        function, args, kwargs = self._calls.get(timeout=PATIENCE_S)
        function(*args, **kwargs)


class _Suite:
    threads: Any

    def test_interface(self: Any) -> None:
        verifyObject(IThreads, self.threads)

    def test_the_result(self: Any) -> None:
        deferred = self.threads.run(divmod, 7, 2)
        self.assertIsInstance(deferred, Deferred)
        self.wait()
        self.assertEqual(self.successResultOf(deferred), (3, 1))

    def test_named_arguments(self: Any) -> None:
        deferred = self.threads.run(int, "ff", base=16)
        self.wait()
        self.assertEqual(self.successResultOf(deferred), 255)

    def test_the_exception(self: Any) -> None:
        deferred = self.threads.run(divmod, 7, 0)
        self.wait()
        self.failureResultOf(deferred, ZeroDivisionError)


class SynchronousThreadsTests(_Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = SynchronousThreads()

    def wait(self) -> None:
        """Nothing to wait for."""


class ThreadsTests(_Suite, SynchronousTestCase):
    def setUp(self) -> None:
        self.reactor = Reactor()
        self.threads = Threads(self.reactor, 2)  # type: ignore[arg-type]
        self.threads.start()
        self.addCleanup(self.threads.stop)

    def wait(self) -> None:
        self.reactor.run_one()

    def test_away_from_the_reactor_and_back(self) -> None:
        deferred = self.threads.run(threading.get_ident)
        self.assertNoResult(deferred)
        self.wait()
        self.assertNotEqual(self.successResultOf(deferred), threading.get_ident())

    def test_no_more_at_once_than_allowed(self) -> None:
        lock, running, most = threading.Lock(), 0, 0
        both = threading.Barrier(2, timeout=PATIENCE_S)

        def work() -> None:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            both.wait()  # two are needed for any to get on
            with lock:
                running -= 1

        results = [self.threads.run(work) for _ in range(6)]
        for _ in results:
            self.wait()
        for deferred in results:
            self.successResultOf(deferred)
        self.assertEqual(most, 2)

    def test_a_stop_waits_for_what_is_running(self) -> None:
        begun, may_end, ended = threading.Event(), threading.Event(), []

        def work() -> None:
            begun.set()
            may_end.wait(PATIENCE_S)
            ended.append(True)

        threads = Threads(self.reactor, 1)  # type: ignore[arg-type]
        threads.start()
        deferred = threads.run(work)
        self.assertTrue(begun.wait(PATIENCE_S))
        may_end.set()
        threads.stop()
        self.assertEqual(ended, [True])
        self.wait()
        self.successResultOf(deferred)


class CountingThreads(SynchronousThreads):
    def __init__(self) -> None:
        self.count = 0

    def run(self, function: Any, *args: Any, **kwargs: Any) -> "Deferred[Any]":
        self.count += 1
        return super().run(function, *args, **kwargs)


class RunInParallelTests(SynchronousTestCase):
    def run_all(self, count: int, items: list[int], function: Any) -> tuple[Any, int]:
        threads = CountingThreads()
        done = Deferred.fromCoroutine(run_in_parallel(threads, count, function, items))
        return done, threads.count

    def test_each_item_once_in_no_more_threads_than_allowed(self) -> None:
        for count, size, expected in ((3, 10, 3), (4, 2, 2), (1, 5, 1), (3, 0, 0)):
            done: list[int] = []
            finished, threads = self.run_all(count, list(range(size)), done.append)
            self.successResultOf(finished)
            self.assertEqual((sorted(done), threads), (list(range(size)), expected))

    def test_the_exception_itself(self) -> None:
        def work(item: int) -> None:
            if item >= 3:
                raise ValueError(item)

        finished, _threads = self.run_all(2, list(range(6)), work)
        self.assertIn(self.failureResultOf(finished, ValueError).value.args, ((3,), (4,)))
        self.assertEqual(self.flushLoggedErrors(), [])
