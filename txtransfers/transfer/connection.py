"""An HTTP/1.1 connection that can take the next request while an answer is still on its way.

Twisted's own takes one at a time: between two buckets it would be idle for a round trip, after
which the kernel may shut its congestion window; another connection, which has to open its own,
would have to fill in. Here the next request is written behind the last (RFC 9112, 9.3.2): the
answers come in the same order. :mod:`.pool` decides when that is done.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import (
    HTTPClientParser,
    ParseError,
    RequestGenerationFailed,
    RequestNotSent,
    RequestTransmissionFailed,
    ResponseNeverReceived,
    TransportProxyProducer,
)
from twisted.web._newclient import Request as ClientRequest
from twisted.web.iweb import IResponse

_LONGEST_HEAD = 64 * 1024
"""Bytes up to the end of an answer's headers, those of interim answers (1xx) too."""
_QUOTED = 60


@attrs.define(eq=False)
class _Exchange:
    """A request, and its answer once it is at the head of the queue.

    :ivar answer: what the caller waits for. :ivar is_next: whether its answer is what comes.
    :ivar is_unwanted: it was cancelled; the connection ends when its answer is what comes next.
    :ivar received: bytes of its answer.
    """

    request: ClientRequest
    answer: "Deferred[IResponse]"
    parser: HTTPClientParser
    proxy: TransportProxyProducer
    is_written: bool = False
    is_next: bool = False
    is_unwanted: bool = False
    writing: "Deferred[None] | None" = None
    received: int = 0
    response: IResponse | None = None

    def give(self) -> None:
        """Give the caller the answer, where there is one that was not given yet."""
        if self.response is not None and not self.answer.called:
            self.answer.callback(self.response)

    def fail(self, reason: Failure) -> None:
        if not self.answer.called:
            self.answer.errback(reason)


class Connection(Protocol):
    """See the module. An agent takes it for Twisted's ``HTTP11ClientProtocol``."""

    transport: Any

    def __init__(
        self, on_idle: Callable[["Connection"], None], on_single: Callable[[], None]
    ) -> None:
        """:param on_idle: called when all answers are there and another request may come.

        :param on_single: called where the first answer says that there will be no second.
        """
        self._on_idle = on_idle
        self._on_single = on_single
        self._has_answered = False
        self.owner: object = None
        """Who alone may have requests stand behind each other here."""
        self._exchanges: deque[_Exchange] = deque()
        """The oldest, whose answer comes next, first."""
        self._is_ending = False
        self._rest = b""
        self.usual = 0
        """Bytes of the last body that was sent or came here, as far as is known."""
        self._lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        """See :class:`Protocol`."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)

    @property
    def is_usable(self) -> bool:
        """Whether it can take a request: the one before is on its way as a whole."""
        return not self._is_ending and all(
            each.is_written and not each.is_unwanted for each in self._exchanges
        )

    @property
    def depth(self) -> int:
        """How many answers it waits for."""
        return len(self._exchanges)

    @property
    def left(self) -> float:
        """Bytes of its answers that are still to come, infinite where that is not known yet.

        What has not begun to come counts as long as the one before. What is answered to a PUT
        does not count.
        """
        return sum(_left(each, self.usual or inf) for each in self._exchanges)

    def request(self, request: ClientRequest) -> "Deferred[IResponse]":
        """Send a request behind those that were sent.

        Fires with the answer. Fails with :class:`RequestNotSent` where it cannot be sent now;
        with :class:`ResponseNeverReceived`, or :class:`RequestTransmissionFailed`, where the
        connection broke and nothing of the answer had come. Cancelling ends the connection, once
        the answers before have come.
        """
        if not self.is_usable:
            return fail(RequestNotSent())
        proxy = TransportProxyProducer(self.transport)
        parser = HTTPClientParser(request, self._answered)
        exchange = _Exchange(request, Deferred(lambda _: self._cancel(exchange)), parser, proxy)
        self._exchanges.append(exchange)
        if len(self._exchanges) == 1:
            self._read_next()
        try:
            exchange.writing = request.writeTo(self.transport)
        except BaseException:
            exchange.writing = fail()
        length = getattr(request.bodyProducer, "length", None)
        if request.method == b"PUT" and isinstance(length, int):
            self.usual = length
        exchange.writing.addCallbacks(
            self._written, self._not_written, callbackArgs=(exchange,), errbackArgs=(exchange,)
        )
        return exchange.answer

    def abort(self) -> "Deferred[None]":
        """Close the connection; fires when it is."""
        if self._lost.called:
            return succeed(None)
        self._is_ending = True
        self.transport.loseConnection()
        return self._lost

    # Writing

    def _written(self, _result: object, exchange: _Exchange) -> None:
        exchange.is_written = True
        exchange.give()

    def _not_written(self, reason: Failure, exchange: _Exchange) -> None:
        if exchange in self._exchanges:
            exchange.fail(Failure(RequestGenerationFailed([reason])))
            self._end(reason)

    def _cancel(self, exchange: _Exchange) -> None:
        exchange.fail(Failure(CancelledError()))
        if exchange.is_written and not exchange.is_next:
            exchange.is_unwanted = True
        elif exchange in self._exchanges:
            self._end(Failure(CancelledError()))

    # Reading

    def _read_next(self) -> None:
        """The answer of the oldest is what comes next."""
        exchange = self._exchanges[0]
        exchange.is_next = True

        def head_is_there(response: IResponse) -> None:
            exchange.response = response
            length: Any = response.length
            if exchange.request.method == b"GET" and isinstance(length, int):
                self.usual = length
            if exchange.is_written:
                exchange.give()

        exchange.parser.makeConnection(exchange.proxy)
        exchange.parser._responseDeferred.addCallbacks(head_is_there, exchange.fail)

    def dataReceived(self, data: bytes) -> None:
        """See :class:`Protocol`."""
        while data and self._exchanges:
            exchange = self._exchanges[0]
            part, later = data, b""
            if exchange.response is None:
                room = _LONGEST_HEAD - exchange.received
                if room <= 0:
                    why = f"headers of more than {_LONGEST_HEAD} bytes"
                    self._end(Failure(ParseError(why, data[:_QUOTED])))
                    return
                part, later = data[:room], data[room:]
            exchange.received += len(part)
            self._rest = b""
            try:
                exchange.parser.dataReceived(part)
            except BaseException:
                self._end(Failure())
                return
            data = self._rest + later if later else self._rest
        if data:  # an answer to nothing: whose would the next one be?
            self._end(Failure(ConnectionDone("more than was asked for")))

    def _answered(self, rest: bytes) -> None:
        """The parser has the whole answer of the oldest; ``rest`` is behind it."""
        if not self._exchanges:  # its end was that of the connection
            return
        exchange = self._exchanges.popleft()
        exchange.proxy.stopProxying()
        if self._goes_on(exchange):
            self._rest = rest
            self.transport.resumeProducing()
            if self._exchanges and self._exchanges[0].is_unwanted:
                self._end(Failure(CancelledError()))
            elif self._exchanges:
                self._read_next()
            else:
                self._on_idle(self)
        else:
            self._end(Failure(ConnectionDone("the answer before was the last")))
            _stop_writing(exchange)
        exchange.is_written = True  # nobody wants the rest of a request that is answered
        exchange.give()
        exchange.parser.connectionLost(Failure(ConnectionDone("the answer has ended")))

    def _goes_on(self, answered: _Exchange) -> bool:
        said = answered.parser.connHeaders.getRawHeaders(b"Connection", ())
        is_last = any(b"close" in each.lower() for each in said)
        if is_last and not self._has_answered:
            self._on_single()
        self._has_answered = True
        return answered.is_written and not is_last and not self._is_ending

    # The end

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`Protocol`."""
        self._is_ending = True
        self._fail_all(reason)
        if not self._lost.called:
            self._lost.callback(None)

    def _end(self, reason: Failure) -> None:
        """Nothing that comes, or is sent, is of use any more."""
        self._is_ending = True
        self._fail_all(reason)
        self.transport.abortConnection()

    def _fail_all(self, reason: Failure) -> None:
        exchanges, self._exchanges = self._exchanges, deque()
        for exchange in exchanges:
            exchange.proxy.stopProxying()
            if not exchange.is_written:
                exchange.fail(Failure(RequestTransmissionFailed([reason])))
                _stop_writing(exchange)
            if exchange.is_next:
                exchange.parser.connectionLost(reason)
            else:
                exchange.fail(Failure(ResponseNeverReceived([reason])))


def _left(exchange: _Exchange, usual: float) -> float:
    if exchange.request.method != b"GET":
        return 0
    if exchange.response is None:
        return usual
    length: Any = exchange.response.length
    return max(0, length - exchange.received) if isinstance(length, int) else inf


def _stop_writing(exchange: _Exchange) -> None:
    if not exchange.is_written:
        exchange.request.stopWriting()
