"""Work that is not interrupted."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import StorageFull
from txtransfers.transfer.shield import uninterrupted


class ShieldTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.work: Deferred[str] = Deferred()
        self.waiting: Deferred[Any] = Deferred.fromCoroutine(uninterrupted(self.work))

    def test_its_result_and_its_error(self) -> None:
        self.work.callback("done")
        self.assertEqual(self.successResultOf(self.waiting), "done")
        self.setUp()
        self.work.errback(Failure(StorageFull("no room")))
        self.failureResultOf(self.waiting, StorageFull)

    def test_cancelled_its_success_stands(self) -> None:
        for _ in range(3):
            self.waiting.cancel()
            self.assertNoResult(self.waiting)
        self.assertFalse(self.work.called)
        self.work.callback("done")
        self.assertEqual(self.successResultOf(self.waiting), "done")

    def test_cancelled_its_error_does_not(self) -> None:
        self.waiting.cancel()
        self.work.errback(Failure(StorageFull("no room")))
        self.failureResultOf(self.waiting, CancelledError)
