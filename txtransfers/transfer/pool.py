"""The HTTP connections to one peer: warm ones, new ones, and some that are made ahead.

As Twisted's own pool, but the one that was used last is used first: its congestion window is open,
and those that are not needed grow old. Requests that must not meet a connection that the peer has
just closed take one that has never been used, or a new one, and leave it warm.
"""

from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.web._newclient import HTTP11ClientProtocol

_IDLE_S = 30.0
"""Seconds that a connection is kept without use; a stock server closes it after one."""

_WAITING = "QUIESCENT"
"""What Twisted calls a connection that can take a request."""


@attrs.define(eq=False)
class _Idle:
    protocol: HTTP11ClientProtocol
    is_unused: bool
    timer: IDelayedCall


class Pool:
    """The connections to one peer; an agent takes it as its pool."""

    persistent = True

    def __init__(self, clock: IReactorTime, most: int) -> None:
        """:param most: idle connections that are kept."""
        self._clock = clock
        self._most = most
        self._idle: list[_Idle] = []

    def getConnection(
        self, key: object, endpoint: IStreamClientEndpoint
    ) -> "Deferred[HTTP11ClientProtocol]":
        """A connection for one request: the warmest, or a new one."""
        return self._take(lambda _idle: True) or self._connect(endpoint)

    def take_unused(self, endpoint: IStreamClientEndpoint) -> "Deferred[HTTP11ClientProtocol]":
        """A connection that has not been used."""
        return self._take(lambda idle: idle.is_unused) or self._connect(endpoint)

    def prepare(self, endpoint: IStreamClientEndpoint, count: int) -> "Deferred[Any]":
        """Make so many connections ahead; fires, whatever happens, when that is over."""
        connecting = [
            self._connect(endpoint).addCallback(self._keep, is_unused=True) for _ in range(count)
        ]
        return DeferredList(connecting, consumeErrors=True)

    async def close(self) -> None:
        """Close those that are idle."""
        idle, self._idle = self._idle, []
        for each in idle:
            each.timer.cancel()
        await DeferredList([each.protocol.abort() for each in idle], consumeErrors=True)

    def _take(self, is_wanted: Any) -> "Deferred[HTTP11ClientProtocol] | None":
        for idle in reversed(self._idle):
            if is_wanted(idle):
                self._forget(idle)
                if idle.protocol.state == _WAITING:
                    return succeed(idle.protocol)
        return None

    def _connect(self, endpoint: IStreamClientEndpoint) -> "Deferred[HTTP11ClientProtocol]":
        return endpoint.connect(_Clients(self))  # type: ignore[return-value]

    def keep(self, protocol: HTTP11ClientProtocol) -> None:
        """The connection can take another request."""
        self._keep(protocol, is_unused=False)

    def _keep(self, protocol: HTTP11ClientProtocol, is_unused: bool) -> None:
        if len(self._idle) >= self._most:
            self._drop(self._idle[0])
        timer = self._clock.callLater(_IDLE_S, lambda: self._drop(idle))
        idle = _Idle(protocol, is_unused, timer)
        self._idle.append(idle)

    def _drop(self, idle: _Idle) -> None:
        self._forget(idle)
        if idle.protocol.state == _WAITING:
            idle.protocol.transport.loseConnection()  # type: ignore[union-attr]

    def _forget(self, idle: _Idle) -> None:
        self._idle.remove(idle)
        if idle.timer.active():
            idle.timer.cancel()


class Unused:
    """The same connections, for requests that take none that has been used."""

    persistent = True

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def getConnection(
        self, key: object, endpoint: IStreamClientEndpoint
    ) -> "Deferred[HTTP11ClientProtocol]":
        """See :meth:`Pool.take_unused`."""
        return self._pool.take_unused(endpoint)


class _Clients(Factory):
    noisy = False

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def buildProtocol(self, addr: IAddress | None) -> HTTP11ClientProtocol:
        return HTTP11ClientProtocol(self._pool.keep)
