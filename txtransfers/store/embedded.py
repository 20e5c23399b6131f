"""The default store: a SQLite index and one file an instance, in the storage directory.

What keeps "all or nothing": files are written where they stay, in a folder of their transaction,
and nobody sees them before the one SQL transaction that names them all. So there is nothing to
rename and nothing to undo: after a crash, files in folders that are still open, that no row names
and that no log of a staging area speaks for are removed (:meth:`EmbeddedStore.start`).
"""

import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..disk import disk_error
from ..threads import IThreads
from ..wire.inflation import Unpacking
from ..wire.messages import Level, Resource
from ..wire.plan import Chunk, Instance
from . import index
from .batches import purge
from .files import INDEX_FILE, unlink
from .interfaces import CommitReport, IInstanceReader, IInstanceStore, Outcome
from .reader import EmbeddedReader
from .reception import StagedIncoming
from .showing import Showing
from .staging_store import StagingStore
from .steps import Step, ignore

log = Logger()


@implementer(IInstanceStore)
class EmbeddedStore(StagingStore):
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
        """See :class:`StagingStore`."""
        super().__init__(folder, threads, overwrite_instances, commit_threads, maximum_size, step)
        self._showing = Showing(self.database, step)
        self.unpacking = Unpacking()
        """What a ZIP archive that is uploaded may hold."""

    # Start and stop: blocking, before and after the reactor's life.

    def start(self) -> None:
        """Open the index; remove what a crash left half done, and nobody can go on with.

        :raises StorageFailure: the folder cannot be made or written, or its index is missing.
        """
        self.make_folders()
        try:
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

    # Blocking parts that the other files of this store share; called in threads.

    def show(self, rows: Sequence[index.Row]) -> tuple[Outcome, ...]:
        """Show synced files, all of them or none, in one SQL transaction."""
        outcomes = self.database.write(lambda db: index.insert(db, rows, self.overwrite_instances))
        self.space.changed()
        self.empty_garbage()
        return outcomes

    async def find_held(self, instances: Sequence[Instance]) -> tuple[int, ...]:
        """See :meth:`StagingStore.find_held`."""
        held: tuple[int, ...] = await self.threads.run(
            self.database.read, lambda db: index.held(db, instances)
        )
        return held

    async def show_staged(self, incoming: StagedIncoming) -> CommitReport:
        """See :meth:`StagingStore.show_staged`: one SQL transaction decides."""
        report: CommitReport = await self.threads.run(self._show_staged, incoming)
        return report

    def _show_staged(self, incoming: StagedIncoming) -> CommitReport:
        incoming.check_synced()
        self.sync_folder(incoming.folder[1])
        self.step(Step.ALL_SYNCED)
        report = self._showing.show(incoming, self.overwrite_instances)
        self.step(Step.SHOWN)
        self.space.gone(incoming.name)
        self.space.changed()
        self._tidy_up(incoming)
        return report

    def _tidy_up(self, incoming: StagedIncoming) -> None:
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

    # IInstanceStore

    def lookup(self, resources: Sequence[Resource]) -> "Deferred[tuple[Instance, ...]]":
        """See :meth:`IInstanceStore.lookup`."""
        return self.threads.run(self.database.read, lambda db: index.lookup(db, resources))

    def find(self, ids: Sequence[str]) -> "Deferred[Mapping[str, Instance]]":
        """See :meth:`IInstanceStore.find`."""

        def find(db: Any) -> Mapping[str, Instance]:
            return {id_: found[0] for id_, found in index.find_files(db, ids).items()}

        return self.threads.run(self.database.read, find)

    def open(
        self, chunks: Sequence[Chunk], md5s: Mapping[str, str] | None = None
    ) -> IInstanceReader:
        """See :meth:`IInstanceStore.open`."""
        return EmbeddedReader(self, chunks, md5s)
