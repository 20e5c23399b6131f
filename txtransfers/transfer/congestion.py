"""Which TCP congestion control the connections use.

On a link that loses packets ``bbr`` carries many times what the system's own does, mostly
``cubic``; on one that loses none, that fills the link more evenly. So, where nothing else is
configured, all begin with the system's own, and those to a host on whose way packets get lost
though no queue is full take ``bbr``, in their middle. A process may choose it where the system has
it and allows it (``net.ipv4.tcp_allowed_congestion_control``, or the right to administer the
network).
"""

import socket
from contextlib import closing, suppress
from typing import Any

import attrs

from ..errors import ConfigurationError
from . import tcp
from .tcp import TcpInfo

AUTO = "auto"
PREFERRED = "bbr"

_EMPTY = 1.2
"""Times the least round trip, up to which no queue is full: what is lost then is lost by chance."""

_LOST = 3
"""Packets that must have been lost so."""

_BYTES_A_LOSS = 8 * 2**20
"""With fewer losses the system's own is as good on several connections."""

_REMEMBERED = 64 * 2**20
"""Bytes, after which half of what was seen counts."""

_MOST_HOSTS = 1000


def choose(wanted: str) -> "Congestion":
    """What this machine's connections use.

    :param wanted: a name, or :data:`AUTO`: :data:`PREFERRED` where it is worth it and to be had.
    :raises ConfigurationError: a name that is not to be had.
    """
    if wanted == AUTO:
        return Congestion(when_lossy=PREFERRED if _is_allowed(PREFERRED) else None)
    if not _is_allowed(wanted):
        raise ConfigurationError(
            f'Transfers.CongestionControl is "{wanted}", which this system does not have or does'
            " not allow: load its module and add it to net.ipv4.tcp_allowed_congestion_control,"
            f' or set "{AUTO}"'
        )
    return Congestion(wanted)


def current() -> str:
    """The system's own."""
    with closing(socket.socket()) as probe:
        return used_by(probe)


def used_by(connection: Any) -> str:
    """That of a socket."""
    name: bytes = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    return name.rstrip(b"\0").decode("ascii", "replace")


def _is_allowed(name: str) -> bool:
    try:
        with closing(socket.socket()) as probe:
            probe.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, name.encode())
    except (OSError, ValueError):
        return False
    return True


@attrs.define
class _Way:
    """What was seen on the way to one host: packets lost, of so many bytes."""

    lost: float = 0.0
    moved: float = 0.0
    is_lossy: bool = False


class Congestion:
    """The choice for each connection; see the module."""

    def __init__(self, name: str | None = None, when_lossy: str | None = None) -> None:
        """:param name: of all; None leaves the system's own.

        :param when_lossy: of those on whose way packets get lost; None: no other.
        """
        self._name = name
        self._when_lossy = when_lossy
        self._ways: dict[str, _Way] = {}

    @property
    def adapts(self) -> bool:
        """Whether connections carry as much where packets get lost."""
        return PREFERRED in (self._name, self._when_lossy)

    @property
    def is_loss_based(self) -> bool:
        """Whether connections begin with one that slows down at each loss, as far as is known."""
        return self._name != PREFERRED

    def __str__(self) -> str:
        name = self._name or current()
        if self._when_lossy in (None, name):
            return name
        return f"{name}, {self._when_lossy} where packets get lost"

    def tune(self, connection: Any) -> "Sight":
        """Prepare a new connection, a socket; what is seen of it is to be told to what is given."""
        sight = Sight(self, connection)
        is_switched = self._when_lossy is not None and self.is_lossy(sight.host)
        tcp.tune(connection, self._when_lossy if is_switched else self._name)
        return sight

    def is_lossy(self, host: str) -> bool:
        """Whether packets get lost on the way to an address."""
        way = self._ways.get(host)
        return way is not None and way.is_lossy

    def note(self, host: str, lost: int, moved: int) -> None:
        """So many packets got lost by chance, of so many bytes."""
        way = self._ways.get(host)
        if way is None:
            if len(self._ways) >= _MOST_HOSTS:
                del self._ways[next(iter(self._ways))]
            way = self._ways[host] = _Way()
        way.lost += lost
        way.moved += moved
        if way.lost >= _LOST and way.lost * _BYTES_A_LOSS >= way.moved:
            way.is_lossy = True
        if way.moved > _REMEMBERED:
            way.lost, way.moved = way.lost / 2, way.moved / 2

    def switch(self, connection: Any) -> None:
        """The way of a connection has turned out to be lossy."""
        if self._when_lossy is not None:
            with suppress(OSError):
                tcp.set_congestion(connection, self._when_lossy)


class Sight:
    """What is seen of one connection."""

    def __init__(self, congestion: Congestion, connection: Any) -> None:
        self._congestion = congestion
        self._connection = connection
        self._resent = 0
        self._disordered = 0
        self._moved = 0
        self.host = _host(connection)
        self._is_lossy = congestion.is_lossy(self.host)

    def is_slowed(self, peer_adapts: bool) -> bool:
        """Whether packets get lost on its way, so that many connections carry more than few.

        :param peer_adapts: whether this is not so of what the peer sends.
        """
        return self._is_lossy and not self._adapts(peer_adapts)

    def is_undaunted(self, peer_adapts: bool) -> bool:
        """Whether packets get lost on its way, and few connections carry as much as many."""
        return self._is_lossy and self._adapts(peer_adapts)

    def _adapts(self, peer_adapts: bool) -> bool:
        return self._congestion.adapts and peer_adapts

    def look(self, told: TcpInfo) -> None:
        """Take what the kernel tells of it; some times in a round trip, or seldom."""
        if self._is_lossy:
            return
        lost, self._resent = told.resent - self._resent, told.resent
        # Each one that was lost on its way to us puts many behind it out of order.
        lost += told.disordered > self._disordered
        self._disordered = told.disordered
        moved, self._moved = told.moved - self._moved, told.moved
        is_empty = told.round_trip <= _EMPTY * told.least_round_trip
        self._congestion.note(self.host, lost if is_empty else 0, moved)
        if self._congestion.is_lossy(self.host):
            self._is_lossy = True
            self._congestion.switch(self._connection)


def _host(connection: Any) -> str:
    try:
        return str(connection.getpeername()[0])
    except (OSError, IndexError):
        return ""
