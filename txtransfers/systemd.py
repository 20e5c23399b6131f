"""What systemd and a daemon tell each other: notifications, the watchdog, sockets that it opened.

Outside of systemd nothing is told and nothing found. See sd_notify(3) and sd_listen_fds(3).
"""

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from itertools import count
from typing import Any

from twisted.internet.endpoints import serverFromString

from .errors import ConfigurationError


class Notifier:
    """Tells systemd how the daemon is. Never waits and never fails: what is not heard is lost."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        """:param address: of systemd's socket; ``@`` stands for an abstract one; empty: none.

        :param watchdog_s: seconds within which :meth:`alive` is wanted; 0: it is not.
        """
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = watchdog_s

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Notifier":
        """The one that the environment names."""
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        micros = environ.get("WATCHDOG_USEC", "") if mine else ""
        seconds = int(micros) / 1e6 if micros.isdecimal() else 0.0
        return cls(environ.get("NOTIFY_SOCKET", ""), seconds)

    @property
    def is_heard(self) -> bool:
        """Whether there is somebody to be told."""
        return bool(self._address)

    def starting(self, what: str) -> None:
        """It has begun to start, and what it does."""
        self._tell(f"STATUS={_line(what)}")

    def ready(self, status: str) -> None:
        """The start, or what was read anew, is done; and how it is now."""
        self._tell("READY=1", f"STATUS={_line(status)}")

    def alive(self, status: str) -> None:
        """All is well, and how it is now."""
        self._tell("WATCHDOG=1", f"STATUS={_line(status)}")

    def ailing(self, status: str) -> None:
        """Something is wrong: the watchdog is not told that all is well."""
        self._tell(f"STATUS={_line(status)}")

    def reloading(self) -> None:
        """Something is read anew; :meth:`ready` follows."""
        micros = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={micros}", "STATUS=Reads certificates anew")

    def stopping(self) -> None:
        """It has begun to stop."""
        self._tell("STOPPING=1", "STATUS=Stops")

    def _tell(self, *lines: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
            out.setblocking(False)
            out.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)


def _line(text: str) -> str:
    return " ".join(text.split())


def passed_sockets(reactor: Any) -> list[socket.socket]:
    """The sockets that systemd listens on for us; none: we bind our own. They are given once.

    :raises ConfigurationError: one of them does not listen on TCP.
    """
    found: list[socket.socket] = []
    # Twisted has read the variables, and removed them, when its endpoints were imported.
    with contextlib.suppress(IndexError):
        for number in count():
            endpoint = serverFromString(reactor, f"systemd:domain=INET:index={number}")
            found.append(_adopt(endpoint.fileno))
    return found


def _adopt(descriptor: int) -> socket.socket:
    with contextlib.suppress(OSError):
        os.set_inheritable(descriptor, False)
        passed = socket.socket(fileno=descriptor)
        if _listens(passed):
            passed.setblocking(False)
            return passed
        passed.detach()
    raise ConfigurationError(
        f"The socket (descriptor {descriptor}) that systemd has passed does not listen on TCP:"
        " txtransfers.socket needs ListenStream= with addresses and ports"
    )


def _listens(passed: socket.socket) -> bool:
    return (
        passed.family in (socket.AF_INET, socket.AF_INET6)
        and passed.type == socket.SOCK_STREAM
        and bool(passed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    )
