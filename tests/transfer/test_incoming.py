"""The pushes that we receive: admission, order of things, several at once."""

import hashlib
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from tests.transfer.fake_peer import SlowStore
from txtransfers.errors import (
    BadMessage,
    BadState,
    CorruptedInstances,
    OutOfRange,
    StorageFull,
    TooBusy,
    UnknownResource,
    WrongLength,
)
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
        self.store = SlowStore()
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
        self.store.slow = {"commit"}
        first = self.start(self.pushes.commit(id_))
        second = self.start(self.pushes.commit(id_))
        self.assertRaises(BadState, self.pushes.receive, id_, 0)
        self.failureResultOf(self.start(self.pushes.discard(id_)), BadState)
        self.assertNoResult(second)
        self.store.go_on()
        for commit in (first, second):
            self.assertEqual(len(self.successResultOf(commit).stored), 1)
        self.assertEqual(self.pushes.counters.committed, 1)

    def test_a_commit_is_never_thrown_out(self) -> None:
        first, second = self.open(), self.open()
        self.put_all(first)
        self.store.slow = {"commit"}
        committing = self.start(self.pushes.commit(first))
        self.clock.advance(IDLE_BEFORE_EVICTION_S)
        self.pushes.get(second)
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.clock.advance(2 * ABANDONED_AFTER_S)
        self.open()
        self.assertRaises(UnknownResource, self.pushes.get, second)
        self.store.go_on()
        self.successResultOf(committing)

    def test_commits_at_once_that_fail(self) -> None:
        id_ = self.open()
        self.put(id_, 0, self.data[:100])
        self.store.slow = {"commit"}
        commits = [self.start(self.pushes.commit(id_)) for _ in range(3)]
        self.store.go_on()
        for commit in commits:
            self.failureResultOf(commit, CorruptedInstances)
        self.put(id_, 1, self.data[100:])
        self.successResultOf(self.start(self.pushes.commit(id_)))

    def test_a_bucket_can_come_again(self) -> None:
        id_ = self.open()
        self.put(id_, 0, bytes(100))
        sink = self.pushes.receive(id_, 1)
        sink.write(b"short")
        self.failureResultOf(self.start(self.pushes.finish_bucket(id_, sink, 0)), WrongLength)
        self.put_all(id_)
        self.successResultOf(self.start(self.pushes.commit(id_)))

    def test_once_it_is_being_deleted_nothing_is_taken(self) -> None:
        """All had arrived; a commit that comes now must not say that it is stored."""
        id_ = self.open()
        self.put_all(id_)
        self.store.slow = {"discard"}
        discarding = self.start(self.pushes.discard(id_))
        committing = self.start(self.pushes.commit(id_))
        self.assertRaises(UnknownResource, self.pushes.receive, id_, 0)
        self.store.go_on()
        self.successResultOf(discarding)
        self.failureResultOf(committing, UnknownResource)
        self.assertEqual(self.store.files, {})
        self.assertEqual((self.pushes.counters.committed, self.pushes.available), (0, 2))

    def test_deleted_while_a_bucket_comes(self) -> None:
        id_ = self.open()
        sink = self.pushes.receive(id_, 0)
        sink.write(self.data[:50])
        self.successResultOf(self.start(self.pushes.discard(id_)))
        self.assertTrue(sink.failed)
        sink.write(self.data[50:100])
        self.failureResultOf(self.start(self.pushes.finish_bucket(id_, sink, 0)), CancelledError)
        self.assertEqual(self.pushes.counters.received_bytes, 0)

    def test_what_is_refused_takes_no_room(self) -> None:
        good = self.request()
        for bad, error in (
            (attrs.evolve(good, instances=(Instance("../../x", 9, ""),)), BadMessage),
            (attrs.evolve(good, buckets=good.buckets[:1]), BadMessage),
            (attrs.evolve(good, buckets=good.buckets * 2), BadMessage),
            (attrs.evolve(good, instances=good.instances * 2), BadMessage),
        ):
            self.failureResultOf(self.start(self.pushes.open(bad)), error)
        self.store.room = 10
        self.failureResultOf(self.start(self.pushes.open(good)), StorageFull)
        self.assertEqual((self.pushes.available, self.pushes.counters.created), (2, 0))

    def test_those_that_are_being_opened_count(self) -> None:
        self.store.slow = {"receive"}
        opening = [self.start(self.pushes.open(self.request())) for _ in range(2)]
        third = self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.assertGreater(third.value.retry_after, 0)
        self.assertEqual(self.pushes.available, 0)
        self.store.go_on()
        self.assertEqual(len({self.successResultOf(one) for one in opening}), 2)

    def test_one_that_gives_way_makes_room_for_one_only(self) -> None:
        self.open()
        self.clock.advance(IDLE_BEFORE_EVICTION_S)
        used = self.open()
        self.store.slow = {"discard"}
        first = self.start(self.pushes.open(self.request()))
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.store.go_on()
        self.successResultOf(first)
        self.pushes.get(used)
        self.assertEqual(self.store.discarded, 1)

    def test_the_stop_waits_for_a_commit_and_discards_the_rest(self) -> None:
        committed, failing = self.open(), self.open()
        self.put_all(committed)
        self.store.slow = {"commit"}
        commits = [self.start(self.pushes.commit(id_)) for id_ in (committed, failing)]
        stopping = self.start(self.pushes.stop())
        self.assertNoResult(stopping)
        self.store.go_on()
        self.successResultOf(stopping)
        self.successResultOf(commits[0])
        self.failureResultOf(commits[1], CorruptedInstances)
        self.assertEqual(list(self.store.files.values()), [self.data])
        self.assertEqual((self.store.discarded, self.pushes.available), (1, 2))

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
