"""Jobs on disk. What :meth:`IJournal.save` has fired for survives the daemon, however it ends.

What is saved as not durable survives the daemon too, and a power cut only if something durable was
saved after it.
"""

# mypy: disable-error-code="misc,empty-body"
# ruff: noqa: N805

import json
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.python.failure import Failure
from zope.interface import Attribute, Interface, implementer

from ..sqlite import Database
from ..threads import IThreads
from .model import ENDED, Job, from_record, to_record
from .outbox import TABLE, Delivery, IOutbox, MemoryOutbox, SqliteOutbox, insert

_MIGRATIONS = (
    "CREATE TABLE job(id TEXT PRIMARY KEY, sequence INTEGER NOT NULL, record TEXT NOT NULL)",
    "CREATE TABLE attachment(job TEXT NOT NULL, kind TEXT NOT NULL, data BLOB NOT NULL,"
    " PRIMARY KEY(job, kind))",
    TABLE,
)


_FAST = 1

Announce = Callable[[Job], Sequence[Delivery]]
"""What is to be told to others of a job that is about to be saved; asked once for each state."""


def _nothing(_job: Job) -> Sequence[Delivery]:
    return ()


class Kind(Enum):
    """What may be kept beside a job, as it can be large."""

    INSTANCES = "instances"
    RECEIPT = "receipt"


class IJournal(Interface):
    """Where jobs are kept."""

    outbox: IOutbox = Attribute("What is to be told to others; it is filled as jobs are saved.")

    def load() -> "Deferred[tuple[Job, ...]]":
        """All jobs, in order of submission."""

    def save(job: Job, durable: bool = True) -> "Deferred[None]":
        """Keep the job as it is now, and what is to be told of it: both or none.

        Saves take effect in the order of the calls.
        """

    def attach(job: str, kind: Kind, data: bytes) -> "Deferred[None]":
        """Keep something beside a job, not durably; it replaces an earlier one of that kind."""

    def attached(job: str, kind: Kind) -> "Deferred[bytes | None]":
        """What is kept beside a job."""

    def forget(ids: Sequence[str]) -> "Deferred[None]":
        """Drop jobs, and what is kept beside them; unknown ones are no error."""


@implementer(IJournal)
class MemoryJournal:
    """Keeps nothing beyond the daemon's life: for ``SaveJobs`` false, and for tests."""

    def __init__(self, announce: Announce = _nothing) -> None:
        self.outbox = MemoryOutbox()
        self._announce = announce
        self._records: dict[str, str] = {}
        self._attached: dict[tuple[str, Kind], bytes] = {}

    def load(self) -> "Deferred[tuple[Job, ...]]":
        """See :meth:`IJournal.load`."""
        jobs = [from_record(json.loads(record)) for record in self._records.values()]
        return succeed(tuple(sorted(jobs, key=lambda job: job.sequence)))

    def save(self, job: Job, durable: bool = True) -> "Deferred[None]":
        """See :meth:`IJournal.save`."""
        deliveries = _announced(self._announce, job)
        self._records[job.id] = json.dumps(to_record(job))
        self.outbox.put(deliveries)
        return succeed(None)

    def attach(self, job: str, kind: Kind, data: bytes) -> "Deferred[None]":
        """See :meth:`IJournal.attach`."""
        self._attached[job, kind] = data
        return succeed(None)

    def attached(self, job: str, kind: Kind) -> "Deferred[bytes | None]":
        """See :meth:`IJournal.attached`."""
        return succeed(self._attached.get((job, kind)))

    def forget(self, ids: Sequence[str]) -> "Deferred[None]":
        """See :meth:`IJournal.forget`."""
        for id_ in ids:
            self._records.pop(id_, None)
            for kind in Kind:
                self._attached.pop((id_, kind), None)
        return succeed(None)


@implementer(IJournal)
class SqliteJournal:
    """One row a job in a SQLite file. :meth:`start` before use, :meth:`stop` after."""

    def __init__(self, path: str, threads: IThreads, announce: Announce = _nothing) -> None:
        self._database = Database(path, _MIGRATIONS)
        self._threads = threads
        self._announce = announce
        self._order = DeferredLock()
        self.outbox = SqliteOutbox(
            lambda read: threads.run(self._database.read, read),
            lambda write: threads.run(self._database.write, write, False),
        )

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

    def _in_order(
        self, write: Callable[[sqlite3.Connection], None], durable: bool = True
    ) -> "Deferred[None]":
        """Write after all that was to be written before.

        Who is cancelled waits no longer; the write, which a thread may be at, keeps its turn. Else
        an older record could take the place of a newer one.
        """
        waiter: Deferred[None] = Deferred()

        def done(result: Any) -> None:
            if not waiter.called:
                waiter.callback(result)  # a Failure fails it

        self._order.run(self._threads.run, self._database.write, write, durable).addBoth(done)
        return waiter

    def save(self, job: Job, durable: bool = True) -> "Deferred[None]":
        """See :meth:`IJournal.save`."""
        before = job.announced
        deliveries = _announced(self._announce, job)
        record = json.dumps(to_record(job))

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR REPLACE INTO job VALUES (?, ?, ?)", (job.id, job.sequence, record)
            )
            insert(db, deliveries)

        def failed(failure: Failure) -> Failure:
            if deliveries:
                job.announced = before  # the next save tells it
            return failure

        saved = self._in_order(write, durable).addErrback(failed)
        if deliveries:
            saved.addCallback(lambda _none: self.outbox.filled())
        return saved

    def attach(self, job: str, kind: Kind, data: bytes) -> "Deferred[None]":
        """See :meth:`IJournal.attach`."""

        def write(db: sqlite3.Connection) -> None:
            packed = zlib.compress(data, _FAST)
            db.execute(
                "INSERT OR REPLACE INTO attachment VALUES (?, ?, ?)", (job, kind.value, packed)
            )

        return self._in_order(write, durable=False)

    def attached(self, job: str, kind: Kind) -> "Deferred[bytes | None]":
        """See :meth:`IJournal.attached`."""

        def read(db: sqlite3.Connection) -> bytes | None:
            row = db.execute(
                "SELECT data FROM attachment WHERE job = ? AND kind = ?", (job, kind.value)
            ).fetchone()
            return zlib.decompress(row[0]) if row else None

        return self._threads.run(self._database.read, read)

    def forget(self, ids: Sequence[str]) -> "Deferred[None]":
        """See :meth:`IJournal.forget`."""

        def write(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM job WHERE id = ?", [(id_,) for id_ in ids])
            db.executemany("DELETE FROM attachment WHERE job = ?", [(id_,) for id_ in ids])

        return self._in_order(write)


def _announced(announce: Announce, job: Job) -> Sequence[Delivery]:
    """What is to be told of a job's end, and note that it is."""
    if job.state not in ENDED or job.announced == job.completed:
        return ()
    job.announced = job.completed
    return announce(job)


def _load(db: sqlite3.Connection) -> tuple[Job, ...]:
    rows = db.execute("SELECT record FROM job ORDER BY sequence")
    return tuple(from_record(json.loads(record)) for (record,) in rows)
