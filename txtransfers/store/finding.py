"""What matches a query, in which order: the SQL of ``/tools/find``. Blocking, on a connection.

SQLite passes over what cannot match (:func:`_pieces`), without Python's lock, and sorts; a pattern
decides of the rest. So it answers at once for 100,000 studies too: ``python -m bench.archive``.
"""

import fnmatch
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from typing import Any

import attrs
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword

from .dicom import MAIN_TAGS
from .index import LEVEL_NUMBER, LEVELS, resource_row
from .interfaces import MODALITIES, Find, Order, SortKey

_STUDY, _SERIES = 1, 2
_KEYWORDS = [{str(keyword_for_tag(tag)) for tag in MAIN_TAGS[level]} for level in LEVELS]

_COLUMNS = {SortKey.LAST_UPDATE: "updated", SortKey.RECEPTION: "id"}
_CASTS = {SortKey.TAG_AS_INT: "INTEGER", SortKey.TAG_AS_FLOAT: "REAL"}
_MODALITIES = (
    "(SELECT group_concat(DISTINCT json_extract(s.tags, '$.Modality')) FROM resource s"
    f" WHERE s.parent = r{_STUDY}.id)"
)

_NOT_IN_ALL_WRITINGS = re.compile(r'[^ -~]|["\\%_]')
_NOR_IN_ALL_CASES = re.compile(r'[^ -~]|["\\%_iksIKS]')
"""Characters that JSON may write otherwise, that LIKE has a use for, or (without regard to case)
that equal one that is not ASCII, such as K and the sign for Kelvin."""

_ENOUGH = 4
"""Texts of a pattern that SQLite is to look for."""

_LONGEST = 100
"""Characters of each; SQLite takes no patterns of any length."""


@attrs.frozen
class _Condition:
    """One member of a query. :ivar value: the SQL of what the pattern is matched with."""

    keyword: str
    pattern: "re.Pattern[str] | _DateRange"
    value: str
    filters: tuple[tuple[str, str], ...]


class _Question:
    """A :class:`Find` as SQL."""

    def __init__(self, db: sqlite3.Connection, wanted: Find) -> None:
        self._depth = LEVEL_NUMBER[wanted.level]
        self._wanted = wanted
        self._top = self._depth
        self._where = [f"r{self._depth}.level = {self._depth}"]
        self._values: list[Any] = []
        if wanted.parent is not None:
            level, id_ = wanted.parent
            self._need(LEVEL_NUMBER[level])
            self._where.append(f"r{LEVEL_NUMBER[level]}.id = ?")
            self._values.append(resource_row(db, level, id_))
        self._conditions = [
            self._condition(keyword_of(tag), text) for tag, text in wanted.query.items() if text
        ]
        for condition in self._conditions:
            for sql, value in condition.filters:
                self._where.append(sql)
                self._values.append(value)
        self._order = self._order_by(wanted.order)

    def ids(self, db: sqlite3.Connection) -> Iterator[str]:
        """All that match, in order; the page is cut here where no pattern has to be asked."""
        cut = (self._wanted.limit or -1, self._wanted.since)
        sql = f"SELECT r{self._depth}.public_id{self._columns()} {self._from()} {self._order}"
        if not self._conditions:
            for (id_,) in db.execute(f"{sql} LIMIT ? OFFSET ?", (*self._values, *cut)):
                yield id_
            return
        found = 0
        for id_, *texts in db.execute(sql, self._values):
            if self._matches(texts):
                found += 1
                if found > self._wanted.since:
                    yield id_
                if self._wanted.limit and found == self._wanted.since + self._wanted.limit:
                    return

    def count(self, db: sqlite3.Connection) -> int:
        """How many match."""
        if not self._conditions:
            return int(db.execute(f"SELECT count(*) {self._from()}", self._values).fetchone()[0])
        rows = db.execute(f"SELECT 0{self._columns()} {self._from()}", self._values)
        return sum(1 for _zero, *texts in rows if self._matches(texts))

    def _need(self, level: int) -> None:
        self._top = min(self._top, level)

    def _from(self) -> str:
        joins = "".join(
            f" JOIN resource r{n} ON r{n}.id = r{n + 1}.parent"
            for n in range(self._depth - 1, self._top - 1, -1)
        )
        return f"FROM resource r{self._depth}{joins} WHERE {' AND '.join(self._where)}"

    def _columns(self) -> str:
        return "".join(f", {condition.value}" for condition in self._conditions)

    def _matches(self, texts: Sequence[str | None]) -> bool:
        for condition, text in zip(self._conditions, texts, strict=True):
            if condition.keyword == MODALITIES:
                if not any(condition.pattern.match(each) for each in (text or "").split(",")):
                    return False
            else:
                tags = json.loads(text) if text else {}
                if not condition.pattern.match(tags.get(condition.keyword, "")):
                    return False
        return True

    def _condition(self, keyword: str, text: str) -> _Condition:
        pattern = _pattern(text, self._wanted.case_sensitive, _is_date(keyword))
        pieces = pattern.literals if isinstance(pattern, _DateRange) else self._literals(text)
        if keyword == MODALITIES and self._depth >= _STUDY:
            self._need(_STUDY)
            sql = f"r{_STUDY}.id IN (SELECT parent FROM resource WHERE level = {_SERIES}"
            filters = tuple((f"{sql} AND tags LIKE ?)", f"%{piece}%") for piece in pieces)
            return _Condition(keyword, pattern, _MODALITIES, filters)
        level = self._level_of(keyword)
        if level is None:
            return _Condition(keyword, pattern, "NULL", ())
        self._need(level)
        column = f"r{level}.tags"
        return _Condition(
            keyword,
            pattern,
            column,
            tuple((f"{column} LIKE ?", f"%{piece}%") for piece in pieces),
        )

    def _literals(self, text: str) -> list[str]:
        """Texts that are in the JSON of whatever matches; none where there are alternatives."""
        if "\\" in text:
            return []
        strange = _NOT_IN_ALL_WRITINGS if self._wanted.case_sensitive else _NOR_IN_ALL_CASES
        pieces = [
            piece[:_LONGEST]
            for part in re.split(r"[*?]", text)
            for piece in strange.split(part)
            if len(piece) > 1
        ]
        return sorted(pieces, key=len)[-_ENOUGH:]

    def _level_of(self, keyword: str) -> int | None:
        """The lowest level, down to the one that is asked for, that has a tag."""
        levels = range(self._depth, -1, -1)
        return next((level for level in levels if keyword in _KEYWORDS[level]), None)

    def _order_by(self, order: Sequence[Order]) -> str:
        terms = []
        for each in order:
            way = "ASC" if each.ascending else "DESC"
            if each.key in _COLUMNS:
                terms.append(f"r{self._depth}.{_COLUMNS[each.key]} {way}")
                continue
            keyword = keyword_of(each.tag)
            level = self._level_of(keyword)
            if level is None:  # nothing has it: no order
                continue
            self._need(level)
            value = f"json_extract(r{level}.tags, '$.{keyword}')"
            if each.key in _CASTS:
                value = f"CAST({value} AS {_CASTS[each.key]})"
            terms.append(f"{value} COLLATE NOCASE {way}")
        last = "DESC" if order and not order[-1].ascending else "ASC"
        return "ORDER BY " + ", ".join([*terms, f"r{self._depth}.id {last}"])


def find(db: sqlite3.Connection, wanted: Find) -> tuple[str, ...]:
    """See :meth:`IArchive.find`."""
    return tuple(_Question(db, wanted).ids(db))


def count(db: sqlite3.Connection, wanted: Find) -> int:
    """See :meth:`IArchive.count`."""
    return _Question(db, wanted).count(db)


def keyword_of(tag: str) -> str:
    """``0010,0020`` and ``00100020`` are ``PatientID``."""
    digits = tag.replace(",", "")
    if re.fullmatch(r"[0-9A-Fa-f]{8}", digits):
        return keyword_for_tag(int(digits, 16)) or tag
    return tag


def _is_date(keyword: str) -> bool:
    tag = tag_for_keyword(keyword)
    return tag is not None and dictionary_VR(tag) == "DA"


def _pattern(value: str, case_sensitive: bool, is_date: bool) -> "re.Pattern[str] | _DateRange":
    """DICOM's wildcards ``*`` and ``?``, alternatives by backslash, and ranges of dates."""
    span = re.fullmatch(r"(\d{8})?-(\d{8})?", value) if is_date else None
    if span:
        return _DateRange(span[1] or "", span[2] or "99999999")
    choices = (fnmatch.translate(part.replace("[", "[[]")) for part in value.split("\\"))
    return re.compile("|".join(choices), 0 if case_sensitive else re.IGNORECASE)


class _DateRange:
    """Matches texts between two dates, both included, as a compiled pattern would."""

    def __init__(self, first: str, last: str) -> None:
        self._first = first
        self._last = last

    @property
    def literals(self) -> list[str]:
        """What all between the two begin with."""
        pairs = zip(self._first, self._last, strict=False)
        common = "".join(a for a, _b in takewhile(lambda pair: pair[0] == pair[1], pairs))
        return [common] if common else []

    def match(self, text: str) -> bool:
        return bool(text) and self._first <= text <= self._last


def inherited(db: sqlite3.Connection, parent: int | None) -> Mapping[str, str]:
    """The main tags of a row and of all above it."""
    tags: dict[str, str] = {}
    while parent is not None:
        text, parent = db.execute(
            "SELECT tags, parent FROM resource WHERE id = ?", (parent,)
        ).fetchone()
        tags = json.loads(text) | tags
    return tags


def modalities(db: sqlite3.Connection, study: int) -> str:
    """The modalities of a study's series, joined by backslashes."""
    rows = db.execute(
        "SELECT DISTINCT json_extract(tags, '$.Modality') FROM resource WHERE parent = ?", (study,)
    )
    return "\\".join(sorted(str(text) for (text,) in rows if text))
