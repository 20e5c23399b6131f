"""A small HTTP server on a real socket that answers as a recording of a stock peer tells."""

import gzip
from collections.abc import Sequence
from enum import Enum
from typing import Any
from urllib.parse import parse_qs, unquote

import attrs
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.protocol import ServerFactory
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

from tests.recorded import Exchange
from tests.web.stand_ins import bytes_asked_for, with_our_md5s

_HOPS = ("connection", "keep-alive", "content-length")


class KeepAlive(Enum):
    """What becomes of a connection after an answer."""

    STAY = "it stays open"
    CLOSE = "it is closed at once, without a word"
    DROP = "it is closed when the next request has come, without an answer"


@attrs.frozen
class Sent:
    """A request as the client sent it."""

    method: str
    path: str
    arguments: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes

    def header(self, name: str) -> str | None:
        """The header of that name."""
        return self.headers.get(name.lower())


def route(target: str) -> tuple[str, dict[str, list[str]]]:
    """A target without doubled slashes and percent-encoding, and its arguments."""
    path, _, query = target.partition("?")
    segments = [segment for segment in unquote(path).split("/") if segment]
    return "/" + "/".join(segments), parse_qs(query, keep_blank_values=True)


class RecordedServer(ServerFactory):
    """Answers each of the recorded requests once, in whatever order they come.

    :ivar pairs: the exchanges that were played, with what the client sent.
    :ivar unexpected: requests that the recording does not have; they get a 404.
    :ivar connections: how many there were.
    """

    noisy = False

    def __init__(
        self,
        exchanges: Sequence[Exchange],
        keep_alive: KeepAlive = KeepAlive.STAY,
        cookies: Sequence[str] = (),
    ) -> None:
        """:param cookies: set by the answer to the opening of a push."""
        self.waiting = list(exchanges)
        self.pairs: list[tuple[Exchange, Sent]] = []
        self.unexpected: list[Sent] = []
        self.dropped = 0
        self.connections = 0
        self._keep_alive = keep_alive
        self._cookies = cookies
        self._lost: list[Deferred[None]] = []

    def buildProtocol(self, addr: Any) -> Any:
        """One channel a connection."""
        self.connections += 1
        lost: Deferred[None] = Deferred()
        self._lost.append(lost)
        return _Channel(self, lost)

    def idle(self) -> "DeferredList":
        """Fires when all connections are closed."""
        return DeferredList(self._lost)

    def answer(self, request: "_Request", sent: Sent, is_first: bool) -> None:
        """Answer a request, or close the connection on it."""
        if self._keep_alive is KeepAlive.DROP and not is_first:
            self.dropped += 1
            request.channel.loseConnection()
            return
        if self._keep_alive is KeepAlive.CLOSE:
            request.channel.persistent = False
        wanted = (sent.method, sent.path, sent.arguments)
        for exchange in self.waiting:
            if (exchange.method, *route(exchange.target)) == wanted:
                self.waiting.remove(exchange)
                self.pairs.append((exchange, sent))
                self._play(exchange, request)
                return
        self.unexpected.append(sent)
        request.setResponseCode(404)
        request.finish()

    def _play(self, exchange: Exchange, request: "_Request") -> None:
        body = self._body(exchange)
        request.setResponseCode(exchange.status)
        for name, value in exchange.response_headers:
            if name.lower() not in _HOPS:
                request.setHeader(name, value)
        if route(exchange.target)[0] == "/transfers/push":
            for cookie in self._cookies:
                request.responseHeaders.addRawHeader("Set-Cookie", cookie)
        request.setHeader("Connection", "keep-alive")
        request.setHeader("Keep-Alive", "timeout=1")
        request.setHeader("Content-Length", str(len(body)))
        request.write(body)
        request.finish()

    def _body(self, exchange: Exchange) -> bytes:
        if exchange.response_body is not None:
            return with_our_md5s(exchange.response_body)
        data = bytes_asked_for(exchange.target)
        gzipped = exchange.response_header("Content-Type") == "application/gzip"
        return gzip.compress(data) if gzipped else data


class _Request(Request):
    def process(self) -> None:
        path, arguments = route(self.uri.decode("latin-1"))
        headers = {
            name.decode("latin-1").lower(): b", ".join(values).decode("latin-1")
            for name, values in self.requestHeaders.getAllRawHeaders()
        }
        body = self.content.read()
        sent = Sent(self.method.decode("latin-1"), path, arguments, headers, body)
        channel: Any = self.channel
        channel.count += 1
        channel.server.answer(self, sent, channel.count == 1)


class _Channel(HTTPChannel):
    requestFactory = _Request

    def __init__(self, server: RecordedServer, lost: "Deferred[None]") -> None:
        super().__init__()
        self.server = server
        self.count = 0
        self.timeOut = None
        self._lost = lost

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        self._lost.callback(None)
