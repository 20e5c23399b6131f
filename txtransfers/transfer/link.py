"""What the link to a peer is like, as far as its transfers show: bytes a second, round trips."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from .compression import LinkEstimate

_ENOUGH_S = 0.2
_ENOUGH_BYTES = 2**20
"""What a measure of the speed must have taken, and carried, at least."""

_WEIGHT = 0.5


class Link:
    """Measures while buckets are under way; the time between them does not count."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._under_way = 0
        self._since = 0.0
        self._busy = 0.0
        self._carried = 0
        self._ended = 0
        self._goodput: float | None = None
        self._rtt: float | None = None

    def estimate(self) -> LinkEstimate:
        """What is known now."""
        return LinkEstimate(self._goodput, self._rtt)

    def connected(self, seconds: float) -> None:
        """A connection took so long to be made, which is one round trip: the quickest is kept."""
        self._rtt = seconds if self._rtt is None else min(self._rtt, seconds)

    def timing(self, factory: Any) -> "TimedEndpoints":
        """``factory`` (an :class:`IAgentEndpointFactory`), whose connections tell how far it is."""
        return TimedEndpoints(factory, self._clock, self.connected)

    @contextmanager
    def carrying(self) -> Iterator[list[int]]:
        """A bucket is under way; its bytes, if it arrives, are put in the list."""
        self._account()
        self._under_way += 1
        carried: list[int] = []
        try:
            yield carried
        finally:
            self._account()
            self._under_way -= 1
            self._ended += len(carried)
            self._carried += sum(carried)
            self._measure()

    def _account(self) -> None:
        now = self._clock.seconds()
        if self._under_way:
            self._busy += now - self._since
        self._since = now

    def _measure(self) -> None:
        if self._busy < _ENOUGH_S or self._carried < _ENOUGH_BYTES:
            return
        if 2 * self._ended < self._under_way:
            return
        # Those under way have carried something too: half of a bucket each, as long as none had
        # begun before; later, what was begun before makes up for it.
        begun = self._under_way / 2 if self._goodput is None else 0.0
        speed = self._carried / self._busy * (1 + begun / self._ended)
        known = speed if self._goodput is None else self._goodput
        self._goodput = known + _WEIGHT * (speed - known)
        self._busy, self._carried, self._ended = 0.0, 0, 0


@implementer(IAgentEndpointFactory)
class TimedEndpoints:
    """Tells how long each connection took to be made."""

    def __init__(
        self, inner: Any, clock: IReactorTime, on_connected: Callable[[float], None]
    ) -> None:
        """:param on_connected: called with seconds."""
        self._inner = inner
        self._clock = clock
        self._on_connected = on_connected

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        """See :class:`IAgentEndpointFactory`."""
        return _TimedEndpoint(self._inner.endpointForURI(uri), self._clock, self._on_connected)


@implementer(IStreamClientEndpoint)
class _TimedEndpoint:
    def __init__(
        self,
        inner: IStreamClientEndpoint,
        clock: IReactorTime,
        on_connected: Callable[[float], None],
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._on_connected = on_connected

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        started = self._clock.seconds()

        def connected(protocol: Any) -> Any:
            self._on_connected(self._clock.seconds() - started)
            return protocol

        return self._inner.connect(protocolFactory).addCallback(connected)
