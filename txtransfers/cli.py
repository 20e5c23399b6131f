"""The command ``txtransfers``: with a command's name a client for people, else the daemon.

``txtransfers -c config.json`` is ``twistd --nodaemon --pidfile= txtransfers -c config.json``; for
the background, a log file or a pid file, use ``twistd``. What only the client needs (click, rich)
is imported only for it. ``txtransfers password`` and ``txtransfers token`` print what the
configuration holds instead of a secret.
"""

import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from twisted.logger import LogLevel

from .journal_log import is_journal, with_priority
from .passwords import hash_password, make_token

COMMANDS = frozenset(
    {
        *("send", "receive", "jobs", "pause", "resume", "cancel", "resubmit", "receipt"),
        *("peers", "find", "import", "doctor", "config"),
    }
)
"""The client's; a test compares them with what click knows."""

_VALUED = frozenset({"-c", "--config", "--url", "--credentials", "--authorities"})
"""Options before a command's name whose value is the next word."""

_STANDARD_ERROR = 2
_COMPLETING = "_TXTRANSFERS_COMPLETE"


def main() -> None:
    """Run the client's command; or the daemon, until SIGINT or SIGTERM.

    The daemon ends with status 1 and a sentence where it cannot start.
    """
    own = _OWN_COMMANDS.get(sys.argv[1]) if len(sys.argv) == 2 else None
    if own is not None:
        own()
    elif is_for_client(sys.argv[1:], os.environ):
        _run_client()
    else:
        _run_daemon()


def is_for_client(words: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether the words name one of the client's commands, or ask for help; or a shell asks."""
    if _COMPLETING in environment or words[:1] in (["--help"], ["-h"]):
        return True
    first = _first_word(words)
    # A slip in a command's name is the client's to explain.
    return first in COMMANDS or (first is not None and first == words[0])


def _first_word(words: Sequence[str]) -> str | None:
    """The first that is neither an option nor an option's value."""
    rest = iter(words)
    for word in rest:
        if word in _VALUED:
            next(rest, None)
        elif not word.startswith("-"):
            return word
    return None


def _run_client() -> None:
    try:
        from .command.main import run  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        raise SystemExit(
            f"txtransfers: this command needs {error.name}, which is not installed:"
            " pip install click rich. The daemon does without"
        ) from None
    run()


def _run_daemon() -> None:
    from twisted.scripts import twistd  # noqa: PLC0415

    of_twistd = ["--nodaemon", "--pidfile="]
    journal = is_journal(os.environ, _STANDARD_ERROR)
    if journal:
        of_twistd.append("--logger=txtransfers.journal_log.observer")
    sys.argv[1:] = [*of_twistd, "txtransfers", *sys.argv[1:]]
    try:
        twistd.run()
    except SystemExit as end:
        if journal and isinstance(end.code, str):
            raise SystemExit(with_priority(end.code, LogLevel.error)) from None
        raise


def _password() -> None:
    """Ask for a password, or read a line of it, and print its hash."""
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
        if getpass.getpass("Once more: ") != password:
            raise SystemExit("txtransfers: the two differ")
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise SystemExit("txtransfers: the password is empty")
    print(hash_password(password))  # noqa: T201


def _token() -> None:
    """Make a token."""
    token, kept = make_token()
    print(f"Token, for the script:        {token}")  # noqa: T201
    print(f"Hash, for the configuration:  {kept}")  # noqa: T201


_OWN_COMMANDS: Mapping[str, Callable[[], None]] = {"password": _password, "token": _token}
