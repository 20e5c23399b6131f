"""The last buckets of a transfer: one that is late is tried on another connection."""

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.transfer.link import Link
from txtransfers.transfer.tail import COPY, MOVE, Tail, Way


class TailTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.link = Link(self.clock, 4, 64)
        self.link.goodput, self.link.round_trip = 4e6, 0.1
        self.tail = Tail(self.clock, self.link)
        self.tries: list[Deferred[None]] = []

    async def attempt(self) -> None:
        self.tries.append(Deferred())
        await self.tries[-1]

    def make(self) -> Coroutine[Any, Any, None]:
        return self.attempt()

    def travel(self, size: int = 1_000_000, way: Way = MOVE) -> "Deferred[None]":
        return Deferred.fromCoroutine(self.tail.travel(size, self.make, way))

    def pass_(self, seconds: float) -> None:
        self.clock.pump([0.1] * round(seconds / 0.1))

    def test_one_that_is_late_is_tried_again_once(self) -> None:
        self.tail.begins(1)
        travelling = self.travel()  # which should take a second, on one of four connections
        self.pass_(2.3)
        self.assertEqual(len(self.tries), 1)
        self.pass_(0.3)
        self.assertEqual(len(self.tries), 2)
        self.pass_(100)
        self.assertEqual(len(self.tries), 2)
        self.tries[1].callback(None)
        self.successResultOf(travelling)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_where_nothing_minds_copies_go_side_by_side_soon(self) -> None:
        for winner in range(3):
            self.setUp()
            self.tail.begins(1)
            travelling = self.travel(way=COPY)
            self.pass_(0.9)
            self.assertEqual(len(self.tries), 1)
            self.pass_(0.4)
            self.assertEqual(len(self.tries), 2)
            self.pass_(100)
            self.assertEqual(len(self.tries), 3, "and no more")
            self.assertFalse(any(each.called for each in self.tries))
            self.tries[winner].callback(None)
            self.successResultOf(travelling)
            self.assertTrue(all(each.called for each in self.tries), "the others are ended")
            self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_more_copies_than_connections_are_idle(self) -> None:
        self.tail.begins(3)  # on a link of four
        travelling = [self.travel(way=COPY) for _ in range(3)]
        self.pass_(100)
        self.assertEqual(len(self.tries), 4)
        self.tries[1].callback(None)
        self.pass_(100)
        self.assertEqual(len(self.tries), 5, "the place of what has arrived")
        for each in self.tries:
            if not each.called:
                each.callback(None)
        for ended in travelling:
            self.successResultOf(ended)

    def test_nothing_goes_on_behind_the_end(self) -> None:
        """What a try has begun to write would be written into what was given up."""
        for way in (MOVE, COPY):
            for ends_by in ("success", "a pause"):
                self.setUp()
                writing: Deferred[None] = Deferred()

                async def slow(writing: Deferred[None] = writing) -> None:
                    try:
                        await Deferred()
                    finally:
                        await writing

                self.tail.begins(1)
                tries = iter([slow, self.attempt, self.attempt])
                make = lambda tries=tries: next(tries)()  # noqa: E731
                travelling = Deferred.fromCoroutine(self.tail.travel(1_000_000, make, way))
                self.pass_(3)
                if ends_by == "success" and way is COPY:
                    self.tries[0].callback(None)
                else:
                    travelling.cancel()
                self.assertNoResult(travelling)
                writing.callback(None)
                if ends_by == "success" and way is COPY:
                    self.successResultOf(travelling)
                else:
                    self.failureResultOf(travelling, CancelledError)

    def test_of_copies_the_last_failure_counts(self) -> None:
        self.tail.begins(1)
        travelling = self.travel(way=COPY)
        self.pass_(1.5)
        self.tries[1].errback(KeyError("second"))
        self.assertNoResult(travelling)
        self.tries[0].errback(ValueError("first"))
        self.failureResultOf(travelling, ValueError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_in_time(self) -> None:
        self.tail.begins(1)
        travelling = self.travel()
        self.pass_(2)
        self.tries[0].callback(None)
        self.successResultOf(travelling)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_while_others_wait_or_many_travel(self) -> None:
        self.tail.begins(4)
        travelling = [self.travel() for _ in range(3)]
        self.pass_(100)
        self.assertEqual(len(self.tries), 3)
        travelling.append(self.travel())
        self.pass_(100)
        self.assertEqual(len(self.tries), 4)
        for each in self.tries[:2]:
            each.callback(None)
        self.pass_(1)
        self.assertEqual(len(self.tries), 6)
        for each in self.tries[4:]:
            each.callback(None)
        for ended in travelling:
            self.successResultOf(ended)

    def test_not_where_nothing_is_gained(self) -> None:
        for goodput, round_trip in ((None, 0.1), (1e6, None), (1e6, 0.001)):
            self.link.goodput, self.link.round_trip = goodput, round_trip
            self.tail.begins(1)
            travelling = self.travel()
            self.pass_(100)
            self.assertEqual(len(self.tries), 1)
            self.tries.pop().callback(None)
            self.successResultOf(travelling)

    def test_a_failure_is_one_and_a_pause_too(self) -> None:
        self.tail.begins(2)
        failing, paused = self.travel(), self.travel()
        self.tries[0].errback(ValueError("no"))
        self.failureResultOf(failing, ValueError)
        paused.cancel()
        self.failureResultOf(paused, CancelledError)
        self.assertEqual((self.clock.getDelayedCalls(), len(self.tries)), ([], 2))
