"""What is being imported into Orthanc, on the disk: written before the first byte is sent.

After a crash it tells which instances may have been added or replaced, and what was there before;
whoever goes on completes it, or takes it back. Blocking, in threads of the pool.
"""

import os
import sqlite3
from collections.abc import Iterable, Sequence
from enum import Enum

import attrs

from ..sqlite import Database

_MIGRATIONS = (
    """
    CREATE TABLE import(
        name TEXT PRIMARY KEY, state TEXT NOT NULL, folder TEXT NOT NULL);
    CREATE TABLE entry(
        name TEXT NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL,
        size INTEGER NOT NULL, md5 TEXT NOT NULL, before TEXT,
        is_foreign INTEGER NOT NULL DEFAULT 0,
        PRIMARY KEY(name, position))
    """,
)


class State(Enum):
    """How far an import is."""

    IMPORTING = "importing"
    TAKING_BACK = "taking back"
    DROPPED = "dropped"
    """It is taken back, and then its staging area is removed."""


@attrs.define
class Entry:
    """One instance that is added or replaced.

    :ivar position: in its transfer. :ivar md5: of what is sent.
    :ivar before: the MD5 of what was there; None: nothing was.
    :ivar is_foreign: somebody else added it meanwhile: it is never taken back.
    :ivar is_sent: whether Orthanc may have got it, as far as this life knows.
    :ivar is_ours: whether Orthanc said that it stored it. :ivar stored_as: under which identifier.
    """

    position: int
    id: str
    size: int
    md5: str
    before: str | None
    is_foreign: bool = False
    is_sent: bool = False
    is_ours: bool = False
    stored_as: str = ""


@attrs.define
class Record:
    """An import that has not come to its end; ``folder`` is that of its staging area."""

    state: State
    folder: str
    entries: tuple[Entry, ...]

    def kept_path(self, entry: Entry) -> str:
        """The file that was there, while it is being replaced."""
        return os.path.join(self.folder, f"{entry.position}.before")


class ImportJournal:
    """See the module."""

    def __init__(self, path: str) -> None:
        self._database = Database(path, _MIGRATIONS)

    def open(self) -> None:
        """Open or make the file.

        :raises StorageFailure: it cannot be opened.
        """
        self._database.open()

    def close(self) -> None:
        """Close it."""
        self._database.close()

    def begin(self, name: str, folder: str, entries: Sequence[Entry]) -> None:
        """Note what is about to be imported; it is on the disk when this returns."""

        def write(db: sqlite3.Connection) -> None:
            db.execute(
                "INSERT OR REPLACE INTO import VALUES (?, ?, ?)",
                (name, State.IMPORTING.value, folder),
            )
            db.executemany(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, 0)",
                [(name, e.position, e.id, e.size, e.md5, e.before) for e in entries],
            )

        self._database.write(write)

    def set_state(self, name: str, state: State) -> None:
        """Note what is to be done with it."""
        self._database.write(
            lambda db: db.execute("UPDATE import SET state = ? WHERE name = ?", (state.value, name))
        )

    def set_foreign(self, name: str, positions: Iterable[int]) -> None:
        """Somebody else has added these meanwhile."""
        rows = [(name, position) for position in positions]
        self._database.write(
            lambda db: db.executemany(
                "UPDATE entry SET is_foreign = 1 WHERE name = ? AND position = ?", rows
            )
        )

    def end(self, name: str) -> None:
        """It is complete, or taken back."""

        def write(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM entry WHERE name = ?", (name,))
            db.execute("DELETE FROM import WHERE name = ?", (name,))

        self._database.write(write)

    def names(self) -> tuple[str, ...]:
        """The imports that have not come to their end."""
        return self._database.read(
            lambda db: tuple(name for (name,) in db.execute("SELECT name FROM import"))
        )

    def find(self, name: str) -> Record | None:
        """One of them; what it may have sent counts as sent."""

        def read(db: sqlite3.Connection) -> Record | None:
            found = db.execute(
                "SELECT state, folder FROM import WHERE name = ?", (name,)
            ).fetchone()
            if found is None:
                return None
            rows = db.execute(
                "SELECT position, id, size, md5, before, is_foreign FROM entry"
                " WHERE name = ? ORDER BY position",
                (name,),
            )
            entries = [
                Entry(position, id_, size, md5, before, bool(is_foreign), is_sent=True)
                for position, id_, size, md5, before, is_foreign in rows
            ]
            return Record(State(found[0]), found[1], tuple(entries))

        return self._database.read(read)
