"""The command ``txtransfers``: the daemon in the foreground, its log on the terminal.

``txtransfers -c config.json`` is ``twistd --nodaemon --pidfile= txtransfers -c config.json``; for
the background, a log file or a pid file, use ``twistd``.
"""

import sys

from twisted.scripts import twistd


def main() -> None:
    """Run until SIGINT or SIGTERM; ends with status 1 and a sentence where it cannot start."""
    sys.argv[1:] = ["--nodaemon", "--pidfile=", "txtransfers", *sys.argv[1:]]
    twistd.run()
