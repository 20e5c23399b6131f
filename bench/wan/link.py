"""A long link between two hosts on this machine, by the emulator beside this file (``README.md``).

Two network namespaces are the hosts; needs root, ``/dev/net/tun`` and a C compiler.
"""

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs

from bench.wan.stopping import uninterrupted

WAN = Path(__file__).resolve().parent / "wan"
_CLONE_NEWNET = 0x40000000


@attrs.frozen
class Link:
    """What a link is like, in each direction."""

    rate: float
    """Mbit/s, of whole IP packets."""
    rtt: float
    """ms, there and back."""
    loss: float = 0.0
    """% of the packets, each by itself."""

    @property
    def name(self) -> str:
        """How tables call it."""
        loss = f", {self.loss:g} % loss" if self.loss else ""
        return f"{self.rate:g} Mbit/s, {self.rtt:g} ms{loss}"

    @property
    def goodput(self) -> float:
        """Bytes a second of TCP payload at the most: 1,448 of the 1,500 bytes of a packet."""
        return self.rate * 1e6 / 8 * 1448 / 1500

    def seconds(self, size: int) -> float:
        """How long so many bytes of TCP payload take at least."""
        return size / self.goodput


@attrs.frozen
class Host:
    """One end of a link that is up."""

    wan: str
    side: str
    address: str

    @property
    def namespace(self) -> str:
        """The path of its network namespace."""
        return f"/run/netns/{self.wan}-{self.side}"

    @property
    def prefix(self) -> Sequence[str]:
        """What a command begins with that is to run on this host."""
        return (str(WAN), "exec", self.wan, self.side, "--")

    def connect(self, address: tuple[str, int], timeout: float) -> socket.socket:
        """A connection whose near end is on this host, for whoever runs outside of both."""
        made: list[socket.socket | OSError] = []

        def inside() -> None:
            try:
                enter(self.namespace)
                made.append(socket.create_connection(address, timeout))
            except OSError as error:
                made.append(error)

        # A namespace belongs to a thread; its sockets stay in it when the thread has ended.
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        return made[0]


def enter(namespace: str) -> None:
    """Have the calling thread, and it alone, in a network namespace from now on."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def up(name: str, link: Link, *, cc: str = "cubic", seed: int = 1) -> Iterator[tuple[Host, Host]]:
    """Have the link up, fresh, with both hosts' own congestion control being ``cc``."""
    shape = [
        "--rtt",
        f"{link.rtt:g}ms",
        "--rate",
        f"{link.rate:g}mbit",
        "--loss",
        f"{link.loss:g}%",
    ]
    try:
        with uninterrupted():
            _wan("up", name, *shape, "--cc", cc, "--seed", str(seed), "--fresh")
        a, b = (Host(name, side, _wan("addr", name, side).strip()) for side in "ab")
        yield a, b
    finally:
        with uninterrupted():
            for side in "ab":
                _end_all(f"{name}-{side}")
            _wan("down", name)


def _end_all(namespace: str) -> None:
    """End what still runs on a host: who was interrupted while it started has not told of it."""
    told = subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, check=False)
    for process in map(int, told.stdout.split()):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def lateness(name: str) -> float:
    """The share of packets that left late as the emulator got no CPU: beyond 1 %, measure again."""
    told = _wan("stats", name)
    late, packets = (
        sum(map(int, re.findall(rf"\b{key}=(\d+)", told)))
        for key in ("late_over_200us", "out_pkts")
    )
    return late / packets if packets else 0.0


def _wan(*arguments: str) -> str:
    # In a session of its own: Ctrl-C is for us alone.
    done = subprocess.run(
        [WAN, *arguments], capture_output=True, text=True, check=False, start_new_session=True
    )
    if done.returncode:
        raise OSError(f"wan {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
