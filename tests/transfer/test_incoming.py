"""The pushes that we receive: admission, order of things, several at once."""

import hashlib
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from txtransfers.errors import BadState, CorruptedInstances, OutOfRange, TooBusy, UnknownResource
from txtransfers.store.memory import MemoryStore
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.incoming import (
    ABANDONED_AFTER_S,
    IDLE_BEFORE_EVICTION_S,
    PushTransactions,
)
from txtransfers.transfer.slots import Slots
from txtransfers.wire.messages import Compression, PushRequest
from txtransfers.wire.plan import Chunk, Instance

ID = "-".join(["00000000"] * 5)


class IncomingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.pushes = PushTransactions(self.clock, SynchronousThreads(), self.store, 2, Slots(9))
        self.data = make()

    def request(self) -> PushRequest:
        size = len(self.data)
        return PushRequest(
            (Instance(ID, size, hashlib.md5(self.data).hexdigest()),),
            ((Chunk(ID, 0, 100),), (Chunk(ID, 100, size - 100),)),
            Compression.NONE,
        )

    def open(self) -> str:
        return str(self.successResultOf(Deferred.fromCoroutine(self.pushes.open(self.request()))))

    def start(self, coroutine: Any) -> Any:
        return Deferred.fromCoroutine(coroutine)

    def put(self, id_: str, number: int, data: bytes) -> None:
        sink = self.pushes.receive(id_, number)
        sink.write(data)
        self.successResultOf(self.start(self.pushes.finish_bucket(id_, sink, 0)))

    def put_all(self, id_: str) -> None:
        self.put(id_, 0, self.data[:100])
        self.put(id_, 1, self.data[100:])

    def test_a_whole_push(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.assertEqual(self.store.files, {})
        self.successResultOf(self.start(self.pushes.commit(id_)))
        self.assertEqual(list(self.store.files.values()), [self.data])
        self.failureResultOf(self.start(self.pushes.commit(id_)), UnknownResource)
        self.assertEqual(self.pushes.counters.received_bytes, len(self.data))

    def test_a_failed_commit_can_be_tried_again(self) -> None:
        id_ = self.open()
        self.put(id_, 0, self.data[:100])
        error = self.failureResultOf(self.start(self.pushes.commit(id_)), CorruptedInstances)
        self.assertEqual(error.value.instances, (ID,))
        self.put(id_, 1, self.data[100:])
        self.successResultOf(self.start(self.pushes.commit(id_)))

    def test_the_idle_one_that_was_used_least_recently_gives_way(self) -> None:
        first, second = self.open(), self.open()
        self.clock.advance(1)
        self.put(first, 0, self.data[:100])
        self.clock.advance(IDLE_BEFORE_EVICTION_S)
        third = self.open()
        self.pushes.get(first)
        self.pushes.get(third)
        self.assertRaises(UnknownResource, self.pushes.get, second)

    def test_a_live_one_is_never_thrown_out(self) -> None:
        first, second = self.open(), self.open()
        self.clock.advance(IDLE_BEFORE_EVICTION_S - 10)
        opening = self.start(self.pushes.open(self.request()))
        error = self.failureResultOf(opening, TooBusy).value
        self.assertEqual(error.retry_after, 10)
        self.assertIn("MaxPushTransactions", str(error))
        receiving = [self.pushes.receive(id_, 0) for id_ in (first, second)]
        self.clock.advance(10 * IDLE_BEFORE_EVICTION_S)
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.pushes.received(first, receiving[0])
        self.clock.advance(IDLE_BEFORE_EVICTION_S)
        self.open()
        self.assertRaises(UnknownResource, self.pushes.get, first)

    def test_abandoned_ones_free_their_space_at_the_next_opening(self) -> None:
        abandoned = self.open()
        self.clock.advance(ABANDONED_AFTER_S + 1)
        self.open()
        self.assertRaises(UnknownResource, self.pushes.get, abandoned)
        self.assertEqual(self.pushes.counters.aborted, 1)

    def test_numbers_of_buckets(self) -> None:
        id_ = self.open()
        error = self.assertRaises(OutOfRange, self.pushes.receive, id_, 2)
        self.assertIn("2", str(error))

    def test_during_a_commit(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        transaction = self.pushes.get(id_)
        held: Deferred[Any] = Deferred()
        real = transaction._incoming.commit
        transaction._incoming.commit = lambda: held.addCallback(lambda _r: real())  # type: ignore[method-assign]
        first = self.start(self.pushes.commit(id_))
        second = self.start(self.pushes.commit(id_))
        self.assertRaises(BadState, self.pushes.receive, id_, 0)
        self.failureResultOf(self.start(self.pushes.discard(id_)), BadState)
        self.assertNoResult(second)
        held.callback(None)
        for commit in (first, second):
            self.successResultOf(commit)
        self.assertEqual(self.pushes.counters.committed, 1)

    def test_discard(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.successResultOf(self.start(self.pushes.discard(id_)))
        self.assertRaises(UnknownResource, self.pushes.get, id_)
        self.assertEqual(self.pushes.available, 2)

    def test_when_the_daemon_stops(self) -> None:
        self.open()
        self.pushes.refuse_more()
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.successResultOf(self.start(self.pushes.stop()))
        self.assertEqual(self.pushes.available, 2)
