"""``jobs``, and what can be done to one: ``pause``, ``resume``, ``cancel``, ``resubmit``."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from rich.live import Live

from ..client import Client, Job, find_job
from ..errors import UnknownJob
from . import completion
from .main import with_daemon
from .session import Interrupted, Session, perform
from .show import Pace, Screen, make_table
from .status import OPEN, SUCCESS
from .transfers import exit_status, tell_end

_EVERY_S = 1.0
_BESIDE_ROWS = 2
"""Lines of a terminal that jobs do not get: the table's head, and the cursor's."""

_COLUMNS = ("Job", "State", "Way", "Peer", "What", "Done", "Amount", "Rate", "Left", "Note")


@click.command()
@click.option("--watch", is_flag=True, help="Go on showing them: until Ctrl-C, or the end of JOB.")
@click.argument("names", metavar="[JOB]...", nargs=-1, shell_complete=completion.jobs_in())
@with_daemon
def jobs(wishes: Any, watch: bool, names: Sequence[str]) -> None:
    """List the daemon's jobs, oldest first: all, or those that are named.

    With --watch and JOB it ends when these have, and with their exit status.
    """

    async def work(session: Session) -> int:
        found = await _named(session.client, names)
        if watch:
            return await watch_jobs(session, found if names else None)
        if session.screen.as_json:
            session.screen.json([job.raw for job in found])
        else:
            session.screen.table(_COLUMNS, _rows([Pace(job) for job in found]))
        return SUCCESS

    perform(wishes, work)


async def _named(client: Client, names: Sequence[str]) -> Sequence[Job]:
    known = await client.jobs()
    return [find_job(known, name) for name in names] if names else known


def _rows(paces: Sequence[Pace]) -> list[tuple[str, ...]]:
    return [
        (
            pace.job.id[:8],
            pace.job.state,
            "send" if pace.job.is_sending else "receive",
            pace.job.peer,
            pace.job.description,
            pace.percent,
            pace.amount,
            pace.speed,
            pace.left,
            pace.note,
        )
        for pace in paces
    ]


async def watch_jobs(session: Session, wanted: Sequence[Job] | None) -> int:
    """:param wanted: those that are watched to their end; None for all, for ever."""
    watched = _Watched(session.screen)
    last = {job.id: job for job in wanted or ()}

    def of_interest(jobs: Sequence[Job]) -> Sequence[Job]:
        """An end that was seen counts, though the job is forgotten since."""
        if wanted is None:
            return jobs
        last.update((job.id, job) for job in jobs if job.id in last)
        return list(last.values())

    def is_over(jobs: Sequence[Job]) -> bool:
        known = {job.id for job in jobs}
        return wanted is not None and all(
            job.is_ended or job.id not in known for job in of_interest(jobs)
        )

    try:
        await session.interruptible(
            session.client.watch(
                lambda jobs: watched.show(of_interest(jobs)),
                is_over=is_over,
                every=_EVERY_S,
                on_trouble=watched.trouble,
            )
        )
    except Interrupted:
        return SUCCESS if wanted is None else OPEN
    finally:
        watched.close()
    for job in last.values():
        if not job.is_ended:
            raise UnknownJob(
                f"Job {job.id} was forgotten before its end was seen; raise JobsHistorySize"
            )
    ended = list(last.values())
    return exit_status(ended) if session.screen.as_json else tell_end(session, ended)


class _Watched:
    """Jobs as they change: a table that stays on a terminal, else lines, or JSON in lines."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._paces: dict[str, Pace] = {}
        self._told: dict[str, Any] = {}
        self._live: Live | None = None

    def show(self, jobs: Sequence[Job]) -> None:
        """They are so now."""
        now = time.monotonic()
        paces = {job.id: self._paces.get(job.id) or Pace(job) for job in jobs}
        for job in jobs:
            paces[job.id].saw(job, now)
        self._paces = paces
        if self._screen.as_json:
            self._tell_changes()
        elif self._screen.is_terminal:
            self._draw()
        else:
            for pace in self._paces.values():
                if not pace.job.is_ended or self._told.get(pace.job.id) != pace.job.state:
                    self._screen.say(pace.line())
                self._told[pace.job.id] = pace.job.state

    def _tell_changes(self) -> None:
        for job in (pace.job for pace in self._paces.values()):
            shown = {key: value for key, value in job.raw.items() if key != "Timestamp"}
            if self._told.get(job.id) != shown:
                self._told[job.id] = shown
                self._screen.json(job.raw, is_line=True)

    def _draw(self) -> None:
        if self._live is None:
            self._live = Live(console=self._screen.console, auto_refresh=False)
            self._live.start()
        room = max(1, self._screen.console.height - _BESIDE_ROWS)
        table = make_table(_COLUMNS, _rows(list(self._paces.values())[-room:]))
        self._live.update(table, refresh=True)

    def trouble(self, error: Exception) -> None:
        """The daemon does not answer at the moment."""
        self._screen.note(f"waiting for the daemon: {error}")

    def close(self) -> None:
        """Leave the table as it is."""
        if self._live is not None:
            self._live.stop()


def _action(name: str, text: str, states: Sequence[str], done: str) -> click.Command:
    @click.command(name, help=text)
    @click.argument(
        "names",
        metavar="JOB...",
        nargs=-1,
        required=True,
        shell_complete=completion.jobs_in(*states),
    )
    @with_daemon
    def command(wishes: Any, names: Sequence[str]) -> None:
        async def work(session: Session) -> int:
            act: Callable[[str], Any] = getattr(session.client, name)
            ended = []
            for job in await _named(session.client, names):
                await act(job.id)
                ended.append(await session.client.job(job.id))
                session.screen.say(f"{job.id[:8]}: {done}; its state is {ended[-1].state}")
            if session.screen.as_json:
                session.screen.json([job.raw for job in ended])
            return SUCCESS

        perform(wishes, work)

    return command


ACTIONS = (
    _action(
        "pause",
        "Let jobs wait for resume; what they have transferred is kept.",
        ("Pending", "Running", "Retry"),
        "paused",
    ),
    _action("resume", "Let paused jobs go on from where they were.", ("Paused",), "goes on"),
    _action(
        "cancel",
        "End jobs, and free what they have transferred. One that was committed already is a"
        " Success.",
        ("Pending", "Running", "Paused", "Retry"),
        "cancelled",
    ),
    _action(
        "resubmit",
        "Start failed jobs again, from what has arrived.",
        ("Failure",),
        "submitted again",
    ),
)


@click.command()
@click.argument("name", metavar="JOB", shell_complete=completion.jobs_in("Success", "Failure"))
@with_daemon
def receipt(wishes: Any, name: str) -> None:
    """Print the receipt of a job that has ended: what became of each instance, as JSON."""

    async def work(session: Session) -> int:
        job = find_job(await session.client.jobs(), name)
        session.screen.json(await session.client.receipt(job.id))
        return SUCCESS

    perform(wishes, work)
