"""The log, as systemd's journal reads it: each line begins with its priority.

The command ``txtransfers`` uses it where its standard error is the journal's; for ``twistd`` there
is ``--logger=txtransfers.journal_log.observer``. See sd-daemon(3).
"""

import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from twisted.logger import FileLogObserver, ILogObserver, LogEvent, LogLevel, eventAsText

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}
_INFO = 6


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Whether what is written to the descriptor goes to the journal."""
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def observer() -> ILogObserver:
    """Writes to the standard error."""
    # twistd puts something else in the place of sys.stderr, which ends in the log again.
    assert sys.__stderr__ is not None
    return observer_to(sys.__stderr__)


def observer_to(file: TextIO) -> ILogObserver:
    """Writes to a file."""
    return FileLogObserver(file, format_event)


def format_event(event: LogEvent) -> str | None:
    """The lines of an event, each with the event's priority; the journal knows the time."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=True)
    lines = with_priority(text, event.get("log_level"))
    return f"{lines}\n" if lines else None


def with_priority(text: str, level: Any) -> str:
    """Each line that is not empty, with the level's priority."""
    prefix = f"<{_PRIORITIES.get(level, _INFO)}>"
    return "\n".join(f"{prefix}{line}" for line in text.splitlines() if line.strip())
