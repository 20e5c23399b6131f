"""The default store: a SQLite index and one file an instance, in the storage directory.

What keeps "all or nothing": files are written where they stay, in a folder of their transaction,
and nobody sees them before the one SQL transaction that names them all. So there is nothing to
rename and nothing to undo: after a crash, files in folders that are still open and that no row
names are removed (:meth:`EmbeddedStore.start`).
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..sqlite import Database
from ..threads import IThreads
from ..wire.messages import Resource
from ..wire.plan import Chunk, Instance
from . import index
from .interfaces import CommitReport, IIncoming, IInstanceReader, IInstanceStore
from .reader import EmbeddedReader
from .reception import EmbeddedIncoming
from .staging import disk_error

INDEX_FILE = "index.sqlite"
INSTANCES = "instances"
UNKNOWN = "unknown"

FREE_RESERVE = 64 * 2**20
"""Bytes of the disk that are left free."""

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
        self.empty_garbage()
        removed = self._remove_orphans()
        if removed:
            log.info("{count} files of unfinished transactions removed", count=removed)

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
        """Unlink the files that no row names any more.

        Never fails: what it follows has been decided, and what is left is for the next time.
        """
        try:
            self._empty_garbage()
        except (errors.TransfersError, sqlite3.Error) as error:
            log.warn("Files that are not needed any more are kept for now: {error}", error=error)

    def _empty_garbage(self) -> None:
        paths = self.database.read(index.take_garbage)
        if not paths:
            return
        gone = []
        for path in paths:
            try:
                os.unlink(self.path(path))
            except FileNotFoundError:
                pass
            except OSError as error:
                log.warn("{error}", error=disk_error(error, self.path(path)))
                continue
            gone.append(path)
        for folder in self.database.write(lambda db: index.forget_garbage(db, gone)):
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
        """See :meth:`IInstanceStore.receive`; the space is freed where the caller is cancelled."""
        outcome: Deferred[IIncoming] = Deferred()

        def received(incoming: EmbeddedIncoming) -> "Deferred[None] | None":
            if outcome.called:
                return incoming.discard()
            outcome.callback(incoming)
            return None

        self.threads.run(self._receive, instances).addCallback(received).addErrback(outcome.errback)
        return outcome

    def _receive(self, instances: Sequence[Instance]) -> EmbeddedIncoming:
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
