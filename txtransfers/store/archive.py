"""The archive of the embedded store: what Orthanc's REST API shows (protocol, section 7).

Reads come from the index alone, but for :meth:`EmbeddedArchive.all_tags`.
"""

import json
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from .. import errors
from ..wire.messages import Level
from . import finding
from .embedded import EmbeddedStore
from .index import DESCENDANTS, LEVEL_NUMBER, LEVELS, find_files, resource_row, total_size
from .interfaces import (
    ArchiveStatistics,
    Change,
    Find,
    IArchive,
    IUpload,
    ResourceDetails,
)
from .tags import read_tags
from .upload import EmbeddedUpload, UploadFolder

_IDS_AT_ONCE = 500


@implementer(IArchive)
class EmbeddedArchive:
    """See :class:`IArchive`."""

    def __init__(self, store: EmbeddedStore) -> None:
        """:param store: has been started."""
        self._store = store
        self._uploads = UploadFolder(store)
        self.identifier = str(store.database.read(_identifier))

    def upload(self) -> IUpload:
        """See :meth:`IArchive.upload`."""
        return EmbeddedUpload(self._store, self._uploads)

    def _read(self, function: Any, *args: Any) -> "Deferred[Any]":
        return self._store.threads.run(self._store.database.read, lambda db: function(db, *args))

    def list_ids(self, level: Level, since: int, limit: int) -> "Deferred[tuple[str, ...]]":
        """See :meth:`IArchive.list_ids`."""
        return self._read(_list_ids, level, since, limit)

    def details(self, level: Level, id_: str) -> "Deferred[ResourceDetails]":
        """See :meth:`IArchive.details`."""
        return self._read(_details, level, id_)

    def descendants(self, level: Level, id_: str, wanted: Level) -> "Deferred[tuple[str, ...]]":
        """See :meth:`IArchive.descendants`."""
        return self._read(_descendants, level, id_, wanted)

    def studies_of(self, instances: Sequence[str]) -> "Deferred[tuple[str, ...]]":
        """See :meth:`IArchive.studies_of`."""
        return self._read(_studies_of, instances)

    def statistics(self, level: Level | None, id_: str) -> "Deferred[ArchiveStatistics]":
        """See :meth:`IArchive.statistics`."""
        return self._read(_statistics, level, id_)

    def delete(self, level: Level, id_: str) -> "Deferred[tuple[Level, str] | None]":
        """See :meth:`IArchive.delete`."""
        return self._store.threads.run(self._store.delete, level, id_)

    def all_tags(self, id_: str) -> "Deferred[dict[str, Any]]":
        """See :meth:`IArchive.all_tags`."""
        return self._store.threads.run(self._all_tags, id_)

    def _all_tags(self, id_: str) -> dict[str, Any]:
        found = self._store.database.read(lambda db: find_files(db, [id_]))
        if id_ not in found:
            raise errors.UnknownResource(f"Unknown instance: {id_[:100]}")
        try:
            with open(self._store.path(found[id_][1]), "rb") as file:
                return read_tags(file, found[id_][0].size)
        except Exception as error:  # pydicom raises whatever a broken file leads it to
            raise errors.BadDicom(f"The tags of instance {id_} cannot be read: {error}") from error

    def lookup_dicom(self, identifier: str) -> "Deferred[tuple[tuple[Level, str], ...]]":
        """See :meth:`IArchive.lookup_dicom`."""
        return self._read(_lookup_dicom, identifier)

    def find(self, wanted: Find) -> "Deferred[tuple[str, ...]]":
        """See :meth:`IArchive.find`."""
        return self._read(finding.find, wanted)

    def count(self, wanted: Find) -> "Deferred[int]":
        """See :meth:`IArchive.count`."""
        return self._read(finding.count, wanted)

    def describe(
        self, level: Level, ids: Sequence[str], more: bool = False
    ) -> "Deferred[tuple[ResourceDetails, ...]]":
        """See :meth:`IArchive.describe`."""
        return self._read(_describe, level, ids, more)

    def changes(self, since: int, limit: int) -> "Deferred[tuple[tuple[Change, ...], bool, int]]":
        """See :meth:`IArchive.changes`."""
        return self._read(_changes, since, limit)


def _identifier(db: sqlite3.Connection) -> Any:
    return db.execute("SELECT value FROM property WHERE name = 'identifier'").fetchone()[0]


def _list_ids(db: sqlite3.Connection, level: Level, since: int, limit: int) -> tuple[str, ...]:
    rows = db.execute(
        "SELECT public_id FROM resource WHERE level = ? ORDER BY id LIMIT ? OFFSET ?",
        (LEVEL_NUMBER[level], limit or -1, since),
    )
    return tuple(id_ for (id_,) in rows)


def _studies_of(db: sqlite3.Connection, instances: Sequence[str]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for start in range(0, len(instances), _IDS_AT_ONCE):
        ids = instances[start : start + _IDS_AT_ONCE]
        rows = db.execute(
            "SELECT DISTINCT study.public_id FROM resource instance"
            " JOIN resource series ON series.id = instance.parent"
            " JOIN resource study ON study.id = series.parent"
            f" WHERE instance.level = ? AND instance.public_id IN ({','.join('?' * len(ids))})",
            (LEVEL_NUMBER[Level.INSTANCE], *ids),
        )
        found.update((id_, None) for (id_,) in rows)
    return tuple(found)


def _details(db: sqlite3.Connection, level: Level, id_: str) -> ResourceDetails:
    row = resource_row(db, level, id_)
    tags, updated, parent = db.execute(
        "SELECT tags, updated, parent FROM resource WHERE id = ?", (row,)
    ).fetchone()
    above = db.execute("SELECT public_id, tags FROM resource WHERE id = ?", (parent,)).fetchone()
    children = db.execute("SELECT public_id FROM resource WHERE parent = ? ORDER BY id", (row,))
    file = db.execute(
        "SELECT f.size, f.md5, d.path || '-' || f.name FROM file f"
        " JOIN folder d ON d.id = f.folder WHERE f.resource = ?",
        (row,),
    ).fetchone()
    own = json.loads(tags)
    number = own.get("InstanceNumber", "") if level is Level.INSTANCE else ""
    return ResourceDetails(
        id=id_,
        level=level,
        tags=own,
        parent=above[0] if above else None,
        parent_tags=json.loads(above[1]) if above else {},
        children=tuple(child for (child,) in children),
        last_update=updated,
        size=file[0] if file else 0,
        md5=file[1] if file else "",
        uuid=file[2] if file else "",
        index=int(number) if re.fullmatch(r"\s*\d{1,9}\s*", number) else None,
    )


def _describe(
    db: sqlite3.Connection, level: Level, ids: Sequence[str], more: bool
) -> tuple[ResourceDetails, ...]:
    found = []
    for id_ in ids:
        try:
            details = _details(db, level, id_)
            found.append(_with_more(db, details) if more else details)
        except errors.UnknownResource:
            continue
    return tuple(found)


def _with_more(db: sqlite3.Connection, details: ResourceDetails) -> ResourceDetails:
    row = resource_row(db, details.level, details.id)
    parent = db.execute("SELECT parent FROM resource WHERE id = ?", (row,)).fetchone()[0]
    return attrs.evolve(
        details,
        inherited=finding.inherited(db, parent),
        modalities=finding.modalities(db, row) if details.level is Level.STUDY else "",
        statistics=_statistics(db, details.level, details.id),
    )


def _descendants(db: sqlite3.Connection, level: Level, id_: str, wanted: Level) -> tuple[str, ...]:
    rows = db.execute(
        f"{DESCENDANTS} SELECT r.public_id FROM tree JOIN resource r ON r.id = tree.id"
        " WHERE r.level = ? ORDER BY r.id",
        (resource_row(db, level, id_), LEVEL_NUMBER[wanted]),
    )
    return tuple(id_ for (id_,) in rows)


def _statistics(db: sqlite3.Connection, level: Level | None, id_: str) -> ArchiveStatistics:
    if level is None:
        counts = dict(db.execute("SELECT level, count(*) FROM resource GROUP BY level"))
        size = total_size(db)
    else:
        row = resource_row(db, level, id_)
        counts = dict(
            db.execute(
                f"{DESCENDANTS} SELECT r.level, count(*) FROM tree"
                " JOIN resource r ON r.id = tree.id GROUP BY r.level",
                (row,),
            )
        )
        size = db.execute(
            f"{DESCENDANTS} SELECT coalesce(sum(f.size), 0) FROM tree"
            " JOIN file f ON f.resource = tree.id",
            (row,),
        ).fetchone()[0]
    patients, studies, series, instances = (counts.get(n, 0) for n in range(len(LEVELS)))
    return ArchiveStatistics(patients, studies, series, instances, size)


def _lookup_dicom(db: sqlite3.Connection, identifier: str) -> tuple[tuple[Level, str], ...]:
    rows = db.execute(
        "SELECT level, public_id FROM resource WHERE uid = ? ORDER BY level, id", (identifier,)
    )
    return tuple((LEVELS[level], id_) for level, id_ in rows)


def _changes(
    db: sqlite3.Connection, since: int, limit: int
) -> tuple[tuple[Change, ...], bool, int]:
    rows = db.execute(
        "SELECT seq, type, level, public_id, date FROM change WHERE seq > ? ORDER BY seq LIMIT ?",
        (since, limit + 1),
    ).fetchall()
    done = len(rows) <= limit
    lines = tuple(Change(s, t, LEVELS[level], id_, d) for s, t, level, id_, d in rows[:limit])
    last = lines[-1].seq if lines else since
    return lines, done, last
