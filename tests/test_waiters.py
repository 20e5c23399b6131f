"""Several who wait for one event."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import StorageFull
from txtransfers.waiters import Waiters


class WaitersTests(SynchronousTestCase):
    def test_all_who_wait_are_let_go_and_nobody_after_them(self) -> None:
        waiters = Waiters()
        first, second = waiters.wait(), waiters.wait()
        waiters.fire("done")
        later = waiters.wait()
        for one in (first, second):
            self.assertEqual(self.successResultOf(one), "done")
        self.assertNoResult(later)

    def test_one_who_is_cancelled_concerns_nobody_else(self) -> None:
        waiters = Waiters()
        first, second = waiters.wait(), waiters.wait()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        waiters.fire()
        self.assertIsNone(self.successResultOf(second))

    def test_an_error_is_everybodys(self) -> None:
        waiters = Waiters()
        waiting = [waiters.wait() for _ in range(2)]
        waiters.fire(Failure(StorageFull("no room")))
        for one in waiting:
            self.failureResultOf(one, StorageFull)

    def test_who_waits_again_at_once_waits_for_the_next_time(self) -> None:
        waiters = Waiters()
        again = waiters.wait().addCallback(lambda _result: waiters.wait())
        waiters.fire()
        self.assertNoResult(again)
        waiters.fire("next")
        self.assertEqual(self.successResultOf(again), "next")

    def test_no_longer_than_was_said(self) -> None:
        clock, waiters = Clock(), Waiters()
        patient, other = waiters.wait(), Deferred.fromCoroutine(waiters.wait_within(clock, 5))
        clock.advance(4.9)
        self.assertNoResult(other)
        clock.advance(0.1)
        self.successResultOf(other)
        self.assertNoResult(patient)
        in_time = Deferred.fromCoroutine(waiters.wait_within(clock, 5))
        waiters.fire()
        for each in (patient, in_time):
            self.successResultOf(each)
        left = Deferred.fromCoroutine(waiters.wait_within(clock, 5))
        left.cancel()
        self.failureResultOf(left, CancelledError)
        waiters.fire()
        self.assertEqual([], clock.getDelayedCalls())
