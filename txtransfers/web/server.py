"""Requests whose handlers start when the headers are there, and take the body as it comes.

Twisted itself spools a whole body before it calls ``render`` (its issue 4688). Here the channel
tells the request of its first line and headers (:meth:`StreamingRequest.begin`), the resource is
rendered at once, and :class:`RequestBody` hands the bytes over as they arrive, with backpressure.
An answer that is ready before the body has come is sent, and the rest of the body thrown away; a
body that is much longer than that ends the connection.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs
from weakref import WeakSet

from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.resource import IResource
from twisted.web.server import Request, Site

from ..config_limits import LimitsSettings
from ..errors import TransfersError
from ..metrics import Measures
from ..tls import reason_of
from ..transfer import tcp
from ..transfer.congestion import Congestion, Sight
from ..transfer.streams import READ_SIZE, lowest, read_at_most, widen
from .connections import Connections
from .load import RETRY_AFTER_S, Load
from .refusals import Refusals

_DRAIN_LIMIT = 32 * 2**20
"""Bytes of a body that nobody wants which are still read, so that the answer gets through."""

_LINGER_S = 2.0
"""Seconds that a connection is read from, without use, after its last answer."""

_LENGTH_DIGITS = 18
"""Digits of a Content-Length; more bytes than these can tell there are not."""

_TLS_HELLO = b"\x16\x03"

_UNCLAIMED = 256 * 1024
"""Bytes that are kept before the handler takes the body."""

_FIRST_READ = 64 * 1024
"""Bytes that are read at a time from whoever has not sent a body that was wanted."""

_RATE_WINDOW_S = 60.0
"""Seconds over which a body must have come at ``MinimumBodyRate``."""

_TOLD_S = 5.0
"""Seconds that one who is turned away may take to ask for something, to be told so."""

_TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"

log = Logger()


class ClientGone(TransfersError):
    """The client went away before its request was whole."""


class ITaker(Protocol):
    """Who takes a body: a sink, or whoever hands it on."""

    @property
    def failed(self) -> bool:
        """Whether it wants no more."""

    @property
    def is_holding(self) -> bool:
        """Whether it has paused its source."""

    def attach(self, source: Any) -> None:
        """Called first, with the body: its source, which it may pause."""

    def write(self, data: bytes) -> None:
        """Called with the next bytes."""


class RequestBody:
    """The body of a request, handed to at most one taker."""

    def __init__(self, channel: "StreamingChannel") -> None:
        self._channel = channel
        self._sink: ITaker | None = None
        self._early: list[bytes] = []
        self._early_size = 0
        self._drained: int | None = None
        self._paused = False
        self.ended = False
        self.came = 0
        """Bytes so far."""
        self.on_end: Callable[[], None] | None = None
        """Called once, when it has come, or never will."""
        self._failure: Failure | None = None
        self._waiter: Deferred[None] | None = None

    async def into(self, sink: ITaker) -> None:
        """Hand the bytes to ``sink`` until the last has come; the sink is not finished then.

        :raises ClientGone: the client went away before.
        """
        self._sink = sink
        sink.attach(self)
        early, self._early = self._early, []
        for data in early:
            sink.write(data)
        if not sink.failed and not sink.is_holding:
            self.resumeProducing()
        if not self.ended and self._failure is None and not sink.failed:
            self._waiter = Deferred()
            await self._waiter
        if self.ended:
            self._sink = None
        if self._failure is not None:
            self._failure.raiseException()

    def drain(self) -> None:
        """Throw away what is still to come."""
        self._sink, self._early = None, []
        self._drained = 0
        self.resumeProducing()

    # Called by the request

    def feed(self, data: bytes) -> None:
        """The next bytes have come."""
        self.came += len(data)
        if self._drained is not None:
            self._drained += len(data)
            if self._drained > _DRAIN_LIMIT:
                self._channel.give_up()
        elif self._sink is not None:
            self._sink.write(data)
            if self._sink.failed:
                self._wake()
        else:
            self._early.append(data)
            self._early_size += len(data)
            if self._early_size >= _UNCLAIMED:
                self.pauseProducing()

    def end(self) -> None:
        """The last byte has come."""
        self.ended = True
        self._wake()
        self._settle()

    def lost(self) -> None:
        """The client has gone."""
        if not self.ended:
            self._failure = Failure(ClientGone("The client closed the connection"))
            self._wake()
            self._settle()

    def _settle(self) -> None:
        self._sink = None  # which knows its source: what it has collected would stay in memory
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    # Called by the sink

    def pauseProducing(self) -> None:
        """Read no more from the socket; it may take as long as it takes."""
        if not self._paused:
            self._paused = True
            self._channel.pause_reading()

    def resumeProducing(self) -> None:
        """Read on."""
        if self._paused:
            self._paused = False
            self._channel.resume_reading()

    def read_at_most(self, size: int) -> None:
        """Read so many bytes from the socket at a time."""
        read_at_most(self._channel.transport, size)


class StreamingChannel(HTTPChannel):
    """An HTTP connection that tells its requests early; see the module."""

    transport: Any
    site: "StreamingSite"
    _abandoned = False
    _is_known = False
    _is_wide = False
    _turned_away = ""
    """The limit for which it was not let in."""
    _headers_clock: IDelayedCall | None = None
    _rate_clock: IDelayedCall | None = None
    _paused_since: float | None = None
    _paused_for = 0.0
    _asked = 0
    """Requests so far."""
    _socket: Any = None
    _sight: Sight | None = None
    """What watches over the packets of its socket."""

    @property
    def host(self) -> str:
        """The address of the client; empty where there is none."""
        return str(getattr(self.transport.getPeer(), "host", ""))

    def connectionMade(self) -> None:
        """Let the transport move more bytes at a time, as the link allows."""
        widen(self.transport)
        read_at_most(self.transport, _FIRST_READ)
        connection = getattr(lowest(self.transport), "socket", None)
        if connection is not None:
            # What the listening socket has is not inherited where the route names another.
            self._socket, self._sight = connection, self.site.congestion.tune(connection)
        super().connectionMade()
        limit = self.site.connections.enter(self)
        if limit:
            self._turn_away(limit)
        else:
            self._expect_headers()

    # Limits

    def _turn_away(self, limit: str) -> None:
        """Wait for the first bytes, to answer them, or for nothing."""
        self.setTimeout(None)
        self._turned_away = limit
        if self.site.connections.may_be_told(self):
            self._headers_clock = self.callLater(_TOLD_S, self._headers_are_late)
        else:
            self.forceAbortClient()

    def make_room(self) -> None:
        """See :class:`.connections.IChannel`."""
        self.end_after_answer()
        self.forceAbortClient()

    def _expect_headers(self) -> None:
        if self._headers_clock is None:
            seconds = self.site.limits.header_timeout
            self._headers_clock = self.callLater(seconds, self._headers_are_late)

    def _headers_are_late(self) -> None:
        self._headers_clock = None
        if not self._turned_away:
            self.site.refusals.note("HeaderTimeout", self.host)
        if self._is_known and not self._turned_away:
            self.transport.write(_TIMED_OUT)
            self.give_up()
        else:
            self.end_after_answer()
            self.forceAbortClient()

    def _headers_came(self) -> None:
        clock, self._headers_clock = self._headers_clock, None
        if clock is not None:
            clock.cancel()

    def _watch_rate(self) -> None:
        """From now on the body must come at ``MinimumBodyRate``."""
        if self.site.limits.minimum_body_rate:
            self._begin_window(_RATE_WINDOW_S)
            self._paused_for = 0.0

    def _begin_window(self, seconds: float) -> None:
        body = self.requests[-1].body
        self._rate_clock = self.callLater(seconds, partial(self._check_rate, body, body.came))

    def _check_rate(self, body: RequestBody, before: int) -> None:
        """Time in which we read nothing does not count: the window becomes longer by it."""
        now, waits = self.site.reactor.seconds(), self.requests[-1].awaits_continue
        if self._paused_since is not None:
            self._paused_for += now - self._paused_since
            self._paused_since = now
        paused, self._paused_for = self._paused_for, 0.0
        wanted = self.site.limits.minimum_body_rate * _RATE_WINDOW_S
        if waits or body.came - before >= wanted:
            self._begin_window(_RATE_WINDOW_S)
        elif paused > 0:
            seconds = max(1.0, min(paused, _RATE_WINDOW_S))
            self._rate_clock = self.callLater(seconds, partial(self._check_rate, body, before))
        else:
            self._rate_clock = None
            self.site.refusals.note("MinimumBodyRate", self.host)
            self.forceAbortClient()

    def _stop_watching(self) -> None:
        clock, self._rate_clock = self._rate_clock, None
        if clock is not None:
            clock.cancel()

    def take_body(self) -> None:
        """The body that comes is wanted: read it in large pieces, as all that follow."""
        if not self._is_wide:
            self._is_wide = True
            read_at_most(self.transport, READ_SIZE)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line that is too long gets an answer, not just a closed connection."""
        self.site.refusals.note("MaxHeaderSize", self.host)
        self._respondToBadRequestAndDisconnect()

    def lineReceived(self, line: bytes) -> None:
        """Refuse a header that goes on in the next line: not all see it so (RFC 9112, 5.2)."""
        if line[:1] in (b" ", b"\t"):
            self._respondToBadRequestAndDisconnect()
        else:
            super().lineReceived(line)

    def _respondToBadRequestAndDisconnect(self) -> None:
        if self._receivedHeaderSize > self.totalHeadersSize:
            self.site.refusals.note("MaxHeaderSize", self.host)
        super()._respondToBadRequestAndDisconnect()

    def headerReceived(self, line: bytes) -> bool:
        """Refuse what a proxy in front of us may read otherwise than we do: see RFC 9112."""
        name, _colon, value = (part.strip(b" \t") for part in line.partition(b":"))
        known = self.requests[-1].requestHeaders
        match name.lower():
            case b"content-length":
                is_good = len(value) <= _LENGTH_DIGITS
            case b"transfer-encoding":
                is_good = value.lower() == b"chunked" and self._version != b"HTTP/1.0"
            case b"host":
                is_good = not known.hasHeader(b"host")
            case _:
                is_good = True
        if not is_good:
            self._respondToBadRequestAndDisconnect()
            return False
        return bool(super().headerReceived(line))

    def allHeadersReceived(self) -> None:
        """The headers are there: let the request begin."""
        request = self.requests[-1]
        command, path, version = self._command, self._path, self._version
        self._headers_came()
        self._look()
        self.site.connections.busy(self)
        super().allHeadersReceived()
        if self.length != 0:
            self._watch_rate()
        request.begin(command, path, version)

    def _send100Continue(self) -> None:
        """The client waits for leave to send its body: the request gives it, once it is wanted."""
        self.requests[-1].awaits_continue = True

    def send_continue(self) -> None:
        """Give that leave."""
        super()._send100Continue()

    def allContentReceived(self) -> None:
        """The body has ended. Where reading was paused then, no clock runs that could be saved."""
        self._savedTimeOut = self.site.patience
        self._stop_watching()
        super().allContentReceived()

    def requestDone(self, request: Request) -> None:
        """The answer has been given; the next request may be there already."""
        self._look()
        self.site.connections.idles(self)
        super().requestDone(request)

    def _look(self) -> None:
        """See how the last answer travelled."""
        told = tcp.read(self._socket) if self._sight is not None else None
        if self._sight is not None and told is not None:
            self._sight.look(told)

    def checkPersistence(self, request: Request, version: bytes) -> bool:
        """Whether the connection goes on after this request (``KeepAlive``, limits)."""
        self._asked += 1
        most = self.site.limits.requests_per_connection
        if self.site.keep_alive and not 0 < most <= self._asked:
            return bool(super().checkPersistence(request, version))
        request.setHeader("Connection", "close")
        return False

    def dataReceived(self, data: bytes) -> None:
        """Take bytes, unless nobody will ever want them."""
        if not self._is_known:
            self._is_known = True
            if self._turned_away:
                self._headers_came()
                self.transport.write(self.site.busy_answer(self._turned_away))
                self.give_up()
                return
            if data.startswith(_TLS_HELLO):  # its line would never end
                log.info("{peer} speaks TLS to a port that does not", peer=self.getPeer())
                self._respondToBadRequestAndDisconnect()
                return
        if not self._abandoned:
            if self.line_mode and data:
                self._expect_headers()
            super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`HTTPChannel`; that TLS failed is for the log, it has many reasons."""
        if reason.check(SSL.Error) is not None:
            log.info(
                "{peer}: TLS failed: {why}",
                peer=getattr(self.transport.getPeer(), "host", "?"),
                why=reason_of(reason.value),  # type: ignore[arg-type]
            )
        self.connected = 0  # TLS must not be asked to end twice
        self._headers_came()
        self._stop_watching()
        self.site.connections.leave(self)
        super().connectionLost(reason)

    def pause_reading(self) -> None:
        """Stop reading from the socket, and the clock that watches over it."""
        self.setTimeout(None)
        if self._paused_since is None:
            self._paused_since = self.site.reactor.seconds()
        self.transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read from the socket again, and watch over it where the client has more to send."""
        if not self._handlingRequest:
            self.setTimeout(self.site.patience)
        if self._paused_since is not None:
            self._paused_for += self.site.reactor.seconds() - self._paused_since
            self._paused_since = None
        self.transport.resumeProducing()

    def end_after_answer(self) -> None:
        """Take nothing more, and close after the answer."""
        self._abandoned = True
        self.persistent = False
        self.setTimeout(None)
        self._headers_came()
        self._stop_watching()

    def give_up(self) -> None:
        """No use in reading more: finish writing, then read idly for a while, so that the answer
        is not lost with a reset, and close.
        """
        self.end_after_answer()
        if lowest(self.transport) is self.transport and hasattr(
            self.transport, "loseWriteConnection"
        ):
            self.transport.loseWriteConnection()
        else:  # TLS says that it ends, and reads on
            self.transport.loseConnection()
        self.callLater(_LINGER_S, self.forceAbortClient)

    def forceAbortClient(self) -> None:
        """End the connection, however it is."""
        self.transport.abortConnection()


def _arguments(query: bytes) -> dict[bytes, list[bytes]]:
    """The arguments of a URL; each byte of them is one character of Latin-1 on the way."""
    code = "latin-1"
    found = parse_qs(query.decode(code), keep_blank_values=True, encoding=code)
    return {name.encode(code): [v.encode(code) for v in values] for name, values in found.items()}


class StreamingRequest(Request):
    """A request whose handler runs while its body comes.

    :ivar channel: its connection: None once the client has gone, which a handler that waited for
        something must expect; ``site`` and :attr:`address` stay.
    """

    channel: StreamingChannel
    site: "StreamingSite"
    awaits_continue = False
    """Whether the client sends its body only if it is told to (``Expect: 100-continue``)."""
    asker = ""
    """Who asks; empty where nobody is asked for a name."""
    login = ""
    """The user, or the name of the token."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.facts: dict[str, Any] = {}
        """What the audit log is to be told of it."""
        self.body = RequestBody(self.channel)
        self._finish_wanted = False

    @property
    def address(self) -> str:
        """That of the client; empty where there is none."""
        return str(getattr(self.getClientAddress(), "host", ""))

    def take_body(self) -> None:
        """Whoever asks may: a body, where there is one, is wanted.

        :raises TooBusy: too many are coming.
        """
        is_coming = not self.body.ended and self.content_length != 0
        if self._disconnected or not is_coming or self.body.on_end is not None:
            return
        load = self.channel.site.load
        load.begin_upload(self.channel.host)
        self.body.on_end = load.end_upload
        self.channel.take_body()

    def gotLength(self, length: int | None) -> None:
        """See :class:`twisted.web.http.Request`; keeps no copy of the body."""
        self.content_length = length

    def begin(self, command: bytes, path: bytes, version: bytes) -> None:
        """The first line and the headers are there."""
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _mark, query = path.partition(b"?")
        self.args = _arguments(query)
        self.process()

    def render(self, resource: IResource) -> None:
        """See :class:`twisted.web.server.Request`."""
        if not getattr(resource, "continues", False):
            self.send_continue()
        super().render(resource)

    def send_continue(self) -> None:
        """Tell a client that waits for it to send its body."""
        if self.awaits_continue:
            self.awaits_continue = False
            self.channel.send_continue()

    def refuse_body(self) -> None:
        """Before an answer: a client that was not told to send its body may do so or not. What
        comes next on the connection could be either, so that it is closed.
        """
        if self.awaits_continue:
            self.setHeader("Connection", "close")
            self.channel.end_after_answer()

    def handleContentChunk(self, data: bytes) -> None:
        """See :class:`twisted.web.http.Request`."""
        self.awaits_continue = False
        self.body.feed(data)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """The body has ended; see :class:`twisted.web.http.Request`."""
        self.body.end()
        if self._finish_wanted:
            super().finish()

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.web.http.Request`."""
        self.body.lost()
        super().connectionLost(reason)

    def finish(self) -> None:
        """End the answer; the connection goes on once the body has ended too."""
        if self.body.ended or self.awaits_continue:
            super().finish()
        elif not self._disconnected:
            self._finish_wanted = True
            if not self.startedWriting:
                self.write(b"")
            self.body.drain()

    def abort(self) -> None:
        """Cut the connection: the answer has begun and cannot be given as it was promised."""
        if not self._disconnected:
            self.channel.forceAbortClient()


class StreamingSite(Site):
    """Routes by path segments: empty ones do not count, percent-encoding is undone."""

    requestFactory = StreamingRequest
    noisy = False
    congestion = Congestion()
    """Of its connections; see :func:`.congestion.choose`."""

    def __init__(
        self,
        resource: IResource,
        timeout: float,
        keep_alive: bool,
        limits: LimitsSettings,
        memory: int,
        clock: Any,
        measures: Measures,
    ) -> None:
        """:param timeout: seconds without a byte after which a client is given up.

        :param keep_alive: whether a connection may carry more than one request.
        :param memory: bytes for answers that are kept as a whole.
        """
        super().__init__(resource, timeout=timeout, reactor=clock)
        self.limits = limits
        self.measures = measures
        self.refusals = Refusals(clock)
        self.connections = Connections(
            clock, limits.connections, limits.connections_per_address, self.refusals
        )
        self.load = Load(clock, limits, self.refusals, memory)
        self.keep_alive = keep_alive
        self.patience = timeout
        self.displayTracebacks = False
        self._channels: WeakSet[StreamingChannel] = WeakSet()

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """One channel a connection."""
        channel: Any = StreamingChannel()
        channel.factory = self
        channel.site = self
        channel.requestFactory = self.requestFactory
        channel.timeOut = self.timeOut
        channel.totalHeadersSize = channel.MAX_LENGTH = self.limits.header_size
        channel.callLater = self.reactor.callLater
        self._channels.add(channel)
        return channel

    def busy_answer(self, limit: str) -> bytes:
        """What is said to one who is not let in."""
        details = f"Too many connections are open, which is {limit} in Limits: try again later"
        body = json.dumps({"Details": details, "HttpStatus": 503}).encode() + b"\n"
        return (
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: text/plain\r\n"
            b"Retry-After: %d\r\nContent-Length: %d\r\n\r\n%b" % (RETRY_AFTER_S, len(body), body)
        )

    def abort_connections(self) -> None:
        """Cut all connections: the daemon is being stopped."""
        for channel in list(self._channels):
            if channel.connected:
                channel.forceAbortClient()

    def log(self, request: Any) -> None:
        """No access log: errors and jobs are logged where they happen. Answers are counted."""
        self.measures.answered(request.code)

    def getResourceFor(self, request: Request) -> IResource:
        """The resource of a path, whatever its slashes."""
        request.postpath = [segment for segment in request.postpath or () if segment]
        resource: IResource = super().getResourceFor(request)
        return resource
