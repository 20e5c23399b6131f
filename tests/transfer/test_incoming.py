"""The pushes that we receive: admission, order of things, several at once."""

import hashlib
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
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
    IDLE_BEFORE_PARKING_S,
    PushTransactions,
)
from txtransfers.transfer.slots import Slots
from txtransfers.wire.codec import Codec
from txtransfers.wire.plan import Chunk, Instance
from txtransfers.wire.pushes import PushExtension, PushRequest, PushState, PushStatus

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
            Codec.NONE,
        )

    def open(self) -> str:
        id_, _held = self.successResultOf(self.start(self.pushes.open(self.request())))
        return str(id_)

    def start(self, coroutine: Any) -> Any:
        return Deferred.fromCoroutine(coroutine)

    def put(self, id_: str, number: int, data: bytes) -> None:
        sink = self.receive(id_, number)
        sink.write(data)
        self.successResultOf(self.start(self.pushes.finish_bucket(id_, sink, 0)))

    def receive(self, id_: str, number: int) -> Any:
        return self.successResultOf(self.start(self.pushes.receive(id_, number)))

    def get(self, id_: str) -> Any:
        return self.successResultOf(self.start(self.pushes.get(id_)))

    def assert_gone(self, id_: str) -> None:
        self.failureResultOf(self.start(self.pushes.get(id_)), UnknownResource)

    def put_all(self, id_: str) -> None:
        self.put(id_, 0, self.data[:100])
        self.put(id_, 1, self.data[100:])

    def test_a_whole_push(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.assertEqual(self.store.files, {})
        self.successResultOf(self.start(self.pushes.commit(id_)))
        self.assertEqual(list(self.store.files.values()), [self.data])
        self.assertEqual(self.pushes.counters.received_bytes, len(self.data))

    def test_a_commit_that_is_repeated(self) -> None:
        """Its answer was lost: the sender is told again that all is well. Nothing else goes."""
        id_ = self.open()
        self.put_all(id_)
        report = self.successResultOf(self.start(self.pushes.commit(id_)))
        for _ in range(2):
            again = self.successResultOf(self.start(self.pushes.commit(id_)))
            self.assertEqual(again.outcomes, report.outcomes)
        self.assert_gone(id_)
        self.failureResultOf(self.start(self.pushes.receive(id_, 0)), UnknownResource)
        self.failureResultOf(self.start(self.pushes.discard(id_)), UnknownResource)
        self.assertEqual(self.pushes.counters.committed, 1)
        self.assertEqual(self.pushes.available, 2)

    def ask_thrice(self, id_: str) -> list[Any]:
        """The status, a bucket and a commit at once; the disk is asked at the most once for each.

        They must not wait for each other in turn: each has moved it when the others look again.
        """
        self.store.slow = {"reopen"}
        asked = [
            self.start(coroutine)
            for coroutine in (
                self.pushes.status(id_, False),
                self.pushes.receive(id_, 0),
                self.pushes.commit(id_),
            )
        ]
        for _ in asked:
            if self.store.held:
                self.store.held.pop(0).callback(None)
        self.assertEqual(self.store.held, [])
        return asked

    def test_several_requests_for_what_is_committed_at_once(self) -> None:
        """The answers were lost: a bucket comes again while it is asked how the commit went."""
        id_ = self.open()
        self.put_all(id_)
        report = self.successResultOf(self.start(self.pushes.commit(id_)))
        status, bucket, commit = self.ask_thrice(id_)
        self.assertIs(self.successResultOf(status).state, PushState.COMMITTED)
        self.failureResultOf(bucket, UnknownResource)
        self.assertEqual(self.successResultOf(commit).outcomes, report.outcomes)

    def test_several_requests_for_what_is_not_there_at_once(self) -> None:
        id_ = self.open()
        self.successResultOf(self.start(self.pushes.discard(id_)))
        for asked in self.ask_thrice(id_):
            self.failureResultOf(asked, UnknownResource)

    def test_several_requests_for_what_was_parked_at_once(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.successResultOf(self.start(self.pushes.stop()))
        status, bucket, commit = self.ask_thrice(id_)
        self.successResultOf(bucket)
        self.assertEqual(self.successResultOf(status).missing, frozenset())
        self.successResultOf(commit)

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
        self.clock.advance(IDLE_BEFORE_PARKING_S)
        self.open()
        self.assertEqual([one.name for one in self.staged()], [f"push.{second}"])

    def staged(self) -> Any:
        return self.successResultOf(self.store.staged())

    def test_one_that_gave_way_goes_on_when_there_is_room(self) -> None:
        first, second = self.open(), self.open()
        self.put(second, 0, self.data[:100])
        self.clock.advance(IDLE_BEFORE_PARKING_S)
        self.get(first)
        third = self.open()
        busy = self.failureResultOf(self.start(self.pushes.receive(second, 1)), TooBusy).value
        self.assertGreater(busy.retry_after, 0)
        self.successResultOf(self.start(self.pushes.discard(third)))
        self.put(second, 1, self.data[100:])
        self.successResultOf(self.start(self.pushes.commit(second)))
        self.assertEqual(list(self.store.files.values()), [self.data])

    def test_requests_that_come_while_it_is_parked_wait(self) -> None:
        first, _second = self.open(), self.open()
        self.put(first, 0, self.data[:100])
        self.clock.advance(IDLE_BEFORE_PARKING_S)
        self.store.slow = {"close"}
        third = self.start(self.pushes.open(self.request()))
        waiting = self.start(self.pushes.receive(first, 1))
        self.assertNoResult(third)
        self.assertNoResult(waiting)
        self.store.go_on()
        self.successResultOf(third)
        sink = self.successResultOf(waiting)
        sink.write(self.data[100:])
        self.successResultOf(self.start(self.pushes.finish_bucket(first, sink, 0)))
        self.successResultOf(self.start(self.pushes.commit(first)))

    def test_a_live_one_is_never_thrown_out(self) -> None:
        first, second = self.open(), self.open()
        self.clock.advance(IDLE_BEFORE_PARKING_S - 10)
        opening = self.start(self.pushes.open(self.request()))
        error = self.failureResultOf(opening, TooBusy).value
        self.assertEqual(error.retry_after, 10)
        self.assertIn("MaxPushTransactions", str(error))
        for id_ in (first, second):
            self.receive(id_, 0)
        self.clock.advance(10 * IDLE_BEFORE_PARKING_S)
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)

    def test_what_nobody_uses_expires(self) -> None:
        abandoned, used = self.open(), self.open()
        self.clock.advance(100)
        self.put(used, 0, self.data[:100])
        self.expire(100)
        self.get(used)
        self.clock.advance(1)
        self.get(used)
        self.expire(100)
        self.assert_gone(abandoned)
        self.get(used)
        self.assertEqual(self.pushes.counters.aborted, 1)

    def test_one_that_ends_while_others_expire(self) -> None:
        """It is no reason to leave those that come after it."""
        self.pushes._room = 3
        first, second, third = (self.open() for _ in range(3))
        self.clock.advance(101)
        self.store.slow = {"discard"}
        expiring = self.start(self.pushes.expire(100, 0.0))
        ended = self.start(self.pushes.discard(second))
        self.store.held.pop().callback(None)
        self.successResultOf(ended)
        self.store.go_on()
        self.successResultOf(expiring)
        for id_ in (first, second, third):
            self.assert_gone(id_)

    def expire(self, timeout: float, now: float = 0.0) -> None:
        self.successResultOf(self.start(self.pushes.expire(timeout, now)))

    def test_what_is_parked_expires_too(self) -> None:
        id_ = self.open()
        self.successResultOf(self.start(self.pushes.stop()))
        (staged,) = self.staged()
        self.expire(100, staged.last_written + 100)
        self.assertEqual(len(self.staged()), 1)
        self.expire(100, staged.last_written + 101)
        self.assertEqual(self.staged(), ())
        self.assert_gone(id_)

    def test_what_others_staged_does_not_expire(self) -> None:
        incoming = self.successResultOf(self.store.receive((), "job.1"))
        self.successResultOf(incoming.close())
        self.expire(100, 1e12)
        self.assertEqual(len(self.staged()), 1)

    # A sender that knows the extension

    KEY = "0f8fad5b-d9cb-469f-a165-70867728950e"

    def extended(self, delta: bool = False) -> PushRequest:
        return attrs.evolve(self.request(), extension=PushExtension(self.KEY, delta))

    def test_the_same_opening_finds_its_transaction(self) -> None:
        for _ in range(2):
            opened = self.successResultOf(self.start(self.pushes.open(self.extended())))
            self.assertEqual(opened, (self.KEY, frozenset()))
        self.assertEqual(self.pushes.counters.created, 1)
        self.put_all(self.KEY)
        self.successResultOf(self.start(self.pushes.stop()))
        opened = self.successResultOf(self.start(self.pushes.open(self.extended())))
        self.assertEqual(self.status().missing, frozenset())
        self.successResultOf(self.start(self.pushes.commit(self.KEY)))
        self.failureResultOf(self.start(self.pushes.open(self.extended())), BadState)

    def test_the_same_opening_comes_while_the_first_is_served(self) -> None:
        self.store.slow = {"receive"}
        first, second = (self.start(self.pushes.open(self.extended())) for _ in range(2))
        self.store.go_on()
        self.assertEqual(self.successResultOf(first), self.successResultOf(second))
        self.assertEqual(self.pushes.counters.created, 1)

    def test_a_key_of_another_transaction(self) -> None:
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        other = attrs.evolve(self.extended(), compression=Codec.GZIP)
        self.failureResultOf(self.start(self.pushes.open(other)), BadState)

    def status(self, verify: bool = False) -> PushStatus:
        status: PushStatus = self.successResultOf(self.start(self.pushes.status(self.KEY, verify)))
        return status

    def test_the_status_from_the_opening_to_the_commit(self) -> None:
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        receiving = PushState.RECEIVING
        self.assertEqual(self.status(), PushStatus(receiving, frozenset({0, 1})))
        self.put(self.KEY, 1, self.data[100:])
        for verify in (False, True):
            status = attrs.evolve(self.status(verify), received=0)
            self.assertEqual(status, PushStatus(receiving, frozenset({0})))
        self.failureResultOf(self.start(self.pushes.commit(self.KEY)), CorruptedInstances)
        self.assertIn("incomplete", self.status().error)
        self.put(self.KEY, 0, self.data[:100])
        self.store.slow = {"commit"}
        committing = self.start(self.pushes.commit(self.KEY))
        asked = self.start(self.pushes.status(self.KEY, False))
        self.assertNoResult(asked)
        self.assertIs(self.pushes.phase(self.KEY), PushState.COMMITTING)
        self.store.go_on()
        self.successResultOf(committing)
        for status in (self.successResultOf(asked), self.status()):
            self.assertEqual(attrs.evolve(status, received=0), PushStatus(PushState.COMMITTED))

    def slow_looks(self) -> list[Deferred[Any]]:
        """From now on, looks at what is missing: they end when the test says so."""
        looks: list[Deferred[Any]] = []

        def missing(_plan: Any) -> Any:
            looks.append(Deferred())
            return looks[-1]

        (incoming,) = self.store.incoming.values()
        incoming.missing = missing  # type: ignore[method-assign]
        return looks

    def test_however_many_ask_one_look_answers_all(self) -> None:
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        looks = self.slow_looks()
        asked = [self.start(self.pushes.status(self.KEY, False)) for _ in range(5)]
        self.assertEqual(len(looks), 1)
        asked[1].cancel()
        self.failureResultOf(asked[1], CancelledError)
        looks[0].callback((1,))
        for one in (asked[0], *asked[2:]):
            self.assertEqual(self.successResultOf(one).missing, {1})

    def test_what_is_being_read_again_is_not_begun_once_more(self) -> None:
        """A sender that was not answered asks again: reading would never come to its end."""
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        self.put(self.KEY, 0, self.data[:100])
        looks = self.slow_looks()
        asked = [self.start(self.pushes.status(self.KEY, True)) for _ in range(3)]
        (look,) = looks
        look.callback((1,))
        for one in asked:
            self.assertEqual(self.successResultOf(one).missing, {1})
        self.start(self.pushes.status(self.KEY, True))
        self.assertEqual(len(looks), 2, "it is read again: something may have happened to it")

    def test_a_bucket_is_gone_on_with_in_its_middle(self) -> None:
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        self.put(self.KEY, 0, self.data[:100])
        sink = self.receive(self.KEY, 1)
        sink.write(self.data[100:150])
        sink._work()  # as much has come that it is handed on
        sink.abort()
        self.pushes.received(self.KEY, sink)
        for verify in (False, True):
            status = self.status(verify)
            self.assertEqual((status.missing, status.partial), ({1}, {1: 50}))
            self.assertEqual((status.received, status.wasted), (150, 0))
        sink = self.successResultOf(self.start(self.pushes.receive(self.KEY, 1, 50)))
        sink.write(self.data[150:])
        self.successResultOf(self.start(self.pushes.finish_bucket(self.KEY, sink, 0)))
        self.successResultOf(self.start(self.pushes.commit(self.KEY)))
        self.assertEqual(list(self.store.files.values()), [self.data])

    def test_an_offset_beyond_the_bucket(self) -> None:
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        receiving = self.start(self.pushes.receive(self.KEY, 0, 101))
        self.assertIn("101", str(self.failureResultOf(receiving, OutOfRange).value))
        sink = self.successResultOf(self.start(self.pushes.receive(self.KEY, 0, 100)))
        self.successResultOf(self.start(self.pushes.finish_bucket(self.KEY, sink, 0)))
        self.assertEqual(self.status().missing, {0, 1}, "a sender that lies deceives itself")

    def test_what_came_is_told_also_what_broke_off(self) -> None:
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        self.put(self.KEY, 0, self.data[:100])
        sink = self.receive(self.KEY, 1)
        sink.write(self.data[100:150])
        sink.abort()
        self.pushes.received(self.KEY, sink)
        for verify in (False, True):
            status = self.status(verify)
            self.assertEqual((status.received, status.wasted), (150, 50))
        self.successResultOf(self.start(self.pushes.discard(self.KEY)))
        self.successResultOf(self.start(self.pushes.open(self.extended())))
        self.assertEqual(self.status().received, 0)

    def test_what_is_held_is_told_and_need_not_come(self) -> None:
        self.store.add(self.data)
        (id_,) = self.store.files
        other = make(2)
        instances = (
            Instance(id_, len(self.data), hashlib.md5(self.data).hexdigest()),
            Instance(ID, len(other), hashlib.md5(other).hexdigest()),
        )
        bucket = tuple(Chunk(i.id, 0, i.size) for i in instances)
        request = attrs.evolve(self.extended(delta=True), instances=instances, buckets=(bucket,))
        opened = self.successResultOf(self.start(self.pushes.open(request)))
        self.assertEqual(opened, (self.KEY, frozenset({0})))
        self.put(self.KEY, 0, other)
        self.successResultOf(self.start(self.pushes.commit(self.KEY)))
        self.assertEqual(
            self.status(), PushStatus(PushState.COMMITTED, already_stored=frozenset({0}))
        )

    def test_a_commit_goes_on_when_nobody_waits_for_it(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.store.slow = {"commit"}
        committing = self.start(self.pushes.commit(id_))
        committing.cancel()
        self.failureResultOf(committing, CancelledError)
        self.store.go_on()
        self.assertEqual(list(self.store.files.values()), [self.data])
        self.successResultOf(self.start(self.pushes.commit(id_)))

    def test_a_full_disk_ends_the_transaction(self) -> None:
        """The other buckets are refused for the same: their sender may see these answers first."""
        id_ = self.open()
        sink, other = self.receive(id_, 0), self.receive(id_, 1)
        sink._failure = Failure(StorageFull("No room left"))
        finishing = self.start(self.pushes.finish_bucket(id_, sink, 0))
        self.failureResultOf(finishing, StorageFull)
        for late in (
            self.pushes.finish_bucket(id_, other, 0),
            self.pushes.receive(id_, 1),
            self.pushes.commit(id_),
        ):
            told = self.failureResultOf(self.start(late), StorageFull)
            self.assertEqual("No room left", told.getErrorMessage())
        self.assertEqual((self.store.discarded, self.pushes.counters.aborted), (1, 1))

    def test_numbers_of_buckets(self) -> None:
        id_ = self.open()
        receiving = self.start(self.pushes.receive(id_, 2))
        self.assertIn("2", str(self.failureResultOf(receiving, OutOfRange).value))

    def test_during_a_commit(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.store.slow = {"commit"}
        first = self.start(self.pushes.commit(id_))
        second = self.start(self.pushes.commit(id_))
        self.failureResultOf(self.start(self.pushes.receive(id_, 0)), BadState)
        self.assertNoResult(second)
        self.store.go_on()
        for commit in (first, second):
            self.assertEqual(len(self.successResultOf(commit).stored), 1)
        self.assertEqual(self.pushes.counters.committed, 1)

    def test_discarded_during_a_commit_it_is_undone(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.store.slow = {"commit"}
        committing = self.start(self.pushes.commit(id_))
        self.successResultOf(self.start(self.pushes.discard(id_)))
        self.store.go_on()
        self.failureResultOf(committing, BadState)
        self.assertEqual(self.store.files, {})
        self.assert_gone(id_)

    def test_discarded_when_the_commit_has_shown_all(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.store.slow = {"discard"}
        discarding = self.start(self.pushes.discard(id_))
        (incoming,) = self.store.incoming.values()
        self.successResultOf(incoming.commit())
        self.store.go_on()
        self.failureResultOf(discarding, UnknownResource)
        self.assertEqual(list(self.store.files.values()), [self.data])
        self.successResultOf(self.start(self.pushes.commit(id_)))

    def test_a_commit_is_never_thrown_out(self) -> None:
        first, second = self.open(), self.open()
        self.put_all(first)
        self.store.slow = {"commit"}
        committing = self.start(self.pushes.commit(first))
        self.clock.advance(IDLE_BEFORE_PARKING_S)
        self.get(second)
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.clock.advance(1000)
        self.expire(900)
        self.assert_gone(second)
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
        sink = self.receive(id_, 1)
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
        self.failureResultOf(self.start(self.pushes.receive(id_, 0)), UnknownResource)
        self.store.go_on()
        self.successResultOf(discarding)
        self.failureResultOf(committing, UnknownResource)
        self.assertEqual(self.store.files, {})
        self.assertEqual((self.pushes.counters.committed, self.pushes.available), (0, 2))

    def test_deleted_while_a_bucket_comes(self) -> None:
        id_ = self.open()
        sink = self.receive(id_, 0)
        sink.write(self.data[:50])
        self.successResultOf(self.start(self.pushes.discard(id_)))
        self.assertTrue(sink.failed)
        sink.write(self.data[50:100])
        self.failureResultOf(self.start(self.pushes.finish_bucket(id_, sink, 0)), UnknownResource)
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
        self.assertEqual(len({self.successResultOf(one)[0] for one in opening}), 2)

    def test_one_that_gives_way_makes_room_for_one_only(self) -> None:
        self.open()
        self.clock.advance(IDLE_BEFORE_PARKING_S)
        used = self.open()
        self.store.slow = {"close"}
        first = self.start(self.pushes.open(self.request()))
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.store.go_on()
        self.successResultOf(first)
        self.get(used)
        self.assertEqual((len(self.staged()), self.store.discarded), (1, 0))

    def test_the_stop_waits_for_a_commit_and_keeps_the_rest(self) -> None:
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
        self.assertEqual((self.store.discarded, self.pushes.available), (0, 2))
        self.assertEqual([one.name for one in self.staged()], [f"push.{failing}"])
        self.put_all(failing)
        self.successResultOf(self.start(self.pushes.commit(failing)))

    def test_discard(self) -> None:
        id_ = self.open()
        self.put_all(id_)
        self.successResultOf(self.start(self.pushes.discard(id_)))
        self.assert_gone(id_)
        self.assertEqual(self.pushes.available, 2)

    def test_when_the_daemon_stops(self) -> None:
        self.open()
        self.pushes.refuse_more()
        self.failureResultOf(self.start(self.pushes.open(self.request())), TooBusy)
        self.successResultOf(self.start(self.pushes.stop()))
        self.assertEqual(self.pushes.available, 2)
