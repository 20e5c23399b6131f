"""Sending in push mode: the order of requests, and what becomes of it when something fails."""

import json
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.dicom_files import make
from tests.transfer.fake_peer import FakeMemo, FakePeer, parts
from txtransfers.errors import (
    PeerRefused,
    PeerUnreachable,
    SourceChanged,
    StorageFailure,
    UnknownResource,
)
from txtransfers.store.interfaces import Outcome, Piece
from txtransfers.store.memory import MemoryStore
from txtransfers.transfer.parts import ITransfer
from txtransfers.transfer.progress import Progress
from txtransfers.transfer.push import Push
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest

BUCKETS = ["PUT 0", "PUT 1", "PUT 2"]
END = ["POST commit", "GET push"]
"""The second asks what became of each instance."""


class PushCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.ids = [self.store.add(make(number, filler=1000)) for number in (1, 2, 3)]
        study = self.store.headers[self.ids[0]].ids.study
        self.request = TransferRequest((Resource(Level.STUDY, study),), Compression.NONE, "b")
        self.peer = FakePeer(self.clock)
        self.progress = Progress()
        self.memo = FakeMemo()

    def push(
        self, compression: Compression = Compression.NONE, threads: int = 2, **limits: int
    ) -> Push:
        self.peer.take(threads)
        self.parts = parts(self.clock, self.store, **limits)
        request = attrs.evolve(self.request, compression=compression)
        return Push(self.parts, self.peer, request, self.memo)  # type: ignore[arg-type]

    def begin(self, push: Push) -> Any:
        return Deferred.fromCoroutine(push.run(self.progress))

    def abandon(self, push: Push) -> Any:
        return Deferred.fromCoroutine(push.abandon())

    def assert_arrived(self) -> None:
        self.assertEqual(self.peer.store.files, self.store.files)

    def assert_nothing_held(self) -> None:
        self.assertEqual((self.parts.memory.held, self.peer.link.slots.held), (0, 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])


class PushTests(PushCase):
    def test_interface(self) -> None:
        verifyObject(ITransfer, self.push())

    def test_the_order_of_requests(self) -> None:
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["POST push", *BUCKETS, *END])
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
        self.assertEqual((progress.fraction, progress.done_instances), (3 / 5, 2))
        self.assertEqual(progress.network_size, size)
        held.callback(None)
        self.successResultOf(done)
        self.assertEqual((progress.done_size, progress.fraction), (size, 4 / 5))
        self.assertEqual(progress.done_instances, 3)

    def test_large_and_small_instances_arrive_whole(self) -> None:
        for number, filler in ((4, 5), (5, 20_000), (6, 2_500), (7, 100)):
            self.store.add(make(number, filler=filler))
        for compression in Compression:
            self.peer.store.files.clear()
            self.peer.store.headers.clear()
            self.memo = FakeMemo()
            self.successResultOf(self.begin(self.push(compression, bucket_size=1500)))
            self.assert_arrived()
            self.assertEqual(self.progress.done_instances, len(self.store.files))

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
            self.memo = FakeMemo()
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
        self.assertEqual(self.peer.asked[4:], END)

    def test_the_memory_of_all_transfers_together(self) -> None:
        push = self.push(threads=3, memory=2**20)
        self.successResultOf(self.parts.memory.acquire(cost=2**20))
        waiting = self.begin(push)
        self.assertEqual(self.peer.asked, ["POST push"])
        self.parts.memory.release(2**20)
        self.successResultOf(waiting)

    def test_a_bucket_is_tried_again(self) -> None:
        self.request = attrs.evolve(self.request, delta=False)
        for compression in Compression:
            self.peer.asked.clear()
            self.memo = FakeMemo()
            self.peer.steps["PUT 1"] = [PeerUnreachable("cut"), PeerRefused("busy", 503)]
            done = self.begin(self.push(compression, retries=2, threads=1))
            self.assertNoResult(done)
            self.clock.pump([1] * 4)
            self.successResultOf(done)
            self.assertEqual(self.peer.asked.count("PUT 1"), 3)
            self.assert_arrived()
            self.assert_nothing_held()
        self.assertEqual(self.progress.retries, 2 * len(Compression))
        self.assertEqual(self.progress.buckets_done, 3)

    def test_opening_and_commit_are_tried_again(self) -> None:
        self.peer.is_stock = True
        self.peer.steps["POST push"] = [PeerRefused("busy", 503, 5)]
        self.peer.steps["POST commit"] = [PeerUnreachable("cut")]
        done = self.begin(self.push(retries=1))
        self.clock.advance(4)
        self.assertEqual(self.peer.asked, ["POST push"])
        self.clock.pump([1] * 6)
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
        self.peer.is_stock = True
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
        self.assertEqual(self.peer.asked[3:], ["GET push verify", "PUT 1", "PUT 2", *END])
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
        self.assertEqual(self.peer.asked, ["POST push", "POST push", *BUCKETS, *END])

    def test_abandoned_it_is_deleted_at_the_peer_once_and_begins_anew(self) -> None:
        self.peer.steps["PUT 1"] = [PeerUnreachable("cut")]
        push = self.push(threads=1)
        self.failureResultOf(self.begin(push), PeerUnreachable)
        for _ in range(2):
            self.successResultOf(self.abandon(push))
        self.assertEqual(self.peer.asked[3:], ["DELETE"])
        self.assertEqual(self.peer.pushes.available, 4)
        self.successResultOf(self.begin(push))
        self.assertEqual(self.peer.asked[4:], ["POST push", *BUCKETS, *END])
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
        self.assertEqual(self.peer.asked, ["POST push", *END])

    def test_an_instance_that_goes_meanwhile(self) -> None:
        for change, error in (
            (lambda: self.store.files.update({self.ids[2]: b"short"}), StorageFailure),
            (lambda: self.store.files.pop(self.ids[2]), SourceChanged),
        ):
            for compression in (Compression.NONE, Compression.GZIP):
                kept = dict(self.store.files)
                self.memo = FakeMemo()
                opening: Deferred[None] = Deferred()
                self.peer.steps["POST push"] = [opening]
                done = self.begin(self.push(compression))
                change()
                opening.callback(None)
                self.assertIn(self.ids[2], str(self.failureResultOf(done, error).value))
                self.assert_nothing_held()
                self.store.files = kept
        self.assertEqual(self.peer.store.files, {})


class SurvivingTests(PushCase):
    """After a pause, a failure, a restart: with a new transfer, which has only its memo."""

    def interrupted(self, step: str = "PUT 1", compression: Compression = Compression.NONE) -> None:
        """The life before ended at a request, whose answer did not come."""
        self.peer.steps[step] = [Deferred()]
        push = self.push(compression, threads=1)
        running = self.begin(push)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.peer.steps[step].clear()
        self.memo.state = json.loads(json.dumps(dict(push.state())))
        self.progress = Progress()
        self.peer.asked.clear()

    def test_the_peer_is_asked_what_is_missing(self) -> None:
        self.interrupted()
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["GET push verify", "PUT 1", "PUT 2", *END])
        self.assertEqual((self.progress.buckets_done, self.progress.buckets), (3, 3))
        self.assert_arrived()

    def test_a_bucket_is_gone_on_with_in_its_middle(self) -> None:
        for compression in Compression:
            self.setUp()
            self.peer.seem(1e6)
            self.interrupted(compression=compression)
            (incoming,) = self.peer.store.incoming.values()
            half = incoming.instances[1].size // 2
            self.assertEqual(incoming.instances[1].id, sorted(self.ids)[1])
            data = self.store.files[incoming.instances[1].id]
            self.successResultOf(incoming.write([Piece(incoming.instances[1].id, 0, data[:half])]))
            self.memo.state["in_flight"] = {"1": half + 30}  # type: ignore[index]
            self.successResultOf(self.begin(self.push(compression)))
            self.assertIn(f"PUT 1?offset={half}", self.peer.asked)
            self.assertEqual(self.progress.repeated_size, 30)
            self.assert_arrived()

    def test_what_was_under_way_counts_as_sent_twice(self) -> None:
        self.interrupted()
        self.memo.state["in_flight"] = {"0": 500, "1": 400}  # type: ignore[index]
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.progress.repeated_size, 400)

    def test_the_receiver_tells_what_the_last_second_cost(self) -> None:
        self.interrupted()
        self.assertEqual(self.progress.network_size, 0, "this life has sent nothing yet")
        self.successResultOf(self.begin(self.push()))
        total = sum(len(data) for data in self.store.files.values())
        self.assertEqual(self.progress.network_size, total)

    def test_of_a_stock_peer_the_job_knows_what_arrived(self) -> None:
        self.peer.is_stock = True
        self.interrupted()
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["PUT 1", "PUT 2", "POST commit"])
        self.assert_arrived()

    def test_a_peer_that_lost_the_transaction(self) -> None:
        for is_stock, asked in (
            (False, ["GET push verify", "POST push", *BUCKETS, *END]),
            (True, ["PUT 1", "POST push", *BUCKETS, "POST commit"]),
        ):
            self.setUp()
            self.peer.is_stock = is_stock
            self.interrupted()
            (id_,) = list(self.peer.pushes._transactions)
            self.successResultOf(Deferred.fromCoroutine(self.peer.pushes.discard(id_)))
            self.successResultOf(self.begin(self.push(threads=1)))
            self.assertEqual(self.peer.asked, asked)
            self.assertIn("does not know the transaction", " ".join(self.memo.said))
            self.assert_arrived()

    def test_an_opening_whose_answer_was_lost_is_the_same_when_repeated(self) -> None:
        push = self.push(retries=1)
        real = self.peer.open_push

        async def lossy(*args: Any) -> Any:
            opened = await real(*args)
            if len(self.peer.asked) == 1:
                raise PeerUnreachable("cut")
            return opened

        self.peer.open_push = lossy  # type: ignore[method-assign]
        done = self.begin(push)
        self.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual(self.peer.asked[:2], ["POST push"] * 2)
        self.assertEqual(self.peer.pushes.counters.created, 1)
        self.assert_arrived()

    def test_a_commit_whose_answer_was_lost(self) -> None:
        self.peer.steps["answer to commit"] = [PeerRefused("Gateway timeout", 504)]
        push = self.push()
        self.successResultOf(self.begin(push))
        self.assertEqual(self.peer.asked[-2:], END)
        self.assertEqual(set(push.outcomes()), {Outcome.STORED})
        self.assert_arrived()

    def test_a_commit_that_did_not_reach_the_peer(self) -> None:
        self.peer.steps["POST commit"] = [PeerUnreachable("refused")]
        done = self.begin(self.push())
        self.assertNoResult(done)
        self.clock.advance(1)
        self.successResultOf(done)
        self.assertEqual(self.peer.asked[-4:], [*END, *END])
        self.assert_arrived()

    def test_a_commit_that_never_reaches_the_peer(self) -> None:
        self.peer.steps["POST commit"] = [PeerRefused("busy", 503, 2)] * 99
        push = self.push()
        done = self.begin(push)
        self.clock.pump([1] * 9)
        error = self.failureResultOf(done, PeerRefused).value
        self.assertEqual(error.status, 503)
        self.assertTrue(push.keeps(error))

    def test_an_opening_whose_answer_never_came(self) -> None:
        """In the next life it is the same; cancelled, it is deleted."""
        for is_cancelled in (False, True):
            self.setUp()
            real = self.peer.open_push

            async def lossy(*args: Any, real: Any = real) -> Any:
                await real(*args)
                raise PeerUnreachable("cut")

            self.peer.open_push = lossy  # type: ignore[method-assign]
            push = self.push()
            self.failureResultOf(self.begin(push), PeerUnreachable)
            self.memo.state = json.loads(json.dumps(dict(push.state())))
            self.peer.open_push = real  # type: ignore[method-assign]
            if is_cancelled:
                self.successResultOf(self.abandon(self.push()))
                self.assertEqual(self.peer.pushes.counters.aborted, 1)
            else:
                self.successResultOf(self.begin(self.push()))
                self.assert_arrived()
            self.assertEqual(self.peer.pushes.counters.created, 1)
            self.assertEqual(self.peer.pushes.available, 4)

    def test_a_peer_that_is_away_while_it_is_asked_how_the_commit_went(self) -> None:
        self.peer.steps["answer to commit"] = [PeerUnreachable("cut")]
        self.peer.steps["GET push"] = [PeerUnreachable("down")] * 5
        done = self.begin(self.push())
        self.clock.pump([0.5] * 5)
        self.successResultOf(done)
        self.peer.store.files.clear()
        self.peer.store.headers.clear()
        self.memo = FakeMemo()
        self.peer.steps["answer to commit"] = [PeerUnreachable("cut")]
        self.peer.steps["GET push"] = [PeerUnreachable("down")] * 500
        done = self.begin(self.push())
        self.clock.pump([0.5] * 130)
        self.failureResultOf(done, PeerUnreachable)

    def test_a_commit_of_a_stock_peer_whose_answer_was_lost(self) -> None:
        self.peer.is_stock = True
        for retries, error in ((0, PeerRefused("timeout", 504)), (2, PeerUnreachable("cut"))):
            self.memo = FakeMemo()
            self.peer.asked.clear()
            self.peer.steps["answer to commit"] = [error]
            done = self.begin(self.push(retries=retries))
            self.clock.pump([1] * 3)
            self.successResultOf(done)
            self.assertEqual(self.peer.asked[-1], "POST lookup")
            self.assertIn("holds all", self.memo.said[-1])

    def test_a_commit_of_a_stock_peer_that_did_not_happen(self) -> None:
        self.peer.is_stock = True
        self.peer.steps["POST commit"] = [PeerUnreachable("cut")]
        self.failureResultOf(self.begin(self.push()), PeerUnreachable)

    def test_interrupted_in_the_commit(self) -> None:
        for is_stock in (False, True):
            for step in ("POST commit", "answer to commit"):
                self.setUp()
                self.peer.is_stock = is_stock
                self.interrupted(step)
                self.successResultOf(self.begin(self.push()))
                self.assertNotIn("POST push", self.peer.asked)
                self.assert_arrived()

    def test_cancelled_in_the_commit(self) -> None:
        for is_stock in (False, True):
            for step, committed in (("POST commit", False), ("answer to commit", True)):
                self.setUp()
                self.peer.is_stock = is_stock
                self.interrupted(step)
                abandoning = self.abandon(self.push())
                self.assertIs(self.successResultOf(abandoning), committed, step)
                self.assertEqual(bool(self.peer.store.files), committed)
                self.assertEqual(self.peer.pushes.available, 4)

    def test_bytes_that_were_damaged_on_the_way_are_sent_again(self) -> None:
        data = self.store.files[self.ids[0]]
        real = self.peer.put_bucket
        damaged: list[str] = []

        async def lossy(path: str, body: Any, session: str) -> None:
            if not damaged and path.endswith("/0"):
                damaged.append(path)
                id_ = path.removeprefix("/transfers/push/").removesuffix("/0")
                sink = await self.peer.pushes.receive(id_, 0)
                sink.write(b"?" * len(data))
                await self.peer.pushes.finish_bucket(id_, sink, 0)
                return
            await real(path, body, session)

        self.peer.put_bucket = lossy  # type: ignore[method-assign]
        self.successResultOf(self.begin(self.push(threads=1)))
        self.assertEqual(self.peer.asked[-4:], ["GET push", "PUT 0", *END])
        self.assert_arrived()

    def test_the_source_has_changed_since(self) -> None:
        def delete() -> None:
            del self.store.files[self.ids[2]], self.store.headers[self.ids[2]]

        def replace() -> None:
            self.store.files[self.ids[2]] += b"more"

        for change in (delete, replace):
            self.setUp()
            self.interrupted()
            change()
            error = self.failureResultOf(self.begin(self.push()), SourceChanged).value
            self.assertIn(self.ids[2], str(error))
            self.assertEqual(self.peer.store.files, {})

    def test_resubmitted_it_takes_what_is_there_now(self) -> None:
        for change in (
            lambda: self.store.add(make(4, filler=1000)),
            lambda: (self.store.files.pop(self.ids[2]), self.store.headers.pop(self.ids[2])),
        ):
            self.setUp()
            self.interrupted()
            change()
            self.memo.anew = True
            self.successResultOf(self.begin(self.push()))
            self.assertEqual(self.peer.asked[:2], ["DELETE", "POST push"])
            self.assert_arrived()

    def test_more_instances_that_came_since_wait_for_another_transfer(self) -> None:
        self.interrupted()
        more = self.store.add(make(4, filler=1000))
        self.successResultOf(self.begin(self.push()))
        del self.store.files[more]
        self.assert_arrived()

    def test_what_is_worth_keeping(self) -> None:
        self.interrupted()
        push = self.push()
        for error, kept in (
            (PeerUnreachable("cut"), True),
            (PeerRefused("busy", 503), True),
            (PeerRefused("who are you?", 401), True),
            (PeerRefused("no", 400), False),
            (SourceChanged("gone"), False),
        ):
            self.assertIs(push.keeps(error), kept, error)
        self.peer.is_stock = True
        self.memo = FakeMemo()
        self.interrupted()
        self.assertFalse(self.push().keeps(PeerUnreachable("cut")))


class DeltaTests(PushCase):
    """What the peer holds is not sent."""

    def give(self, *numbers: int) -> None:
        for number in numbers:
            self.peer.store.add(self.store.files[self.ids[number]])

    def test_one_is_there(self) -> None:
        self.give(1)
        push = self.push()
        self.successResultOf(self.begin(push))
        sent = [name for name in self.peer.asked if name.startswith("PUT")]
        self.assertEqual(len(sent), 2)
        self.assertEqual((self.progress.skipped, self.progress.buckets), (1, 2))
        self.assertEqual(
            sorted(o.value for o in push.outcomes() if o), ["AlreadyStored", "Stored", "Stored"]
        )
        self.assert_arrived()

    def test_all_are_there(self) -> None:
        self.give(0, 1, 2)
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["POST push", *END])
        self.assertEqual(self.progress.network_size, 0)

    def test_buckets_of_several(self) -> None:
        self.give(0, 2)
        self.successResultOf(self.begin(self.push(bucket_size=10**6)))
        self.assertEqual(self.progress.network_size, len(self.store.files[self.ids[1]]))
        self.assert_arrived()

    def test_one_is_deleted_there_meanwhile(self) -> None:
        self.give(1)
        push = self.push(bucket_size=10**6)
        self.peer.steps["PUT 0"] = [held := Deferred()]
        done = self.begin(push)
        del self.peer.store.files[self.ids[1]], self.peer.store.headers[self.ids[1]]
        held.callback(None)
        self.successResultOf(done)
        self.assert_arrived()

    def test_one_is_deleted_there_and_the_peer_is_restarted_meanwhile(self) -> None:
        """Its buckets grow under the sender, which is told so when it asks."""
        self.give(1)
        self.peer.steps["PUT 0"] = [held := Deferred()]
        done = self.begin(self.push(bucket_size=10**6))
        del self.peer.store.files[self.ids[1]], self.peer.store.headers[self.ids[1]]
        (incoming,) = self.peer.store.incoming.values()
        incoming.held = frozenset()
        self.successResultOf(Deferred.fromCoroutine(self.peer.pushes.stop()))
        held.callback(None)
        self.successResultOf(done)
        self.assertEqual(sum(asked.startswith("PUT 0") for asked in self.peer.asked), 2)
        self.assert_arrived()

    def test_not_wanted(self) -> None:
        self.give(0, 1, 2)
        for wanted, configured in ((False, None), (False, True), (None, False)):
            self.memo = FakeMemo()
            self.peer.asked.clear()
            self.request = attrs.evolve(self.request, delta=wanted)
            self.successResultOf(self.begin(self.push(delta=configured)))  # type: ignore[arg-type]
            self.assertEqual(self.peer.asked, ["POST push", *BUCKETS, *END])

    def test_a_stock_peer_is_asked_by_lookup_if_it_is_wanted(self) -> None:
        self.peer.is_stock = True
        self.give(1)
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["POST push", *BUCKETS, "POST commit"])
        for wanted, configured in ((True, None), (None, True)):
            for first, is_known in (("POST push", None), ("POST lookup", False)):
                self.setUp()
                self.peer.is_stock = True
                self.peer.knows_extension = is_known
                self.give(1)
                self.request = attrs.evolve(self.request, delta=wanted)
                push = self.push(delta=configured)  # type: ignore[arg-type]
                self.successResultOf(self.begin(push))
                self.assertEqual(self.peer.asked[0], first)
                sent = [name for name in self.peer.asked if name.startswith("PUT")]
                self.assertEqual(len(sent), 2)
                self.assertEqual(push.outcomes().count(Outcome.ALREADY_STORED), 1)
                self.assert_arrived()

    def test_a_stock_peer_that_holds_all_is_sent_nothing(self) -> None:
        self.peer.is_stock = True
        self.peer.knows_extension = False
        self.give(0, 1, 2)
        self.request = attrs.evolve(self.request, delta=True)
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.peer.asked, ["POST lookup"])

    def test_a_stock_peer_that_holds_some_of_many_resources(self) -> None:
        self.peer.is_stock = True
        self.peer.knows_extension = False
        self.give(1)
        resources = tuple(Resource(Level.INSTANCE, id_) for id_ in self.ids)
        self.request = attrs.evolve(self.request, delta=True, resources=resources)
        self.successResultOf(self.begin(self.push()))
        self.assertEqual(self.progress.skipped, 1)
        self.assert_arrived()
