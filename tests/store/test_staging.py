"""Staged bytes are verified only by a hash that was taken after they were written."""

import hashlib
import itertools
import os
import random
import threading
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers import disk
from txtransfers.errors import BadDicom, StorageFailure
from txtransfers.store import staging
from txtransfers.store.places import Place
from txtransfers.store.staging import Ranges, StagedFile
from txtransfers.wire.plan import Instance

DATA = random.Random(1).randbytes(5000)


class RangesTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=30))
    def test_as_a_set(self, pairs: list[tuple[int, int]]) -> None:
        ranges, model = Ranges(), set()
        for start, end in pairs:
            ranges.add(start, end)
            model |= set(range(start, end))
        prefix = 0
        while prefix in model:
            prefix += 1
        self.assertEqual(ranges.prefix(), prefix)


class StagedFileTests(SynchronousTestCase):
    def make(self, data: bytes = DATA, on_verified: Any = lambda _file, _size: "record") -> Any:
        path = os.path.abspath(self.mktemp())
        return StagedFile(
            Place(path), Instance("i", len(data), hashlib.md5(data).hexdigest()), on_verified
        )

    @settings(max_examples=200)
    @given(
        st.lists(
            st.tuples(st.integers(0, len(DATA)), st.integers(0, 3000), st.booleans()), max_size=12
        ),
        st.booleans(),
    )
    def test_verified_means_that_the_file_is_right(
        self, writes: list[tuple[int, int, bool]], whole_at_the_end: bool
    ) -> None:
        file = self.make()
        for start, size, lie in writes:
            block = DATA[start : start + size]
            file.write(start, bytes(len(block)) if lie else block)
        if whole_at_the_end:
            file.write(0, DATA)
        file.complete()
        if whole_at_the_end:
            self.assertTrue(file.verified)
        if file.verified:
            with open(file.place.path, "rb") as stored:
                self.assertEqual(stored.read(), DATA)
            self.assertEqual(file.record, "record")

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, len(DATA)), max_size=8), st.randoms(use_true_random=False))
    def test_any_cut_in_any_order_is_verified(self, cuts: list[int], noise: random.Random) -> None:
        file = self.make()
        bounds = sorted({0, *cuts, len(DATA)})
        blocks = list(itertools.pairwise(bounds))
        noise.shuffle(blocks)
        for start, end in blocks:
            self.assertFalse(file.verified)
            file.write(start, DATA[start:end])
        self.assertTrue(file.verified)  # without a second look at the end
        self.assertTrue(file.complete())

    def test_a_lie_before_the_end_is_found(self) -> None:
        file = self.make()
        file.write(0, DATA[:4000])
        file.write(1000, bytes(10))
        file.write(4000, DATA[4000:])
        self.assertFalse(file.verified)
        self.assertTrue(file.complete())
        self.assertFalse(file.verified)
        wrong = DATA[:1000] + bytes(10) + DATA[1010:]
        self.assertEqual(file.digest, hashlib.md5(wrong).hexdigest())
        file.write(1000, DATA[1000:1010])
        self.assertTrue(file.complete())
        self.assertTrue(file.verified)

    def test_bytes_that_come_twice_cost_one_more_hash(self) -> None:
        hashed: list[int] = []
        real = hashlib.md5

        class Counting:
            def __init__(self, **kwargs: Any) -> None:
                self._real = real(**kwargs)

            def update(self, data: Any) -> None:
                hashed.append(len(data))
                self._real.update(data)

            def hexdigest(self) -> str:
                return self._real.hexdigest()

        file = self.make()
        self.patch(hashlib, "md5", Counting)
        file._restart_hash()
        for start in range(0, 4000, 100):
            file.write(start, DATA[start : start + 100])
        self.assertEqual(sum(hashed), 4000)
        for start in range(0, 4000, 100):
            file.write(start, DATA[start : start + 100])
        file.write(4000, DATA[4000:])
        self.assertEqual(sum(hashed), 4000)
        self.assertTrue(file.complete())
        self.assertTrue(file.verified)
        self.assertEqual(sum(hashed), 4000 + len(DATA))

    def test_no_bytes(self) -> None:
        file = self.make(b"")
        self.assertFalse(file.verified)
        self.assertTrue(file.complete())
        self.assertTrue(file.verified)
        self.assertEqual(os.path.getsize(file.place.path), 0)

    def test_a_lie_after_the_truth_changes_nothing(self) -> None:
        file = self.make()
        file.write(0, DATA)
        file.write(100, bytes(50))
        self.assertTrue(file.verified)
        with open(file.place.path, "rb") as stored:
            self.assertEqual(stored.read(), DATA)

    def test_the_header_is_looked_at_once_with_all_bytes(self) -> None:
        seen = []
        file = self.make(on_verified=lambda stream, size: seen.append((stream.read(), size)))
        for start in range(0, len(DATA), 700):
            file.write(start, DATA[start : start + 700])
        self.assertEqual(seen, [(DATA, len(DATA))])

    def test_bad_dicom_is_kept_for_the_commit(self) -> None:
        def refuse(_file: Any, _size: int) -> None:
            raise BadDicom("no")

        file = self.make(on_verified=refuse)
        file.write(0, DATA)
        self.assertTrue(file.verified)
        self.assertEqual(str(file.bad_dicom), "no")

    def test_a_file_that_somebody_cut_is_found(self) -> None:
        file = self.make()
        file.write(2000, DATA[2000:])
        os.truncate(file.place.path, 2500)
        self.assertRaises(StorageFailure, file.write, 0, DATA[:2000])

    def test_many_threads(self) -> None:
        file = self.make()
        blocks = [(start, DATA[start : start + 97]) for start in range(0, len(DATA), 97)] * 3
        random.Random(2).shuffle(blocks)

        def work(part: list[tuple[int, bytes]]) -> None:
            for start, block in part:
                file.write(start, block)

        threads = [threading.Thread(target=work, args=(blocks[n::8],)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertTrue(file.complete())
        self.assertTrue(file.verified)

    def test_threads_that_race_with_a_liar(self) -> None:
        for round_ in range(20):
            file = self.make()
            noise = random.Random(round_)
            blocks = [(start, DATA[start : start + 251]) for start in range(0, len(DATA), 251)]
            lies = [(start, bytes(len(block))) for start, block in noise.sample(blocks, 4)]
            writes = [*blocks, *blocks, *lies]
            noise.shuffle(writes)

            def work(part: list[tuple[int, bytes]], file: Any = file) -> None:
                for start, block in part:
                    file.write(start, block)

            threads = [threading.Thread(target=work, args=(writes[n::4],)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertTrue(file.complete())
            with open(file.place.path, "rb") as stored:
                self.assertEqual(hashlib.md5(stored.read()).hexdigest(), file.digest)
            if not file.verified:
                for start, block in blocks:
                    file.write(start, block)
                self.assertTrue(file.complete())
            self.assertTrue(file.verified)
            with open(file.place.path, "rb") as stored:
                self.assertEqual(stored.read(), DATA)


class SyncTests(SynchronousTestCase):
    """The disk begins with a large file while it grows."""

    def write(self, size: int, step: int, is_shared: bool = False) -> list[str]:
        begun: list[str] = []
        self.patch(staging, "_UNSYNCED", 1000)
        self.patch(staging, "begin_sync", begun.append)
        path = os.path.abspath(self.mktemp())
        if is_shared:
            open(path, "wb").close()
        data = DATA[:size]
        instance = Instance("i", size, hashlib.md5(data).hexdigest())
        file = StagedFile(Place(path, is_shared=is_shared), instance, lambda *_: "record")
        for start in range(0, size, step):
            file.write(start, data[start : start + step])
        self.assertTrue(file.verified)
        self.assertLessEqual(set(begun), {path})
        return begun

    def test_now_and_then(self) -> None:
        self.assertEqual(len(self.write(5000, 250)), 5)
        self.assertEqual(len(self.write(5000, 5000)), 1)

    def test_not_for_small_ones(self) -> None:
        self.assertEqual(self.write(999, 100), [])

    def test_not_for_what_only_passes_through(self) -> None:
        self.assertEqual(self.write(5000, 250, is_shared=True), [])

    def test_bytes_that_come_twice_count_once(self) -> None:
        begun = self.write(900, 900)
        file = StagedFile(
            Place(os.path.abspath(self.mktemp())), Instance("i", 5000, "0" * 32), lambda *_: None
        )
        for _ in range(5):
            file.write(0, DATA[:900])
        self.assertEqual(begun, [])

    def test_the_disk_is_told(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(DATA)
        disk.begin_sync(path)
        disk.begin_sync(path + " is gone")  # sync_file says so
        self.patch(disk, "_sync_file_range", None)
        disk.begin_sync(path)


class HeaderReadTests(SynchronousTestCase):
    def test_a_disk_that_fails_at_the_header_is_asked_again_at_the_commit(self) -> None:
        errors = [OSError(5, "Input/output error")]

        def look(_file: Any, _size: int) -> str:
            if errors:
                raise errors.pop()
            return "record"

        path = os.path.abspath(self.mktemp())
        file = StagedFile(
            Place(path), Instance("i", len(DATA), hashlib.md5(DATA).hexdigest()), look
        )
        file.write(1000, DATA[1000:])
        self.assertRaises(StorageFailure, file.write, 0, DATA[:1000])
        self.assertFalse(file.verified)
        self.assertTrue(file.complete())
        self.assertEqual((file.verified, file.record), (True, "record"))
