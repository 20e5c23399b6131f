"""Folders into a daemon: what is sent, what is left out, and what a failure makes of the rest."""

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.client.memory import ClientCase
from tests.dicom_files import make, rewritten
from txtransfers.client import Imported, Importer, Stored
from txtransfers.client.importing import Candidate, FileSlices, Unreadable, may_be_dicom, walk
from txtransfers.errors import AccessDenied, DaemonRefused, DaemonUnreachable
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.streams import SLICE


class FolderCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()

    def put(self, name: str, data: bytes = b"") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return str(path)


class WalkTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.troubles: list[str] = []

    def names(self, *paths: str) -> list[str]:
        found = walk(paths or [str(self.folder)], lambda path, why: self.troubles.append(path))
        return sorted(os.path.relpath(each.path, self.folder) for each in found)

    def test_files_in_all_depths(self) -> None:
        for name in ("a", "b/c", "b/d/e", "ü/ f"):
            self.put(name, b"123")
        (self.folder / "empty").mkdir()
        self.assertEqual(["a", "b/c", "b/d/e", "ü/ f"], self.names())
        (candidate,) = walk([str(self.folder / "a")], lambda *_: None)
        self.assertEqual(3, candidate.size)

    def test_links(self) -> None:
        self.put("a/b")
        os.symlink("..", self.folder / "a" / "round")
        os.symlink("b", self.folder / "a" / "same")
        os.symlink("nowhere", self.folder / "a" / "broken")
        self.assertEqual(["a/b", "a/same"], self.names())
        os.symlink(self.folder / "a", self.folder / "named")
        self.assertEqual(["named/b", "named/same"], self.names(str(self.folder / "named")))

    def test_what_is_no_file(self) -> None:
        os.mkfifo(self.folder / "pipe")
        self.put("a")
        self.assertEqual(["a"], self.names())
        self.assertEqual([], self.names(str(self.folder / "pipe")))

    def test_what_is_not_there(self) -> None:
        self.assertEqual([], self.names(str(self.folder / "absent")))
        self.assertEqual([str(self.folder / "absent")], self.troubles)

    def test_a_name_that_is_no_text(self) -> None:
        with open(os.fsencode(self.folder) + b"/\xff\xfe", "wb"):
            pass
        self.assertEqual(1, len(self.names()))


class CandidateTests(FolderCase):
    def is_wanted(self, data: bytes, name: str = "file") -> bool:
        return may_be_dicom(Candidate(self.put(name, data), len(data)))

    def test_dicom(self) -> None:
        self.assertTrue(self.is_wanted(make(1)))
        self.assertTrue(self.is_wanted(rewritten(make(1), "1.2.840.10008.1.2", preamble=False)))
        self.assertTrue(self.is_wanted(b"PK\x03\x04" + bytes(200)))

    def test_junk(self) -> None:
        for data in (b"", b"hello", bytes(500), b"\x89PNG" + bytes(200), b"\x08\x00", b"%PDF" * 99):
            self.assertFalse(self.is_wanted(data), data[:10])
        self.assertFalse(self.is_wanted(make(1), "DICOMDIR"))


class SliceTests(FolderCase):
    def slices(self, data: bytes, size: int | None = None) -> FileSlices:
        candidate = Candidate(self.put("file", data), len(data) if size is None else size)
        return FileSlices(SynchronousThreads(), candidate)

    def read(self, slices: FileSlices) -> bytes:
        return self.successResultOf(Deferred.fromCoroutine(slices.read()))

    def test_in_slices(self) -> None:
        data = os.urandom(2 * SLICE + 5)
        slices = self.slices(data)
        parts = [self.read(slices) for _ in range(4)]
        self.assertEqual([SLICE, SLICE, 5, 0], [len(part) for part in parts])
        self.assertEqual(data, b"".join(parts))
        slices.close()
        slices.close()

    def test_a_file_that_became_shorter(self) -> None:
        slices = self.slices(b"abc", 5)
        self.assertEqual(b"abc", self.read(slices))
        self.failureResultOf(Deferred.fromCoroutine(slices.read()), Unreadable)
        slices.close()

    def test_a_file_that_is_gone(self) -> None:
        slices = self.slices(b"abc")
        os.unlink(self.folder / "file")
        self.failureResultOf(Deferred.fromCoroutine(slices.read()), Unreadable)


class ImportTests(ClientCase):
    """Against the real site."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def test_a_folder_with_junk(self) -> None:
        for number in range(1, 4):
            (self.folder / f"{number}.dcm").write_bytes(make(number))
        (self.folder / "again").write_bytes(make(1))
        (self.folder / "other").mkdir()
        (self.folder / "other" / "P2").write_bytes(make(1, study=2, patient="P2"))
        (self.folder / "DICOMDIR").write_bytes(make(9))
        (self.folder / "readme.txt").write_text("hello")
        (self.folder / "empty").write_bytes(b"")
        (self.folder / "broken").write_bytes(make(1)[:200])
        with zipfile.ZipFile(self.folder / "disc.zip", "w") as archive:
            archive.writestr("x/1", make(20))
            archive.writestr("x/readme", "hello")
        seen: list[int] = []
        importer = Importer(
            self.house.clock,
            self.client,
            SynchronousThreads(),
            3,
            lambda imported: seen.append(imported.size),
        )
        counted: list[tuple[int, int]] = []
        self.result(importer.count_files([str(self.folder)], lambda *both: counted.append(both)))
        imported = self.result(importer.run([str(self.folder)]))
        self.assertEqual((5, 1), (imported.stored, imported.already))
        self.assertEqual((4, 0), (imported.skipped, imported.failed))
        self.assertEqual(2, len(imported.studies))
        self.assertEqual((10, imported.size), counted[-1])
        self.assertEqual(imported.files, counted[-1][0])
        self.assertEqual(imported.size, seen[-1])
        (trouble,) = imported.troubles
        self.assertIn("broken", trouble)
        self.assertEqual(5, self.house.request("GET", "/statistics").json()["CountInstances"])


class ScriptedClient:
    """Answers uploads as the test says."""

    def __init__(self, *results: Any) -> None:
        self.results = list(results)
        self.running = self.most = 0
        self.waiting: list[Deferred[None]] = []
        self.holds = False

    async def upload(self, size: int, source: Any, on_sent: Any) -> Sequence[Stored]:
        on_sent(size)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            if self.holds:
                self.waiting.append(Deferred())
                await self.waiting[-1]
            result = self.results.pop(0) if self.results else None
            if result is not None:
                raise result
            return [Stored("i", "s", False)]
        finally:
            self.running -= 1


class TroubleTests(FolderCase):
    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        for number in range(6):
            self.put(str(number), make(number))

    def run_import(self, client: Any, parallel: int = 1) -> "Deferred[Imported]":
        self.importer = Importer(self.clock, client, SynchronousThreads(), parallel)
        return Deferred.fromCoroutine(self.importer.run([str(self.folder)]))

    def test_so_many_at_once(self) -> None:
        client = ScriptedClient()
        client.holds = True
        running = self.run_import(client, 4)
        self.assertEqual(4, client.running)
        while client.waiting:
            client.waiting.pop().callback(None)
        self.assertEqual(6, self.successResultOf(running).stored)
        self.assertEqual(4, client.most)

    def test_what_may_pass_is_tried_again(self) -> None:
        client = ScriptedClient(DaemonUnreachable("gone"), DaemonRefused("busy", 503))
        running = self.run_import(client)
        self.clock.pump([1.0] * 5)
        imported = self.successResultOf(running)
        self.assertEqual((6, 0), (imported.stored, imported.failed))
        size = sum(each.stat().st_size for each in self.folder.iterdir())
        self.assertEqual(size, imported.size, "what was sent in vain does not count")

    def test_a_daemon_that_stays_away_ends_it(self) -> None:
        running = self.run_import(ScriptedClient(*[DaemonUnreachable("gone")] * 20), 3)
        self.clock.pump([10.0] * 10)
        self.failureResultOf(running, DaemonUnreachable)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_no_room_is_no_reason_to_skip(self) -> None:
        client = ScriptedClient(DaemonRefused("full", 507), DaemonRefused("no DICOM", 400))
        imported = self.successResultOf(self.run_import(client))
        self.assertEqual((4, 1, 1), (imported.stored, imported.failed, imported.skipped))
        self.assertEqual(2, len(imported.troubles))

    def test_no_access_ends_it(self) -> None:
        self.failureResultOf(self.run_import(ScriptedClient(AccessDenied("no", 401))), AccessDenied)

    def test_what_cannot_be_read_is_counted(self) -> None:
        imported = self.successResultOf(self.run_import(ScriptedClient(Unreadable("a bad disk"))))
        self.assertEqual((5, 1), (imported.stored, imported.failed))
        self.assertIn("a bad disk", imported.troubles[0])

    def test_cancelled(self) -> None:
        client = ScriptedClient()
        client.holds = True
        running = self.run_import(client, 2)
        running.cancel()
        self.failureResultOf(running)
        self.assertEqual(0, client.running)
