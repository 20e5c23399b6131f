"""``doctor`` and ``config check``: what is wrong, and what to do."""

import os
from collections.abc import Sequence
from typing import Any

import click

from ..client.checks import DaemonChecks, Result, Step, check_peer, take_steps
from ..config import load
from ..errors import ConfigurationError
from ..threads import Threads
from . import completion
from .main import with_daemon
from .session import Session, perform
from .show import Screen, plain
from .status import FAILED, SUCCESS

_MARKS = {
    Result.PASSED: ("ok", "green"),
    Result.WARNING: ("mind", "yellow"),
    Result.FAILED: ("FAILED", "red"),
    Result.LEFT_OUT: ("-", "dim"),
}


@click.command()
@click.argument("peer", required=False, shell_complete=completion.peers)
@with_daemon
def doctor(wishes: Any, peer: str | None) -> None:
    """Try step by step what transfers need, and say what to change.

    First the way from here to the daemon: name, connection, TLS, user, plugin, clock, versions.
    With PEER, then the way from the daemon to that peer, and for pull mode back.
    """

    async def work(session: Session) -> int:
        screen, threads = session.screen, Threads(session.reactor, 1)
        threads.start()
        try:
            checks = DaemonChecks(
                session.reactor, session.client, threads, session.place.authorities
            )
            screen.say(f"From here to {session.client.url}", "bold")
            steps = await take_steps(
                checks.steps(), lambda step: tell(screen, step), session.reactor
            )
        finally:
            threads.stop()
        found = {"Daemon": [step.to_json() for step in steps]}
        if peer is not None and _is_well(steps):
            screen.say(f'From the daemon to its peer "{peer}"', "bold")
            of_peer = await check_peer(session.client, peer)
            for step in of_peer:
                tell(screen, step)
            found["Peer"] = [step.to_json() for step in of_peer]
            steps += of_peer
        if screen.as_json:
            screen.json({"Passed": _is_well(steps), **found})
        return SUCCESS if _is_well(steps) else FAILED

    perform(wishes, work)


def _is_well(steps: Sequence[Step]) -> bool:
    return all(step.result is not Result.FAILED for step in steps)


def tell(screen: Screen, step: Step) -> None:
    """A step, for people."""
    mark, style = _MARKS[step.result]
    screen.say(f"  {mark:<7} {step.name}: {step.details}", style)
    if step.advice:
        screen.say(f"          {step.advice}")


@click.group()
def config() -> None:
    """Look at a configuration."""


@config.command()
@click.argument("file", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="JSON, for scripts.")
@click.pass_context
def check(context: click.Context, file: str, as_json: bool) -> None:
    """Say all that is wrong in FILE, as the daemon would at its start.

    Variables as ${NAME} are those of this environment.
    """
    problems: list[str] = []
    notices: Sequence[str] = ()
    try:
        notices = load(file, os.environ).notices
    except ConfigurationError as error:
        problems = str(error).split("\n")
    if as_json:
        Screen(True).json({"Valid": not problems, "Problems": problems, "Notices": list(notices)})
    for problem in () if as_json else problems:
        click.echo(plain(problem), err=True)
    for notice in () if as_json else notices:
        click.echo(plain(notice))
    if not (problems or as_json):
        click.echo(f"{plain(file)}: can be used")
    context.exit(FAILED if problems else SUCCESS)
