"""Trying again with sense."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import PeerNonsense, PeerRefused, PeerUnreachable, TransfersError
from txtransfers.transfer.retries import delay_before, is_worth_retrying, with_retries


class RetryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.calls: list[float] = []
        self.retries = 0

    def run_with(self, retries: int, *results: TransfersError | None) -> "Deferred[str]":
        pending = list(results)

        async def request() -> str:
            self.calls.append(self.clock.seconds())
            error = pending.pop(0)
            if error is not None:
                raise error
            return "done"

        def count() -> None:
            self.retries += 1

        return Deferred.fromCoroutine(with_retries(self.clock, retries, request, count))

    def test_until_it_succeeds(self) -> None:
        done = self.run_with(3, PeerUnreachable("x"), PeerRefused("busy", 503), None)
        self.assertNoResult(done)
        self.clock.pump([0.25] * 12)
        self.assertEqual((self.successResultOf(done), self.retries), ("done", 2))
        first, second, third = self.calls
        self.assertGreaterEqual(second - first, 0.5)
        self.assertGreaterEqual(third - second, 1.0)

    def test_no_more_than_allowed(self) -> None:
        done = self.run_with(1, PeerUnreachable("1"), PeerUnreachable("2"), None)
        self.clock.advance(1)
        self.assertEqual(str(self.failureResultOf(done).value), "2")
        self.failureResultOf(self.run_with(0, PeerUnreachable("x")), PeerUnreachable)

    def test_what_cannot_succeed_is_not_tried_again(self) -> None:
        for status in (400, 401, 403, 404, 507):
            self.assertFalse(is_worth_retrying(PeerRefused("x", status)), status)
            self.failureResultOf(self.run_with(9, PeerRefused("x", status)), PeerRefused)
        for status in (408, 429, 500, 502, 503, 504):
            self.assertTrue(is_worth_retrying(PeerRefused("x", status)), status)
        self.assertFalse(is_worth_retrying(PeerNonsense("x")))

    def test_a_peer_that_is_too_busy_for_a_moment(self) -> None:
        busy = PeerRefused("busy", 503, 2)
        done = self.run_with(0, busy, busy, busy, None)
        self.assertNoResult(done)
        self.clock.pump([0.5] * 20)
        self.assertEqual("done", self.successResultOf(done))
        pauses = [later - before for before, later in zip(self.calls, self.calls[1:], strict=False)]
        self.assertTrue(all(2 <= pause <= 3.5 for pause in pauses), pauses)

    def test_one_that_is_too_busy_for_long(self) -> None:
        done = self.run_with(0, *[PeerRefused("busy", 503, 0)] * 100)
        self.clock.pump([0.1] * 580)
        self.assertNoResult(done)
        self.assertLessEqual(len(self.calls), 60)
        self.clock.pump([0.1] * 100)
        self.failureResultOf(done, PeerRefused)
        for late in (PeerRefused("busy", 503, 60), PeerRefused("busy", 503)):
            self.failureResultOf(self.run_with(0, late), PeerRefused)

    def test_the_peer_says_when(self) -> None:
        self.assertEqual(delay_before(1, PeerRefused("x", 503, 7)), 7)
        self.assertEqual(delay_before(1, PeerRefused("x", 503, 9999)), 30)
        self.assertLessEqual(delay_before(50, PeerUnreachable("x")), 30)
