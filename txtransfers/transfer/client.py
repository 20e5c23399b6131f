"""HTTP as a client, below the protocol: connections, bodies, backpressure, and who is silent.

:mod:`.peers` makes the requests of the protocol with these; the server uses :class:`Stall` too.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet import error as net
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IProtocolFactory,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from ..config_tls import HttpProxy
from ..errors import TransfersError
from .congestion import Congestion, Sight
from .proxy import Tunnel
from .streams import Sink, lowest, read_at_most, widen
from .tls_transport import WideTlsFactory
from .trust import PeerTls

T = TypeVar("T")


class Stalled(Exception):
    """No progress for :ivar seconds:."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no progress for {seconds:g} s")
        self.seconds = seconds


class Stall:
    """Cancels what is watched, one thing at a time, once nothing has touched it for so long."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._last = clock.seconds()
        self._holds = 0

    def touch(self) -> None:
        """There was progress."""
        self._last = self._clock.seconds()

    def hold(self) -> None:
        """No progress is made, nor to be expected, until :meth:`release`: we hold it back."""
        self._holds += 1

    def release(self) -> None:
        """From now on it is to be expected again; as often as :meth:`hold` was called."""
        self._holds -= 1
        self.touch()

    async def watch(self, deferred: "Deferred[T]") -> T:
        """Wait for ``deferred``.

        :raises Stalled: there was no progress for too long.
        :raises CancelledError: the wait was cancelled, whatever Twisted makes of that.
        """
        ending: BaseException | None = None

        def end(reason: BaseException) -> None:
            nonlocal ending
            ending = reason
            deferred.cancel()

        def settle(result: T | Failure) -> None:
            if not outcome.called:
                outcome.callback(result)

        def check() -> None:
            if self._holds:
                self.touch()
            left = self._last + self._seconds - self._clock.seconds()
            if left > 0:
                self._check = self._clock.callLater(left, check)
            else:
                end(Stalled(self._seconds))

        outcome: Deferred[T] = Deferred(lambda _outcome: end(CancelledError()))
        deferred.addBoth(settle)
        self.touch()
        self._check = self._clock.callLater(self._seconds, check)
        try:
            return await outcome
        except BaseException:
            if ending is not None:
                raise ending from None
            raise
        finally:
            if self._check.active():
                self._check.cancel()


async def deliver(
    response: IResponse, sink: Sink, stall: Stall, on_left: Callable[[int], None]
) -> None:
    """The body of ``response`` into ``sink``, until the sink has it all.

    :param on_left: called with the bytes that are still to come, where that is known.
    """
    sink.watched_by(stall)
    receiver = _Receiver(sink, stall, response.length, on_left)
    response.deliverBody(receiver)
    try:
        await stall.watch(receiver.finished)
        await sink.finish()
    except BaseException:
        sink.abort()
        await sink.idle()
        raise


class _Receiver(Protocol):
    """Hands a response's body to a sink, and its backpressure to the transport."""

    def __init__(
        self, sink: Sink, stall: Stall, length: Any, on_left: Callable[[int], None]
    ) -> None:
        self._sink = sink
        self._stall = stall
        self._left = length
        self._on_left = on_left
        self.finished: Deferred[None] = Deferred(lambda _d: self._abort())

    def connectionMade(self) -> None:
        self._sink.attach(self)

    def dataReceived(self, data: bytes) -> None:
        self._stall.touch()
        self._sink.write(data)
        if isinstance(self._left, int):
            self._left -= len(data)
            self._on_left(self._left)
        if self._sink.failed:
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        if reason.check(ResponseDone) or self._sink.failed:
            self.finished.callback(None)  # the sink's own failure shows when it is finished
        else:
            self.finished.errback(reason)

    def pauseProducing(self) -> None:
        self.transport.pauseProducing()  # type: ignore[union-attr]

    def resumeProducing(self) -> None:
        self.transport.resumeProducing()  # type: ignore[union-attr]

    def read_at_most(self, size: int) -> None:
        read_at_most(self.transport, size)

    def _abort(self) -> None:
        transport: Any = self.transport
        abort = getattr(transport, "abortConnection", None) or transport.loseConnection
        abort()


@implementer(IAgent)
class PlainAgent:
    """Asks for bytes as they are: treq would ask for gzip, which is decided elsewhere here."""

    def __init__(self, inner: IAgent) -> None:
        self._inner = inner

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> "Deferred[IResponse]":
        """See :class:`IAgent`."""
        headers = headers.copy() if headers is not None else Headers()
        headers.removeHeader(b"Accept-Encoding")
        answer: Deferred[IResponse] = self._inner.request(method, uri, headers, bodyProducer)
        return answer.addCallback(_as_it_is)


def _as_it_is(response: IResponse) -> IResponse:
    """Nor is gzip taken unasked: treq would inflate it in the reactor, whatever that makes."""
    response.headers.removeHeader(b"Content-Encoding")
    return response


@implementer(IAgentEndpointFactory)
class WideEndpointFactory:
    """TCP, with TLS or by a proxy where that is so; its transports move more than Twisted's do."""

    attempt_delay: float | None = None
    """Seconds between the addresses of a name that are tried; None for Twisted's."""

    def __init__(
        self,
        reactor: Any,
        timeout: float,
        congestion: Congestion,
        on_connected: Callable[[Any, Sight], None],
        tls: PeerTls | None = None,
        proxy: HttpProxy | None = None,
    ) -> None:
        """:param on_connected: called with the socket of each connection, and what watches it.

        :param tls: for those whose URL says https.
        """
        self._reactor = reactor
        self._timeout = timeout
        self._congestion = congestion
        self._on_connected = on_connected
        self._tls = tls
        self._proxy = proxy

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        """See :class:`IAgentEndpointFactory`."""
        host, port, proxy = uri.host, uri.port, self._proxy
        if proxy is not None:
            host, port = proxy.host.encode(), proxy.port
        inner: Any = HostnameEndpoint(
            self._reactor, host, port, self._timeout, attemptDelay=self.attempt_delay
        )
        if proxy is not None and uri.scheme == b"https":
            inner = Tunnel(inner, proxy, uri.host.decode(), uri.port)
        if uri.scheme == b"https":
            assert self._tls is not None
            inner = _TlsEndpoint(inner, self._tls, self._reactor)
        return _WideEndpoint(inner, self._prepare)

    def _prepare(self, protocol: Any) -> Any:
        widen(protocol.transport)
        connection = getattr(lowest(protocol.transport), "socket", None)
        if connection is not None:
            self._on_connected(connection, self._congestion.tune(connection))
        return protocol


@implementer(IStreamClientEndpoint)
class _TlsEndpoint:
    def __init__(self, inner: IStreamClientEndpoint, tls: PeerTls, clock: IReactorTime) -> None:
        self._inner = inner
        self._tls = tls
        self._clock = clock

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        factory = WideTlsFactory(self._tls, True, protocolFactory, self._clock)
        connecting: Deferred[Any] = self._inner.connect(factory)
        return connecting.addCallback(lambda outer: outer.wrappedProtocol)


@implementer(IStreamClientEndpoint)
class _WideEndpoint:
    def __init__(self, inner: IStreamClientEndpoint, prepare: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._prepare = prepare

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        return self._inner.connect(protocolFactory).addCallback(self._prepare)


def why(error: BaseException, unresolved: str) -> str:
    """Why there is no answer, as advice.

    :param error: see :func:`innermost`. :param unresolved: what to say of an unknown host name.
    """
    if isinstance(error, Stalled):
        return f"no progress for {error.seconds:g} s; is it overloaded, is the link down?"
    if isinstance(error, net.ConnectionRefusedError):
        return "connection refused; is it running, and is the port right?"
    if isinstance(error, net.DNSLookupError):
        return unresolved
    if isinstance(error, net.TimeoutError | net.TCPTimedOutError):
        return "no connection in time; is the address right, does a firewall drop it?"
    if isinstance(error, net.ConnectError):
        return f"cannot connect: {error}"
    broken = str(error).rstrip(".") or type(error).__name__
    return f"the connection broke ({broken}); its log, or a proxy's, may tell why"


LONGEST_QUOTE = 300
"""Characters of what the other side says that are told again."""


def what_orthanc_says(body: bytes) -> tuple[int, str] | None:
    """Its code and its words in the body of an error; None where it is no Orthanc that speaks."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or "OrthancError" not in said:
        return None
    details = said.get("Details") or ""
    text = f"{said.get('Message') or said['OrthancError']}"
    code = said.get("OrthancStatus")
    text = f"{text} ({details})" if details else text
    return (code if isinstance(code, int) else 0, whole_characters(text[:LONGEST_QUOTE]))


def whole_characters(text: str) -> str:
    """The text without halves of characters, which JSON can hold and UTF-8 cannot."""
    return text.encode("utf-8", "replace").decode()


@implementer(IResolutionReceiver)
class _Addresses:
    """Collects the addresses of a host."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.done: Deferred[list[str]] = Deferred()

    def resolutionBegan(self, resolutionInProgress: Any) -> None:
        """See :class:`IResolutionReceiver`."""

    def addressResolved(self, address: Any) -> None:
        """See :class:`IResolutionReceiver`."""
        if address.host not in self.found:
            self.found.append(address.host)

    def resolutionComplete(self) -> None:
        """See :class:`IResolutionReceiver`."""
        if not self.done.called:
            self.done.callback(self.found)


async def resolve(reactor: Any, host: str) -> list[str]:
    """The addresses of a host; empty if there are none."""
    addresses = _Addresses()
    reactor.nameResolver.resolveHostName(addresses, host)
    return await addresses.done


def innermost(error: BaseException) -> BaseException:
    """The reason inside Twisted's wrappers; our own error, where one of the reasons is one."""
    while reasons := [failure.value for failure in getattr(error, "reasons", ())]:
        own = [reason for reason in reasons if isinstance(reason, TransfersError)]
        error = (own or reasons)[0]
    return error
