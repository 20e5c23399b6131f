"""What the embedded store promises beyond the contract: space, also when nobody waits any more."""

import os

from twisted.internet.defer import CancelledError
from twisted.trial.unittest import SynchronousTestCase

from tests.slow_threads import SlowThreads
from txtransfers.errors import StorageFull
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.wire.plan import Instance

ID = "-".join(["00000000"] * 5)


class SpaceTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.threads = SlowThreads()
        self.store = EmbeddedStore(os.path.abspath(self.mktemp()), self.threads)
        self.store.start()
        self.addCleanup(self.store.stop)
        self.all = Instance(ID, self.store.space.free() // 4 * 3, "0" * 32)

    def test_what_was_promised_is_not_promised_again(self) -> None:
        incoming = self.successResultOf(self.store.receive([self.all]))
        error = self.failureResultOf(self.store.receive([self.all]), StorageFull).value
        self.assertIn(str(self.all.size), str(error))
        self.successResultOf(incoming.discard())
        self.successResultOf(self.store.receive([self.all]))

    def test_a_caller_that_was_cancelled_keeps_no_space(self) -> None:
        self.threads.is_slow = True
        receiving = self.store.receive([self.all])
        receiving.cancel()
        self.failureResultOf(receiving, CancelledError)
        self.threads.go_on()
        self.assertEqual(os.listdir(self.store.path("")), [])
        self.successResultOf(self.store.receive([self.all]))

    def test_a_caller_that_was_cancelled_is_told_of_no_error(self) -> None:
        held = self.successResultOf(self.store.receive([self.all]))
        self.threads.is_slow = True
        receiving = self.store.receive([self.all])
        receiving.cancel()
        self.failureResultOf(receiving, CancelledError)
        self.threads.go_on()
        self.successResultOf(held.discard())
