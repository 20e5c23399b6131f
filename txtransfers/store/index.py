"""The SQL of the embedded store: resources, files, changes. Blocking functions on a connection.

Tables: ``any_resource`` is the DICOM tree (patients have no parent), ``file`` the file of an
instance, ``folder`` where files live, ``change`` the history, ``garbage`` files that are to be
unlinked, ``committed`` the reports of commits. A folder that is ``open`` may hold files that no row
names: at start they are removed, unless they are staged. So a crash at any instant leaves either
all of a transaction or nothing: the one SQL transaction decides.

``resource`` is the view of what is shown: a large transaction is inserted in steps, as a ``hidden``
batch (``batches.py``). Whoever reads asks ``resource``, whoever writes ``any_resource``.
An identifier is unique in its level only: a PatientID that has ``|`` in it can lead to the
identifier of somebody's instance.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from ..errors import UnknownResource
from ..wire.messages import Level, Resource
from ..wire.plan import Instance
from .dicom import Header
from .interfaces import Outcome

MIGRATIONS = (
    """
    CREATE TABLE folder(
        id INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, open INTEGER NOT NULL);
    CREATE TABLE resource(
        id INTEGER PRIMARY KEY, level INTEGER NOT NULL, public_id TEXT NOT NULL,
        parent INTEGER REFERENCES resource(id), uid TEXT NOT NULL, tags TEXT NOT NULL,
        updated TEXT NOT NULL, UNIQUE(public_id, level));
    CREATE INDEX resource_parent ON resource(parent);
    CREATE INDEX resource_level ON resource(level, id);
    CREATE INDEX resource_uid ON resource(uid);
    CREATE TABLE file(
        resource INTEGER PRIMARY KEY REFERENCES resource(id),
        folder INTEGER NOT NULL REFERENCES folder(id), name TEXT NOT NULL, size INTEGER NOT NULL,
        md5 TEXT NOT NULL, transfer_syntax TEXT NOT NULL, sop_class TEXT NOT NULL);
    CREATE INDEX file_folder ON file(folder);
    CREATE TABLE garbage(path TEXT PRIMARY KEY);
    CREATE TABLE change(
        seq INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, level INTEGER NOT NULL,
        public_id TEXT NOT NULL, date TEXT NOT NULL);
    CREATE TABLE property(name TEXT PRIMARY KEY, value TEXT NOT NULL);
    INSERT INTO property VALUES ('identifier', lower(hex(randomblob(16))))
    """,
    """
    CREATE TABLE any_resource(
        id INTEGER PRIMARY KEY, level INTEGER NOT NULL, public_id TEXT NOT NULL,
        parent INTEGER, uid TEXT NOT NULL, tags TEXT NOT NULL,
        updated TEXT NOT NULL, batch INTEGER NOT NULL DEFAULT 0);
    INSERT INTO any_resource SELECT *, 0 FROM resource;
    CREATE TABLE any_file(
        resource INTEGER PRIMARY KEY, folder INTEGER NOT NULL REFERENCES folder(id),
        name TEXT NOT NULL, size INTEGER NOT NULL, md5 TEXT NOT NULL,
        transfer_syntax TEXT NOT NULL, sop_class TEXT NOT NULL);
    INSERT INTO any_file SELECT * FROM file;
    DROP TABLE file;
    ALTER TABLE any_file RENAME TO file;
    DROP TABLE resource;
    CREATE INDEX file_folder ON file(folder);
    CREATE INDEX resource_id ON any_resource(public_id, level, batch);
    CREATE INDEX resource_parent ON any_resource(parent);
    CREATE INDEX resource_level ON any_resource(level, id, batch);
    CREATE INDEX resource_uid ON any_resource(uid);
    CREATE TABLE hidden(batch INTEGER PRIMARY KEY AUTOINCREMENT);
    CREATE VIEW resource AS
        SELECT id, level, public_id, parent, uid, tags, updated, batch FROM any_resource
        WHERE batch NOT IN (SELECT batch FROM hidden);
    CREATE TABLE committed(name TEXT PRIMARY KEY, time REAL NOT NULL, report TEXT NOT NULL)
    """,
)

LEVELS = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE)
LEVEL_NUMBER = {level: number for number, level in enumerate(LEVELS)}
INSTANCE = LEVEL_NUMBER[Level.INSTANCE]

NO_BATCH = 0
"""What is inserted in one transaction belongs to no batch."""

DESCENDANTS = """
    WITH RECURSIVE tree(id) AS (
        SELECT ? UNION ALL SELECT r.id FROM resource r JOIN tree ON r.parent = tree.id)
"""


@attrs.frozen
class Row:
    """A staged file that is to be shown: what the index keeps of it.

    ``tags`` is the instance's own level as JSON; ``parents`` is shared by a whole series.
    """

    folder: int
    name: str
    size: int
    md5: str
    id: str
    uid: str
    tags: str
    transfer_syntax: str
    sop_class: str
    parents: "Parents"


@attrs.frozen
class Parents:
    """Patient, study and series of an instance: (identifier, DICOM identifier, tags as JSON)."""

    chain: tuple[tuple[str, str, str], ...]


class RowMaker:
    """Headers -> rows, with one :class:`Parents` a series however many instances it has."""

    def __init__(self) -> None:
        self._parents: dict[str, Parents] = {}

    def row(self, header: Header, folder: int, name: str, size: int, md5: str) -> Row:
        """The row of the file ``name`` in ``folder``."""
        parents = self._parents.get(header.ids.series)
        if parents is None:
            ids, dicom, tags = header.ids, header.dicom, header.tags
            parents = self._parents[ids.series] = Parents(
                (
                    (ids.patient, dicom.patient_id, json.dumps(tags[Level.PATIENT])),
                    (ids.study, dicom.study, json.dumps(tags[Level.STUDY])),
                    (ids.series, dicom.series, json.dumps(tags[Level.SERIES])),
                )
            )
        return Row(
            folder,
            name,
            size,
            md5,
            header.ids.instance,
            header.dicom.instance,
            json.dumps(header.tags[Level.INSTANCE]),
            header.transfer_syntax,
            header.sop_class,
            parents,
        )


def now() -> str:
    """The time as Orthanc writes it in its index: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%S")


def add_folder(db: sqlite3.Connection, path: str) -> int:
    """Register a folder, open."""
    row = db.execute("INSERT INTO folder(path, open) VALUES (?, 1)", (path,))
    assert row.lastrowid is not None
    return row.lastrowid


def close_folder(db: sqlite3.Connection, folder: int) -> None:
    """No file without a row is in the folder any more; a folder without files is forgotten."""
    db.execute("UPDATE folder SET open = 0 WHERE id = ?", (folder,))
    db.execute(
        "DELETE FROM folder WHERE id = ? AND NOT EXISTS (SELECT 1 FROM file WHERE folder = ?)",
        (folder, folder),
    )


def insert(db: sqlite3.Connection, rows: Sequence[Row], overwrite: bool) -> tuple[Outcome, ...]:
    """Show files. Those whose instance is there already are garbage, or replace it.

    :param overwrite: replace (``OverwriteInstances``).
    """
    date = now()
    changes: list[tuple[str, int, str, str]] = []
    chains: dict[Parents, int] = {}
    outcomes: list[Outcome] = []
    seen: set[str] = set()
    for row in rows:
        known = find_shown(db, row.id)
        outcome = outcome_of(row, known, overwrite and row.id not in seen)
        outcomes.append(outcome)
        seen.add(row.id)
        if known is None:
            if row.parents not in chains:
                chains[row.parents] = _ensure_parents(db, row.parents, date, changes)
            add_instance(db, row, chains[row.parents], date)
            changes.append(("NewInstance", INSTANCE, row.id, date))
        elif outcome is Outcome.REPLACED:
            _replace(db, known[0], row, date)
            changes.append(("UpdatedInstance", INSTANCE, row.id, date))
        else:
            throw_away(db, row.folder, row.name)
    add_changes(db, changes)
    return tuple(outcomes)


def find_shown(db: sqlite3.Connection, public_id: str) -> tuple[int, str] | None:
    """The row and the MD5 of an instance that is shown."""
    found: tuple[int, str] | None = db.execute(
        "SELECT r.id, f.md5 FROM resource r JOIN file f ON f.resource = r.id"
        " WHERE r.public_id = ? AND r.level = ?",
        (public_id, INSTANCE),
    ).fetchone()
    return found


def outcome_of(row: Row, known: tuple[int, str] | None, overwrite: bool) -> Outcome:
    """What becomes of a file whose instance is there as ``known``, or is not."""
    if known is None:
        return Outcome.STORED
    if overwrite:
        return Outcome.REPLACED
    return Outcome.ALREADY_STORED if known[1] == row.md5 else Outcome.DIFFERENT


def add_instance(
    db: sqlite3.Connection, row: Row, parent: int, date: str, batch: int = NO_BATCH
) -> None:
    """Insert an instance that is not there, and its file."""
    resource = add_resource(db, INSTANCE, (row.id, row.uid, row.tags), parent, date, batch)
    db.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", (resource, *_file_values(row)))


def add_resource(
    db: sqlite3.Connection,
    level: int,
    link: tuple[str, str, str],
    parent: int | None,
    date: str,
    batch: int = NO_BATCH,
) -> int:
    """Insert a resource; gives its row. :param link: as in :class:`Parents`."""
    public_id, uid, tags = link
    row = db.execute(
        "INSERT INTO any_resource(level, public_id, parent, uid, tags, updated, batch)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (level, public_id, parent, uid, tags, date, batch),
    ).lastrowid
    assert row is not None
    return row


def find_resource(db: sqlite3.Connection, level: int, public_id: str) -> int | None:
    """The row of a resource that is shown."""
    found = db.execute(
        "SELECT id FROM resource WHERE public_id = ? AND level = ?", (public_id, level)
    ).fetchone()
    return int(found[0]) if found else None


def _file_values(row: Row) -> tuple[Any, ...]:
    return (row.folder, row.name, row.size, row.md5, row.transfer_syntax, row.sop_class)


def _ensure_parents(
    db: sqlite3.Connection, parents: Parents, date: str, changes: list[tuple[str, int, str, str]]
) -> int:
    parent: int | None = None
    for level, link in enumerate(parents.chain):
        found = find_resource(db, level, link[0])
        if found is not None:
            parent = found
            touch(db, parent, date)
            continue
        parent = add_resource(db, level, link, parent, date)
        changes.append((f"New{LEVELS[level].value}", level, link[0], date))
    assert parent is not None
    return parent


def touch(db: sqlite3.Connection, resource: int, date: str) -> None:
    """Something below the resource has changed."""
    db.execute("UPDATE any_resource SET updated = ? WHERE id = ?", (date, resource))


def _replace(db: sqlite3.Connection, resource: int, row: Row, date: str) -> None:
    throw_away_file(db, resource)
    db.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", (resource, *_file_values(row)))
    db.execute(
        "UPDATE any_resource SET tags = ?, updated = ? WHERE id = ?", (row.tags, date, resource)
    )


def throw_away_file(db: sqlite3.Connection, resource: int) -> None:
    """An instance's file is garbage, and its row gone."""
    folder, name = db.execute(
        "SELECT folder, name FROM file WHERE resource = ?", (resource,)
    ).fetchone()
    throw_away(db, folder, name)
    db.execute("DELETE FROM file WHERE resource = ?", (resource,))


def throw_away(db: sqlite3.Connection, folder: int, name: str) -> None:
    """A file is garbage."""
    db.execute(
        "INSERT OR IGNORE INTO garbage SELECT path || '/' || ? FROM folder WHERE id = ?",
        (name, folder),
    )


def add_changes(db: sqlite3.Connection, changes: Iterable[tuple[str, int, str, str]]) -> None:
    """Append to the history: type, level, identifier, date."""
    db.executemany("INSERT INTO change(type, level, public_id, date) VALUES (?, ?, ?, ?)", changes)


def add_report(db: sqlite3.Connection, name: str, time: float, report: str) -> None:
    """A commit has ended well: remember that it did (:meth:`CommitReport.to_text`)."""
    db.execute("INSERT INTO committed VALUES (?, ?, ?)", (name, time, report))


def forget_reports(db: sqlite3.Connection, before: float) -> None:
    """Forget the reports of commits that ended before a time (seconds since the epoch)."""
    db.execute("DELETE FROM committed WHERE time < ?", (before,))


def held(db: sqlite3.Connection, instances: Iterable[Instance]) -> tuple[int, ...]:
    """The positions of those of ``instances`` that are shown, with the same content."""
    return tuple(
        position
        for position, instance in enumerate(instances)
        if (found := find_shown(db, instance.id)) is not None and found[1] == instance.md5
    )


def total_size(db: sqlite3.Connection) -> int:
    """Bytes of all files that are shown."""
    (size,) = db.execute(
        "SELECT coalesce(sum(f.size), 0) FROM file f JOIN resource r ON r.id = f.resource"
    ).fetchone()
    return int(size)


def find_report(db: sqlite3.Connection, name: str) -> str | None:
    """The report of a commit that ended well."""
    found = db.execute("SELECT report FROM committed WHERE name = ?", (name,)).fetchone()
    return str(found[0]) if found else None


def resource_row(db: sqlite3.Connection, level: Level, public_id: str) -> int:
    """The row of a resource.

    :raises UnknownResource: it is not there at that level.
    """
    found = find_resource(db, LEVEL_NUMBER[level], public_id)
    if found is None:
        raise UnknownResource(f"Unknown {level.value.lower()}: {public_id[:100]}")
    return found


def lookup(db: sqlite3.Connection, resources: Iterable[Resource]) -> tuple[Instance, ...]:
    """See :meth:`IInstanceStore.lookup`."""
    found: dict[str, Instance] = {}
    for resource in dict.fromkeys(resources):
        row = resource_row(db, resource.level, resource.id)
        for id_, size, md5 in db.execute(
            f"{DESCENDANTS} SELECT r.public_id, f.size, f.md5 FROM tree"
            " JOIN file f ON f.resource = tree.id JOIN resource r ON r.id = tree.id",
            (row,),
        ):
            found[id_] = Instance(id_, size, md5)
    return tuple(found[id_] for id_ in sorted(found))


def find_files(db: sqlite3.Connection, ids: Iterable[str]) -> dict[str, tuple[Instance, str]]:
    """Those of ``ids`` that are instances: what travels, and the file's path in the storage."""
    result = {}
    for id_ in ids:
        row = db.execute(
            "SELECT f.size, f.md5, d.path, f.name FROM resource r JOIN file f ON f.resource = r.id"
            " JOIN folder d ON d.id = f.folder WHERE r.public_id = ?",
            (id_,),
        ).fetchone()
        if row:
            result[id_] = (Instance(id_, row[0], row[1]), f"{row[2]}/{row[3]}")
    return result


def delete(db: sqlite3.Connection, level: Level, public_id: str) -> tuple[Level, str] | None:
    """Forget a resource, all below it, and parents that become empty; the files are garbage."""
    row = resource_row(db, level, public_id)
    date = now()
    db.execute("CREATE TEMP TABLE IF NOT EXISTS doomed(id INTEGER PRIMARY KEY)")
    db.execute("DELETE FROM doomed")
    db.execute(f"INSERT INTO doomed SELECT * FROM ({DESCENDANTS} SELECT id FROM tree)", (row,))
    remaining: tuple[Level, str] | None = None
    parent = db.execute("SELECT parent FROM resource WHERE id = ?", (row,)).fetchone()[0]
    while parent is not None:
        children = db.execute(
            "SELECT 1 FROM resource WHERE parent = ? AND id NOT IN (SELECT id FROM doomed)",
            (parent,),
        ).fetchone()
        up, number, name = db.execute(
            "SELECT parent, level, public_id FROM resource WHERE id = ?", (parent,)
        ).fetchone()
        if children:
            remaining = (LEVELS[number], name)
            break
        db.execute("INSERT INTO doomed VALUES (?)", (parent,))
        parent = up
    db.execute(
        "INSERT OR IGNORE INTO garbage SELECT d.path || '/' || f.name FROM file f"
        " JOIN folder d ON d.id = f.folder WHERE f.resource IN (SELECT id FROM doomed)"
    )
    db.execute(
        "INSERT INTO change(type, level, public_id, date)"
        " SELECT 'Deleted', level, public_id, ? FROM resource WHERE id IN (SELECT id FROM doomed)"
        " ORDER BY level DESC",
        (date,),
    )
    db.execute("DELETE FROM file WHERE resource IN (SELECT id FROM doomed)")
    for number in range(INSTANCE, -1, -1):  # children before parents
        db.execute(
            "DELETE FROM any_resource WHERE level = ? AND id IN (SELECT id FROM doomed)", (number,)
        )
    return remaining


def take_garbage(db: sqlite3.Connection) -> list[str]:
    """Paths in the storage of files that no row names any more."""
    return [path for (path,) in db.execute("SELECT path FROM garbage")]


def forget_garbage(db: sqlite3.Connection, paths: Iterable[str]) -> list[str]:
    """The files are gone. Tells the folders that are closed and empty, forgotten now too."""
    db.executemany("DELETE FROM garbage WHERE path = ?", [(path,) for path in paths])
    folders = {os.path.dirname(path) for path in paths}
    db.executemany(
        "DELETE FROM folder WHERE path = ? AND NOT open AND NOT EXISTS"
        " (SELECT 1 FROM file WHERE folder = folder.id)",
        [(folder,) for folder in folders],
    )
    return [
        folder
        for folder in folders
        if not db.execute("SELECT 1 FROM folder WHERE path = ?", (folder,)).fetchone()
    ]
