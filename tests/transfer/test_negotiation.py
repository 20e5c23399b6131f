"""Compression "auto": what a peer is offered, what it says to it, and what travels then."""

import json
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from tests.transfer.fake_peer import FakeMemo, FakePeer, parts
from txtransfers.errors import PeerUnreachable
from txtransfers.store.memory import MemoryStore
from txtransfers.transfer.progress import Progress
from txtransfers.transfer.pull import Pull
from txtransfers.transfer.push import Push
from txtransfers.wire.codec import OURS, Codec
from txtransfers.wire.messages import Compression, Level, Resource, TransferRequest

SLOW, FAST = 1e6, 1e12
NOBODY: frozenset[Codec] = frozenset()


class AutoCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.store = MemoryStore()
        self.peer = FakePeer(self.clock)
        self.peer.seem(SLOW)
        self.memo = FakeMemo()
        self.progress = Progress()

    def fill(self, store: MemoryStore) -> None:
        ids = [store.add(make(number, filler=3000)) for number in (1, 2, 3)]
        study = store.headers[ids[0]].ids.study
        self.request = TransferRequest((Resource(Level.STUDY, study),), Compression.AUTO, "b")

    def transfer(self, kind: Any, threads: int = 2, **limits: int) -> Any:
        self.peer.take(threads)
        made = kind(parts(self.clock, self.store, **limits), self.peer, self.request, self.memo)
        return Deferred.fromCoroutine(made.run(self.progress))

    def codec_arguments(self, name: str) -> set[str]:
        found = set()
        for path in self.peer.paths:
            _head, is_there, rest = path.partition(f"{name}=")
            found.add(rest.partition("&")[0] if is_there else "")
        return found

    def assert_arrived(self) -> None:
        self.assertEqual(self.peer.store.files, self.store.files)
        self.assertTrue(self.store.files)


class PushTests(AutoCase):
    def setUp(self) -> None:
        super().setUp()
        self.fill(self.store)

    def test_between_our_own(self) -> None:
        self.successResultOf(self.transfer(Push))
        self.assertEqual(self.peer.offered, [OURS])
        self.assertEqual(self.codec_arguments("codec"), {"zstd"})
        self.assertEqual((self.progress.coding or ("",))[0], "zstd")
        self.assertLess(self.progress.network_size, self.progress.total_size / 3)
        self.assert_arrived()

    def test_a_stock_peer_gets_gzip_and_no_word_of_it(self) -> None:
        self.peer.is_stock = True
        self.successResultOf(self.transfer(Push))
        self.assertEqual(self.peer.opened_with, Codec.GZIP)
        self.assertEqual(self.codec_arguments("codec"), {""})
        self.assertEqual(self.progress.coding, ("gzip", 1))
        self.assert_arrived()

    def test_an_earlier_version_of_ours_too(self) -> None:
        self.peer.codecs = NOBODY
        self.successResultOf(self.transfer(Push))
        self.assertEqual(self.codec_arguments("codec"), {""})
        self.assertEqual(self.progress.coding, ("gzip", 1))
        self.assert_arrived()

    def test_a_fast_link_gets_none(self) -> None:
        self.peer.seem(FAST)
        for is_stock in (False, True):
            self.peer.is_stock = is_stock
            self.peer.store.files.clear()
            self.peer.store.headers.clear()
            self.memo = FakeMemo()
            self.successResultOf(self.transfer(Push))
            self.assertEqual(self.peer.opened_with, Codec.NONE)
            self.assertEqual(self.codec_arguments("codec"), {""})
            self.assert_arrived()
        self.assertEqual(self.progress.coding, ("none", 0))

    def test_a_link_that_turns_out_to_be_fast(self) -> None:
        """A gzip member can hold what is stored; a peer of ours is told that it is none."""
        for is_stock, argument, coding in ((True, "", "gzip 0"), (False, "none", "none 0")):
            self.setUp()
            self.peer.is_stock = is_stock
            self.peer.steps["PUT 0"] = [held := Deferred()]
            done = self.transfer(Push, threads=1)
            self.peer.seem(FAST)
            held.callback(None)
            self.successResultOf(done)
            self.assertIn(argument, self.codec_arguments("codec"))
            self.assertIn(coding, self.progress.codings)
            self.assert_arrived()

    def test_nothing_is_offered_where_the_codec_was_chosen(self) -> None:
        for compression in (Compression.NONE, Compression.GZIP):
            self.setUp()
            self.request = attrs.evolve(self.request, compression=compression)
            self.successResultOf(self.transfer(Push))
            self.assertEqual(self.peer.offered, [NOBODY])
            self.assertEqual(self.codec_arguments("codec"), {""})
            self.assertEqual((self.progress.coding or ("",))[0], compression.value)

    def test_resumed_in_another_life(self) -> None:
        self.peer.steps["PUT 1"] = [Deferred()]
        running = self.transfer(Push, threads=1)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.peer.steps.clear()
        self.memo.state = json.loads(json.dumps(self.memo.state))
        self.peer.paths.clear()
        self.successResultOf(self.transfer(Push))
        self.assertEqual(self.codec_arguments("codec"), {"zstd"})
        self.assertEqual(len(self.peer.offered), 1, "no other opening")
        self.assert_arrived()

    def test_resumed_after_an_earlier_version(self) -> None:
        self.request = attrs.evolve(self.request, compression=Compression.GZIP)
        self.peer.steps["PUT 1"] = [Deferred()]
        running = self.transfer(Push, threads=1)
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.peer.steps.clear()
        state = dict(self.memo.state)
        del state["compression"], state["codecs"]
        self.memo.state = state
        self.peer.paths.clear()
        self.successResultOf(self.transfer(Push))
        self.assertEqual(self.codec_arguments("codec"), {""})
        self.assert_arrived()

    def test_an_opening_whose_answer_was_lost_is_repeated_as_it_was(self) -> None:
        self.peer.seem(None)
        self.peer.steps["POST push"] = [PeerUnreachable("cut")]
        self.failureResultOf(self.transfer(Push), PeerUnreachable)
        key = self.memo.state["key"]
        self.peer.seem(FAST)
        self.successResultOf(self.transfer(Push))
        self.assertEqual(self.peer.opened_with, Codec.GZIP)
        self.assertIn(key, self.peer.paths[0])
        self.assert_arrived()


class PullTests(AutoCase):
    def setUp(self) -> None:
        super().setUp()
        self.fill(self.peer.store)

    def test_between_our_own(self) -> None:
        self.successResultOf(self.transfer(Pull))
        self.assertEqual(self.peer.offered, [OURS])
        self.assertEqual(self.codec_arguments("compression"), {"zstd"})
        self.assertEqual((self.progress.coding or ("",))[0], "zstd")
        self.assertLess(self.progress.network_size, self.progress.total_size / 3)
        self.assert_arrived()

    def test_a_stock_server_is_never_asked_for_it(self) -> None:
        self.peer.is_stock = True
        self.successResultOf(self.transfer(Pull))
        self.assertEqual(self.codec_arguments("compression"), {"gzip"})
        self.assert_arrived()

    def test_a_fast_link_gets_none(self) -> None:
        self.peer.seem(FAST)
        self.successResultOf(self.transfer(Pull))
        self.assertEqual(self.codec_arguments("compression"), {"none"})
        self.assert_arrived()

    def test_nothing_is_offered_where_the_codec_was_chosen(self) -> None:
        self.request = attrs.evolve(self.request, compression=Compression.GZIP)
        self.successResultOf(self.transfer(Pull))
        self.assertEqual(self.peer.offered, [NOBODY])
        self.assertEqual(self.codec_arguments("compression"), {"gzip"})
