"""The command ``txtransfers``: the daemon in the foreground, its log on the terminal.

``txtransfers -c config.json`` is ``twistd --nodaemon --pidfile= txtransfers -c config.json``; for
the background, a log file or a pid file, use ``twistd``. ``txtransfers password`` and ``txtransfers
token`` print what the configuration holds instead of a secret.
"""

import getpass
import sys
from collections.abc import Callable, Mapping

from twisted.scripts import twistd

from .passwords import hash_password, make_token


def main() -> None:
    """Run until SIGINT or SIGTERM; ends with status 1 and a sentence where it cannot start."""
    command = _COMMANDS.get(sys.argv[1]) if len(sys.argv) == 2 else None
    if command is not None:
        command()
        return
    sys.argv[1:] = ["--nodaemon", "--pidfile=", "txtransfers", *sys.argv[1:]]
    twistd.run()


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


_COMMANDS: Mapping[str, Callable[[], None]] = {"password": _password, "token": _token}
