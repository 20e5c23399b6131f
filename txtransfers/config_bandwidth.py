"""``Bandwidth``, its forms -> one timetable for each direction. Pure.

Used by ``config.py``, by ``config_peers.py``, and by the route that changes it while running: the
forms are the same, and so are the sentences.
"""

from collections.abc import Mapping

import attrs

from txtransfers.config_keys import Key, Kind
from txtransfers.config_values import check_known, describe, join
from txtransfers.timetable import (
    FIGURE_FORM,
    SPAN_FORM,
    UNLIMITED,
    Span,
    Timetable,
    constant,
    parse_figure,
    parse_span,
)

DIRECTIONS = {"Upload": "upload", "Download": "download"}
"""How they are written, and the attributes of :class:`BandwidthSettings`."""

_OR = "or a timetable, an object { time : figure }"


@attrs.frozen
class BandwidthSettings:
    """What may travel in each direction."""

    upload: Timetable = UNLIMITED
    download: Timetable = UNLIMITED


def read_bandwidth(key: Key, value: object, path: str, problems: list[str]) -> BandwidthSettings:
    """A converter of ``Kind.BANDWIDTH``: a direction that is not named has no limit."""
    return attrs.evolve(BandwidthSettings(), **read_directions(value, path, problems))


BANDWIDTH = {Kind.BANDWIDTH: read_bandwidth}


def read_directions(value: object, path: str, problems: list[str]) -> dict[str, Timetable]:
    """The timetables that ``value`` names, by the attributes of :class:`BandwidthSettings`."""
    if not isinstance(value, dict) or not _names_directions(value):
        both = read_timetable(value, path, problems)
        return dict.fromkeys(DIRECTIONS.values(), both) if both is not None else {}
    check_known(DIRECTIONS, value, path, problems)
    read = {
        field: read_timetable(value[name], join(path, name), problems)
        for name, field in DIRECTIONS.items()
        if name in value
    }
    return {field: timetable for field, timetable in read.items() if timetable is not None}


def _names_directions(value: Mapping[str, object]) -> bool:
    """Also one in the wrong case, so that it is refused as what it was meant to be."""
    return not {name.lower() for name in value}.isdisjoint(DIRECTIONS.values())


def read_timetable(value: object, path: str, problems: list[str]) -> Timetable | None:
    """One direction's; None where something was wrong with it."""
    if isinstance(value, dict):
        entries = [_entry(text, form, join(path, text), problems) for text, form in value.items()]
        right = tuple(entry for entry in entries if entry is not None)
        return Timetable(right, dict(value)) if len(right) == len(entries) else None
    try:
        return constant(value)
    except ValueError:
        problems.append(f"{path}: expected {FIGURE_FORM}, {_OR}; found {describe(value)}")
        return None


def _entry(text: str, form: object, path: str, problems: list[str]) -> tuple[Span, int] | None:
    try:
        span = parse_span(text)
    except ValueError:
        problems.append(f"{path}: is no time: expected {SPAN_FORM}")
        return None
    try:
        return span, parse_figure(form)
    except ValueError:
        problems.append(f"{path}: expected {FIGURE_FORM}; found {describe(form)}")
        return None
