"""The default store: a SQLite index and one file an instance, in the storage directory.

What keeps "all or nothing": files are written where they stay, in a folder of their transaction,
and nobody sees them before the one SQL transaction that names them all. So there is nothing to
rename and nothing to undo: after a crash, files in folders that are still open, that no row names
and that no log of a staging area speaks for are removed (:meth:`EmbeddedStore.start`).
"""

import contextlib
import os
import re
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..sqlite import Database
from ..threads import IThreads
from ..wire.messages import Level, Resource
from ..wire.plan import Chunk, Instance
from . import index
from .batches import purge
from .committed import CommittedIncoming
from .interfaces import (
    CommitReport,
    IIncoming,
    IInstanceReader,
    IInstanceStore,
    Outcome,
    Staged,
)
from .reader import EmbeddedReader
from .reception import EmbeddedIncoming
from .showing import Showing
from .space import Space
from .staging import disk_error, sync_file
from .staging_log import UNFINISHED, Contents, Head, create_log, open_log, read_head
from .steps import Step, ignore

INDEX_FILE = "index.sqlite"
INSTANCES = "instances"
STAGING = "staging"
UNKNOWN = "unknown"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}\Z", re.ASCII)

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
        maximum_size: int = 0,
        step: Callable[[Step], None] = ignore,
    ) -> None:
        """:param maximum_size: bytes that may be stored (``MaximumStorageSize``); 0 for any number.

        :param step: called, in the thread concerned, at the instants at which a crash matters.
        """
        self.folder = folder
        self.threads = threads
        self.overwrite_instances = overwrite_instances
        self.commit_threads = commit_threads
        self.step = step
        self.database = Database(os.path.join(folder, INDEX_FILE), index.MIGRATIONS)
        self.space = Space(folder, maximum_size, lambda: self.database.read(index.total_size))
        self._showing = Showing(self.database, step)
        self._open: set[str] = set()
        self._using = threading.Lock()

    # Start and stop: blocking, before and after the reactor's life.

    def start(self) -> None:
        """Open the index; remove what a crash left half done, and nobody can go on with.

        :raises StorageFailure: the folder cannot be made or written, or its index is missing.
        """
        try:
            os.makedirs(self.path(""), exist_ok=True)
            os.makedirs(self._log_path(""), exist_ok=True)
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
        self.database.write(purge)
        self.step(Step.START_PURGED)
        self.empty_garbage()
        staged = self._staged_folders()
        self.step(Step.START_LOGS_READ)
        self._remove_orphans(staged)

    def stop(self) -> None:
        """Close the index."""
        self.database.close()

    def path(self, relative: str) -> str:
        """The file system's path of a path that the index has."""
        return os.path.join(self.folder, INSTANCES, relative)

    def _log_path(self, name: str) -> str:
        return os.path.join(self.folder, STAGING, name)

    def _staged_folders(self) -> set[str]:
        """The folders that a log speaks for; logs that nobody can go on with are removed."""
        folders = set()
        with os.scandir(self._log_path("")) as entries:
            names = [entry.name for entry in entries if entry.is_file()]
        for name in names:
            head = None if name.endswith(UNFINISHED) else read_head(self._log_path(name))
            if head is None or not self._is_open(name, head):
                _unlink(self._log_path(name))
                continue
            folders.add(head.path)
            self.space.found(name, _disk_usage(self.path(head.path)))
        return folders

    def _is_open(self, name: str, head: Head) -> bool:
        def read(db: Any) -> bool:
            known = db.execute(
                "SELECT 1 FROM folder WHERE id = ? AND path = ? AND open", (head.folder, head.path)
            ).fetchone()
            return known is not None and index.find_report(db, name) is None

        return self.database.read(read)

    def _remove_orphans(self, staged: set[str]) -> None:
        """Open folders belong to a life that ended: drop their files that no row names."""
        folders = self.database.read(
            lambda db: db.execute("SELECT id, path FROM folder WHERE open").fetchall()
        )
        count = size = 0
        for number, path in folders:
            if path not in staged:
                removed = self.sweep(number, path)
                count, size = count + removed[0], size + removed[1]
        if count:
            log.info(
                "{count} files ({size} bytes) of unfinished transactions removed",
                count=count,
                size=size,
            )
        for name in set(os.listdir(self.path(""))) - self._folders():
            self._put_aside(name)

    def sweep(self, number: int, path: str) -> tuple[int, int]:
        """Remove the files of a folder that no row names, and close it; blocking.

        Gives how many they were, and their bytes.
        """
        known = self.database.read(
            lambda db: {
                name for (name,) in db.execute("SELECT name FROM file WHERE folder = ?", (number,))
            }
        )
        count = size = 0
        if os.path.isdir(self.path(path)):
            with os.scandir(self.path(path)) as entries:
                doomed = [e for e in entries if e.name not in known and not e.is_dir()]
            for entry in doomed:
                with contextlib.suppress(FileNotFoundError):  # it was garbage, too
                    size += entry.stat(follow_symlinks=False).st_size
                    os.unlink(entry.path)
                    count += 1
                self.step(Step.START_ORPHAN_REMOVED)
            if not known:
                with contextlib.suppress(OSError):  # gone, or somebody put something there
                    os.rmdir(self.path(path))
        self.database.write(lambda db: index.close_folder(db, number), durable=False)
        return count, size

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

    def remove_staged(self, name: str, number: int, path: str) -> None:
        """Remove a staging area none of whose files is shown: first what would bring it back."""
        _unlink(self._log_path(name))
        self.step(Step.DISCARD_BEGUN)
        shutil.rmtree(self.path(path), ignore_errors=True)
        self.step(Step.DISCARD_UNLINKED)
        self.database.write(lambda db: index.close_folder(db, number))
        self.space.gone(name)

    def sync_folder(self, path: str) -> None:
        """Bring the names of a folder's files, and its own, to the disk."""
        for folder in (self.path(path), self.path("")):
            sync_file(folder)

    def show(self, rows: Sequence[index.Row]) -> tuple[Outcome, ...]:
        """Show synced files, all of them or none, in one SQL transaction."""
        outcomes = self.database.write(lambda db: index.insert(db, rows, self.overwrite_instances))
        self.space.changed()
        self.empty_garbage()
        return outcomes

    def show_staged(self, incoming: EmbeddedIncoming) -> CommitReport:
        """Show the synced files of a staging area, all of them or none; :meth:`tidy_up` follows.

        :raises CorruptedInstances: an instance that is held is not there any more.
        """
        self.sync_folder(incoming.folder[1])
        self.step(Step.ALL_SYNCED)
        report = self._showing.show(incoming, self.overwrite_instances)
        self.step(Step.SHOWN)
        self.space.gone(incoming.name)
        self.space.changed()
        return report

    def tidy_up(self, incoming: EmbeddedIncoming) -> None:
        """Remove what a commit needs no longer. Never fails: what is left goes at the start."""
        try:
            _unlink(self._log_path(incoming.name))
            self.step(Step.LOG_DROPPED)
            self.sweep(*incoming.folder)
            self.step(Step.SWEPT)
        except (errors.TransfersError, OSError, sqlite3.Error) as error:
            log.warn("Files that are not needed are kept for now: {error}", error=error)
        self.empty_garbage()

    def delete(self, level: Level, id_: str) -> tuple[Level, str] | None:
        """See :meth:`IArchive.delete`; waits for a large commit that is under way."""
        remaining = self._showing.delete(level, id_)
        self.space.changed()
        self.empty_garbage()
        return remaining

    def closed(self, name: str) -> None:
        """Nobody uses a staging area any more; it may be there still, or not."""
        self.space.closed(name)
        self._open.discard(name)

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
            self.step(Step.GARBAGE_UNLINKED)
        for folder in self.database.write(lambda db: index.forget_garbage(db, gone)):
            shutil.rmtree(self.path(folder), ignore_errors=True)

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

    def receive(
        self, instances: Sequence[Instance], name: str = "", note: bytes = b"", delta: bool = False
    ) -> "Deferred[IIncoming]":
        """See :meth:`IInstanceStore.receive`; the space is freed where the caller is cancelled."""
        outcome: Deferred[IIncoming] = Deferred()

        def received(incoming: EmbeddedIncoming) -> "Deferred[bool] | None":
            if outcome.called:
                return incoming.discard()
            outcome.callback(incoming)
            return None

        name = name or str(uuid4())
        self.threads.run(self._receive, tuple(instances), name, note, delta).addCallback(
            received
        ).addErrback(outcome.errback)
        return outcome

    def _receive(
        self, instances: tuple[Instance, ...], name: str, note: bytes, delta: bool
    ) -> EmbeddedIncoming:
        assert _NAME.match(name), name
        held = self.database.read(lambda db: index.held(db, instances)) if delta else ()
        skipped = frozenset(held)
        needed = sum(i.size for n, i in enumerate(instances) if n not in skipped)
        self.space.promise(name, needed)
        try:
            number, path = self.new_folder()
            self.step(Step.FOLDER_MADE)
            head = Head(number, path, needed, held)
            try:
                staging_log = create_log(self._log_path(name), head, instances, note)
            except errors.TransfersError:
                self.remove_staged(name, number, path)
                raise
        except errors.TransfersError:
            self.space.gone(name)
            raise
        self.step(Step.LOG_MADE)
        self._open.add(name)
        return EmbeddedIncoming(self, name, staging_log, Contents(head, instances, note, [], set()))

    def reopen(self, name: str) -> "Deferred[IIncoming | None]":
        """See :meth:`IInstanceStore.reopen`; it is closed where the caller is cancelled."""
        outcome: Deferred[IIncoming | None] = Deferred()

        def reopened(incoming: EmbeddedIncoming | CommittedIncoming | None) -> Any:
            if outcome.called:
                return incoming.close() if incoming is not None else None
            if isinstance(incoming, EmbeddedIncoming):
                incoming.recover()
            outcome.callback(incoming)
            return None

        self.threads.run(self._reopen, name).addCallback(reopened).addErrback(outcome.errback)
        return outcome

    def _reopen(self, name: str) -> EmbeddedIncoming | CommittedIncoming | None:
        report = self.database.read(lambda db: index.find_report(db, name))
        if report is not None:
            return CommittedIncoming(name, CommitReport.from_text(report))
        path = self._log_path(name)
        if not _NAME.match(name) or not os.path.exists(path):
            return None
        self._use(name)
        try:
            opened = open_log(path)
            if opened is None:
                self._open.discard(name)
                return None
            staging_log, contents = opened
            contents.head = self._still_held(contents)
            try:
                self.space.promise(name, contents.head.size)
            except errors.StorageFull:
                staging_log.close()
                raise
        except BaseException:
            self._open.discard(name)
            raise
        self.step(Step.REOPENED)
        return EmbeddedIncoming(self, name, staging_log, contents)

    def _use(self, name: str) -> None:
        """One at a time may have a staging area."""
        with self._using:
            if name in self._open:
                raise errors.BadState(f"{name} is in use already")
            self._open.add(name)

    def _still_held(self, contents: Contents) -> Head:
        """The head, without instances that were held and have been deleted or replaced since."""
        head, instances = contents.head, contents.instances
        there = self.database.read(lambda db: index.held(db, [instances[n] for n in head.held]))
        held = tuple(head.held[n] for n in there)
        lost = set(head.held).difference(held)
        return attrs.evolve(head, held=held, size=head.size + sum(instances[n].size for n in lost))

    def staged(self) -> "Deferred[tuple[Staged, ...]]":
        """See :meth:`IInstanceStore.staged`."""
        return self.threads.run(self._staged)

    def _staged(self) -> tuple[Staged, ...]:
        found = []
        for name in os.listdir(self._log_path("")):
            if name in self._open or name.endswith(UNFINISHED):
                continue
            try:
                head = read_head(self._log_path(name))
                last_written = os.stat(self._log_path(name)).st_mtime
            except (errors.StorageFailure, FileNotFoundError):  # gone meanwhile
                continue
            if head is not None:
                found.append(Staged(name, head.size, last_written))
        return tuple(found)

    def drop(self, name: str) -> "Deferred[CommitReport | None]":
        """See :meth:`IInstanceStore.drop`."""
        return self.threads.run(self._drop, name)

    def _drop(self, name: str) -> CommitReport | None:
        report = self.database.read(lambda db: index.find_report(db, name))
        if report is not None:
            return CommitReport.from_text(report)
        path = self._log_path(name)
        head = read_head(path) if _NAME.match(name) and os.path.exists(path) else None
        if head is None:
            raise errors.UnknownResource(f"Nothing is staged as {name[:100]}")
        self._use(name)
        try:
            self.remove_staged(name, head.folder, head.path)
        finally:
            self._open.discard(name)
        return None

    def forget_reports(self, older_than: float) -> "Deferred[None]":
        """See :meth:`IInstanceStore.forget_reports`."""
        before = time.time() - older_than
        return self.threads.run(
            self.database.write, lambda db: index.forget_reports(db, before), durable=False
        )


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise disk_error(error, path) from error


def _disk_usage(folder: str) -> int:
    """Bytes that the files of a folder take."""
    try:
        with os.scandir(folder) as entries:
            return sum(entry.stat(follow_symlinks=False).st_blocks * 512 for entry in entries)
    except FileNotFoundError:
        return 0
