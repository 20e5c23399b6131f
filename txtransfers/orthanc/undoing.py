"""An import is taken back: what it added is deleted, what it replaced is put back.

Never what was there before, nor what somebody else added meanwhile.
"""

import os
from collections.abc import Callable
from functools import partial

from .. import errors
from ..threads import IThreads
from .catalogue import Catalogue, Known
from .exchanges import FileBody
from .import_journal import Entry, ImportJournal, Record, State
from .rest import OrthancRest
from .sending import Sender


class Undoing:
    """Takes imports back."""

    def __init__(
        self,
        rest: OrthancRest,
        catalogue: Catalogue,
        journal: ImportJournal,
        threads: IThreads,
        sender: Sender,
        step: Callable[[str], None],
    ) -> None:
        """:param step: called at what tests interrupt."""
        self._rest = rest
        self._catalogue = catalogue
        self._journal = journal
        self._threads = threads
        self._sender = sender
        self._step = step

    async def take_back(self, name: str, record: Record) -> None:
        """Undo an import, as far as it came; then the journal has nothing of it any more.

        :raises StorageFailure: Orthanc cannot be reached, or refuses; to be tried again.
        """
        if record.state is State.IMPORTING:
            record.state = State.TAKING_BACK
            await self._threads.run(self._journal.set_state, name, record.state)
        sent = [entry for entry in record.entries if entry.is_sent and not entry.is_foreign]
        there = await self._rest.retrying(
            lambda: self._catalogue.find([entry.id for entry in sent])
        )
        await self._sender.each(sent, lambda entry: self._undo(record, entry, there.get(entry.id)))
        for entry in record.entries:
            entry.is_sent = entry.is_ours = False
        self._step("taken back")
        await self._threads.run(self._forget, name, record)

    async def _undo(self, record: Record, entry: Entry, now: Known | None) -> None:
        if entry.before is None:
            if entry.is_ours or (now is not None and now.md5 == entry.md5):
                added = f"/instances/{entry.stored_as or entry.id}"
                await self._rest.retrying(lambda: self._rest.delete(added))
            return
        path = f"/instances/{entry.id}"
        if now is not None and now.md5 == entry.before:
            return
        kept = record.kept_path(entry)
        try:
            size = await self._threads.run(os.path.getsize, kept)
        except OSError:
            raise errors.StorageFailure(
                f"The copy {kept} of instance {entry.id}, which was being replaced, is gone: bring"
                " it back from a backup of Orthanc"
            ) from None
        if now is not None:
            await self._rest.retrying(lambda: self._rest.delete(path))
        await self._rest.retrying(partial(self._sender.send, FileBody(kept, size)))
        restored = (await self._catalogue.find([entry.id])).get(entry.id)
        if restored is None or restored.md5 != entry.before:
            raise errors.StorageFailure(
                f"Instance {entry.id} could not be put back into {self._rest.who} as it was: a copy"
                f" is in {kept}"
            )

    def _forget(self, name: str, record: Record) -> None:
        self._journal.end(name)
        for entry in record.entries:
            if entry.before is not None and os.path.exists(record.kept_path(entry)):
                os.unlink(record.kept_path(entry))
