"""Jobs on disk. What :meth:`IJournal.save` has fired for survives the daemon, however it ends."""

# mypy: disable-error-code="misc,empty-body"
# ruff: noqa: N805

import json
import sqlite3
from collections.abc import Sequence

from twisted.internet.defer import Deferred, DeferredLock, succeed
from zope.interface import Interface, implementer

from ..sqlite import Database
from ..threads import IThreads
from .model import Job, from_record, to_record

_MIGRATIONS = (
    "CREATE TABLE job(id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, record TEXT NOT NULL)",
)


class IJournal(Interface):
    """Where jobs are kept."""

    def load() -> "Deferred[tuple[Job, ...]]":
        """All jobs, in order of submission."""

    def save(job: Job) -> "Deferred[None]":
        """Keep the job as it is now. Saves take effect in the order of the calls."""

    def forget(ids: Sequence[str]) -> "Deferred[None]":
        """Drop jobs; unknown ones are no error."""


@implementer(IJournal)
class MemoryJournal:
    """Keeps nothing beyond the daemon's life: for ``SaveJobs`` false, and for tests."""

    def __init__(self) -> None:
        self._records: dict[str, str] = {}

    def load(self) -> "Deferred[tuple[Job, ...]]":
        """See :meth:`IJournal.load`."""
        jobs = [from_record(json.loads(record)) for record in self._records.values()]
        return succeed(tuple(sorted(jobs, key=lambda job: job.sequence)))

    def save(self, job: Job) -> "Deferred[None]":
        """See :meth:`IJournal.save`."""
        self._records[job.id] = json.dumps(to_record(job))
        return succeed(None)

    def forget(self, ids: Sequence[str]) -> "Deferred[None]":
        """See :meth:`IJournal.forget`."""
        for id_ in ids:
            self._records.pop(id_, None)
        return succeed(None)


@implementer(IJournal)
class SqliteJournal:
    """One row a job in a SQLite file. :meth:`start` before use, :meth:`stop` after."""

    def __init__(self, path: str, threads: IThreads) -> None:
        self._database = Database(path, _MIGRATIONS)
        self._threads = threads
        self._order = DeferredLock()

    def start(self) -> None:
        """Open the file; blocking.

        :raises StorageFailure: it cannot be opened.
        """
        self._database.open()

    def stop(self) -> None:
        """Close the file; blocking."""
        self._database.close()

    def load(self) -> "Deferred[tuple[Job, ...]]":
        """See :meth:`IJournal.load`."""
        return self._threads.run(self._database.read, _load)

    def save(self, job: Job) -> "Deferred[None]":
        """See :meth:`IJournal.save`."""
        record = json.dumps(to_record(job))

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR REPLACE INTO job VALUES (?, ?, ?)", (job.id, job.sequence, record)
            )

        return self._order.run(self._threads.run, self._database.write, write)

    def forget(self, ids: Sequence[str]) -> "Deferred[None]":
        """See :meth:`IJournal.forget`."""

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM job WHERE id = ?", [(id_,) for id_ in ids])

        return self._order.run(self._threads.run, self._database.write, write)


def _load(db: sqlite3.Connection) -> tuple[Job, ...]:
    rows = db.execute("SELECT record FROM job ORDER BY sequence")
    return tuple(from_record(json.loads(record)) for (record,) in rows)
