"""Receiving in pull mode: the order of requests, and peers that fail, lie or are somebody else."""

import zlib
from typing import Any
from urllib.parse import parse_qs

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from tests.dicom_files import make
from tests.transfer.fake_peer import FakeMemo, FakePeer, SlowStore, parts
from txtransfers.errors import (
    BadCompression,
    BadDicom,
    CorruptedInstances,
    PeerNonsense,
    PeerRefused,
    PeerUnreachable,
    SourceChanged,
    StorageFull,
    WrongLength,
    WrongOriginator,
)
from txtransfers.store.interfaces import Outcome
from txtransfers.transfer.parts import ITransfer
from txtransfers.transfer.progress import Progress
from txtransfers.transfer.pull import Pull
from txtransfers.wire.codec import Codec, usual
from txtransfers.wire.codecs import encoder
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest
from txtransfers.wire.plan import MAX_URL_LENGTH, Instance


class PullTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = SlowStore()
        self.peer = FakePeer(self.clock)
        held = self.peer.store
        self.ids = sorted(held.add(make(number, filler=1000)) for number in (1, 2, 3))
        study = held.headers[self.ids[0]].ids.study
        self.request = TransferRequest((Resource(Level.STUDY, study),), Compression.NONE, "b")
        self.buckets = [f"GET {id_[:2]} 0" for id_ in self.ids]
        self.progress = Progress()
        self.memo = FakeMemo()

    def pull(
        self, compression: Compression = Compression.NONE, threads: int = 2, **limits: int
    ) -> Pull:
        self.peer.take(threads)
        self.parts = parts(self.clock, self.store, **limits)
        request = attrs.evolve(self.request, compression=compression)
        return Pull(self.parts, self.peer, request, self.memo)  # type: ignore[arg-type]

    def begin(self, pull: Pull) -> Any:
        return Deferred.fromCoroutine(pull.run(self.progress))

    def failure(self, pull: Pull, error: type[Exception]) -> Any:
        failed = self.failureResultOf(self.begin(pull), error).value
        self.assertEqual((self.parts.memory.held, self.peer.link.slots.held), (0, 0))
        self.assertEqual(self.store.files, {}, "nothing shows")
        return failed

    def assert_arrived(self) -> None:
        self.assertEqual(self.store.files, self.peer.store.files)

    def test_interface(self) -> None:
        verifyObject(ITransfer, self.pull())

    def test_the_order_of_requests(self) -> None:
        self.request = attrs.evolve(self.request, sender_transfer_id="given")
        self.successResultOf(self.begin(self.pull()))
        self.assertEqual(self.peer.asked, ["POST lookup", *self.buckets])
        self.assertEqual(self.peer.sessions, {"given"})
        self.assert_arrived()

    def test_progress(self) -> None:
        self.store.add(self.peer.store.files[self.ids[1]])
        size = sum(len(data) for data in self.peer.store.files.values())
        self.request = attrs.evolve(self.request, delta=False)
        pull = self.pull()
        self.successResultOf(self.begin(pull))
        progress = self.progress
        self.assertEqual((progress.buckets, progress.buckets_done), (3, 3))
        self.assertEqual((progress.total_size, progress.done_size), (size, size))
        self.assertEqual(progress.done_instances, 3)
        self.assertEqual(progress.network_size, size)
        stored, there = Outcome.STORED, Outcome.ALREADY_STORED
        self.assertEqual(list(pull.outcomes()), [stored, there, stored])

    def test_what_is_here_already_is_not_fetched(self) -> None:
        self.store.add(self.peer.store.files[self.ids[1]])
        pull = self.pull()
        self.successResultOf(self.begin(pull))
        self.assertEqual(self.peer.asked, ["POST lookup", self.buckets[0], self.buckets[2]])
        stored, there = Outcome.STORED, Outcome.ALREADY_STORED
        self.assertEqual(list(pull.outcomes()), [stored, there, stored])
        self.assertEqual((self.progress.skipped, self.progress.buckets_done), (1, 2))
        self.assert_arrived()
        again = self.pull()
        self.memo.id = "another"
        self.peer.asked.clear()
        self.successResultOf(self.begin(again))
        self.assertEqual(self.peer.asked, ["POST lookup"])

    def test_what_was_here_and_is_deleted_meanwhile_is_fetched_after_all(self) -> None:
        here = self.peer.store.files[self.ids[1]]
        self.store.add(here)
        self.peer.steps[self.buckets[2]] = [held := Deferred()]
        done = self.begin(self.pull())
        del self.store.files[self.ids[1]]
        held.callback(None)
        self.successResultOf(done)
        self.assertEqual(self.peer.asked[-2:], ["POST lookup", self.buckets[1]])
        self.assert_arrived()

    def test_large_and_small_instances_arrive_whole(self) -> None:
        for number, filler in ((4, 5), (5, 20_000), (6, 2_500), (7, 100)):
            self.peer.store.add(make(number, filler=filler))
        for compression in Compression:
            self.store = SlowStore()
            self.successResultOf(self.begin(self.pull(compression, bucket_size=1500)))
            self.assert_arrived()
            if compression is not Compression.AUTO:
                self.assertIn(f"&compression={compression.value}", self.peer.paths[-1])

    def test_a_peer_of_ours_is_told_which_content_is_meant(self) -> None:
        """So that a cache on the way gives no other; a stock peer is not told."""
        self.successResultOf(self.begin(self.pull()))
        before = list(self.peer.paths)
        self.assertTrue(all("&content=" in path for path in before))
        self.peer.paths.clear()
        id_ = self.ids[0]
        self.store, self.memo = SlowStore(), FakeMemo()
        self.peer.store.files[id_] = self.peer.store.files[id_][:-1] + b"!"
        self.successResultOf(self.begin(self.pull()))
        self.assertEqual(1, len(set(self.peer.paths) - set(before)), "the one that has changed")
        self.store, self.memo = SlowStore(), FakeMemo()
        self.peer.is_stock = True
        self.peer.paths.clear()
        self.successResultOf(self.begin(self.pull()))
        self.assertFalse(any("content" in path for path in self.peer.paths))

    def test_urls_stay_short_whatever_the_peers_own_is(self) -> None:
        for number in range(10, 80):
            self.peer.store.add(make(number))
        self.peer.base_url = "http://b.test:8042/" + "x" * 1000
        self.successResultOf(self.begin(self.pull(bucket_size=10**6)))
        self.assert_arrived()
        lengths = [len(self.peer.base_url + path) for path in self.peer.paths]
        self.assertLessEqual(max(lengths), MAX_URL_LENGTH)

    def test_a_bucket_is_tried_again(self) -> None:
        cut = iter([b"short", b""])
        self.peer.mangle = lambda data: next(cut, data)
        done = self.begin(self.pull(retries=2, threads=1))
        self.assertNoResult(done)
        self.clock.pump([1] * 4)
        self.successResultOf(done)
        self.assertEqual(self.peer.asked[1:4], [self.buckets[0]] * 3)
        self.assertEqual((self.progress.retries, self.progress.buckets_done), (2, 3))
        self.assert_arrived()

    def test_answers_of_another_length(self) -> None:
        for mangle in (lambda data: data[:-1], lambda data: data + b"!", lambda _data: b""):
            self.memo, self.store = FakeMemo(), SlowStore()
            self.peer.mangle = mangle
            error = self.failure(self.pull(threads=1), WrongLength)
            for word in ('"b"', self.ids[0], str(len(self.peer.store.files[self.ids[0]]))):
                self.assertIn(word, str(error))

    def test_answers_that_are_no_gzip(self) -> None:
        for mangle in (lambda data: data[:-1], zlib.compress):
            self.peer.mangle = mangle
            self.failure(self.pull(Compression.GZIP), BadCompression)

    def test_other_bytes(self) -> None:
        self.peer.mangle = lambda data: data[:-1] + b"?"
        error = self.failure(self.pull(), CorruptedInstances)
        self.assertEqual(sorted(error.instances), self.ids)

    def test_instances_that_are_no_dicom(self) -> None:
        self.peer.store.files = dict.fromkeys(self.ids, bytes(2000))
        self.failure(self.pull(), BadDicom)

    def test_the_daemon_that_asked_for_it(self) -> None:
        self.request = attrs.evolve(self.request, originator="another uuid")
        error = self.failure(self.pull(), WrongOriginator)
        for word in ("RemoteSelf", '"b"', "another uuid", "b's uuid"):
            self.assertIn(word, str(error))
        self.assertEqual(self.peer.asked, ["POST lookup"])
        self.request = attrs.evolve(self.request, originator="b's uuid")
        self.successResultOf(self.begin(self.pull()))

    def test_identifiers_of_a_peers_choosing(self) -> None:
        for bad in ("../../etc/passwd", "", "x?offset=0", self.ids[0].upper(), f"{self.ids[0]}\n"):
            self.peer.lie = lambda found, bad=bad: (Instance(bad, 9, "0" * 32), *found[1:])  # type: ignore[misc]
            error = self.failure(self.pull(), PeerNonsense)
            self.assertIn('"b"', str(error))
        self.peer.lie = lambda found: (found[0], *found)
        self.assertIn("twice", str(self.failure(self.pull(), PeerNonsense)))
        self.assertEqual(set(self.peer.asked), {"POST lookup"})

    def test_a_size_that_is_not_true(self) -> None:
        for more in (1, -1):
            self.peer.lie = lambda found, more=more: [  # type: ignore[misc]
                attrs.evolve(found[0], size=found[0].size + more)
            ]
            error = WrongLength if more > 0 else CorruptedInstances
            self.memo = FakeMemo()
            self.failure(self.pull(), error)

    def test_no_room(self) -> None:
        self.store = SlowStore(room=10)
        pull = self.pull()
        self.failure(pull, StorageFull)
        self.assertEqual(self.peer.asked, ["POST lookup"])
        self.store.room = 2**30
        self.successResultOf(self.begin(pull))
        self.assert_arrived()

    def test_nothing_at_all(self) -> None:
        self.request = attrs.evolve(self.request, resources=())
        self.successResultOf(self.begin(self.pull()))
        self.assertEqual(self.peer.asked, ["POST lookup"])

    def test_paused_it_goes_on_where_it_was(self) -> None:
        self.peer.steps[self.buckets[1]] = [Deferred()]
        pull = self.pull(threads=1)
        running = self.begin(pull)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual((self.parts.memory.held, self.store.discarded), (0, 0))
        self.successResultOf(self.begin(pull))
        self.assertEqual(
            self.peer.asked,
            ["POST lookup", *self.buckets[:2], "POST lookup", *self.buckets[1:]],
        )
        self.assertEqual(self.progress.buckets_done, 3)
        self.assert_arrived()

    def interrupted(self) -> None:
        """One bucket has arrived in the life before."""
        self.peer.steps[self.buckets[1]] = [Deferred()]
        running = self.begin(self.pull(threads=1))
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.peer.asked.clear()

    def test_in_another_life_it_goes_on_where_it_was(self) -> None:
        self.interrupted()
        self.successResultOf(self.begin(self.pull()))
        self.assertEqual(self.peer.asked, ["POST lookup", *self.buckets[1:]])
        self.assert_arrived()

    def test_a_bucket_is_gone_on_with_in_its_middle(self) -> None:
        """After a cut, and in another life."""
        data = self.peer.store.files[self.ids[0]]
        for compression in Compression:
            self.setUp()
            real = self.peer.get_bucket
            cuts: list[str] = []

            async def cut(
                path: str,
                sink: Any,
                session: str,
                _on_left: Any,
                cuts: Any = cuts,
                real: Any = real,
            ) -> None:
                if len(cuts) < 2:
                    cuts.append(path)
                    code = encoder(usual(Codec(parse_qs(path)["compression"][0])))
                    start = int(path.partition("offset=")[2].partition("&")[0])
                    sink.write(code.encode(data[start : start + 300]) + code.finish()[:-9])
                    sink._work()
                    raise PeerUnreachable("cut")
                await real(path, sink, session, _on_left)

            self.peer.get_bucket = cut  # type: ignore[method-assign]
            pull = self.pull(compression, retries=1, threads=1)
            failing = self.begin(pull)
            self.clock.advance(1)
            self.failureResultOf(failing, PeerUnreachable)
            again = self.begin(self.pull(compression, threads=1))
            self.successResultOf(again)
            self.assert_arrived()
            starts = [path.partition("offset=")[2].partition("&")[0] for path in cuts]
            self.assertEqual(starts, ["0", "300"])
            self.assertIn(f"GET {self.ids[0][:2]} 600", self.peer.asked)

    def test_what_was_under_way_counts_as_fetched_twice(self) -> None:
        for compression in Compression:
            self.setUp()
            self.interrupted()
            self.memo.state = {"in_flight": 70, "unstaged": 70}
            self.progress = Progress()
            pull = self.pull(compression)
            self.successResultOf(self.begin(pull))
            self.assertEqual(self.progress.repeated_size, 70)
            self.assertGreater(self.progress.network_size, 70)

    def test_the_daemon_that_asked_may_have_been_restarted_meanwhile(self) -> None:
        self.request = attrs.evolve(self.request, originator="b's uuid")
        self.interrupted()
        self.peer.originator = "its next uuid"
        self.successResultOf(self.begin(self.pull()))
        self.assert_arrived()

    def test_committed_in_the_life_before(self) -> None:
        first = self.pull()
        self.successResultOf(self.begin(first))
        self.peer.asked.clear()
        again = self.pull()
        self.successResultOf(self.begin(again))
        self.assertEqual(self.peer.asked, [])
        self.assertEqual(again.outcomes(), first.outcomes())

    def test_cancelled_though_it_is_committed(self) -> None:
        self.successResultOf(self.begin(self.pull()))
        again = self.pull()
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(again.abandon())))
        self.assertEqual(set(again.outcomes()), {Outcome.STORED})
        self.assert_arrived()

    def test_the_source_has_changed_since(self) -> None:
        def delete() -> None:
            del self.peer.store.files[self.ids[2]], self.peer.store.headers[self.ids[2]]

        def replace() -> None:
            self.peer.store.files[self.ids[2]] += b"more"

        def delete_all() -> None:
            self.peer.store.files.clear()
            self.peer.store.headers.clear()

        for change, named in ((delete, 2), (replace, 2), (delete_all, None)):
            self.setUp()
            self.interrupted()
            change()
            error = self.failure(self.pull(), SourceChanged)
            if named is not None:
                self.assertIn(self.ids[named], str(error))
            self.assertIn("resubmit", str(error)) if named else None

    def test_resubmitted_it_takes_what_is_there_now(self) -> None:
        for change in (
            lambda: self.peer.store.add(make(4, filler=1000)),
            lambda: (
                self.peer.store.files.pop(self.ids[2]) and self.peer.store.headers.pop(self.ids[2])
            ),
        ):
            self.setUp()
            self.interrupted()
            change()
            self.memo.anew = True
            self.successResultOf(self.begin(self.pull()))
            self.assert_arrived()
            self.assertIn("anew", " ".join(self.memo.said))

    def test_the_source_changes_while_it_is_fetched(self) -> None:
        self.peer.steps[self.buckets[0]] = [held := Deferred()]
        done = self.begin(self.pull(threads=1))
        del self.peer.store.files[self.ids[1]], self.peer.store.headers[self.ids[1]]
        held.callback(None)
        self.assertIn(self.ids[1], str(self.failureResultOf(done, SourceChanged).value))

    def test_a_bucket_that_was_damaged_is_fetched_again(self) -> None:
        damaged = iter([True])
        self.peer.mangle = lambda data: data[:-1] + b"?" if next(damaged, False) else data
        self.successResultOf(self.begin(self.pull(threads=1)))
        self.assertEqual(
            self.peer.asked, ["POST lookup", *self.buckets, "POST lookup", self.buckets[0]]
        )
        self.assert_arrived()

    def test_abandoned_it_frees_what_has_arrived_and_begins_anew(self) -> None:
        self.peer.steps[self.buckets[1]] = [PeerUnreachable("cut")]
        pull = self.pull(threads=1)
        self.failure(pull, PeerUnreachable)
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(pull.abandon()))
        self.assertEqual(self.store.discarded, 1)
        self.peer.asked.clear()
        self.successResultOf(self.begin(pull))
        self.assertEqual(self.peer.asked, ["POST lookup", *self.buckets])
        self.assertEqual(self.progress.buckets_done, 3)
        self.assert_arrived()

    def test_after_success_there_is_nothing_to_free(self) -> None:
        pull = self.pull()
        self.successResultOf(self.begin(pull))
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(pull.abandon())))
        self.assert_arrived()

    def test_abandoning_never_raises(self) -> None:
        self.store.is_broken = True
        self.peer.steps[self.buckets[0]] = [PeerUnreachable("cut")]
        pull = self.pull(threads=1)
        self.failure(pull, PeerUnreachable)
        self.successResultOf(Deferred.fromCoroutine(pull.abandon()))

    def test_cancelled_while_its_staging_area_is_opened(self) -> None:
        self.store.slow = {"receive"}
        pull = self.pull()
        running = self.begin(pull)
        running.cancel()
        self.assertNoResult(running)
        self.store.go_on()
        self.failureResultOf(running, CancelledError)
        self.successResultOf(Deferred.fromCoroutine(pull.close()))
        self.assertEqual(len(self.successResultOf(self.store.staged())), 1, "closed, and kept")
        self.successResultOf(self.begin(self.pull()))
        self.assert_arrived()

    def test_a_power_cut_took_the_list_but_not_what_is_staged(self) -> None:
        self.interrupted()
        self.memo.kept = None
        self.successResultOf(self.begin(self.pull()))
        self.assertEqual(self.peer.asked, ["POST lookup", *self.buckets])
        self.assert_arrived()
        self.memo.kept = None
        again = self.pull()
        self.successResultOf(self.begin(again))
        self.assertEqual(set(again.outcomes()), {Outcome.STORED})

    def test_its_commit_is_not_interrupted(self) -> None:
        self.store.slow = {"commit"}
        done = self.begin(self.pull())
        for _ in range(2):
            done.cancel()
        self.assertNoResult(done)
        self.assertEqual(self.store.files, {})
        self.store.go_on()
        self.successResultOf(done)
        self.assert_arrived()

    def test_interrupted_in_a_commit_that_fails(self) -> None:
        self.peer.mangle = lambda data: data[:-1] + b"?"
        self.store.slow = {"commit"}
        done = self.begin(self.pull())
        done.cancel()
        self.peer.asked.clear()
        self.store.go_on()
        self.failureResultOf(done, CancelledError)
        self.assertEqual(self.peer.asked, [])

    def test_a_stock_peer_refuses_what_lies_beyond_2_gib(self) -> None:
        """Only there does the advice help."""

        class Anything:
            name, report = "", None
            note = b""
            held: frozenset[str] = frozenset()
            instances: Any = ()

            def receive(self, instances: Any, *_more: Any) -> Any:
                self.instances = instances
                return succeed(self)

            def reopen(self, _name: str) -> Any:
                return succeed(None)

            def missing(self, plan: Any) -> Any:
                return succeed(tuple(range(len(plan))))

            def prefix(self, _bucket: Any) -> int:
                return 0

            def close(self) -> Any:
                return succeed(None)

        self.store = Anything()  # type: ignore[assignment]
        self.peer.lie = lambda _found: [Instance(self.ids[0], size, "")]
        for size, status, is_advised in (
            (2**31 + 2**20, 400, True),
            (2**31 - 2**20, 400, False),
            (2**31 + 2**20, 403, False),
        ):
            last = f"GET {self.ids[0][:2]} {size // 2}"
            self.peer.steps[last] = [PeerRefused("Bad type for a parameter", status)]
            self.peer.steps[f"GET {self.ids[0][:2]} 0"] = [Deferred()]
            pull = self.pull(bucket_size=2**30 - 2**20, threads=3)
            pull._parts = attrs.evolve(self.parts, store=self.store)
            error = self.failureResultOf(self.begin(pull), PeerRefused).value
            self.assertEqual("push" in str(error), is_advised)
            self.assertEqual(error.status, status)
