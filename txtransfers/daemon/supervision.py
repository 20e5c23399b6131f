"""Tells systemd how the daemon is; and, as long as the reactor and the store are well, that it is.

The store is asked in a thread of the pool: where the disk does not answer, or no thread is ever
free, the watchdog is not told anything, and systemd starts the daemon anew.
"""

import sqlite3
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from ..jobs.model import State
from ..systemd import Notifier
from .assembly import Assembly

_TELLING_S = 30.0
"""Seconds between two words about how it is, where no watchdog wants them sooner."""

_TELLINGS = 3
"""How often the watchdog is told within its time."""

log = Logger()


class Supervision:
    """See the module."""

    def __init__(self, reactor: Any, made: Assembly, notifier: Notifier) -> None:
        self._made = made
        self._notifier = notifier
        self._where = ""
        self._loop = LoopingCall(self._look)
        self._loop.clock = reactor

    def start(self, where: str) -> None:
        """The daemon is ready. :param where: it listens."""
        self._where = where
        self._notifier.ready(self._status())
        if self._notifier.is_heard:
            self._loop.start(min(_TELLING_S, self._notifier.watchdog_s / _TELLINGS or _TELLING_S))

    def stop(self) -> None:
        """The daemon begins to stop; safe to call twice."""
        self._notifier.stopping()
        if self._loop.running:
            self._loop.stop()

    def reload(self) -> "Deferred[None]":
        """Read anew what can be; never fails."""
        self._notifier.reloading()
        done = self._made.certificates.look(everything=True)
        return done.addCallback(lambda _none: self._notifier.ready(self._status()))

    def _look(self) -> "Deferred[None]":
        """The loop waits for the answer: one question at a time."""
        asked = self._made.threads.run(self._made.store.database.read, _can_be_read)
        return asked.addCallbacks(
            lambda _result: self._notifier.alive(self._status()), self._is_ailing
        )

    def _is_ailing(self, failure: Any) -> None:
        log.error("The index cannot be read: {error}", error=failure.value)
        self._notifier.ailing(f"The index cannot be read: {failure.value}")

    def _status(self) -> str:
        jobs = sum(job.state is State.RUNNING for job in self._made.jobs.jobs())
        return f"Listens on {self._where}; jobs that run: {jobs}"


def _can_be_read(db: sqlite3.Connection) -> None:
    db.execute("SELECT value FROM property LIMIT 1").fetchone()
