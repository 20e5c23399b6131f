"""Files on their way into Orthanc: what is sent, and what it says became of each."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from .. import errors
from ..store.interfaces import Outcome
from ..store.places import Place
from ..wire.identifiers import is_identifier
from .exchanges import FileBody
from .import_journal import Entry, Record
from .rest import OrthancRest

_NAMED = 300
"""Characters of a reason that an error quotes."""

SUCCESS = "Success"
ALREADY_STORED = "AlreadyStored"
SENT_AGAIN = "SentAgain"
"""What Orthanc says became of a file; and that it has one that it may have got from us before."""

log = Logger()


@attrs.define
class Work:
    """One import under way.

    :ivar place: where the file of a position is. :ivar outcomes: by position, as far as they are
        decided.
    """

    name: str
    record: Record
    place: Callable[[int], Place]
    outcomes: dict[int, Outcome] = attrs.Factory(dict)

    def body(self, entry: Entry) -> FileBody:
        """What is sent."""
        place = self.place(entry.position)
        return FileBody(place.path, entry.size, place.start)


class Sender:
    """Sends files to Orthanc."""

    def __init__(self, rest: OrthancRest, at_once: int) -> None:
        """:param at_once: ``CommitThreadsCount``."""
        self._rest = rest
        self._at_once = at_once

    async def each(self, entries: Sequence[Entry], do: Callable[[Entry], Any]) -> None:
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

    async def post(self, work: Work, entry: Entry) -> str:
        """Send what is new; gives the status that Orthanc tells, or that it comes again."""
        again = [entry.is_sent]
        entry.is_sent = True
        on_again = partial(again.append, True)
        status, id_ = await self.send(work.body(entry), on_again)
        if id_ != entry.id:
            log.warn(
                "{who} stored instance {id} as {other}: something there changes what it receives",
                who=self._rest.who,
                id=entry.id,
                other=id_[:100],
            )
        entry.stored_as = id_
        return SENT_AGAIN if any(again) and status == ALREADY_STORED else status

    async def send(
        self, body: FileBody, on_again: Callable[[], None] = lambda: None
    ) -> tuple[str, str]:
        """Send a file; gives the status and the identifier that Orthanc tells."""
        told = await self._rest.upload(body, on_again)
        status = told.get("Status") if isinstance(told, dict) else None
        if status == "FilteredOut":
            raise errors.StorageFailure(
                f"the filter of {self._rest.who} refused it (a script or a plugin of it)"
            )
        if status not in (SUCCESS, ALREADY_STORED):
            raise errors.StorageFailure(
                f"{self._rest.who} answered with the status {str(status)[:_NAMED]}"
            )
        id_ = told.get("ID")
        if not isinstance(id_, str) or not is_identifier(id_):
            raise errors.StorageFailure(f"{self._rest.who} told no identifier of what it stored")
        return str(status), id_
