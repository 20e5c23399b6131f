"""Sending in push mode: the order of requests, and what becomes of it when something fails."""

from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.dicom_files import make
from tests.transfer.fake_peer import FakePeer, parts
from txtransfers.errors import PeerRefused, PeerUnreachable, StorageFailure, UnknownResource
from txtransfers.store.memory import MemoryStore
from txtransfers.transfer.parts import ITransfer
from txtransfers.transfer.progress import Progress
from txtransfers.transfer.push import Push
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest

BUCKETS = ["PUT 0", "PUT 1", "PUT 2"]


class PushTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.ids = [self.store.add(make(number, filler=1000)) for number in (1, 2, 3)]
        study = self.store.headers[self.ids[0]].ids.study
        self.request = TransferRequest((Resource(Level.STUDY, study),), Compression.NONE, "b")
        self.peer = FakePeer(self.clock)
        self.progress = Progress()

    def push(self, compression: Compression = Compression.NONE, **limits: int) -> Push:
        self.parts = parts(self.clock, self.store, **limits)
        request = attrs.evolve(self.request, compression=compression)
        return Push(self.parts, self.peer, request)  # type: ignore[arg-type]

    def begin(self, push: Push) -> Any:
        return Deferred.fromCoroutine(push.run(self.progress))

    def abandon(self, push: Push) -> Any:
        return Deferred.fromCoroutine(push.abandon())

    def assert_arrived(self) -> None:
        self.assertEqual(self.peer.store.files, self.store.files)

    def assert_nothing_held(self) -> None:
        self.assertEqual(self.parts.slots.held, 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_interface(self) -> None:
        verifyObject(ITransfer, self.push())

    def test_the_order_of_requests(self) -> None:
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["POST push", *BUCKETS, "POST commit"])
        self.assertEqual(self.peer.commit_timeouts, [600.0])
        self.assert_arrived()
        self.assert_nothing_held()

    def test_progress(self) -> None:
        size = sum(len(data) for data in self.store.files.values())
        self.peer.steps["PUT 2"] = [held := Deferred()]
        done = self.begin(self.push())
        progress = self.progress
        self.assertEqual((progress.total_instances, progress.total_size), (3, size))
        self.assertEqual((progress.buckets, progress.buckets_done), (3, 2))
        self.assertEqual(progress.fraction, 3 / 5)
        self.assertEqual(progress.network_size, size)
        held.callback(None)
        self.successResultOf(done)
        self.assertEqual((progress.done_size, progress.fraction), (size, 4 / 5))

    def test_large_and_small_instances_arrive_whole(self) -> None:
        for number, filler in ((4, 5), (5, 20_000), (6, 2_500), (7, 100)):
            self.store.add(make(number, filler=filler))
        for compression in Compression:
            self.peer.store.files.clear()
            self.peer.store.headers.clear()
            self.successResultOf(self.begin(self.push(compression, bucket_size=1500)))
            self.assert_arrived()

    def test_gzipped_buckets_count_as_they_travel(self) -> None:
        self.store.add(make(9, filler=50_000))
        self.successResultOf(self.begin(self.push(Compression.GZIP)))
        self.assert_arrived()
        self.assertLess(self.progress.network_size, self.progress.total_size)
        self.assertEqual(self.progress.done_size, self.progress.total_size)

    def test_one_transfer_id_for_all_requests(self) -> None:
        self.request = attrs.evolve(self.request, sender_transfer_id="given")
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.sessions, {"given"})
        self.peer.sessions.clear()
        self.request = attrs.evolve(self.request, sender_transfer_id=None)
        for _ in range(2):
            self.successResultOf(self.begin(self.push()))
        self.assertEqual(len(self.peer.sessions), 2)
        self.assertNotIn("", self.peer.sessions)

    def test_no_more_buckets_at_once_than_threads(self) -> None:
        held: list[Deferred[None]] = [Deferred() for _ in BUCKETS]
        for request, step in zip(BUCKETS, held, strict=True):
            self.peer.steps[request] = [step]
        done = self.begin(self.push(threads=2))
        self.assertEqual(self.peer.asked, ["POST push", "PUT 0", "PUT 1"])
        held[1].callback(None)
        self.assertEqual(self.peer.asked[3:], ["PUT 2"])
        held[2].callback(None)
        self.assertEqual(self.peer.asked[4:], [])
        held[0].callback(None)
        self.successResultOf(done)
        self.assertEqual(self.peer.asked[4:], ["POST commit"])

    def test_the_slots_of_all_transfers_together(self) -> None:
        done = self.begin(push := self.push(threads=3, slots=1))
        self.successResultOf(done)
        self.successResultOf(self.parts.slots.acquire())
        waiting = self.begin(push)
        self.assertEqual(self.peer.asked[5:], ["POST push"])
        self.parts.slots.release()
        self.successResultOf(waiting)

    def test_a_bucket_is_tried_again(self) -> None:
        for compression in Compression:
            self.peer.asked.clear()
            self.peer.steps["PUT 1"] = [PeerUnreachable("cut"), PeerRefused("busy", 503)]
            done = self.begin(self.push(compression, retries=2, threads=1))
            self.assertNoResult(done)
            self.clock.pump([1] * 4)
            self.successResultOf(done)
            self.assertEqual(self.peer.asked.count("PUT 1"), 3)
            self.assert_arrived()
            self.assert_nothing_held()
        self.assertEqual(self.progress.retries, 4)
        self.assertEqual(self.progress.buckets_done, 3)

    def test_opening_and_commit_are_tried_again(self) -> None:
        self.peer.steps["POST push"] = [PeerRefused("busy", 503, 5)]
        self.peer.steps["POST commit"] = [PeerUnreachable("cut")]
        done = self.begin(self.push(retries=1))
        self.clock.advance(4)
        self.assertEqual(self.peer.asked, ["POST push"])
        self.clock.advance(1)
        self.clock.advance(1)
        self.successResultOf(done)
        self.assert_arrived()

    def test_a_failure_ends_all_buckets_and_asks_for_no_commit(self) -> None:
        self.peer.steps["PUT 0"] = [Deferred()]
        self.peer.steps["PUT 1"] = [PeerRefused("no", 400)]
        push = self.push(threads=2, retries=5)
        self.assertEqual(self.failureResultOf(self.begin(push), PeerRefused).value.status, 400)
        self.assertEqual(self.peer.asked, ["POST push", "PUT 0", "PUT 1"])
        self.assert_nothing_held()
        self.successResultOf(self.abandon(push))
        self.assertEqual(self.peer.asked[-1], "DELETE")
        self.assertEqual(self.peer.store.files, {})

    def test_a_refused_commit_says_what_has_arrived(self) -> None:
        self.peer.steps["POST commit"] = [PeerRefused("Corrupted file", 500)]
        error = self.failureResultOf(self.begin(self.push()), PeerRefused).value
        self.assertIn("All buckets have arrived", str(error))
        self.assertIn("Corrupted file", str(error))

    def test_paused_it_goes_on_where_it_was(self) -> None:
        held: Deferred[None] = Deferred()
        self.peer.steps["PUT 1"] = [held]
        push = self.push(threads=1)
        running = self.begin(push)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(self.peer.asked, ["POST push", "PUT 0", "PUT 1"])
        self.assert_nothing_held()
        self.successResultOf(self.begin(push))
        self.assertEqual(self.peer.asked[3:], ["PUT 1", "PUT 2", "POST commit"])
        self.assertEqual(self.progress.buckets_done, 3)
        self.assert_arrived()

    def test_paused_while_it_waits_for_a_retry(self) -> None:
        self.peer.steps["PUT 1"] = [PeerUnreachable("cut")]
        push = self.push(threads=1, retries=1)
        running = self.begin(push)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assert_nothing_held()
        self.successResultOf(self.begin(push))
        self.assert_arrived()

    def test_paused_before_the_peer_has_opened(self) -> None:
        self.peer.steps["POST push"] = [Deferred()]
        push = self.push()
        running = self.begin(push)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.successResultOf(self.begin(push))
        self.assertEqual(self.peer.asked, ["POST push", "POST push", *BUCKETS, "POST commit"])

    def test_abandoned_it_is_deleted_at_the_peer_once_and_begins_anew(self) -> None:
        self.peer.steps["PUT 1"] = [PeerUnreachable("cut")]
        push = self.push(threads=1)
        self.failureResultOf(self.begin(push), PeerUnreachable)
        for _ in range(2):
            self.successResultOf(self.abandon(push))
        self.assertEqual(self.peer.asked[3:], ["DELETE"])
        self.assertEqual(self.peer.pushes.available, 4)
        self.successResultOf(self.begin(push))
        self.assertEqual(self.peer.asked[4:], ["POST push", *BUCKETS, "POST commit"])
        self.assertEqual(self.progress.buckets_done, 3)

    def test_nothing_to_abandon(self) -> None:
        push = self.push()
        self.successResultOf(self.abandon(push))
        self.successResultOf(self.begin(push))
        self.peer.asked.clear()
        self.successResultOf(self.abandon(push))
        self.assertEqual(self.peer.asked, [])

    def test_abandoning_never_raises_nor_waits_long(self) -> None:
        for step in (PeerUnreachable("gone"), Deferred()):
            self.peer.steps["PUT 0"] = [PeerUnreachable("cut")]
            self.peer.steps["DELETE"] = [step]
            push = self.push()
            self.failureResultOf(self.begin(push), PeerUnreachable)
            abandoning = self.abandon(push)
            self.clock.advance(1)
            self.successResultOf(abandoning)
            self.assert_nothing_held()

    def test_what_is_not_here_is_not_announced(self) -> None:
        self.request = attrs.evolve(self.request, resources=(Resource(Level.STUDY, "x"),))
        self.failureResultOf(self.begin(self.push()), UnknownResource)
        self.assertEqual(self.peer.asked, [])

    def test_nothing_at_all(self) -> None:
        self.request = attrs.evolve(self.request, resources=())
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["POST push", "POST commit"])

    def test_an_instance_that_goes_meanwhile(self) -> None:
        for change, error in (
            (lambda: self.store.files.update({self.ids[2]: b"short"}), StorageFailure),
            (lambda: self.store.files.pop(self.ids[2]), UnknownResource),
        ):
            for compression in Compression:
                kept = dict(self.store.files)
                opening: Deferred[None] = Deferred()
                self.peer.steps["POST push"] = [opening]
                done = self.begin(self.push(compression))
                change()
                opening.callback(None)
                self.assertIn(self.ids[2], str(self.failureResultOf(done, error).value))
                self.assert_nothing_held()
                self.store.files = kept
        self.assertEqual(self.peer.store.files, {})

    def test_it_can_be_stopped_at_any_time(self) -> None:
        self.assertTrue(self.push().stoppable())
