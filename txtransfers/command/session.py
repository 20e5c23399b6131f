"""Runs one command: the reactor, errors as sentences and exit statuses, and Ctrl-C.

The reactor is that of Twisted's ``react``. Ctrl-C ends the command, unless it says by
:meth:`Session.interruptible` that it wants to be asked.
"""

import contextlib
import os
import select
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import click
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from ..client import Client
from ..errors import Ambiguous, TransfersError
from .place import Place, Wishes, find_place
from .show import Screen, plain
from .status import INTERRUPTED, status_of

T = TypeVar("T")


class Interrupted(Exception):
    """Ctrl-C, within :meth:`Session.interruptible`."""


class Session:
    """What a command has: its daemon, its screen, the reactor."""

    def __init__(self, place: Place, screen: Screen, reactor: Any) -> None:
        self.place = place
        self.screen = screen
        self.reactor = reactor
        self.client: Client = place.client(reactor)
        self._running: Deferred[Any] | None = None
        self._interruptible: Deferred[Any] | None = None
        self._is_shielded = False
        self._is_interrupted = False

    async def interruptible(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for ``coroutine``; it is cancelled by Ctrl-C.

        :raises Interrupted: it was.
        """
        running: Deferred[T] = Deferred.fromCoroutine(coroutine)
        self._interruptible = running
        if self._is_interrupted:
            running.cancel()
        try:
            return await running
        except CancelledError:
            if self._is_interrupted:
                self._is_interrupted = False
                raise Interrupted from None
            raise
        finally:
            self._interruptible = None

    async def shielded(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for ``coroutine``; Ctrl-C waits for the next :meth:`interruptible`.

        For what is not to be left in the middle: a transfer might have been asked for, and nobody
        would know its job.
        """
        self._is_shielded = True
        try:
            return await coroutine
        finally:
            self._is_shielded = False

    def interrupt(self) -> None:
        """Ctrl-C."""
        self._is_interrupted = True
        if self._interruptible is not None:
            self._interruptible.cancel()
        elif not self._is_shielded and self._running is not None:
            self._running.cancel()

    async def run(self, work: "Work") -> int:
        """Do what the command does; gives the exit status."""
        self._running = Deferred.fromCoroutine(work(self))
        try:
            return int(await self._running)
        except CancelledError:
            return INTERRUPTED
        except TransfersError as error:
            return complain(error)
        finally:
            await self.client.close()


Work = Callable[[Session], Coroutine[Any, Any, int]]
"""A command: gives the exit status."""


def perform(wishes: Wishes, work: Work) -> None:
    """Run a command, and end the process with its status."""
    try:
        place = find_place(wishes, os.environ)
        screen = Screen(bool(wishes.as_json))
        status = in_reactor(lambda reactor: _session(place, screen, reactor, work))
    except TransfersError as error:
        status = complain(error)
    sys.stdout.flush()
    raise SystemExit(status)


async def _session(place: Place, screen: Screen, reactor: Any, work: Work) -> int:
    session = Session(place, screen, reactor)
    signal.signal(signal.SIGINT, lambda _number, _frame: reactor.callFromThread(session.interrupt))
    return await session.run(work)


def in_reactor(work: Callable[[Any], Awaitable[T]]) -> T:
    """Run the reactor until ``work`` is done, once in the life of the process; gives its result.

    What it raises is raised here.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    async def main(reactor: Any) -> None:
        try:
            results.append(await work(reactor))
        except BaseException as error:
            errors.append(error)

    with contextlib.suppress(SystemExit):
        react(main)
    if errors:
        raise errors[0]
    if not results:  # SIGTERM
        raise SystemExit(128 + signal.SIGTERM)
    return results[0]


def complain(error: TransfersError) -> int:
    """Say on the standard error what is wrong; gives the exit status."""
    click.echo(f"txtransfers: {plain(str(error))}", err=True)
    if isinstance(error, Ambiguous):
        for candidate in error.candidates:
            click.echo(f"  {plain(candidate)}", err=True)
    return status_of(error)


def ask(question: str, choices: Sequence[str], default: str) -> str:
    """Ask the person at the terminal; the beginning of a choice is enough.

    Ctrl-C, an empty line and the end of input are the default. Blocking: nothing else goes on.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.signal(signal.SIGINT, lambda _number, _frame: None)
    # Not input(): a signal that comes just before it begins to read would be slept over.
    waker = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    try:
        while True:
            click.echo(f"{question} ({', '.join(choices)}) [{default}]: ", nl=False, err=True)
            answer = _read_line(reader)
            if not answer:
                click.echo(err=True)
                return default
            found = [choice for choice in choices if choice.startswith(answer)]
            if len(found) == 1:
                return found[0]
    finally:
        signal.set_wakeup_fd(waker)
        signal.signal(signal.SIGINT, before)
        os.close(reader)
        os.close(writer)


def _read_line(signals: int) -> str:
    """A line of the standard input; empty where SIGINT came first."""
    stdin = sys.stdin.fileno()
    while True:
        ready, _, _ = select.select([stdin, signals], [], [])
        if signals in ready and signal.SIGINT in os.read(signals, 1024):
            return ""
        if stdin in ready:
            return os.read(stdin, 1024).decode("utf-8", "replace").strip().lower()
