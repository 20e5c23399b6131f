"""What people see: tables, bars, lines; and what programs read.

All that comes from elsewhere (names in DICOM files, errors of peers) goes through :func:`plain`: no
control character reaches a terminal, and rich takes none of it for markup.
"""

import json
import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from ..client import Job, Rate
from ..client.values import RETRY

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
_WIDE = 10_000
_STYLES = {
    "Success": "green",
    "Failure": "red",
    "Running": "cyan",
    "Paused": "yellow",
    "Retry": "yellow",
}


def plain(text: object) -> str:
    """A text without what moves cursors, turns the writing round, or breaks lines."""
    return _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", str(text))


def size_text(size: float) -> str:
    """Bytes, in decimal units, as disks and lines are sold."""
    for unit, name in _UNITS:
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size:.0f} B"


def rate_text(rate: float | None) -> str:
    """Bytes per second."""
    return "" if rate is None else f"{size_text(rate)}/s"


def duration_text(seconds: float | None) -> str:
    """As ``1:02:03``; empty where nobody can tell."""
    if seconds is None or seconds > 99 * 3600:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@attrs.define
class Pace:
    """A job and how fast it goes."""

    job: Job
    moved: int = 0
    rate: Rate = attrs.Factory(Rate)

    def saw(self, job: Job, now: float) -> None:
        """The job is so now; one that was seen before tells nothing of its rate."""
        if job is self.job and self.moved:
            return
        goes_on = job.state == self.job.state == "Running"
        self.moved = max(job.moved_size, self.moved if goes_on else 0)
        self.job = job
        self.rate.saw(now, self.moved)

    @property
    def per_second(self) -> float | None:
        """Bytes per second: as they are seen to move, else as the daemon measures the line."""
        if self.job.state != "Running":
            return None
        return self.rate.per_second or self.job.rate

    @property
    def speed(self) -> str:
        """Empty where it does not move."""
        return rate_text(self.per_second)

    @property
    def left(self) -> str:
        """How long it still takes; empty where nobody can tell."""
        if not self.per_second or self.job.total_size is None:
            return ""
        return duration_text((self.job.total_size - self.moved) / self.per_second)

    @property
    def amount(self) -> str:
        """What is done, of what."""
        job = self.job
        if job.total_size is None:
            return ""
        return f"{size_text(max(self.moved, job.moved_size))} of {size_text(job.total_size)}"

    @property
    def percent(self) -> str:
        """How much is done."""
        job = self.job
        if job.is_success:
            return "100 %"
        if not job.total_size:
            return f"{job.fraction * 100:.0f} %"
        return f"{min(99, 100 * max(self.moved, job.moved_size) // job.total_size)} %"

    @property
    def note(self) -> str:
        """Why it waits or failed."""
        job = self.job
        if job.state == RETRY:
            return f"next try at {_clock(job.next_try)} UTC: {job.error}"
        return job.error

    def line(self) -> str:
        """All of it in one line."""
        job = self.job
        left = f"{self.left} left" if self.left else ""
        parts = (job.id[:8], job.state, self.percent, self.amount, self.speed, left, self.note)
        return plain("  ".join(part for part in parts if part))


def _clock(time_text: str) -> str:
    """The time of day in an Orthanc's time."""
    match = re.match(r"\d{8}T(\d\d)(\d\d)(\d\d)", time_text)
    return ":".join(match.groups()) if match else time_text


def summary(job: Job) -> str:
    """What a transfer that has ended did, in one line."""
    if not job.is_success:
        return plain(f"{job.state}: {job.error}")
    content = job.raw.get("Content", {})
    runtime = job.raw.get("EffectiveRuntime")
    parts = []
    if job.total_instances is not None:
        parts.append(f"{job.total_instances} instances")
    if job.total_size is not None:
        parts.append(size_text(job.total_size))
    if isinstance(runtime, int | float) and runtime > 0:
        took = f"in {runtime:.1f} s"
        if job.total_size:
            took += f" ({rate_text(job.total_size / runtime)})"
        parts.append(took)
    text = f"Success: {', '.join(parts)}" if parts else "Success"
    skipped = content.get("SkippedInstances") if isinstance(content, dict) else None
    if skipped:
        text += f"; {skipped} were there before"
    return plain(text)


class Screen:
    """Where the output goes."""

    def __init__(self, as_json: bool = False) -> None:
        """:param as_json: nothing but JSON is written to the standard output."""
        self.as_json = as_json
        self.console = Console(highlight=False, markup=False, emoji=False)
        self.is_terminal = self.console.is_terminal and not as_json
        if not self.is_terminal:
            self.console.width = _WIDE

    @property
    def can_ask(self) -> bool:
        """Whether a person is there to answer."""
        return self.is_terminal and sys.stdin.isatty()

    def say(self, text: str, style: str | None = None) -> None:
        """A line for people."""
        if not self.as_json:
            self.console.print(Text(plain(text), style=style or ""), soft_wrap=True)

    def note(self, text: str) -> None:
        """A line for people that is no result."""
        click.echo(plain(text), err=True)

    def json(self, value: Any, is_line: bool = False) -> None:
        """A value for programs: ASCII, whatever is in it.

        :param is_line: one of several, each in a line of its own.
        """
        click.echo(json.dumps(value, indent=None if is_line else 1))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """A table; its first column is never cut."""
        self.console.print(make_table(columns, rows))


def make_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Table:
    """See :meth:`Screen.table`."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> Text:
    text = plain(value)
    return Text(text, style=_STYLES.get(text, ""))


class TransferView:
    """One transfer: a bar on a terminal, else one line a second, else nothing (JSON)."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._pace: Pace | None = None
        self._progress: Progress | None = None
        self._task: Any = None

    def show(self, job: Job) -> None:
        """The job is so now."""
        if self._pace is None:
            self._pace = Pace(job)
        self._pace.saw(job, time.monotonic())
        if self._screen.is_terminal:
            self._draw(self._pace)
        elif not self._screen.as_json:
            self._screen.say(self._pace.line())

    def trouble(self, error: Exception) -> None:
        """The daemon does not answer at the moment."""
        if self._progress is not None:
            self._progress.update(self._task, note=plain(f"waiting for the daemon: {error}"))
            self._progress.refresh()
        elif not self._screen.as_json:
            self._screen.note(f"waiting for the daemon: {error}")

    def _draw(self, pace: Pace) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                TextColumn("{task.fields[note]}", markup=False, style="yellow"),
                console=self._screen.console,
                auto_refresh=False,
                transient=True,
            )
            self._task = self._progress.add_task("", total=1.0, numbers="", note="")
            self._progress.start()
        job = pace.job
        done = pace.moved / job.total_size if job.total_size else job.fraction
        numbers = (pace.percent, pace.amount, pace.speed, f"ETA {pace.left}" if pace.left else "")
        self._progress.update(
            self._task,
            completed=done,
            description=plain(f"{job.state} {job.id[:8]}"),
            numbers="  ".join(part for part in numbers if part),
            note=plain(pace.note),
        )
        self._progress.refresh()

    def close(self) -> None:
        """Take the bar away; safe to call twice, and :meth:`show` brings it back."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
