"""The HTTP connections to one peer: warm ones, new ones, and some that are made ahead.

As Twisted's own pool, but the one that was used last is used first: its congestion window is open,
and those that are not needed grow old. Requests that must not meet a connection that the peer has
just closed take one that has never been used, or a new one, and leave it warm. The buckets of one
transfer may follow each other on one connection without waiting for answers.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from . import tcp
from .connection import Connection

_IDLE_S = 30.0
"""Seconds that a connection is kept without use; a stock server closes it after one."""

_GIVEN_AT_ONCE = 2
"""Connections that were made ahead. It takes a millisecond to make a request, and what all that are
made in one turn of the reactor send leaves at its end."""

_DEPTH = 8
"""Answers that one connection may owe."""

_STAYS_OPEN_S = 0.5
"""Seconds without use after which the kernel shuts a connection's window, as cubic has it."""

_OPENING = 3
"""Round trips until a window that was shut carries its share again."""


@attrs.define(eq=False)
class _Idle:
    protocol: Connection
    is_unused: bool
    since: float
    timer: IDelayedCall


class Pool:
    """The connections to one peer; an agent takes it as its pool."""

    persistent = True

    def __init__(
        self,
        clock: IReactorTime,
        most: int,
        on_served: Callable[[Connection], None] = lambda _protocol: None,
    ) -> None:
        """:param most: idle connections that are kept.

        :param on_served: called with a connection that has carried a request and its answer.
        """
        self._clock = clock
        self._most = most
        self._on_served = on_served
        self._idle: list[_Idle] = []
        self._coming = 0
        """Connections that are being made ahead."""
        self._promised: deque[Deferred[Connection]] = deque()
        """Who gets the first of them."""
        self._arrived: deque[Connection | Failure] = deque()
        """Those that nobody was given yet."""
        self._is_giving = False
        self.is_single = False
        """Whether the peer was seen to close each connection after one answer."""

    def getConnection(self, key: object, endpoint: IStreamClientEndpoint) -> "Deferred[Connection]":
        """A connection for one request: the warmest, one that is being made ahead, or a new one."""
        return self._take(lambda _idle: True) or self._promise() or self._connect(endpoint)

    def take_unused(self, endpoint: IStreamClientEndpoint) -> "Deferred[Connection]":
        """A connection that has not been used."""
        unused = self._take(lambda idle: idle.is_unused)
        return unused or self._promise() or self._connect(endpoint)

    @property
    def idle_for(self) -> float | None:
        """Seconds since the warmest connection was used; None where there is none."""
        usable = [each for each in self._idle if each.protocol.is_usable and not each.is_unused]
        return self._clock.seconds() - usable[-1].since if usable else None

    def prepare(self, endpoint: IStreamClientEndpoint, count: int) -> "Deferred[Any]":
        """Make so many connections ahead; fires, whatever happens, when that is over."""
        self._coming += max(0, count)
        connecting = [self._connect(endpoint).addBoth(self._came) for _ in range(count)]
        return DeferredList(connecting, consumeErrors=True)

    def _promise(self) -> "Deferred[Connection] | None":
        """The first connection that is being made ahead, and promised to nobody."""
        if len(self._promised) >= self._coming + len(self._arrived):
            return None
        promised: Deferred[Connection] = Deferred(self._promised.remove)
        self._promised.append(promised)
        return promised

    def _came(self, result: "Connection | Failure") -> None:
        """What was made ahead is there, or is not."""
        self._coming -= 1
        self._arrived.append(result)
        if not self._is_giving:
            self._give()

    def _give(self) -> None:
        """Give some to who waits; others when the requests that those carry have left."""
        some = [self._arrived.popleft() for _ in range(min(_GIVEN_AT_ONCE, len(self._arrived)))]
        self._is_giving = bool(some)
        for result in some:
            if self._promised:
                self._promised.popleft().callback(result)
            elif not isinstance(result, Failure):
                self._keep(result, is_unused=True)
        if some:
            self._clock.callLater(0, self._give)

    async def close(self) -> None:
        """Close those that are idle."""
        idle, self._idle = self._idle, []
        for each in idle:
            each.timer.cancel()
        await DeferredList([each.protocol.abort() for each in idle], consumeErrors=True)

    def _take(self, is_wanted: Any) -> "Deferred[Connection] | None":
        for idle in reversed(self._idle):
            if is_wanted(idle):
                self._forget(idle)
                idle.protocol.owner = None
                if idle.protocol.is_usable:
                    return succeed(idle.protocol)
        return None

    def _connect(self, endpoint: IStreamClientEndpoint) -> "Deferred[Connection]":
        return endpoint.connect(_Clients(self))  # type: ignore[return-value]

    def note_single(self) -> None:
        """The peer closes connections after one answer: no request is to stand behind another."""
        self.is_single = True

    def keep(self, protocol: Connection) -> None:
        """The connection can take another request."""
        self._on_served(protocol)
        self._keep(protocol, is_unused=False)

    def _keep(self, protocol: Connection, is_unused: bool) -> None:
        if len(self._idle) >= self._most:
            self._drop(self._idle[0])
        timer = self._clock.callLater(_IDLE_S, lambda: self._drop(idle))
        idle = _Idle(protocol, is_unused, self._clock.seconds(), timer)
        self._idle.append(idle)

    def _drop(self, idle: _Idle) -> None:
        self._forget(idle)
        if idle.protocol.is_usable:
            idle.protocol.transport.loseConnection()

    def _forget(self, idle: _Idle) -> None:
        self._idle.remove(idle)
        if idle.timer.active():
            idle.timer.cancel()


class Unused:
    """The same connections, for requests that take none that has been used."""

    persistent = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def getConnection(self, key: object, endpoint: IStreamClientEndpoint) -> "Deferred[Connection]":
        """See :meth:`Pool.take_unused`."""
        return self._pool.take_unused(endpoint)


class ILink(Protocol):
    """What is known of the way to a peer."""

    round_trip: float | None

    @property
    def limit(self) -> int:
        """How many connections are to be busy."""

    def may_begin_next(self, left: float, rate: float = 0.0) -> bool:
        """Whether so few bytes are left to come that another request can be sent."""

    def rate(self, socket: Any) -> float:
        """Bytes a second of one of its connections at present; 0 where that is not known."""

    def seconds(self, size: float) -> float:
        """How long one of its connections takes for so many bytes."""


class Behind:
    """The same connections, for the buckets of one transfer: each may follow another at once.

    A request goes behind others where its last byte will have moved soonest: on one link some
    connections carry ten times what others do. An idle connection, or a new one, takes it where
    its first byte moves sooner there. Only requests of one transfer stand behind each other: where
    one is cancelled, its connection ends.
    """

    persistent = True

    def __init__(self, pool: Pool, link: ILink) -> None:
        self._pool = pool
        self._link = link
        self._busy: list[Connection] = []

    def getConnection(self, key: object, endpoint: IStreamClientEndpoint) -> "Deferred[Connection]":
        """The connection for the next request."""
        self._busy = [each for each in self._busy if each.depth and each.owner is self]
        if not self._pool.is_single:
            best = min(filter(self._can_follow, self._busy), key=self._end, default=None)
            if best is not None and self._wait(best) < self._wait_elsewhere():
                return succeed(best)
        return self._pool.getConnection(key, endpoint).addCallback(self._taken)

    def _can_follow(self, connection: Connection) -> bool:
        return (
            connection.is_usable
            and connection.depth < _DEPTH
            and self._link.may_begin_next(connection.left, self._rate(connection))
        )

    def _rate(self, connection: Connection) -> float:
        return self._link.rate(getattr(connection.transport, "socket", None))

    def _wait(self, connection: Connection) -> float:
        """Seconds until what is before it has gone."""
        socket = getattr(connection.transport, "socket", None)
        told = tcp.read(socket) if socket is not None else None
        unsent = told.unsent / told.rate if told is not None and told.rate else 0.0
        return unsent + self._seconds(connection, connection.left)

    def _end(self, connection: Connection) -> float:
        """Seconds until one as large as the last has gone, too."""
        return self._wait(connection) + self._seconds(connection, connection.usual)

    def _seconds(self, connection: Connection, size: float) -> float:
        rate = self._rate(connection)
        return size / rate if rate else self._link.seconds(size)

    def _wait_elsewhere(self) -> float:
        """Round trips that a connection takes to open its window; beyond the limit none is new."""
        idle_for = self._pool.idle_for
        round_trip = self._link.round_trip or 0.0
        if idle_for is not None:
            return 0.0 if idle_for < _STAYS_OPEN_S else _OPENING * round_trip
        return (1 + _OPENING) * round_trip if len(self._busy) < self._link.limit else inf

    def _taken(self, connection: Connection) -> Connection:
        connection.owner = self
        self._busy.append(connection)
        return connection


class _Clients(Factory):
    noisy = False

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return Connection(self._pool.keep, self._pool.note_single)
