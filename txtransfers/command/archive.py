"""``peers``, ``find`` and ``import``: what the daemon reaches, what it holds, what comes in."""

import re
import time
from collections.abc import Sequence
from typing import Any

import click
from rich.progress import BarColumn, Progress, TextColumn
from twisted.internet.defer import Deferred

from ..client import Found, Imported, Importer, Level, Peer, Rate
from ..client.together import together
from ..errors import ConfigurationError
from ..threads import Threads
from .main import with_daemon
from .session import Interrupted, Session, perform
from .show import Screen, duration_text, plain, rate_text, size_text
from .status import FAILED, INTERRUPTED, SUCCESS, UNKNOWN

_LINE_S = 1.0
_BAR_S = 0.2
_MODES = {
    "disabled": "not reachable, or no peer",
    "installed": "reachable",
    "bidirectional": "reachable",
}
_WITH_TAG = re.compile(r"([A-Za-z]+|[0-9A-Fa-f]{4},?[0-9A-Fa-f]{4})=(.*)\Z", re.DOTALL)
_SEARCHED = ("PatientName", "PatientID", "AccessionNumber", "StudyDescription")
_LONGEST_LIST = 100
_LEVELS = {level.value.lower(): level for level in Level}
_COLUMNS = {
    Level.PATIENT: ("PatientName", "PatientID", "PatientBirthDate"),
    Level.STUDY: ("PatientName", "PatientID", "StudyDate", "StudyDescription", "AccessionNumber"),
    Level.SERIES: ("Modality", "SeriesDescription", "SeriesNumber", "SeriesDate"),
    Level.INSTANCE: ("InstanceNumber", "SOPInstanceUID"),
}


@click.command()
@with_daemon
def peers(wishes: Any) -> None:
    """List the daemon's peers: whether it reaches them, and who pulls."""

    async def work(session: Session) -> int:
        found = await session.client.peers()
        if session.screen.as_json:
            session.screen.json([_peer_json(peer) for peer in found])
        else:
            columns = ("Peer", "State", "What is sent to it", "Round trip", "Is", "Address", "Note")
            session.screen.table(columns, [_peer_row(peer) for peer in found])
        return SUCCESS

    perform(wishes, work)


def _peer_json(peer: Peer) -> dict[str, Any]:
    return {
        "Name": peer.name,
        "State": peer.state,
        "Pulls": peer.pulls,
        "Url": peer.url,
        "Reason": peer.reason,
        "RoundTripMs": None if peer.round_trip is None else round(peer.round_trip * 1000, 2),
        "Version": peer.version,
    }


def _peer_row(peer: Peer) -> tuple[str, ...]:
    return (
        peer.name,
        _MODES.get(peer.state, peer.state),
        "is pulled by it" if peer.pulls else "is pushed",
        "" if peer.round_trip is None else f"{peer.round_trip * 1000:.1f} ms",
        peer.version,
        peer.url,
        peer.reason,
    )


@click.command()
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option(
    "--level",
    type=click.Choice(list(_LEVELS)),
    default="study",
    show_default=True,
    help="What is looked for.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=_LONGEST_LIST,
    show_default=True,
    help="How many are shown at the most; 0 for all.",
)
@with_daemon
def find(wishes: Any, patterns: Sequence[str], level: str, limit: int) -> None:
    """Search the archive.

    A PATTERN is part of a patient's name or ID, of an accession number or of a description, or
    KEYWORD=VALUE with * and ?, as StudyDate=20260101-20261231. All of several must match.
    """

    async def work(session: Session) -> int:
        queries = make_queries(patterns)
        wanted = _LEVELS[level]
        results = await together(
            *(session.client.find(wanted, query, limit=limit) for query in queries)
        )
        found: dict[str, Found] = {each.id: each for result in results for each in result}
        shown = list(found.values())[: limit or None]
        if session.screen.as_json:
            session.screen.json([each.raw for each in shown])
        elif shown:
            columns = _COLUMNS[wanted]
            session.screen.table(
                ("Orthanc ID", *columns),
                [(each.id, *(each.tag(keyword) for keyword in columns)) for each in shown],
            )
            if limit and len(found) >= limit:
                session.screen.note(f"There may be more than these {limit}: see --limit")
        else:
            session.screen.note("Nothing was found")
        return SUCCESS if shown else UNKNOWN

    perform(wishes, work)


def make_queries(patterns: Sequence[str]) -> list[dict[str, str]]:
    """The queries whose results together are what the patterns mean.

    :raises ConfigurationError: two patterns are for the same tag.
    """
    queries: list[dict[str, str]] = [{}]
    for pattern in patterns:
        match = _WITH_TAG.match(pattern)
        if match:
            choices = [(match[1], match[2])]
        else:
            choices = [(keyword, f"*{pattern}*") for keyword in _SEARCHED]
        queries = [
            query | {keyword: value}
            for query in queries
            for keyword, value in choices
            if keyword not in query
        ]
    if not queries:
        raise ConfigurationError("Two patterns are for the same tag: one of them is enough")
    return queries


@click.command("import")
@click.argument(
    "paths",
    metavar="FOLDER...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True),
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="How many files are under way at once.",
)
@with_daemon
def import_(wishes: Any, paths: Sequence[str], parallel: int) -> None:
    """Store all DICOM files below folders in the daemon's archive; files and ZIPs do as well.

    What is not DICOM is left out, and counted. It may be repeated: what is there is not stored
    again. Links to folders are not followed.
    """

    async def work(session: Session) -> int:
        threads = Threads(session.reactor, parallel + 2)
        threads.start()
        try:
            return await _import(session, threads, list(paths), parallel)
        finally:
            threads.stop()

    perform(wishes, work)


async def _import(session: Session, threads: Threads, paths: list[str], parallel: int) -> int:
    view = _ImportView(session.screen)
    client = session.place.client(session.reactor, connections=parallel)
    importer = Importer(session.reactor, client, threads, parallel, view.show)
    counting = Deferred.fromCoroutine(importer.count_files(paths, view.counted))
    counting.addCallbacks(lambda _none: view.all_counted(), lambda _failure: None)
    interrupted = False
    try:
        await session.interruptible(importer.run(paths))
    except Interrupted:
        interrupted = True
    finally:
        counting.cancel()
        view.close()
        await client.close()
    _tell(session.screen, importer.imported)
    if interrupted:
        session.screen.note("Interrupted: what was stored stays; the same command goes on")
        return INTERRUPTED
    return FAILED if importer.imported.failed else SUCCESS


def _tell(screen: Screen, imported: Imported) -> None:
    if screen.as_json:
        screen.json(
            {
                "Files": imported.files,
                "Stored": imported.stored,
                "AlreadyStored": imported.already,
                "Skipped": imported.skipped,
                "Failed": imported.failed,
                "Studies": sorted(imported.studies),
                "Troubles": imported.troubles,
            }
        )
        return
    for trouble in imported.troubles:
        screen.note(trouble)
    parts = [f"{imported.stored} instances stored"]
    if imported.already:
        parts.append(f"{imported.already} were there before")
    parts.append(f"{imported.skipped} files skipped, which are not DICOM")
    if imported.failed:
        parts.append(f"{imported.failed} failed")
    screen.say(
        f"{', '.join(parts)}; {len(imported.studies)} studies",
        "red" if imported.failed else "green",
    )


class _ImportView:
    """A bar on a terminal, one line a second without one."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._total = 0
        self._files = 0
        self._is_counted = False
        self._rate = Rate()
        self._next = 0.0
        self._progress: Progress | None = None
        self._task: Any = None

    def counted(self, files: int, size: int) -> None:
        """So many files were found up to now."""
        self._files, self._total = files, size

    def all_counted(self) -> None:
        """There are no more."""
        self._is_counted = True

    def show(self, imported: Imported) -> None:
        """It is so far now."""
        now = time.monotonic()
        if self._screen.as_json or now < self._next:
            return
        self._next = now + (_BAR_S if self._screen.is_terminal else _LINE_S)
        self._rate.saw(now, imported.size)
        parts = [f"{imported.files} of {self._files} files", size_text(imported.size)]
        if not self._is_counted:
            parts[0] = f"{imported.files} files, {self._files} found so far"
        if self._rate.per_second is not None:
            parts.append(rate_text(self._rate.per_second))
        left = self._rate.seconds_for(max(0, self._total - imported.size))
        if self._is_counted and left is not None:
            parts.append(f"ETA {duration_text(left)}")
        if imported.skipped:
            parts.append(f"{imported.skipped} skipped")
        if self._screen.is_terminal:
            self._draw(imported, "  ".join(parts))
        else:
            self._screen.say("  ".join(parts))

    def _draw(self, imported: Imported, numbers: str) -> None:
        if self._progress is None:
            self._progress = Progress(
                TextColumn("Import"),
                BarColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                console=self._screen.console,
                auto_refresh=False,
                transient=True,
            )
            self._task = self._progress.add_task("", total=None, numbers="")
            self._progress.start()
        self._progress.update(
            self._task,
            total=max(1, self._total) if self._is_counted else None,
            completed=imported.size,
            numbers=plain(numbers),
        )
        self._progress.refresh()

    def close(self) -> None:
        """Take the bar away."""
        if self._progress is not None:
            self._progress.stop()
