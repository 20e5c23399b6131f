"""The SQL of the embedded store: resources, files, changes. Blocking functions on a connection.

Tables: ``resource`` is the DICOM tree (patients have no parent), ``file`` the file of an instance,
``folder`` where files live, ``change`` the history, ``garbage`` files that are to be unlinked.
A folder that is ``open`` may hold files that no row names: at start they are removed. So a crash at
any instant leaves either all of a transaction or nothing: the one SQL transaction decides.
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
from .interfaces import CommitReport

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
)

LEVELS = (Level.PATIENT, Level.STUDY, Level.SERIES, Level.INSTANCE)
LEVEL_NUMBER = {level: number for number, level in enumerate(LEVELS)}
_INSTANCE = LEVEL_NUMBER[Level.INSTANCE]

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


def insert(db: sqlite3.Connection, rows: Sequence[Row], overwrite: bool) -> CommitReport:
    """Show files. Those whose instance is there already are garbage, or replace it.

    :param overwrite: replace (``OverwriteInstances``).
    """
    date = now()
    changes: list[tuple[str, int, str, str]] = []
    known = _instances(db, rows)
    chains = {row.parents for row in rows if row.id not in known}
    series = {parents: _ensure_parents(db, parents, date, changes) for parents in chains}
    resources: list[tuple[Any, ...]] = []
    files: list[tuple[Any, ...]] = []
    stored: dict[str, None] = {}
    already: list[str] = []
    next_id = db.execute("SELECT coalesce(max(id), 0) + 1 FROM resource").fetchone()[0]
    for row in rows:
        if row.id in stored or (row.id in known and not overwrite):
            _throw_away(db, row.folder, row.name)
            already.append(row.id)
            continue
        stored[row.id] = None
        if row.id in known:
            _replace(db, known[row.id], row, date)
            changes.append(("UpdatedInstance", _INSTANCE, row.id, date))
            continue
        resources.append((next_id, _INSTANCE, row.id, series[row.parents], row.uid, row.tags, date))
        files.append((next_id, *_file_values(row)))
        changes.append(("NewInstance", _INSTANCE, row.id, date))
        next_id += 1
    db.executemany("INSERT INTO resource VALUES (?, ?, ?, ?, ?, ?, ?)", resources)
    db.executemany("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", files)
    _add_changes(db, changes)
    return CommitReport(tuple(stored), tuple(already))


def _instances(db: sqlite3.Connection, rows: Iterable[Row]) -> dict[str, int]:
    known: dict[str, int] = {}
    for row in rows:
        found = _find(db, _INSTANCE, row.id)
        if found:
            known[row.id] = found
    return known


def _find(db: sqlite3.Connection, level: int, public_id: str) -> int | None:
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
    for level, (public_id, uid, tags) in enumerate(parents.chain):
        found = _find(db, level, public_id)
        if found is not None:
            parent = found
            db.execute("UPDATE resource SET updated = ? WHERE id = ?", (date, parent))
            continue
        parent = db.execute(
            "INSERT INTO resource(level, public_id, parent, uid, tags, updated)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (level, public_id, parent, uid, tags, date),
        ).lastrowid
        changes.append((f"New{LEVELS[level].value}", level, public_id, date))
    assert parent is not None
    return parent


def _replace(db: sqlite3.Connection, resource: int, row: Row, date: str) -> None:
    folder, name = db.execute(
        "SELECT folder, name FROM file WHERE resource = ?", (resource,)
    ).fetchone()
    _throw_away(db, folder, name)
    db.execute("DELETE FROM file WHERE resource = ?", (resource,))
    db.execute("INSERT INTO file VALUES (?, ?, ?, ?, ?, ?, ?)", (resource, *_file_values(row)))
    db.execute("UPDATE resource SET tags = ?, updated = ? WHERE id = ?", (row.tags, date, resource))


def _throw_away(db: sqlite3.Connection, folder: int, name: str) -> None:
    db.execute(
        "INSERT OR IGNORE INTO garbage SELECT path || '/' || ? FROM folder WHERE id = ?",
        (name, folder),
    )


def _add_changes(db: sqlite3.Connection, changes: Iterable[tuple[str, int, str, str]]) -> None:
    db.executemany("INSERT INTO change(type, level, public_id, date) VALUES (?, ?, ?, ?)", changes)


def resource_row(db: sqlite3.Connection, level: Level, public_id: str) -> int:
    """The row of a resource.

    :raises UnknownResource: it is not there at that level.
    """
    found = _find(db, LEVEL_NUMBER[level], public_id)
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
    for number in range(_INSTANCE, -1, -1):  # children before parents
        db.execute(
            "DELETE FROM resource WHERE level = ? AND id IN (SELECT id FROM doomed)", (number,)
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
