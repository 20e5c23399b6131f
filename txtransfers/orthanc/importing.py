"""Staging areas on their way into Orthanc: all of one, or what was added is taken back.

Others can see instances while they are imported: Orthanc has no transactions. So all is verified
before, what was there is noted on the disk before the first byte is sent, what is to be replaced is
kept here until the end, and only what this transfer added is ever taken back.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

from twisted.logger import Logger

from .. import errors
from ..disk import sync_file
from ..store.index import Row
from ..store.interfaces import Outcome
from ..store.reception import StagedIncoming
from ..threads import IThreads
from ..waiters import Waiters
from .catalogue import Catalogue, Known, same
from .files import Download, make_file
from .import_journal import Entry, ImportJournal, Record, State
from .rest import OrthancRest
from .sending import SENT_AGAIN, SUCCESS, Sender, Work
from .undoing import Undoing

log = Logger()


class Importer:
    """See the module. One lives as long as the store."""

    def __init__(
        self,
        rest: OrthancRest,
        catalogue: Catalogue,
        journal: ImportJournal,
        threads: IThreads,
        at_once: int,
        check_disk: Callable[[int], None],
        step: Callable[[str], None] = lambda _what: None,
    ) -> None:
        """:param at_once: ``CommitThreadsCount``. :param step: called at what tests interrupt.

        :param check_disk: refuses so many bytes where the disk has no room; blocking.
        """
        self._rest = rest
        self._catalogue = catalogue
        self._journal = journal
        self._threads = threads
        self._sender = Sender(rest, at_once)
        self.undoing = Undoing(rest, catalogue, journal, threads, self._sender, step)
        self._check_disk = check_disk
        self._step = step
        self._claimed: set[str] = set()
        self._unclaimed = Waiters()

    # One after the other, where they have instances in common

    @asynccontextmanager
    async def claim(self, ids: set[str]) -> AsyncIterator[None]:
        """Hold instances, and the whole import: nobody else here touches them meanwhile."""
        while not self._claimed.isdisjoint(ids):
            await self._unclaimed.wait()
        self._claimed |= ids
        try:
            yield
        finally:
            self._claimed -= ids
            self._unclaimed.fire()

    # Forwards

    async def run(
        self, incoming: StagedIncoming, folder: str, rows: Sequence[Row], overwrite: bool
    ) -> tuple[Outcome, ...]:
        """Import ``rows``, the verified files in ``folder``; gives what became of each.

        If it fails, what was added is taken back, now or as soon as Orthanc can be reached.

        :raises CorruptedInstances: an instance that is held is not there any more.
        """
        name = incoming.name
        record: Record | None = await self._threads.run(self._journal.find, name)
        there = await self._there(incoming, rows)
        work = await self._plan(name, record, folder, incoming, rows, there, overwrite)
        try:
            if work.record.state is not State.IMPORTING:
                await self._threads.run(self._journal.set_state, name, State.IMPORTING)
                work.record.state = State.IMPORTING
            # What replaces something comes last: until then nothing is lost for others, either.
            for replaces in (False, True):
                some = [e for e in work.record.entries if (e.before is not None) is replaces]
                await self._sender.each(some, partial(self._import, work))
        except errors.TransfersError as error:
            raise await self._failed(work, error) from error
        self._step("all imported")
        return tuple(work.outcomes[incoming.position(row)] for row in rows)

    async def _there(self, incoming: StagedIncoming, rows: Sequence[Row]) -> dict[str, Known]:
        held = [i for i in incoming.instances if i.id in incoming.held]
        sizes = {row.id: row.size for row in reversed(rows)} | {i.id: i.size for i in held}
        ids = sorted({row.id for row in rows} | {i.id for i in held})
        there: dict[str, Known] = await self._rest.retrying(
            lambda: self._catalogue.find(ids, sizes)
        )
        kept = set(same(held, there))
        lost = [instance.id for n, instance in enumerate(held) if n not in kept]
        if lost:
            incoming.lost_held(lost)
            raise errors.CorruptedInstances(
                f"{len(lost)} instances that were in {self._rest.who} when the transfer began were"
                f" deleted or replaced meanwhile, the first is {lost[0]}: their bytes are needed"
                " now",
                tuple(lost),
            )
        return there

    async def _plan(
        self,
        name: str,
        record: Record | None,
        folder: str,
        incoming: StagedIncoming,
        rows: Sequence[Row],
        there: Mapping[str, Known],
        overwrite: bool,
    ) -> Work:
        """What is to be sent; it is in the journal when this returns."""
        known = {entry.position: entry for entry in record.entries} if record else {}
        outcomes: dict[int, Outcome] = {}
        new: list[Entry] = []
        first: dict[str, str] = {}
        for row in rows:
            position, now = incoming.position(row), there.get(row.id)
            if row.id in first:  # of two files, the first counts
                outcomes[position] = _left(first[row.id], row)
            elif position not in known:
                if now is None or (overwrite and not _is_same(now, row)):
                    before = None if now is None else ""
                    new.append(Entry(position, row.id, row.size, row.md5, before))
                else:
                    outcomes[position] = _left(now.md5 if now.size == row.size else "", row)
            first.setdefault(row.id, row.md5)
        record = record or Record(State.IMPORTING, folder, ())
        work = Work(name, record, incoming.place, outcomes)
        if new:
            await self._keep(work, new, there)
            await self._threads.run(self._journal.begin, name, folder, new)
        work.record.entries = (*work.record.entries, *new)
        self._step("noted")
        return work

    async def _keep(self, work: Work, entries: Sequence[Entry], there: Mapping[str, Known]) -> None:
        """Have copies here of what is to be replaced."""
        replaced = [entry for entry in entries if entry.before is not None]
        if replaced:
            size = sum(there[entry.id].size for entry in replaced)
            await self._threads.run(self._check_disk, size)
            await self._sender.each(replaced, lambda entry: self._keep_one(work, entry))
            for folder in (work.record.folder, os.path.dirname(work.record.folder)):
                await self._threads.run(sync_file, folder)

    async def _keep_one(self, work: Work, entry: Entry) -> None:
        kept = work.record.kept_path(entry)

        async def fetch() -> str:
            file = await self._threads.run(make_file, kept)
            try:
                download = Download(self._threads, file, kept, lambda _n: None)
                await self._rest.fetch(f"/instances/{entry.id}/file", download.sink)
                return download.md5
            finally:
                os.close(file)

        entry.before = await self._rest.retrying(fetch)
        await self._threads.run(sync_file, kept)

    async def _import(self, work: Work, entry: Entry) -> None:
        try:
            told = await self._rest.retrying(partial(self._sender.post, work, entry))
            outcome = await self._settle(work, entry, told)
        except errors.TransfersError as error:
            raise _of(error, f"instance {entry.id} was not imported: {error}") from error
        work.outcomes[entry.position] = outcome
        self._step("imported")

    async def _settle(self, work: Work, entry: Entry, status: str) -> Outcome:
        """What an answer means, which for one that was there already depends on who put it."""
        if status == SUCCESS:
            entry.is_ours = True
            return Outcome.REPLACED if entry.before is not None else Outcome.STORED
        now = (await self._catalogue.find([entry.id])).get(entry.id)
        is_same = now is not None and now.md5 == entry.md5
        if entry.before is not None:
            if not is_same:  # this Orthanc does not overwrite by itself
                await self._rest.delete(f"/instances/{entry.id}")
                self._step("deleted")
                await self._rest.retrying(partial(self._sender.post, work, entry))
            entry.is_ours = True
            return Outcome.REPLACED
        if status == SENT_AGAIN and is_same:  # an answer, or our memory of it, was lost
            entry.is_ours = True
            return Outcome.STORED
        entry.is_foreign = True
        await self._threads.run(self._journal.set_foreign, work.name, [entry.position])
        return Outcome.ALREADY_STORED if is_same else Outcome.DIFFERENT

    async def _failed(self, work: Work, error: errors.TransfersError) -> errors.TransfersError:
        """Take back; gives the error to raise."""
        added = sum(entry.is_ours for entry in work.record.entries)
        try:
            await self.undoing.take_back(work.name, work.record)
        except errors.TransfersError as later:
            log.error(
                "{name}: what was imported is taken back as soon as that is possible: {error}",
                name=work.name,
                error=later,
            )
            return _of(
                error,
                f"{error}. What this transfer had added ({added} instances) cannot be taken back"
                f" now, and is later: {later}",
            )
        return _of(
            error, f"{error}. What this transfer had added ({added} instances) was taken back"
        )


def _is_same(known: Known, row: Row) -> bool:
    return (known.size, known.md5) == (row.size, row.md5)


def _left(md5: str, row: Row) -> Outcome:
    """What became of a file that was not sent, since one with ``md5`` is there."""
    return Outcome.ALREADY_STORED if md5 == row.md5 else Outcome.DIFFERENT


def _of(error: errors.TransfersError, text: str) -> errors.TransfersError:
    """An error of the same kind, with more to say."""
    kinds = (errors.StorageFull, errors.StoreUnavailable, errors.BadDicom)
    kind = next((kind for kind in kinds if isinstance(error, kind)), errors.StorageFailure)
    return kind(text)
