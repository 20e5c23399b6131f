"""The audit log: one line of JSON for each thing that happened, appended in a thread.

The file is opened anew each time, so that whoever rotates it by renaming it need tell nobody.
"""

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from .errors import ConfigurationError
from .threads import IThreads
from .waiters import Waiters

_MOST_WAITING = 10_000
"""Lines that are kept while the file cannot be written; older ones are lost then."""

_MODE = 0o640

log = Logger()


class AuditLog:
    """See the module. Without a path it keeps nothing."""

    def __init__(self, path: str, threads: IThreads, wall_clock: Callable[[], float]) -> None:
        """:param wall_clock: seconds since the epoch."""
        self._path = path
        self._threads = threads
        self._wall_clock = wall_clock
        self._lines: list[str] = []
        self._busy = False
        self._is_broken = False
        self._idle = Waiters()

    @property
    def is_kept(self) -> bool:
        """Whether anything is written at all."""
        return bool(self._path)

    def write(self, event: str, facts: Mapping[str, Any]) -> None:
        """Note something; it is on its way to the file when this returns."""
        if not self._path:
            return
        when = datetime.fromtimestamp(self._wall_clock(), UTC)
        time = f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03}Z"
        # All but ASCII is escaped: whatever a name holds, it ends no line.
        self._lines.append(json.dumps({"Time": time, "Event": event, **facts}) + "\n")
        if len(self._lines) > _MOST_WAITING:
            del self._lines[0]
        if not self._busy:
            self._busy = True
            Deferred.fromCoroutine(self._drain())

    async def _drain(self) -> None:
        try:
            while self._lines:
                lines, self._lines = self._lines, []
                try:
                    await self._threads.run(append, self._path, "".join(lines))
                    self._is_broken = False
                except OSError as error:
                    self._lines = [*lines, *self._lines][-_MOST_WAITING:]
                    self._complain(error)
                    return
        finally:
            self._busy = False
            self._idle.fire()

    def _complain(self, error: OSError) -> None:
        if not self._is_broken:
            log.critical(
                "AuditLog {path} cannot be written: {why}. The lines are kept in memory, the last"
                " {count} of them, and written with a later one",
                path=self._path,
                why=error.strerror,
                count=_MOST_WAITING,
            )
        self._is_broken = True

    async def settle(self) -> None:
        """Wait until what was noted is written, or cannot be."""
        while self._busy:
            await self._idle.wait()


def append(path: str, text: str) -> None:
    """Add to a file; blocking."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, _MODE)
    with os.fdopen(descriptor, "ab") as file:
        file.write(text.encode("ascii"))


def check(path: str) -> None:
    """Make sure that the file can be written, if one is named.

    :raises ConfigurationError: it cannot.
    """
    if not path:
        return
    try:
        append(path, "")
    except OSError as error:
        raise ConfigurationError(
            f"AuditLog: {path} cannot be written: {error.strerror}; its folder must exist, and"
            " belong to the user that runs the daemon"
        ) from None
