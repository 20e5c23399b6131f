"""The archive of the embedded store: what Orthanc's REST API shows (protocol, section 7).

Reads come from the index alone, but for :meth:`EmbeddedArchive.all_tags`.
"""

import fnmatch
import json
import re
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from twisted.internet.defer import Deferred
from zope.interface import implementer

from .. import errors
from ..wire.messages import Level
from .embedded import EmbeddedStore
from .index import DESCENDANTS, LEVEL_NUMBER, LEVELS, find_files, resource_row, total_size
from .interfaces import (
    ArchiveStatistics,
    Change,
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

    def search(
        self, level: Level, query: Mapping[str, str], case_sensitive: bool, since: int, limit: int
    ) -> "Deferred[tuple[str, ...]]":
        """See :meth:`IArchive.search`."""
        return self._read(_search, level, query, case_sensitive, since, limit)

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


def _search(
    db: sqlite3.Connection,
    level: Level,
    query: Mapping[str, str],
    case_sensitive: bool,
    since: int,
    limit: int,
) -> tuple[str, ...]:
    patterns = {
        keyword: _pattern(value, case_sensitive, _is_date(keyword))
        for keyword, value in ((_keyword(tag), value) for tag, value in query.items())
        if value
    }
    depth = LEVEL_NUMBER[level]
    joins = "".join(
        f" JOIN resource r{n} ON r{n}.id = r{n + 1}.parent" for n in range(depth - 1, -1, -1)
    )
    columns = ", ".join(f"r{n}.tags" for n in range(depth + 1))
    found: list[str] = []
    skipped = 0
    for id_, *levels in db.execute(
        f"SELECT r{depth}.public_id, {columns} FROM resource r{depth}{joins}"
        f" WHERE r{depth}.level = ? ORDER BY r{depth}.id",
        (depth,),
    ):
        tags: dict[str, str] = {}
        for text in levels:
            tags.update(json.loads(text))
        if all(pattern.match(tags.get(key, "")) for key, pattern in patterns.items()):
            if skipped < since:
                skipped += 1
                continue
            found.append(id_)
            if limit and len(found) == limit:
                break
    return tuple(found)


def _keyword(tag: str) -> str:
    """``0010,0020`` and ``00100020`` are ``PatientID``."""
    digits = tag.replace(",", "")
    if re.fullmatch(r"[0-9A-Fa-f]{8}", digits):
        return keyword_for_tag(int(digits, 16)) or tag
    return tag


def _is_date(keyword: str) -> bool:
    tag = tag_for_keyword(keyword)
    return tag is not None and dictionary_VR(tag) == "DA"


def _pattern(value: str, case_sensitive: bool, is_date: bool) -> "re.Pattern[str]":
    """DICOM's wildcards ``*`` and ``?``, alternatives by backslash, and ranges of dates."""
    span = re.fullmatch(r"(\d{8})?-(\d{8})?", value) if is_date else None
    if span:
        return _DateRange(span[1] or "", span[2] or "99999999")  # type: ignore[return-value]
    choices = (fnmatch.translate(part.replace("[", "[[]")) for part in value.split("\\"))
    return re.compile("|".join(choices), 0 if case_sensitive else re.IGNORECASE)


class _DateRange:
    """Matches texts between two dates, both included, as a compiled pattern would."""

    def __init__(self, first: str, last: str) -> None:
        self._first = first
        self._last = last

    def match(self, text: str) -> bool:
        return bool(text) and self._first <= text <= self._last


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
