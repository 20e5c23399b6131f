"""Staging areas on their way into Orthanc: all of one, or what was added is taken back.

Others can see instances while they are imported: Orthanc has no transactions. So all is verified
before, what was there is noted on the disk before the first byte is sent, what is to be replaced is
kept here until the end, and only what this transfer added is ever taken back.
"""

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from .. import errors
from ..store.index import Row
from ..store.interfaces import Outcome
from ..store.reception import StagedIncoming
from ..store.staging import sync_file
from ..threads import IThreads
from ..waiters import Waiters
from ..wire.identifiers import is_identifier
from .catalogue import Catalogue, Known, same
from .files import Download, file_body, make_file
from .import_journal import Entry, ImportJournal, Record, State
from .rest import OrthancRest

_NAMED = 300
"""Characters of a reason that an error quotes."""

_SUCCESS = "Success"
_ALREADY_STORED = "AlreadyStored"
_SENT_AGAIN = "SentAgain"
"""What Orthanc says became of a file; and that it has one that it may have got from us before."""

log = Logger()


@attrs.define
class Work:
    """One import under way.

    :ivar outcomes: by position, as far as they are decided.
    """

    name: str
    record: Record
    outcomes: dict[int, Outcome]

    def path(self, entry: Entry) -> str:
        """The file that is sent."""
        return os.path.join(self.record.folder, f"{entry.position}.dcm")

    def kept_path(self, entry: Entry) -> str:
        """The file that was there, while it is being replaced."""
        return os.path.join(self.record.folder, f"{entry.position}.before")


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
        self._at_once = at_once
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
                await self._each(some, partial(self._import, work))
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
        work = Work(name, record or Record(State.IMPORTING, folder, ()), outcomes)
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
            await self._each(replaced, lambda entry: self._keep_one(work, entry))
            for folder in (work.record.folder, os.path.dirname(work.record.folder)):
                await self._threads.run(sync_file, folder)

    async def _keep_one(self, work: Work, entry: Entry) -> None:
        async def fetch() -> str:
            file = await self._threads.run(make_file, work.kept_path(entry))
            try:
                download = Download(self._threads, file, work.kept_path(entry), lambda _n: None)
                await self._rest.fetch(f"/instances/{entry.id}/file", download.sink)
                return download.md5
            finally:
                os.close(file)

        entry.before = await self._rest.retrying(fetch)
        await self._threads.run(sync_file, work.kept_path(entry))

    async def _each(self, entries: Sequence[Entry], do: Callable[[Entry], Any]) -> None:
        """Do it with each, several at once. After the first error none is begun; raises that."""
        queue = iter(entries)
        failed: list[BaseException] = []

        async def worker() -> None:
            for entry in queue:
                if failed:
                    return
                try:
                    await do(entry)
                except Exception as error:
                    failed.append(error)

        workers = [Deferred.fromCoroutine(worker()) for _ in range(self._at_once)]
        await DeferredList(workers, consumeErrors=True)
        if failed:
            raise failed[0]

    async def _import(self, work: Work, entry: Entry) -> None:
        try:
            told = await self._rest.retrying(partial(self._post, work, entry))
            outcome = await self._settle(work, entry, told)
        except errors.TransfersError as error:
            raise _of(error, f"instance {entry.id} was not imported: {error}") from error
        work.outcomes[entry.position] = outcome
        self._step("imported")

    async def _post(self, work: Work, entry: Entry) -> str:
        """Send what is new; gives the status that Orthanc tells, or that it comes again."""
        again = [entry.is_sent]
        entry.is_sent = True
        on_again = partial(again.append, True)
        status, id_ = await self._send(work.path(entry), entry.size, on_again)
        if id_ != entry.id:
            log.warn(
                "{who} stored instance {id} as {other}: something there changes what it receives",
                who=self._rest.who,
                id=entry.id,
                other=id_[:100],
            )
        entry.stored_as = id_
        return _SENT_AGAIN if any(again) and status == _ALREADY_STORED else status

    async def _send(
        self, path: str, size: int, on_again: Callable[[], None] = lambda: None
    ) -> tuple[str, str]:
        """Send a file; gives the status and the identifier that Orthanc tells."""
        told = await self._rest.upload(file_body(self._threads, path, size), size, on_again)
        status = told.get("Status") if isinstance(told, dict) else None
        if status == "FilteredOut":
            raise errors.StorageFailure(
                f"the filter of {self._rest.who} refused it (a script or a plugin of it)"
            )
        if status not in (_SUCCESS, _ALREADY_STORED):
            raise errors.StorageFailure(
                f"{self._rest.who} answered with the status {str(status)[:_NAMED]}"
            )
        id_ = told.get("ID")
        if not isinstance(id_, str) or not is_identifier(id_):
            raise errors.StorageFailure(f"{self._rest.who} told no identifier of what it stored")
        return str(status), id_

    async def _settle(self, work: Work, entry: Entry, status: str) -> Outcome:
        """What an answer means, which for one that was there already depends on who put it."""
        if status == _SUCCESS:
            entry.is_ours = True
            return Outcome.REPLACED if entry.before is not None else Outcome.STORED
        now = (await self._catalogue.find([entry.id])).get(entry.id)
        is_same = now is not None and now.md5 == entry.md5
        if entry.before is not None:
            if not is_same:  # this Orthanc does not overwrite by itself
                await self._rest.delete(f"/instances/{entry.id}")
                self._step("deleted")
                await self._rest.retrying(partial(self._post, work, entry))
            entry.is_ours = True
            return Outcome.REPLACED
        if status == _SENT_AGAIN and is_same:  # an answer, or our memory of it, was lost
            entry.is_ours = True
            return Outcome.STORED
        entry.is_foreign = True
        await self._threads.run(self._journal.set_foreign, work.name, [entry.position])
        return Outcome.ALREADY_STORED if is_same else Outcome.DIFFERENT

    # Backwards

    async def _failed(self, work: Work, error: errors.TransfersError) -> errors.TransfersError:
        """Take back; gives the error to raise."""
        added = sum(entry.is_ours for entry in work.record.entries)
        try:
            await self.take_back(work.name, work.record)
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

    async def take_back(self, name: str, record: Record) -> None:
        """Undo an import, as far as it came; then the journal has nothing of it any more.

        :raises StorageFailure: Orthanc cannot be reached, or refuses; to be tried again.
        """
        if record.state is State.IMPORTING:
            record.state = State.TAKING_BACK
            await self._threads.run(self._journal.set_state, name, record.state)
        work = Work(name, record, {})
        sent = [entry for entry in record.entries if entry.is_sent and not entry.is_foreign]
        there = await self._rest.retrying(
            lambda: self._catalogue.find([entry.id for entry in sent])
        )
        await self._each(sent, lambda entry: self._undo(work, entry, there.get(entry.id)))
        for entry in record.entries:
            entry.is_sent = entry.is_ours = False
        self._step("taken back")
        await self._threads.run(self._forget, work)

    async def _undo(self, work: Work, entry: Entry, now: Known | None) -> None:
        if entry.before is None:
            if entry.is_ours or (now is not None and now.md5 == entry.md5):
                added = f"/instances/{entry.stored_as or entry.id}"
                await self._rest.retrying(lambda: self._rest.delete(added))
            return
        path = f"/instances/{entry.id}"
        if now is not None and now.md5 == entry.before:
            return
        kept = work.kept_path(entry)
        try:
            size = await self._threads.run(os.path.getsize, kept)
        except OSError:
            raise errors.StorageFailure(
                f"The copy {kept} of instance {entry.id}, which was being replaced, is gone: bring"
                " it back from a backup of Orthanc"
            ) from None
        if now is not None:
            await self._rest.retrying(lambda: self._rest.delete(path))
        await self._rest.retrying(partial(self._send, kept, size))
        restored = (await self._catalogue.find([entry.id])).get(entry.id)
        if restored is None or restored.md5 != entry.before:
            raise errors.StorageFailure(
                f"Instance {entry.id} could not be put back into {self._rest.who} as it was: a copy"
                f" is in {kept}"
            )

    def _forget(self, work: Work) -> None:
        self._journal.end(work.name)
        for entry in work.record.entries:
            if entry.before is not None and os.path.exists(work.kept_path(entry)):
                os.unlink(work.kept_path(entry))


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
