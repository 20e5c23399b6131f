"""One request that is handed on to Orthanc, and its answer: streamed both ways, as they come.

Whoever is slow slows the other: a full socket pauses the one that is read from. Who goes away takes
the other along: without a client the request is cut off; without Orthanc the answer is, where it
has begun, or it is an error that says what to do.
"""

from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.web.http_headers import Headers
from twisted.web.resource import Resource
from twisted.web.server import Request

from ...errors import OrthancUnreachable, TransfersError
from ...orthanc.answers import Head
from ...transfer.client import Stall
from ..resource import ApiResource
from ..server import ClientGone, StreamingRequest
from .headers import Client, goes_round, handed_on, passed_on, request_head
from .upstream import Connection, Gone, Upstream

_REPEATABLE = (b"GET", b"HEAD", b"OPTIONS")
_NO_BODY = (b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"TRACE")
_CONTINUE = 100
_LEAVE_S = 0.1
"""Seconds that a client waits for Orthanc's leave to send a body; then it has ours. Orthanc 1.10
never gives any, and takes the body all the same."""


class HandOn(ApiResource):
    """Whatever is Orthanc's."""

    continues = True

    def __init__(self, upstream: Upstream) -> None:
        super().__init__()
        self._upstream = upstream

    async def handle(self, request: StreamingRequest, method: str) -> Any:
        """Hand it on, whatever the method."""
        try:
            if goes_round(headers_of(request)):
                raise OrthancUnreachable(
                    "The request comes back again and again: Store.Url leads to this daemon, or to"
                    " another that leads here; it must be Orthanc's own address"
                )
            await Exchange(self._upstream, request).run()
        except TransfersError:
            request.refuse_body()
            raise

    def getChild(self, path: bytes, request: Request) -> Resource:
        """Whatever is below, too."""
        return self


def client_of(request: StreamingRequest) -> Client:
    """Who asks."""
    address = getattr(request.getClientAddress(), "host", "") or "unknown"
    host = (request.requestHeaders.getRawHeaders(b"Host") or [b""])[0]
    return Client(address.encode(), host, request.isSecure())


def headers_of(request: StreamingRequest) -> list[tuple[bytes, bytes]]:
    """The headers of a request, one by one."""
    return [
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    ]


class Exchange:
    """See the module."""

    def __init__(self, upstream: Upstream, request: StreamingRequest) -> None:
        self._upstream = upstream
        self._request = request
        self._stall = Stall(upstream.clock, upstream.patience)
        self._connection: Connection | None = None
        self._outcome: Deferred[None] | None = None
        self._body: _Body | None = None
        self._has_head = False
        self._impatience: IDelayedCall | None = None
        self._leave: IDelayedCall | None = None

    async def run(self) -> None:
        """Return when the client has been given its answer.

        :raises OrthancUnreachable: there is none.
        :raises ClientGone: nobody waits for it any more.
        """
        request = self._request
        request.notifyFinish().addErrback(lambda _failure: self._lose(ClientGone("It went away")))
        has_body = request.content_length is None or request.content_length > 0
        repeatable = request.method in _REPEATABLE and not has_body
        while True:
            connection = await self._upstream.take(may_be_used=repeatable)
            if request._disconnected:
                connection.abort()
                raise ClientGone("It went away")
            try:
                await self._once(connection, has_body)
                return
            except Gone as error:
                if not connection.was_used:
                    raise self._upstream.explain(error) from None
                repeatable = False
            except TransfersError:
                raise
            except Exception as error:
                raise self._upstream.explain(error) from error

    async def _once(self, connection: Connection, has_body: bool) -> None:
        request = self._request
        headers = handed_on(headers_of(request), client_of(request), self._upstream.host)
        chunked = has_body and request.content_length is None
        if chunked:
            headers.append((b"Transfer-Encoding", b"chunked"))
        elif has_body or request.method not in _NO_BODY:
            headers.append((b"Content-Length", b"%d" % (request.content_length or 0)))
        self._connection = connection
        self._outcome = Deferred(lambda _outcome: connection.abort())
        target = self._upstream.target(request.uri)
        connection.ask(
            request.method, request_head(request.method, target, headers), self, has_body
        )
        if request.awaits_continue:
            self._leave = self._upstream.clock.callLater(_LEAVE_S, request.send_continue)
        if has_body:
            self._body = _Body(connection, request, self._stall, chunked)
            Deferred.fromCoroutine(self._body.send()).addErrback(
                lambda failure: self._lose(failure.value)
            )
        try:
            await self._stall.watch(self._outcome)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        self._be_patient()
        if self._leave is not None and self._leave.active():
            self._leave.cancel()
        if self._has_head and self._request.producer is self:
            self._request.unregisterProducer()
        if self._body is not None:
            self._body.forget()

    def _lose(self, error: BaseException | None) -> None:
        """There is no use in going on."""
        outcome = self._outcome
        if outcome is not None and not outcome.called and self._connection is not None:
            self._connection.abort()
            outcome.errback(error or ClientGone("It went away"))

    # Called by the connection to Orthanc

    def interim(self, head: Head) -> None:
        """The body is waited for, or there is no other news."""
        self._stall.touch()
        if head.status == _CONTINUE:
            self._request.send_continue()

    def head(self, head: Head) -> None:
        """The client is told at once, whatever the body takes."""
        self._stall.touch()
        self._has_head = True
        request = self._request
        request.setResponseCode(head.status, head.phrase)
        request.responseHeaders = _answered(request.responseHeaders, head)
        request.defaultContentType = None
        request.refuse_body()
        request.registerProducer(self, True)
        request.write(b"")

    def data(self, data: bytes) -> None:
        """The next bytes go on."""
        self._stall.touch()
        self._request.write(data)

    def end(self) -> None:
        """The answer is whole."""
        self._let_go()
        self._request.finish()
        self._settle(None)

    def failed(self, error: BaseException) -> None:
        """The answer will never be whole."""
        self._settle(error)

    def _settle(self, error: BaseException | None) -> None:
        outcome = self._outcome
        if outcome is None or outcome.called:
            return
        if error is None:
            outcome.callback(None)
        else:
            outcome.errback(error)

    # Called by the connection to the client

    def pauseProducing(self) -> None:
        """The client reads slowly."""
        if self._connection is not None and self._impatience is None:
            self._stall.hold()
            channel = self._request.channel
            clock = self._upstream.clock
            self._impatience = clock.callLater(channel.site.patience, channel.forceAbortClient)
            self._connection.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """The client has read."""
        self._be_patient()

    def stopProducing(self) -> None:
        """The client has gone."""
        self._lose(ClientGone("It went away"))

    def _be_patient(self) -> None:
        timer, self._impatience = self._impatience, None
        if timer is not None and self._connection is not None:
            self._stall.release()
            if timer.active():
                timer.cancel()
            self._connection.transport.resumeProducing()


def _answered(ours: Headers, head: Head) -> Headers:
    """The headers of the answer: Orthanc's, and what concerns the connection to the client."""
    headers = Headers()
    for name, value in passed_on(head.headers):
        headers.addRawHeader(name, value)
    connection = ours.getRawHeaders(b"Connection")
    if connection is not None:
        headers.setRawHeaders(b"Connection", connection)
    return headers


class _Body:
    """The body of the request, on its way to Orthanc."""

    failed = False
    is_holding = False

    def __init__(
        self, connection: Connection, request: StreamingRequest, stall: Stall, chunked: bool
    ) -> None:
        self._connection: Connection | None = connection
        self._request = request
        self._stall = stall
        self._chunked = chunked

    async def send(self) -> None:
        """Hand it on as it comes."""
        try:
            await self._request.body.into(self)
        except ClientGone:
            if self._connection is not None:
                raise
            return
        connection = self._connection
        if connection is not None:
            if self._chunked:
                connection.write(b"0\r\n\r\n")
            connection.transport.unregisterProducer()
            connection.body_ended()

    def attach(self, source: Any) -> None:
        """Called with what is to be paused while Orthanc reads slowly."""
        self._source = source
        if self._connection is not None:
            self._connection.transport.registerProducer(self, True)

    def write(self, data: bytes) -> None:
        """The next bytes have come."""
        self._stall.touch()
        if self._connection is None:
            return
        if self._chunked:
            self._connection.write(b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._connection.write(data)

    def forget(self) -> None:
        """Orthanc wants no more of it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Exception):
                connection.transport.unregisterProducer()

    def pauseProducing(self) -> None:
        """Orthanc reads slowly."""
        self._source.pauseProducing()

    def resumeProducing(self) -> None:
        """Orthanc has read."""
        self._stall.touch()
        self._source.resumeProducing()

    def stopProducing(self) -> None:
        """Orthanc reads no more."""
