"""The default store: a SQLite index and one file an instance, in the storage directory.

What keeps "all or nothing": files are written where they stay, in a folder of their transaction,
and nobody sees them before the one SQL transaction that names them all. So there is nothing to
rename and nothing to undo: after a crash, files in folders that are still open, that no row names
and that no log of a staging area speaks for are removed (:meth:`EmbeddedStore.start`).
"""

import os
import re
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
from ..threads import IThreads
from ..wire.messages import Level, Resource
from ..wire.plan import Chunk, Instance
from . import index
from .batches import purge
from .committed import CommittedIncoming
from .files import INDEX_FILE, StoreFiles, unlink
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
from .staging import disk_error
from .staging_log import UNFINISHED, Contents, Head, create_log, open_log, read_head
from .steps import Step, ignore

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,200}\Z", re.ASCII)

log = Logger()


@implementer(IInstanceStore)
class EmbeddedStore(StoreFiles):
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
        super().__init__(folder, maximum_size, step)
        self.threads = threads
        self.overwrite_instances = overwrite_instances
        self.commit_threads = commit_threads
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
            os.makedirs(self.log_path(""), exist_ok=True)
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
        staged = self.staged_folders()
        self.step(Step.START_LOGS_READ)
        self.remove_orphans(staged)

    def stop(self) -> None:
        """Close the index."""
        self.database.close()

    # Blocking parts that the other files of this store share; called in threads.

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
            unlink(self.log_path(incoming.name))
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
                staging_log = create_log(self.log_path(name), head, instances, note)
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
        path = self.log_path(name)
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
        for name in os.listdir(self.log_path("")):
            if name in self._open or name.endswith(UNFINISHED):
                continue
            try:
                head = read_head(self.log_path(name))
                last_written = os.stat(self.log_path(name)).st_mtime
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
        path = self.log_path(name)
        head = read_head(path) if _NAME.match(name) and os.path.exists(path) else None
        if head is None:
            raise errors.UnknownResource(f"Nothing is staged as {name[:100]}")
        self._use(name)
        try:
            if self.is_open(name, head):  # it has not been committed at this moment
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
