"""What a limit of bandwidth is: a figure, or figures by the time of the week. Pure.

``20M`` is 20 Mbit/s, as links are sold, ``2.5MB`` are bytes per second; multiples are decimal.
A timetable's first entry that covers a moment of local time wins; where none does, there is no
limit. ``config_bandwidth.py`` reads whole configurations with this.
"""

import re
from datetime import datetime

import attrs

NO_LIMIT = 0
LOWEST = 8_000
"""Bit/s; less is a mistake of unit."""
HIGHEST = 10**11

FIGURE_FORM = 'a figure such as "20M" (bit/s) or "2.5MB" (bytes/s), from "8k" to "100G", or "0"'
SPAN_FORM = '"*", days such as "Mon-Fri" or "Sat,Sun", a time such as "22:00-06:00", or both'

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_EVERY_DAY = frozenset(range(7))
_DAY_MINUTES = 24 * 60
_MULTIPLES = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
_FIGURE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([kKMG]?)(B?)\Z", re.ASCII)
_DAY = "|".join(_DAYS)
_SPAN = re.compile(
    rf"(?P<days>(?:{_DAY})(?:-(?:{_DAY}))?(?:,(?:{_DAY})(?:-(?:{_DAY}))?)*)?"
    r"(?:(?(days) )(?P<h1>\d\d?):(?P<m1>\d\d)-(?P<h2>\d\d?):(?P<m2>\d\d))?\Z",
    re.ASCII,
)


@attrs.frozen
class Span:
    """A part of the week.

    :ivar days: on which it begins; 0 is Monday.
    :ivar start: minutes from midnight. :ivar end: likewise; not after ``start``: on the next day.
    """

    days: frozenset[int] = _EVERY_DAY
    start: int = 0
    end: int = _DAY_MINUTES

    def covers(self, when: datetime) -> bool:
        """Whether a moment of local time is in it."""
        minute, day = when.hour * 60 + when.minute, when.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        if minute >= self.start:
            return day in self.days
        return minute < self.end and (day - 1) % 7 in self.days


@attrs.frozen
class Timetable:
    """How much may travel, and when.

    :ivar entries: spans and bit/s, :data:`NO_LIMIT` for none; the first that covers a moment holds.
    :ivar form: as a person wrote it, a JSON value.
    """

    entries: tuple[tuple[Span, int], ...]
    form: object = attrs.field(eq=False)

    @property
    def is_constant(self) -> bool:
        """Whether it is the same at any time."""
        return all(span == Span() for span, _rate in self.entries[:1])

    def rate_at(self, when: datetime) -> int:
        """Bit/s at a moment of local time; :data:`NO_LIMIT` for none."""
        return next((rate for span, rate in self.entries if span.covers(when)), NO_LIMIT)


UNLIMITED = Timetable((), "0")


def constant(value: object) -> Timetable:
    """The same at any time.

    :raises ValueError: ``value`` is no figure.
    """
    rate = parse_figure(value)
    return Timetable(((Span(), rate),) if rate else (), value)


def parse_figure(value: object) -> int:
    """Bit/s; :data:`NO_LIMIT` for none.

    :raises ValueError: it is no figure; without a text, the caller tells what was expected.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError
    text = format(value, ".15g") if isinstance(value, float) else str(value)
    match = _FIGURE.match(text)
    if match is None:
        raise ValueError
    number, multiple, is_bytes = match.groups()
    rate = round(float(number) * _MULTIPLES[multiple] * (8 if is_bytes else 1))
    if rate != NO_LIMIT and not LOWEST <= rate <= HIGHEST:
        raise ValueError
    return rate


def parse_span(text: str) -> Span:
    """A part of the week.

    :raises ValueError: it is none; without a text, the caller tells what was expected.
    """
    if text == "*":
        return Span()
    match = _SPAN.match(text.lower())
    if match is None or not text:
        raise ValueError
    days = _days(match["days"]) if match["days"] else _EVERY_DAY
    if match["h1"] is None:
        return Span(days)
    start, end = _minutes(match, "1"), _minutes(match, "2")
    if start in (end, _DAY_MINUTES):
        raise ValueError
    return Span(days, start, end)


def _days(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        first, _dash, last = part.partition("-")
        begin = _DAYS.index(first)
        length = (_DAYS.index(last or first) - begin) % 7
        found.update((begin + n) % 7 for n in range(length + 1))
    return frozenset(found)


def _minutes(match: re.Match[str], which: str) -> int:
    hour, minute = int(match[f"h{which}"]), int(match[f"m{which}"])
    total = hour * 60 + minute
    if minute >= 60 or total > _DAY_MINUTES:
        raise ValueError
    return total


def format_figure(rate: int) -> str:
    """The figure of bit/s as a person would write it."""
    for suffix in ("G", "M", "k"):
        short = f"{rate / _MULTIPLES[suffix]:.12g}{suffix}"
        if rate >= _MULTIPLES[suffix] and parse_figure(short) == rate:
            return short
    return str(rate)
