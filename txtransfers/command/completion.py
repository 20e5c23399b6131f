"""What the shell offers: peers and jobs, asked of the daemon where it answers at once."""

import os
from collections.abc import Callable, Coroutine
from typing import Any

import click
from click.shell_completion import CompletionItem
from twisted.internet.defer import Deferred

from ..client import Client
from ..errors import TransfersError
from .place import Wishes, find_place
from .session import in_reactor
from .show import plain

PATIENCE_S = 2.0
"""Seconds for which a shell may hang."""

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def peers(context: click.Context, _parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """The names of the daemon's peers."""

    async def names(client: Client) -> list[tuple[str, str]]:
        told = await client.ask("GET", "/peers")
        return [(str(name), "") for name in told] if isinstance(told, list) else []

    return _offer(context, typed, names)


def jobs_in(*states: str) -> Complete:
    """The identifiers of the daemon's jobs that are in one of these states; of all without any."""

    def complete(
        context: click.Context, _parameter: click.Parameter, typed: str
    ) -> list[CompletionItem]:
        async def names(client: Client) -> list[tuple[str, str]]:
            return [
                (job.id, f"{job.state}, {job.peer}")
                for job in reversed(await client.jobs())
                if not states or job.state in states
            ]

        return _offer(context, typed, names)

    return complete


def _offer(
    context: click.Context,
    typed: str,
    names: Callable[[Client], Coroutine[Any, Any, list[tuple[str, str]]]],
) -> list[CompletionItem]:
    found = _asked(_wishes(context), names)
    return [
        CompletionItem(plain(name), help=plain(what) or None)
        for name, what in found
        if name.startswith(typed)
    ]


def _wishes(context: click.Context) -> Wishes:
    """What the options that were typed so far say; the group's are not in its ``obj`` yet."""
    wishes = Wishes()
    at: click.Context | None = context
    while at is not None:
        given = {name: at.params.get(name) for name in ("url", "config", "credentials")}
        wishes = wishes.over(Wishes(**given, authorities=at.params.get("authorities")))
        at = at.parent
    return wishes


def _asked(
    wishes: Wishes, names: Callable[[Client], Coroutine[Any, Any, list[tuple[str, str]]]]
) -> list[tuple[str, str]]:
    async def ask(reactor: Any) -> list[tuple[str, str]]:
        client = find_place(wishes, os.environ).client(reactor, timeout=PATIENCE_S)
        asking = Deferred.fromCoroutine(names(client)).addTimeout(PATIENCE_S, reactor)
        try:
            return await asking
        finally:
            await client.close()

    try:
        return in_reactor(ask)
    except (TransfersError, TimeoutError, Exception):  # a shell has no use for reasons
        return []
