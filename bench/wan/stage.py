"""What a contender has to work with, and what it makes ready."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

import attrs

from bench.wan.link import Host
from bench.wan.plan import Load
from demo.daemon import Client, Daemon, DaemonError, Json

HTTP_PORT = 8042
OPEN = {
    "RemoteAccessAllowed": True,
    "AuthenticationEnabled": False,
    "RemoteAccessWithoutUsers": True,
}
"""Settings of a daemon that anybody may ask."""


@attrs.frozen
class Stage:
    """What one run has to work with."""

    sender: Host
    receiver: Host
    load: Load
    store: Path
    """A folder that stays from run to run of these files: for the sender's store."""
    folder: Path
    """An empty folder for this run alone: for the receiver's."""
    limit: float
    """Seconds until it is ended."""
    settings: dict[str, Json]
    """Further settings of ours, for the section Transfers."""


@attrs.frozen
class Ready:
    """A run that can begin."""

    go: Callable[[], float | None]
    """Move the files; return when all are there, with the seconds where they are known better than
    from outside."""
    arrived: Callable[[], int]
    """How many the receiver holds."""


class Contender(Protocol):
    """One of those that are compared."""

    @property
    def name(self) -> str:
        """How results and the command line call it."""

    @property
    def programs(self) -> Sequence[str]:
        """What must be installed."""

    def ready(self, stage: Stage, stack: ExitStack) -> Ready:
        """Start all that must run; the stack ends it."""


def url(host: Host) -> str:
    """Return where a daemon on this host is."""
    return f"http://{host.address}:{HTTP_PORT}/"


def stop(daemon: Daemon) -> None:
    """Stop a daemon, well or not."""
    # One that was ended in the middle has no duty to end well.
    with suppress(DaemonError):
        daemon.stop()


def fill(client: Client, load: Load) -> None:
    """Store the files, if no earlier run did."""
    if len(client.get("/instances")) < len(load.paths):
        for path in load.paths:
            client.upload(path)
