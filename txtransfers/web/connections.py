"""Who is connected: how many in all, and from one address, and who makes room for one more.

A connection on which no request is under way is idle, also where half a request has come: the one
that has been so for longest is closed for one that is new, of whatever address has most of them, so
that many that are left open keep nobody out. One that has been idle for a moment stays: its next
request may be on its way.
"""

from collections import OrderedDict, defaultdict
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from .refusals import Refusals
from .slowdown import network_of

KEPT_S = 1.0
"""Seconds that a connection must have been idle to be closed for another one."""

_MOST_TURNED_AWAY = 64
"""Connections that are told so at a time; others, beyond the limit too, are just closed."""


class IChannel(Protocol):
    """A connection."""

    @property
    def host(self) -> str:
        """The address of the client; empty where there is none."""

    def make_room(self) -> None:
        """Close it at once: it is idle."""


class Connections:
    """See the module."""

    def __init__(self, clock: IReactorTime, most: int, most_each: int, refusals: Refusals) -> None:
        """:param most_each: of one address; 0 for any number."""
        self._clock = clock
        self._most = most
        self._most_each = most_each
        self._refusals = refusals
        self._networks: dict[IChannel, str] = {}
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._idle: dict[str, OrderedDict[IChannel, float]] = {}
        """By address, and since when; of one address, the one that is so for longest first."""
        self._turned_away: set[IChannel] = set()
        self.opened = 0
        """Connections since the start."""

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._networks)

    @property
    def idle(self) -> int:
        """How many of them are idle."""
        return sum(map(len, self._idle.values()))

    def enter(self, channel: IChannel) -> str:
        """Let one in, idle; where there is no room for it, gives the key of the limit."""
        self.opened += 1
        network = network_of(channel.host)
        if self._most_each and self._counts[network] >= self._most_each:
            self._refusals.note("MaxConnectionsPerAddress", channel.host)
            if not self._close_idle(network):
                return "MaxConnectionsPerAddress"
        elif self.count >= self._most:
            self._refusals.note("MaxConnections", channel.host)
            crowded = max(self._idle, key=lambda each: len(self._idle[each]), default=None)
            if crowded is None or not self._close_idle(crowded):
                return "MaxConnections"
        self._networks[channel] = network
        self._counts[network] += 1
        self.idles(channel)
        return ""

    def _close_idle(self, network: str) -> bool:
        now = self._clock.seconds()
        oldest, since = next(iter(self._idle.get(network, {}).items()), (None, now))
        if oldest is None or now - since < KEPT_S:
            return False
        self.leave(oldest)
        oldest.make_room()
        return True

    def busy(self, channel: IChannel) -> None:
        """A request is under way there."""
        network = self._networks.get(channel, "")
        idle = self._idle.get(network)
        if idle is not None:
            idle.pop(channel, None)
            if not idle:
                del self._idle[network]

    def idles(self, channel: IChannel) -> None:
        """No request is under way there any more."""
        network = self._networks.get(channel)
        if network is not None:
            idle = self._idle.setdefault(network, OrderedDict())
            idle[channel] = self._clock.seconds()

    def leave(self, channel: IChannel) -> None:
        """The connection has ended; safe to call twice."""
        self.busy(channel)
        self._turned_away.discard(channel)
        network = self._networks.pop(channel, None)
        if network is not None:
            self._counts[network] -= 1
            if not self._counts[network]:
                del self._counts[network]

    def may_be_told(self, channel: IChannel) -> bool:
        """Whether one that was not let in may stay until it has been told so."""
        if len(self._turned_away) >= _MOST_TURNED_AWAY:
            return False
        self._turned_away.add(channel)
        return True
