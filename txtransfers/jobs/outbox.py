"""What is still to be told to others, beside the jobs: put there together with a job's end.

A delivery is there until it is taken out, whatever happens to the daemon; :mod:`.webhooks` sends.
"""

# mypy: disable-error-code="misc,empty-body"
# ruff: noqa: N805

import sqlite3
from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from zope.interface import Interface, implementer

TABLE = (
    "CREATE TABLE delivery(sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL,"
    " url TEXT NOT NULL, body BLOB NOT NULL, created REAL NOT NULL, tries INTEGER NOT NULL,"
    " next_try REAL NOT NULL, UNIQUE(url, id));"
    "CREATE INDEX delivery_due ON delivery(url, next_try, sequence)"
)

_COLUMNS = "id, url, body, created, tries, next_try"


@attrs.frozen
class Delivery:
    """One event for one receiver.

    :ivar id: of the event; the same for all its receivers and tries.
    :ivar created: seconds since the epoch, like ``next_try``.
    :ivar tries: how often it was tried in vain.
    """

    id: str
    url: str = attrs.field(repr=False)
    body: bytes = attrs.field(repr=False)
    created: float
    tries: int = 0
    next_try: float = 0.0


class IOutbox(Interface):
    """Deliveries that wait."""

    def first(url: str) -> "Deferred[Delivery | None]":
        """The one to a receiver that is due first; None where there is none."""

    def done(delivery: Delivery) -> "Deferred[None]":
        """Take one out; one that is not there is no error."""

    def postpone(delivery: Delivery) -> "Deferred[None]":
        """Keep its ``tries`` and ``next_try`` as they are now."""

    def forget_others(urls: Collection[str]) -> "Deferred[int]":
        """Take out what is for other receivers; gives how many that were."""

    def call_when_filled(wake: Callable[[], None]) -> None:
        """Have ``wake`` called whenever deliveries have been put in."""


@implementer(IOutbox)
class MemoryOutbox:
    """Keeps nothing beyond the daemon's life."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Delivery] = {}
        self._wake: Callable[[], None] = _nobody

    def put(self, deliveries: Sequence[Delivery]) -> None:
        """Put some in."""
        for each in deliveries:
            self._waiting.setdefault((each.url, each.id), each)
        if deliveries:
            self._wake()

    def first(self, url: str) -> "Deferred[Delivery | None]":
        """See :meth:`IOutbox.first`."""
        mine = (each for each in self._waiting.values() if each.url == url)
        return succeed(min(mine, key=lambda each: each.next_try, default=None))

    def done(self, delivery: Delivery) -> "Deferred[None]":
        """See :meth:`IOutbox.done`."""
        self._waiting.pop((delivery.url, delivery.id), None)
        return succeed(None)

    def postpone(self, delivery: Delivery) -> "Deferred[None]":
        """See :meth:`IOutbox.postpone`."""
        if (delivery.url, delivery.id) in self._waiting:
            self._waiting[delivery.url, delivery.id] = delivery
        return succeed(None)

    def forget_others(self, urls: Collection[str]) -> "Deferred[int]":
        """See :meth:`IOutbox.forget_others`."""
        others = [key for key in self._waiting if key[0] not in urls]
        for key in others:
            del self._waiting[key]
        return succeed(len(others))

    def call_when_filled(self, wake: Callable[[], None]) -> None:
        """See :meth:`IOutbox.call_when_filled`."""
        self._wake = wake


@implementer(IOutbox)
class SqliteOutbox:
    """A table in the jobs' file."""

    def __init__(
        self,
        read: Callable[[Callable[[sqlite3.Connection], Any]], "Deferred[Any]"],
        write: Callable[[Callable[[sqlite3.Connection], Any]], "Deferred[Any]"],
    ) -> None:
        """:param read: runs a function on the file, in a thread.

        :param write: the same in a transaction, which need not be durable: what it would lose is
            sent once more.
        """
        self._read = read
        self._write = write
        self._wake: Callable[[], None] = _nobody

    def filled(self) -> None:
        """Some were put in by :func:`insert`, and are there."""
        self._wake()

    def first(self, url: str) -> "Deferred[Delivery | None]":
        """See :meth:`IOutbox.first`."""

        def read(db: sqlite3.Connection) -> Delivery | None:
            row = db.execute(
                f"SELECT {_COLUMNS} FROM delivery WHERE url = ? ORDER BY next_try, sequence"
                " LIMIT 1",
                (url,),
            ).fetchone()
            return Delivery(*row) if row else None

        return self._read(read)

    def done(self, delivery: Delivery) -> "Deferred[None]":
        """See :meth:`IOutbox.done`."""
        key = (delivery.url, delivery.id)
        return self._change("DELETE FROM delivery WHERE url = ? AND id = ?", key)

    def postpone(self, delivery: Delivery) -> "Deferred[None]":
        """See :meth:`IOutbox.postpone`."""
        return self._change(
            "UPDATE delivery SET tries = ?, next_try = ? WHERE url = ? AND id = ?",
            (delivery.tries, delivery.next_try, delivery.url, delivery.id),
        )

    def _change(self, statement: str, values: tuple[Any, ...]) -> "Deferred[None]":
        def write(db: sqlite3.Connection) -> None:
            db.execute(statement, values)

        return self._write(write)

    def forget_others(self, urls: Collection[str]) -> "Deferred[int]":
        """See :meth:`IOutbox.forget_others`."""
        marks = ", ".join("?" * len(urls))

        def write(db: sqlite3.Connection) -> int:
            return db.execute(
                f"DELETE FROM delivery WHERE url NOT IN ({marks})", tuple(urls)
            ).rowcount

        return self._write(write)

    def call_when_filled(self, wake: Callable[[], None]) -> None:
        """See :meth:`IOutbox.call_when_filled`."""
        self._wake = wake


def insert(db: sqlite3.Connection, deliveries: Sequence[Delivery]) -> None:
    """Put some in, within a transaction of the jobs' file."""
    db.executemany(
        f"INSERT OR IGNORE INTO delivery({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
        [attrs.astuple(each) for each in deliveries],
    )


def _nobody() -> None:
    pass
