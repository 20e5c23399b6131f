"""``HttpProxy``: peers by http are asked for in absolute form, those by https through CONNECT."""

import re
from base64 import b64encode
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocolFactory, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from ..config_tls import HttpProxy

_LONGEST_ANSWER = 16 * 1024
_OK = range(200, 300)
_STATUS = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: |\r\n|\Z)")


class ProxyError(Exception):
    """The proxy did not do what it was asked; the text goes on "the proxy HOST:PORT"."""


def describe(proxy: HttpProxy) -> str:
    """What errors call it."""
    return f"the proxy {proxy.host}:{proxy.port} (HttpProxy)"


def authorization(proxy: HttpProxy) -> str:
    """The value of ``Proxy-Authorization``; empty where it asks for none."""
    if not proxy.username:
        return ""
    pair = f"{proxy.username}:{proxy.password}".encode()
    return f"Basic {b64encode(pair).decode()}"


def refusal(status: int) -> str:
    """What a proxy means by this."""
    if status == 407:
        return "wants a user and a password, or others: HttpProxy is user:password@host:port"
    if status in (403, 405):
        return f"does not allow this peer ({status}): its rules must"
    return f"answered {status}; can it reach the peer?"


@implementer(IStreamClientEndpoint)
class Tunnel:
    """An endpoint behind a proxy, reached by CONNECT."""

    def __init__(
        self, inner: IStreamClientEndpoint, proxy: HttpProxy, host: str, port: int
    ) -> None:
        """:param inner: of the proxy."""
        self._inner = inner
        self._proxy = proxy
        place = f"[{host}]" if ":" in host else host
        lines = [f"CONNECT {place}:{port} HTTP/1.1", f"Host: {place}:{port}"]
        if login := authorization(proxy):
            lines.append(f"Proxy-Authorization: {login}")
        self._request = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("ascii")

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        """See :class:`IStreamClientEndpoint`."""
        opened: Deferred[Any] = Deferred(lambda _d: connecting.cancel())
        connecting = self._inner.connect(_Openings(self, protocolFactory, opened))

        def connected(opening: Any) -> None:
            nonlocal connecting
            connecting = opening

        def failed(failure: Failure) -> None:
            if not opened.called:
                opened.errback(failure)

        connecting.addCallbacks(connected, failed)
        return opened

    @property
    def request(self) -> bytes:
        """What the proxy is asked."""
        return self._request

    def complaint(self, reason: str) -> ProxyError:
        """An error of the proxy."""
        return ProxyError(f"{describe(self._proxy)} {reason}")


class _Openings(Factory):
    noisy = False

    def __init__(self, tunnel: Tunnel, inner: IProtocolFactory, opened: "Deferred[Any]") -> None:
        self._parts = tunnel, inner, opened

    def buildProtocol(self, addr: IAddress | None) -> "_Opening":
        return _Opening(*self._parts)


class _Opening(Protocol):
    """Asks the proxy, then makes way for the protocol that the tunnel is for."""

    transport: Any

    def __init__(self, tunnel: Tunnel, inner: IProtocolFactory, opened: "Deferred[Any]") -> None:
        self._tunnel = tunnel
        self._inner = inner
        self._opened = opened
        self._answer = b""

    def connectionMade(self) -> None:
        self.transport.write(self._tunnel.request)

    def cancel(self) -> None:
        """Nobody waits any more."""
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        if self._opened.called:
            return
        self._answer += data
        head, separator, rest = self._answer.partition(b"\r\n\r\n")
        if not separator:
            if len(self._answer) > _LONGEST_ANSWER:
                self._fail("does not answer as a proxy does")
            return
        found = _STATUS.match(head)
        if found is None:
            self._fail("does not answer as a proxy does")
        elif int(found[1]) not in _OK:
            self._fail(refusal(int(found[1])))
        else:
            self._hand_over(rest)

    def _hand_over(self, rest: bytes) -> None:
        inner: Any = self._inner.buildProtocol(self.transport.getPeer())
        self.transport.protocol = inner
        inner.makeConnection(self.transport)
        self._opened.callback(inner)
        if rest:
            inner.dataReceived(rest)

    def _fail(self, reason: str) -> None:
        self.transport.abortConnection()
        self._opened.errback(self._tunnel.complaint(reason))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self._opened.called:
            self._opened.errback(self._tunnel.complaint("closed the connection without an answer"))
