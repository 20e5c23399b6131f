"""A disk that is full, or that fails: what was said to be stored stays, the rest is gone."""

import errno
import hashlib
import os
import shutil
import sqlite3
import subprocess
from types import SimpleNamespace
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from txtransfers.errors import CorruptedInstances, StorageFailure, StorageFull, UnknownResource
from txtransfers.store import files as store_files
from txtransfers.store import index, space
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import Piece
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.messages import Level, Resource
from txtransfers.wire.plan import Chunk, Instance

DISK = 8 * 2**20
"""Bytes of the small disk."""


def identifier(number: int) -> str:
    return f"{number:08x}-00000000-00000000-00000000-00000000"


class DiskCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.start(os.path.abspath(self.mktemp()))

    def start(self, folder: str) -> None:
        self.folder = folder
        self.store = EmbeddedStore(folder, SynchronousThreads())
        self.store.start()
        self.addCleanup(self.store.stop)

    def now(self, result: Any) -> Any:
        return self.successResultOf(result)

    def fails(self, result: Any, error: type[BaseException]) -> str:
        return str(self.failureResultOf(result, error).value)

    def receive(self, *files: bytes) -> Any:
        return self.now(
            self.store.receive(
                [
                    Instance(identifier(n), len(data), hashlib.md5(data).hexdigest())
                    for n, data in enumerate(files)
                ]
            )
        )

    def staged(self, *files: bytes) -> Any:
        incoming = self.receive(*files)
        for n, data in enumerate(files):
            self.now(incoming.write([Piece(identifier(n), 0, data)]))
        return incoming

    def ids(self) -> tuple[str, ...]:
        result: tuple[str, ...] = self.now(
            EmbeddedArchive(self.store).list_ids(Level.INSTANCE, 0, 0)
        )
        return result

    def assert_whole(self, *files: bytes) -> None:
        """These files are stored, and no other is on the disk."""
        ids = self.ids()
        found = self.now(self.store.lookup([Resource(Level.INSTANCE, id_) for id_ in ids]))
        self.assertEqual(
            sorted(one.md5 for one in found),
            sorted(hashlib.md5(data).hexdigest() for data in files),
        )
        for one in found:
            reader = self.store.open([Chunk(one.id, 0, one.size)])
            data = self.now(reader.read(one.size))
            reader.close()
            self.assertEqual(hashlib.md5(data).hexdigest(), one.md5)
        on_disk = [name for _p, _f, names in os.walk(self.store.path("")) for name in names]
        self.assertEqual(os.listdir(os.path.join(self.folder, store_files.STAGING)), [])
        self.assertEqual(len(on_disk), len(files))
        self.assertFalse(os.path.exists(os.path.join(self.folder, store_files.UNKNOWN)))


class FailureTests(DiskCase):
    def fail_next_fsync(self, kind: str) -> None:
        """The next fsync of a file, or a folder, fails; those after it seem to succeed."""
        real, failed = os.fsync, []

        def fsync(descriptor: int) -> None:
            is_folder = os.path.isdir(f"/proc/self/fd/{descriptor}")
            if not failed and is_folder == (kind == "folder"):
                failed.append(None)
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            real(descriptor)

        self.patch(os, "fsync", fsync)

    def test_bytes_that_could_not_be_synced_once_are_never_taken_for_stored(self) -> None:
        incoming = self.receive(make(1), make(2))
        self.fail_next_fsync("file")
        for n in (1, 2):
            self.now(incoming.write([Piece(identifier(n - 1), 0, make(n))]))
        self.assertIn(".dcm", self.fails(incoming.commit(), StorageFailure))
        self.assertEqual(self.ids(), ())
        self.assertIn("incomplete", self.fails(incoming.commit(), CorruptedInstances))
        self.assertEqual(self.ids(), ())
        self.now(incoming.write([Piece(identifier(0), 0, make(1))]))
        self.now(incoming.commit())
        self.assert_whole(make(1), make(2))

    def test_names_that_could_not_be_synced(self) -> None:
        incoming = self.staged(make(1))
        self.fail_next_fsync("folder")
        self.fails(incoming.commit(), StorageFailure)
        self.assertEqual(self.ids(), ())
        self.now(incoming.discard())
        self.assert_whole()

    def test_an_upload_that_could_not_be_synced(self) -> None:
        self.fail_next_fsync("file")
        upload = EmbeddedArchive(self.store).upload()
        self.now(upload.write(make(1)))
        self.fails(upload.finish(), StorageFailure)
        self.assert_whole()

    def break_garbage(self) -> None:
        """Forgetting of garbage fails, as on a disk that is full at that moment."""

        def forget(_db: Any, _paths: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        self.patch(index, "forget_garbage", forget)

    def test_what_is_shown_stays_whatever_fails_afterwards(self) -> None:
        self.now(self.staged(make(1)).commit())
        self.break_garbage()
        incoming = self.staged(make(1), make(2))
        report = self.now(incoming.commit())
        self.assertEqual((len(report.stored), len(report.already_stored)), (1, 1))
        self.now(incoming.discard())
        self.assert_whole(make(1), make(2))

    def test_an_upload_that_is_shown_stays_too(self) -> None:
        self.now(self.staged(make(1)).commit())
        self.break_garbage()
        self.store.overwrite_instances = True
        upload = EmbeddedArchive(self.store).upload()
        self.now(upload.write(make(1, PatientSex="M")))
        self.now(upload.finish())
        self.now(upload.discard())
        self.assert_whole(make(1, PatientSex="M"))

    def test_a_file_that_cannot_be_unlinked_is_tried_again_at_the_start(self) -> None:
        self.now(self.staged(make(1)).commit())
        (id_,) = self.ids()
        real = os.unlink

        def unlink(path: str) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        self.patch(os, "unlink", unlink)
        archive = EmbeddedArchive(self.store)
        self.now(archive.delete(Level.INSTANCE, id_))
        self.fails(self.store.lookup([Resource(Level.INSTANCE, id_)]), UnknownResource)
        self.patch(os, "unlink", real)
        self.store.stop()
        self.store.start()
        self.assert_whole()


class FullDiskTests(DiskCase):
    """On a file system of a few megabytes, or where none can be mounted, as if on one."""

    def setUp(self) -> None:
        self.patch(space, "FREE_RESERVE", 0)
        folder = os.path.abspath(self.mktemp())
        os.mkdir(folder)
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder]
        if (
            shutil.which("mount")
            and subprocess.run(mount, check=False, capture_output=True).returncode == 0
        ):
            self.addCleanup(subprocess.run, ["umount", folder], check=True)
        else:
            self.imitate(folder)
        self.start(folder)

    def imitate(self, folder: str) -> None:
        real = os.pwrite

        def used() -> int:
            return sum(
                os.path.getsize(os.path.join(path, name))
                for path, _folders, names in os.walk(folder)
                for name in names
            )

        def pwrite(descriptor: int, data: Any, offset: int) -> int:
            if used() + len(data) > DISK:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(descriptor, data, offset)

        self.patch(os, "pwrite", pwrite)
        self.patch(os, "statvfs", lambda _path: SimpleNamespace(f_bavail=DISK - used(), f_frsize=1))

    def test_full_while_receiving(self) -> None:
        mine = make(1, filler=3 * 2**20)
        other = make(2, filler=2**20)
        theirs = self.receive(other)
        self.now(theirs.write([Piece(identifier(0), 0, other[:1000])]))
        incoming = self.receive(mine)
        ballast = os.path.join(self.folder, "ballast")
        with open(ballast, "wb") as file:  # somebody else fills the disk after the promise
            file.write(bytes(DISK - 2**20 - 2**19))
        half = len(mine) // 2
        results = [
            incoming.write([Piece(identifier(0), start, mine[start : start + half])])
            for start in (0, half)
        ]
        for result in results:
            self.assertIn("No room left", self.fails(result, StorageFull))
        self.assertEqual(self.ids(), ())
        self.now(incoming.discard())
        self.now(theirs.write([Piece(identifier(0), 0, other)]))
        self.assertEqual(len(self.now(theirs.commit()).stored), 1)
        os.unlink(ballast)
        self.assert_whole(other)
        self.now(self.staged(mine).commit())
        self.assert_whole(mine, other)

    def test_the_space_of_what_is_discarded_is_there_again(self) -> None:
        data = make(1, filler=5 * 2**20)
        for _ in range(4):
            incoming = self.staged(data)
            more = self.store.receive([Instance(identifier(9), len(data), "")])
            self.assertIn("room for", self.fails(more, StorageFull))
            self.now(incoming.discard())
        self.now(self.staged(data).commit())
        self.assert_whole(data)

    def test_an_upload(self) -> None:
        archive = EmbeddedArchive(self.store)
        upload = archive.upload()
        data = make(1, filler=DISK)
        self.now(upload.write(data[: DISK // 2]))
        self.fails(upload.write(data[DISK // 2 :]), StorageFull)
        self.now(upload.discard())
        self.assert_whole()
        upload = archive.upload()
        self.now(upload.write(make(1)))
        self.now(upload.finish())
        self.assert_whole(make(1))
