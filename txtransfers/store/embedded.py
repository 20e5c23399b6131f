"""The default store: a SQLite index and one file an instance, in the storage directory.

What keeps "all or nothing": files are written where they stay, in a folder of their transaction,
and nobody sees them before the one SQL transaction that names them all. So there is nothing to
rename and nothing to undo: after a crash, files in folders that are still open and that no row
names are removed (:meth:`EmbeddedStore.start`).
"""

import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..sqlite import Database
from ..threads import IThreads, run_in_parallel
from ..wire.messages import Resource
from ..wire.plan import Chunk, Instance
from . import index
from .dicom import read_header
from .interfaces import CommitReport, IIncoming, IInstanceReader, IInstanceStore, Piece
from .staging import StagedFile, disk_error

INDEX_FILE = "index.sqlite"
INSTANCES = "instances"
UNKNOWN = "unknown"

FREE_RESERVE = 64 * 2**20
"""Bytes of the disk that are left free."""

_MOST_NAMED = 10
"""Instances that an error's text names; the error carries all."""

log = Logger()


@implementer(IInstanceStore)
class EmbeddedStore:
    """See :class:`IInstanceStore`. :meth:`start` before use, :meth:`stop` after."""

    def __init__(
        self,
        folder: str,
        threads: IThreads,
        overwrite_instances: bool = False,
        commit_threads: int = 4,
    ) -> None:
        self.folder = folder
        self.threads = threads
        self.overwrite_instances = overwrite_instances
        self.commit_threads = commit_threads
        self.database = Database(os.path.join(folder, INDEX_FILE), index.MIGRATIONS)
        self._promised: dict[object, int] = {}
        self._promises = threading.Lock()

    # Start and stop: blocking, before and after the reactor's life.

    def start(self) -> None:
        """Open the index; remove what a crash left half done.

        :raises StorageFailure: the folder cannot be made or written, or its index is missing.
        """
        try:
            os.makedirs(self.path(""), exist_ok=True)
            lost = not os.path.exists(os.path.join(self.folder, INDEX_FILE)) and os.listdir(
                self.path("")
            )
        except OSError as error:
            raise disk_error(error, self.folder) from error
        if lost:
            raise errors.StorageFailure(
                f"{self.folder} has files of instances, but no {INDEX_FILE} that names them:"
                f" bring it back from a backup, or move {self.path('')} away to start anew"
            )
        self.database.open()
        removed = self._remove_orphans()
        if removed:
            log.info("{count} files of unfinished transactions removed", count=removed)
        self.empty_garbage()

    def stop(self) -> None:
        """Close the index."""
        self.database.close()

    def path(self, relative: str) -> str:
        """The file system's path of a path that the index has."""
        return os.path.join(self.folder, INSTANCES, relative)

    def _remove_orphans(self) -> int:
        """Open folders belong to a life that ended: drop their files that no row names."""
        folders = self.database.read(
            lambda db: db.execute("SELECT id, path FROM folder WHERE open").fetchall()
        )
        removed = 0
        for number, path in folders:
            known = self.database.read(
                lambda db, n=number: {  # type: ignore[misc]
                    name for (name,) in db.execute("SELECT name FROM file WHERE folder = ?", (n,))
                }
            )
            if os.path.isdir(self.path(path)):
                for name in set(os.listdir(self.path(path))) - known:
                    os.unlink(os.path.join(self.path(path), name))
                    removed += 1
            self.database.write(lambda db, n=number: index.close_folder(db, n))  # type: ignore[misc]
        for name in set(os.listdir(self.path(""))) - self._folders():
            self._put_aside(name)
        return removed

    def _put_aside(self, name: str) -> None:
        """Of a folder that the index does not know: empty after a crash, else the index is old."""
        if not os.listdir(self.path(name)):
            os.rmdir(self.path(name))
            return
        unknown = os.path.join(self.folder, UNKNOWN)
        os.makedirs(unknown, exist_ok=True)
        os.rename(self.path(name), os.path.join(unknown, name))
        log.warn(
            "The index does not know the folder {name}: its files are in {unknown} now; upload"
            " them again if they are missed, and delete them",
            name=name,
            unknown=unknown,
        )

    def _folders(self) -> set[str]:
        return self.database.read(
            lambda db: {path for (path,) in db.execute("SELECT path FROM folder")}
        )

    # Blocking parts that the other files of this store share; called in threads.

    def new_folder(self) -> tuple[int, str]:
        """Make a folder for files that may not be shown yet: its row and its path in the index."""
        path = uuid4().hex
        number = self.database.write(lambda db: index.add_folder(db, path))
        try:
            os.mkdir(self.path(path))
        except OSError as error:
            raise disk_error(error, self.path(path)) from error
        return number, path

    def remove_folder(self, number: int, path: str) -> None:
        """Remove a folder none of whose files is shown."""
        shutil.rmtree(self.path(path), ignore_errors=True)
        self.database.write(lambda db: index.close_folder(db, number))

    def sync_folder(self, path: str) -> None:
        """Bring the names of a folder's files, and its own, to the disk."""
        for folder in (self.path(path), self.path("")):
            try:
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            except OSError as error:
                raise disk_error(error, folder) from error

    def show(self, rows: Sequence[index.Row], full_folder: int | None = None) -> CommitReport:
        """Show synced files, all of them or none, in one SQL transaction.

        :param full_folder: a folder that will get no more files.
        """

        def transaction(db: Any) -> CommitReport:
            report = index.insert(db, rows, self.overwrite_instances)
            if full_folder is not None:
                index.close_folder(db, full_folder)
            return report

        report = self.database.write(transaction)
        self.empty_garbage()
        return report

    def empty_garbage(self) -> None:
        """Unlink the files that no row names any more."""
        paths = self.database.read(index.take_garbage)
        if not paths:
            return
        for path in paths:
            try:
                os.unlink(self.path(path))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warn("{error}", error=disk_error(error, self.path(path)))
        for folder in self.database.write(lambda db: index.forget_garbage(db, paths)):
            shutil.rmtree(self.path(folder), ignore_errors=True)

    def free_space(self) -> int:
        """Bytes that may still be written, what running receptions were promised taken off."""
        disk = os.statvfs(self.folder)
        free = disk.f_bavail * disk.f_frsize - FREE_RESERVE
        with self._promises:
            return max(0, free - sum(self._promised.values()))

    # IInstanceStore

    def lookup(self, resources: Sequence[Resource]) -> "Deferred[tuple[Instance, ...]]":
        """See :meth:`IInstanceStore.lookup`."""
        return self.threads.run(self.database.read, lambda db: index.lookup(db, resources))

    def find(self, ids: Sequence[str]) -> "Deferred[Mapping[str, Instance]]":
        """See :meth:`IInstanceStore.find`."""

        def find(db: Any) -> Mapping[str, Instance]:
            return {id_: found[0] for id_, found in index.find_files(db, ids).items()}

        return self.threads.run(self.database.read, find)

    def open(self, chunks: Sequence[Chunk]) -> IInstanceReader:
        """See :meth:`IInstanceStore.open`."""
        return EmbeddedReader(self, chunks)

    def receive(self, instances: Sequence[Instance]) -> "Deferred[IIncoming]":
        """See :meth:`IInstanceStore.receive`."""
        return self.threads.run(self._receive, instances)

    def _receive(self, instances: Sequence[Instance]) -> "EmbeddedIncoming":
        needed = sum(instance.size for instance in instances)
        free = self.free_space()
        if needed > free:
            raise errors.StorageFull(
                f"The transfer has {needed} bytes, but the storage has room for {free}"
            )
        number, path = self.new_folder()
        incoming = EmbeddedIncoming(self, number, path, instances)
        with self._promises:
            self._promised[incoming] = needed
        return incoming

    def promise_over(self, incoming: object, written: int | None = None) -> None:
        """Bytes were written (they show in the disk's free space), or the reception ended."""
        with self._promises:
            left = self._promised.pop(incoming, None)
            if left is not None and written is not None:
                self._promised[incoming] = max(0, left - written)


@implementer(IInstanceReader)
class EmbeddedReader:
    """See :class:`IInstanceReader`: one hop to a thread a read, however many files it covers."""

    def __init__(self, store: EmbeddedStore, chunks: Sequence[Chunk]) -> None:
        self._store = store
        self._chunks = deque(chunk for chunk in chunks if chunk.size)
        self._paths: dict[str, str] | None = None
        self._file: BinaryIO | None = None
        self._done = 0
        self._reading = False
        self._closed = False

    def read(self, limit: int) -> "Deferred[bytes]":
        """See :meth:`IInstanceReader.read`."""
        self._reading = True
        return self._store.threads.run(self._read, limit).addBoth(self._after_read)

    def _after_read(self, result: Any) -> Any:
        self._reading = False
        if self._closed:
            self.close()
        return result

    def close(self) -> None:
        """See :meth:`IInstanceReader.close`."""
        self._closed = True
        if self._file is not None and not self._reading:
            self._file.close()
            self._file = None

    def _read(self, limit: int) -> bytes:
        parts = []
        left = limit
        while left and self._chunks and not self._closed:
            data = self._read_chunk(self._chunks[0], left)
            parts.append(data)
            left -= len(data)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_chunk(self, chunk: Chunk, limit: int) -> bytes:
        path = self._store.path(self._path(chunk.id))
        wanted = min(limit, chunk.size - self._done)
        try:
            if self._file is None:
                self._file = open(path, "rb", buffering=0)  # noqa: SIM115
            data = os.pread(self._file.fileno(), wanted, chunk.offset + self._done)
        except FileNotFoundError:
            raise errors.UnknownResource(f"Instance {chunk.id} was deleted meanwhile") from None
        except OSError as error:
            raise disk_error(error, path) from error
        if len(data) != wanted:
            raise errors.StorageFailure(
                f"The file {path} of instance {chunk.id} is shorter than the index says"
            )
        self._done += wanted
        if self._done == chunk.size:
            self._file.close()
            self._file, self._done = None, 0
            self._chunks.popleft()
        return data

    def _path(self, id_: str) -> str:
        if self._paths is None:
            ids = {chunk.id for chunk in self._chunks}
            found = self._store.database.read(lambda db: index.find_files(db, ids))
            self._paths = {key: path for key, (_instance, path) in found.items()}
        if id_ not in self._paths:
            raise errors.UnknownResource(f"Instance {id_} is not here any more")
        return self._paths[id_]


@implementer(IIncoming)
class EmbeddedIncoming:
    """See :class:`IIncoming`: a folder that no row of the index names."""

    def __init__(
        self, store: EmbeddedStore, number: int, path: str, instances: Sequence[Instance]
    ) -> None:
        self._store = store
        self._number = number
        self._path = path
        self._ended = False
        self._unsynced: list[StagedFile] = []
        self._syncing = 0
        maker = index.RowMaker()
        self._files = {
            instance.id: StagedFile(
                os.path.join(store.path(path), f"{position}.dcm"),
                instance,
                _record(maker, number, f"{position}.dcm", instance),
            )
            for position, instance in enumerate(instances)
        }

    def write(self, pieces: Sequence[Piece]) -> "Deferred[None]":
        """See :meth:`IIncoming.write`."""
        return self._store.threads.run(self._write, pieces).addCallback(self._sync_soon)

    def _write(self, pieces: Sequence[Piece]) -> list[StagedFile]:
        """Write; gives the files that are complete now."""
        files = [self._files[piece.id] for piece in pieces]
        for piece, file in zip(pieces, files, strict=True):
            file.write(piece.offset, piece.data)
        self._store.promise_over(self, sum(len(piece.data) for piece in pieces))
        return [file for file in files if file.verified]

    def _sync_soon(self, verified: list[StagedFile]) -> None:
        """Bring complete files to the disk while others arrive: less is left to the commit."""
        self._unsynced.extend(verified)
        if self._unsynced and self._syncing < self._store.commit_threads:
            batch, self._unsynced = self._unsynced, []
            self._syncing += 1
            self._store.threads.run(_sync_quietly, batch).addCallback(self._synced)

    def _synced(self, _result: None) -> None:
        self._syncing -= 1
        self._sync_soon([])

    def commit(self) -> "Deferred[CommitReport]":
        """See :meth:`IIncoming.commit`."""
        return Deferred.fromCoroutine(self._commit())

    async def _commit(self) -> CommitReport:
        files = list(self._files.values())
        store = self._store
        await run_in_parallel(store.threads, store.commit_threads, StagedFile.complete, files)
        check_verified(files)
        await run_in_parallel(store.threads, store.commit_threads, StagedFile.sync, files)
        report: CommitReport = await store.threads.run(self._show, files)
        return report

    def _show(self, files: list[StagedFile]) -> CommitReport:
        self._store.sync_folder(self._path)
        report = self._store.show([file.record for file in files], self._number)
        if not report.stored:
            self._store.remove_folder(self._number, self._path)
        self._ended = True
        self._store.promise_over(self)
        return report

    def discard(self) -> "Deferred[None]":
        """See :meth:`IIncoming.discard`."""
        return self._store.threads.run(self._discard)

    def _discard(self) -> None:
        if not self._ended:
            self._ended = True
            self._store.remove_folder(self._number, self._path)
            self._store.promise_over(self)


def _record(
    maker: index.RowMaker, folder: int, name: str, instance: Instance
) -> Callable[[BinaryIO, int], index.Row]:
    def record(file: BinaryIO, size: int) -> index.Row:
        return maker.row(read_header(file, size), folder, name, size, instance.md5)

    return record


def _sync_quietly(files: list[StagedFile]) -> None:
    """Sync, ahead of the commit, which tries again what failed, and tells of it."""
    for file in files:
        try:
            file.sync()
        except errors.TransfersError:
            return


def check_verified(files: Iterable[StagedFile]) -> None:
    """Refuse a commit of files that are not all there, right and DICOM.

    :raises CorruptedInstances, BadDicom: names the instances.
    """
    bad = {}
    for file in files:
        if file.digest is None:
            bad[file.instance.id] = "is incomplete"
        elif not file.verified:
            bad[file.instance.id] = f"has MD5 {file.digest}, not {file.instance.md5[:40]}"
    if bad:
        named = "; ".join(f"{id_} {what}" for id_, what in list(bad.items())[:_MOST_NAMED])
        more = f"; and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
        raise errors.CorruptedInstances(
            f"{len(bad)} instances cannot be verified: {named}{more}", tuple(bad)
        )
    for file in files:
        if file.bad_dicom is not None:
            raise errors.BadDicom(f"Instance {file.instance.id}: {file.bad_dicom}")
