"""A large transaction in the index: inserted in short steps, hidden, then shown at once.

One step holds the write lock for some milliseconds, so that other transactions are not kept
waiting; the last (:meth:`Batch.show`) decides. Blocking; one batch at a time, and nothing is
deleted meanwhile (:class:`EmbeddedStore` sees to both). What a crash leaves is removed at the start
(:func:`purge`).
"""

import sqlite3
from collections.abc import Sequence

from . import index
from .index import INSTANCE, LEVELS, Row, find_resource, find_shown
from .interfaces import Outcome


class Batch:
    """One transaction that is being inserted."""

    def __init__(self, overwrite: bool) -> None:
        self._overwrite = overwrite
        self._number = 0
        self._date = index.now()
        self._outcomes: list[Outcome] = []
        self._own: dict[str, int] = {}
        """Instances inserted here -> the place of their outcome."""
        self._replaced: dict[str, None] = {}
        self._hidden_parents: dict[tuple[int, str], int] = {}
        self._shown_parents: set[int] = set()
        self._last_id = 0

    def begin(self, db: sqlite3.Connection) -> None:
        """The first step."""
        self._number = db.execute("INSERT INTO hidden DEFAULT VALUES").lastrowid or 0
        self._last_id = db.execute("SELECT coalesce(max(id), 0) FROM any_resource").fetchone()[0]

    def add(self, db: sqlite3.Connection, rows: Sequence[Row]) -> None:
        """One step: insert ``rows``, hidden; those that are there already are left out."""
        for row in rows:
            if row.id in self._own:
                outcome = index.outcome_of(row, self._find_own(db, row.id), overwrite=False)
            else:
                outcome = index.outcome_of(row, find_shown(db, row.id), self._overwrite)
                if outcome in (Outcome.STORED, Outcome.REPLACED):
                    self._own[row.id] = len(self._outcomes)
                    parent = self._parent(db, row)
                    index.add_instance(db, row, parent, self._date, self._number)
                if outcome is Outcome.REPLACED:
                    self._replaced[row.id] = None
            self._outcomes.append(outcome)

    def _parent(self, db: sqlite3.Connection, row: Row) -> int:
        parent: int | None = None
        for level, link in enumerate(row.parents.chain):
            key = (level, link[0])
            if key not in self._hidden_parents:
                shown = find_resource(db, level, link[0])
                if shown is not None:
                    self._shown_parents.add(shown)
                    parent = shown
                    continue
                self._hidden_parents[key] = index.add_resource(
                    db, level, link, parent, self._date, self._number
                )
            parent = self._hidden_parents[key]
        assert parent is not None
        return parent

    def show(self, db: sqlite3.Connection) -> tuple[Outcome, ...]:
        """The last step: from its transaction on all are seen; gives what became of each row."""
        self._give_way(db)
        self._merge_parents(db)
        for public_id in self._replaced:
            self._replace(db, public_id)
        for parent in self._shown_parents:
            index.touch(db, parent, self._date)
        new = [(f"New{LEVELS[n].value}", n, id_, self._date) for n, id_ in self._hidden_parents]
        index.add_changes(db, new)
        index.add_changes(
            db, [("UpdatedInstance", INSTANCE, id_, self._date) for id_ in self._replaced]
        )
        db.execute(
            "INSERT INTO change(type, level, public_id, date) SELECT ?, level, public_id, ?"
            " FROM any_resource WHERE id > ? AND batch = ? AND level = ? ORDER BY id",
            ("NewInstance", self._date, self._last_id, self._number, INSTANCE),
        )
        db.execute("DELETE FROM hidden WHERE batch = ?", (self._number,))
        return tuple(self._outcomes)

    def _give_way(self, db: sqlite3.Connection) -> None:
        """Instances that others have shown since they were looked for here."""
        for public_id, md5 in db.execute(
            "SELECT r.public_id, f.md5 FROM resource r JOIN file f ON f.resource = r.id"
            " WHERE r.id > ? AND r.level = ? AND r.batch = ?",
            (self._last_id, INSTANCE, index.NO_BATCH),
        ).fetchall():
            place = self._own.get(public_id)
            if place is None:
                continue
            if self._overwrite:
                self._replaced[public_id] = None
                self._outcomes[place] = Outcome.REPLACED
                continue
            own, own_md5 = self._find_own(db, public_id)
            same = md5 == own_md5
            self._outcomes[place] = Outcome.ALREADY_STORED if same else Outcome.DIFFERENT
            index.throw_away_file(db, own)
            db.execute("DELETE FROM any_resource WHERE id = ?", (own,))

    def _find_own(self, db: sqlite3.Connection, public_id: str) -> tuple[int, str]:
        row: tuple[int, str] = db.execute(
            "SELECT r.id, f.md5 FROM any_resource r JOIN file f ON f.resource = r.id"
            " WHERE r.public_id = ? AND r.level = ? AND r.batch = ?",
            (public_id, INSTANCE, self._number),
        ).fetchone()
        return row

    def _merge_parents(self, db: sqlite3.Connection) -> None:
        """Patients, studies and series that others have shown since."""
        for (level, public_id), own in reversed(list(self._hidden_parents.items())):
            shown = find_resource(db, level, public_id)
            children = db.execute("SELECT 1 FROM any_resource WHERE parent = ?", (own,)).fetchone()
            if shown is None and children is not None:
                continue
            if shown is not None:
                db.execute("UPDATE any_resource SET parent = ? WHERE parent = ?", (shown, own))
                self._shown_parents.add(shown)
            db.execute("DELETE FROM any_resource WHERE id = ?", (own,))
            del self._hidden_parents[level, public_id]

    def _replace(self, db: sqlite3.Connection, public_id: str) -> None:
        """What is shown keeps its row, and gets our file and tags."""
        own, _md5 = self._find_own(db, public_id)
        shown = find_shown(db, public_id)
        assert shown is not None
        index.throw_away_file(db, shown[0])
        db.execute("UPDATE file SET resource = ? WHERE resource = ?", (shown[0], own))
        db.execute(
            "UPDATE any_resource SET updated = ?,"
            " tags = (SELECT tags FROM any_resource WHERE id = ?) WHERE id = ?",
            (self._date, own, shown[0]),
        )
        db.execute("DELETE FROM any_resource WHERE id = ?", (own,))


def purge(db: sqlite3.Connection) -> None:
    """Undo what is hidden: a commit that failed, or that a crash ended before it was shown."""
    if db.execute("SELECT 1 FROM hidden").fetchone() is None:
        return
    doomed = "SELECT id FROM any_resource WHERE batch IN (SELECT batch FROM hidden)"
    db.execute(f"DELETE FROM file WHERE resource IN ({doomed})")
    db.execute("DELETE FROM any_resource WHERE batch IN (SELECT batch FROM hidden)")
    db.execute("DELETE FROM hidden")
