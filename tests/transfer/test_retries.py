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

    def test_the_peer_says_when(self) -> None:
        self.assertEqual(delay_before(1, PeerRefused("x", 503, 7)), 7)
        self.assertEqual(delay_before(1, PeerRefused("x", 503, 9999)), 30)
        self.assertLessEqual(delay_before(50, PeerUnreachable("x")), 30)
