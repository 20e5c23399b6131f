"""An Orthanc as the store: what is here is there, and only what is on its way is on our disk.

What is received is staged as in the embedded store, and imported when it is whole. An import that a
crash, or Orthanc's end, has cut off is completed or taken back in the background.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from .. import errors
from ..store import index
from ..store.files import unlink
from ..store.index import Row
from ..store.interfaces import CommitReport, IIncoming, IInstanceReader, IInstanceStore, Outcome
from ..store.reception import StagedIncoming
from ..store.staging_store import StagingStore
from ..threads import IThreads
from ..transfer.slots import Slots
from ..wire.messages import Resource
from ..wire.plan import Chunk, Instance
from .catalogue import Catalogue, same
from .dialect import Dialect
from .import_journal import ImportJournal, Record, State
from .importing import Importer
from .reader import AHEAD, OrthancReader, Sources
from .rest import OrthancRest
from .spool import Spool
from .unfinished import Unfinished

_FOLDER = "gateway"
_SPOOL = "spool"
_JOURNAL_FILE = "imports.sqlite"
_FETCHED_AT_ONCE = 16
"""Instances, or small ones that come together, that are fetched at once; each takes up to 1 MB of
memory."""
_ASK_AGAIN_S = 60.0
"""Seconds until an Orthanc that did not answer is asked again who it is."""

log = Logger()


@implementer(IInstanceStore)
class OrthancStore(StagingStore):
    """See :class:`IInstanceStore`. :meth:`start` before use, then :meth:`begin`; :meth:`stop`."""

    keeps_files = False

    def __init__(
        self,
        folder: str,
        rest: OrthancRest,
        threads: IThreads,
        clock: IReactorTime,
        cache_size: int,
        overwrite_instances: bool = False,
        commit_threads: int = 4,
        maximum_size: int = 0,
        ahead: int = AHEAD,
        import_step: Callable[[str], None] = lambda _what: None,
    ) -> None:
        """:param folder: the storage directory. :param cache_size: bytes of copies in it.

        :param maximum_size: bytes that may be staged; 0 for any number.
        :param import_step: called at the instants of an import that tests interrupt.
        """
        own = os.path.join(folder, _FOLDER)
        super().__init__(own, threads, overwrite_instances, commit_threads, maximum_size)
        self._clock = clock
        self._rest = rest
        self._journal = ImportJournal(os.path.join(own, _JOURNAL_FILE))
        fetching = Slots(_FETCHED_AT_ONCE)
        self._spool = Spool(
            rest, os.path.join(folder, _SPOOL), cache_size, self.space.check_disk, fetching
        )
        self._catalogue = Catalogue(clock, rest, self._spool.read_md5)
        self.dialect = Dialect(rest)
        self._sources = Sources(rest, self._catalogue, self._spool, self.dialect, fetching, ahead)
        self._importer = Importer(
            rest,
            self._catalogue,
            self._journal,
            threads,
            commit_threads,
            self.space.check_disk,
            import_step,
        )
        self._unfinished = Unfinished(clock, self._unfinished_names, self._go_on)
        self._beginning: Deferred[None] | None = None
        self._stopped = False

    # Start and stop

    def start(self) -> None:
        """Open what is on the disk; blocking.

        :raises StorageFailure: the storage directory cannot be used.
        """
        self.make_folders()
        self.database.open()
        self._journal.open()
        self._spool.start()
        folders = self.staged_folders()
        for name in self._journal.names():  # what it keeps there may be all there is
            record = self._journal.find(name)
            if record is not None:
                folders.add(os.path.basename(record.folder))
        self.remove_orphans(folders)

    def begin(self) -> None:
        """Ask Orthanc who it is, and end the imports of earlier lives, in the background."""
        self._beginning = Deferred.fromCoroutine(self._begin())
        self._beginning.addErrback(lambda failure: failure.trap(CancelledError) and None)
        self._unfinished.begin()

    async def _begin(self) -> None:
        while not await self.dialect.ask() and not self._stopped:
            await deferLater(self._clock, _ASK_AGAIN_S)

    async def close(self) -> None:
        """Close the connections, before :meth:`stop`."""
        self._stopped = True
        self._unfinished.stop()
        if self._beginning is not None:
            self._beginning.cancel()
        await self._rest.close()

    def stop(self) -> None:
        """Close what is on the disk."""
        self._journal.close()
        super().stop()

    # IInstanceStore: what is there

    def lookup(self, resources: Sequence[Resource]) -> "Deferred[tuple[Instance, ...]]":
        """See :meth:`IInstanceStore.lookup`."""
        return Deferred.fromCoroutine(self._catalogue.lookup(resources))

    def find(self, ids: Sequence[str]) -> "Deferred[Mapping[str, Instance]]":
        """See :meth:`IInstanceStore.find`."""
        return Deferred.fromCoroutine(self._find(ids))

    async def _find(self, ids: Sequence[str]) -> Mapping[str, Instance]:
        found = await self._catalogue.find(ids)
        return {id_: Instance(id_, known.size, known.md5) for id_, known in found.items()}

    def open(
        self, chunks: Sequence[Chunk], md5s: Mapping[str, str] | None = None
    ) -> IInstanceReader:
        """See :meth:`IInstanceStore.open`."""
        return OrthancReader(self._sources, chunks, md5s)

    async def find_held(self, instances: Sequence[Instance]) -> tuple[int, ...]:
        """See :meth:`StagingStore.find_held`."""
        sizes = {instance.id: instance.size for instance in instances}
        return same(instances, await self._catalogue.find(list(sizes), sizes))

    # IInstanceStore: what is received

    async def show_staged(self, incoming: StagedIncoming) -> CommitReport:
        """See :meth:`StagingStore.show_staged`: as far as Orthanc, which has no transactions."""
        rows: list[Row] = await self.threads.run(self._rows, incoming)
        folder = self.path(incoming.folder[1])
        try:
            async with self._importer.claim({row.id for row in rows}):
                decided = await self._importer.run(incoming, folder, rows, self.overwrite_instances)
                report = _report(incoming, rows, decided)
                await self.threads.run(self._close_import, incoming, report)
        except errors.TransfersError:
            self._unfinished.begin()  # there may be something left to be taken back
            raise
        return report

    def _rows(self, incoming: StagedIncoming) -> list[Row]:
        incoming.check_synced()
        rows = sorted(incoming.rows(), key=incoming.position)
        incoming.check_rows(map(incoming.position, rows))
        return rows

    def _close_import(self, incoming: StagedIncoming, report: CommitReport) -> None:
        """All is in Orthanc. The report says so from here on; the rest is tidying up."""
        name = incoming.name
        self.database.write(lambda db: index.add_report(db, name, time.time(), report.to_text()))
        self._journal.end(name)
        self.space.gone(name)
        with contextlib.suppress(
            errors.TransfersError, OSError, sqlite3.Error
        ):  # it goes at the next start
            unlink(self.log_path(name))
            self.sweep(*incoming.folder)

    async def discard_staged(self, incoming: StagedIncoming) -> None:
        """See :meth:`StagingStore.discard_staged`: what was imported of it is taken back."""
        record: Record | None = await self.threads.run(self._journal.find, incoming.name)
        if record is not None:
            try:
                await self.threads.run(self._journal.set_state, incoming.name, State.DROPPED)
                await self._take_back(incoming.name)
            except errors.TransfersError as error:
                log.warn("{name} is taken back later: {error}", name=incoming.name, error=error)
                self._unfinished.begin()
                return
        await super().discard_staged(incoming)

    def reopen(self, name: str) -> "Deferred[IIncoming | None]":
        """See :meth:`IInstanceStore.reopen`; an import that is being ended is waited for."""
        return Deferred.fromCoroutine(self._reopen_when_free(name))

    async def _reopen_when_free(self, name: str) -> IIncoming | None:
        await self._unfinished.wait_for(name)
        record: Record | None = await self.threads.run(self._journal.find, name)
        if record is not None and record.state is State.DROPPED:
            return None
        incoming: IIncoming | None = await super().reopen(name)
        return incoming

    def drop(self, name: str) -> "Deferred[CommitReport | None]":
        """See :meth:`IInstanceStore.drop`."""
        return Deferred.fromCoroutine(self._drop_imported(name))

    async def _drop_imported(self, name: str) -> CommitReport | None:
        record: Record | None = await self.threads.run(self._journal.find, name)
        if record is not None:
            incoming = await self.reopen(name)
            if incoming is not None:
                await incoming.discard()
                return incoming.report  # type: ignore[no-any-return]
            self._unfinished.begin()  # it is dropped already, and not taken back yet
            return None
        report: CommitReport | None = await super().drop(name)
        return report

    # Imports that were cut off

    async def _unfinished_names(self) -> tuple[str, ...]:
        names: tuple[str, ...] = await self.threads.run(self._journal.names)
        return names

    async def _go_on(self, name: str) -> None:
        """Complete one, or take it back; see :class:`Unfinished`."""
        record: Record | None = await self.threads.run(self._journal.find, name)
        if record is None:
            return
        if record.state is State.IMPORTING:
            if name in self._open:  # somebody is at it
                return
            incoming = await super().reopen(name)
            if incoming is not None and await self._complete(incoming):
                return
        await self._take_back(name)
        log.info("The import {name}, which was cut off, is taken back", name=name)
        if record.state is State.DROPPED:
            with contextlib.suppress(errors.UnknownResource):
                await super().drop(name)

    async def _complete(self, incoming: IIncoming) -> bool:
        """Go on with an import; tells whether that could be done, or it must be taken back."""
        try:
            await incoming.commit()
        except errors.StoreUnavailable:
            raise
        except errors.TransfersError as error:
            log.warn("The import {name} cannot go on: {error}", name=incoming.name, error=error)
            return False
        finally:
            await incoming.close()
        await self.threads.run(self._journal.end, incoming.name)
        log.info("The import {name}, which was cut off, is complete now", name=incoming.name)
        return True

    async def _take_back(self, name: str) -> None:
        """Undo what was imported, unless somebody has gone on with it meanwhile."""
        record: Record | None = await self.threads.run(self._journal.find, name)
        if record is None:
            return
        async with self._importer.claim({entry.id for entry in record.entries}):
            now: Record | None = await self.threads.run(self._journal.find, name)
            if now is not None and now.state is record.state:
                await self._importer.undoing.take_back(name, now)


def _report(
    incoming: StagedIncoming, rows: Sequence[Row], decided: Sequence[Outcome]
) -> CommitReport:
    """What became of each instance, in the order in which they were declared."""
    ids = [instance.id for instance in incoming.instances]
    outcomes = [Outcome.ALREADY_STORED] * len(ids)
    for row, outcome in zip(rows, decided, strict=True):
        position = incoming.position(row)
        ids[position], outcomes[position] = row.id, outcome
    return CommitReport(tuple(outcomes), tuple(ids))
