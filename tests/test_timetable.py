"""Figures, times of the week, and which limit holds when."""

from datetime import datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.config_bandwidth import read_directions, read_timetable
from txtransfers.timetable import (
    HIGHEST,
    LOWEST,
    Span,
    Timetable,
    constant,
    format_figure,
    parse_figure,
    parse_span,
)

MONDAY = datetime(2024, 1, 1)
DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def at(day: str, time: str) -> datetime:
    """A moment of a week that begins with :data:`MONDAY`."""
    hour, _colon, minute = time.partition(":")
    return MONDAY + timedelta(days=DAYS.index(day), hours=int(hour), minutes=int(minute))


def read(value: object) -> Timetable:
    problems: list[str] = []
    found = read_timetable(value, "here", problems)
    assert found is not None, problems
    return found


class FigureTests(SynchronousTestCase):
    def test_bits_and_bytes(self) -> None:
        for text, rate in (
            ("20M", 20_000_000),
            ("512k", 512_000),
            ("512K", 512_000),
            ("1G", 10**9),
            ("1.5M", 1_500_000),
            ("2.5MB", 20_000_000),
            ("800kB", 6_400_000),
            ("20 M", 20_000_000),
            ("64000", 64_000),
            (64_000, 64_000),
            (2e7, 20_000_000),
            ("0", 0),
            (0, 0),
            ("0M", 0),
        ):
            self.assertEqual(rate, parse_figure(text), text)

    def test_what_is_none(self) -> None:
        for value in (
            *("", "20", "7999", "20m", "20Mb", "-20M", "M", "20M ", "20MM", "1e9", "101G", "२M"),
            *(True, None, [], {}, -1, 20, 10**400, 10**5000, float("nan"), float("inf"), 1e300),
        ):
            with self.assertRaises(ValueError):
                parse_figure(value)

    @given(st.integers(LOWEST, HIGHEST))
    def test_what_is_shown_is_what_was_meant(self, rate: int) -> None:
        self.assertEqual(rate, parse_figure(format_figure(rate)))

    def test_it_is_shown_short(self) -> None:
        for rate, text in ((0, "0"), (20_000_000, "20M"), (12_500_000, "12.5M"), (8_001, "8.001k")):
            self.assertEqual(text, format_figure(rate))


class SpanTests(SynchronousTestCase):
    def covers(self, text: str, day: str, time: str) -> bool:
        return parse_span(text).covers(at(day, time))

    def test_days_and_hours(self) -> None:
        for text, inside, outside in (
            ("*", ("Sun 23:59", "Mon 0:00"), ()),
            ("Mon-Fri 08:00-18:00", ("Mon 8:00", "Fri 17:59"), ("Mon 7:59", "Fri 18:00")),
            ("Mon-Fri 8:00-18:00", (), ("Sat 9:00", "Sun 12:00")),
            ("Sat,Sun", ("Sat 0:00", "Sun 23:59"), ("Fri 23:59", "Mon 0:00")),
            ("sat-mon", ("Sat 0:00", "Mon 23:59"), ("Tue 0:00", "Fri 23:59")),
            ("Mon,Wed-Thu", ("Mon 1:00", "Thu 1:00"), ("Tue 1:00", "Fri 1:00")),
            ("18:00-24:00", ("Tue 23:59",), ("Tue 17:59", "Wed 0:00")),
        ):
            for when in inside:
                self.assertTrue(self.covers(text, *when.split()), (text, when))
            for when in outside:
                self.assertFalse(self.covers(text, *when.split()), (text, when))

    def test_over_midnight_the_day_is_that_of_the_beginning(self) -> None:
        for when in ("Fri 22:00", "Fri 23:59", "Sat 0:00", "Sat 5:59"):
            self.assertTrue(self.covers("Fri 22:00-06:00", *when.split()), when)
        for when in ("Fri 21:59", "Sat 6:00", "Fri 3:00", "Sat 22:00"):
            self.assertFalse(self.covers("Fri 22:00-06:00", *when.split()), when)
        self.assertTrue(self.covers("Sun 22:00-06:00", "Mon", "3:00"))
        self.assertTrue(self.covers("22:00-00:00", "Mon", "23:00"))
        self.assertFalse(self.covers("22:00-00:00", "Mon", "0:00"))

    def test_what_is_none(self) -> None:
        for text in (
            *("", " ", "Mon-", "Mon Fri", "Monday", "8-18", "08:00-25:00", "08:60-09:00", "**"),
            *("08:00-08:00", "24:00-08:00", "Mon 08:00", "Mon-Fri,", "Mon-Fri  08:00-18:00"),
            *("24:01-08:00", " 08:00-18:00", "Mon08:00-18:00"),
        ):
            with self.assertRaises(ValueError, msg=repr(text)):
                parse_span(text)

    @given(
        st.frozensets(st.integers(0, 6), min_size=1),
        st.integers(0, 1439),
        st.integers(1, 1439),
        st.integers(0, 7 * 1440 - 1),
    )
    def test_it_lasts_as_long_as_it_says(
        self, days: frozenset[int], start: int, length: int, minute: int
    ) -> None:
        end = (start + length) % 1440 or 1440
        span = Span(days, start, end)
        begins = [day * 1440 + start + week * 7 * 1440 for day in days for week in (-1, 0)]
        inside = any(begin <= minute < begin + length for begin in begins)
        self.assertEqual(inside, span.covers(MONDAY + timedelta(minutes=minute)))


class TimetableTests(SynchronousTestCase):
    def test_the_first_that_matches(self) -> None:
        table = read({"Mon-Fri 08:00-18:00": "20M", "Sat,Sun": "1G", "*": "100M"})
        for day, time, rate in (
            ("Mon", "8:00", 20_000_000),
            ("Mon", "18:00", 100_000_000),
            ("Sat", "9:00", 10**9),
        ):
            self.assertEqual(rate, table.rate_at(at(day, time)))
        self.assertFalse(table.is_constant)

    def test_no_match_is_no_limit(self) -> None:
        self.assertEqual(0, read({"Mon 08:00-18:00": "20M"}).rate_at(at("Tue", "9:00")))
        self.assertEqual(0, read({}).rate_at(MONDAY))

    def test_constants(self) -> None:
        for value in ("20M", {"*": "20M", "Mon": "1M"}):
            table = read(value)
            self.assertTrue(table.is_constant)
            self.assertEqual((20_000_000, value), (table.rate_at(MONDAY), table.form))
        self.assertTrue(constant("0").is_constant)


class DirectionTests(SynchronousTestCase):
    def directions(self, value: object) -> dict[str, int]:
        problems: list[str] = []
        found = read_directions(value, "Bandwidth", problems)
        self.assertEqual([], problems)
        return {name: table.rate_at(MONDAY) for name, table in found.items()}

    def test_forms(self) -> None:
        for value, rates in (
            ("20M", {"upload": 20_000_000, "download": 20_000_000}),
            ({"Upload": "20M"}, {"upload": 20_000_000}),
            ({"Upload": {"Mon": 64000}, "Download": "0"}, {"upload": 64_000, "download": 0}),
            ({"Mon": "20M", "*": "0"}, {"upload": 20_000_000, "download": 20_000_000}),
        ):
            self.assertEqual(rates, self.directions(value))

    def test_every_mistake_with_its_path(self) -> None:
        for value, *starts in (
            ("fast", 'B: expected a figure such as "20M"'),
            (None, 'B: expected a figure such as "20M"'),
            ({"upload": "20M"}, 'B.upload: unknown key; did you mean "Upload"?'),
            ({"Upload": "20M", "Mon": "1M"}, "B.Mon: unknown key"),
            ({"Upload": 3, "Download": []}, "B.Upload: expected", "B.Download: expected"),
            ({"Mon-Fri 8-18": "20M"}, 'B."Mon-Fri 8-18": is no time: expected "*"'),
            (
                {"Upload": {"Mon": "1M", "Tue": {}, "x": "1M"}},
                "B.Upload.Tue: expected a figure",
                "B.Upload.x: is no time",
            ),
        ):
            problems: list[str] = []
            read_directions(value, "B", problems)
            self.assertEqual(len(starts), len(problems), problems)
            for start, problem in zip(starts, problems, strict=True):
                self.assertTrue(problem.startswith(start), problem)
