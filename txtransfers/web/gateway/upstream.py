"""The connections to the Orthanc behind us.

A server may close a connection that is kept just when a request is sent on it. Only what can be
asked twice without harm takes one that was used before; all else takes a new one.
"""

import re
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet import error as net
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from ...errors import BodyTooLarge, OrthancSilent, OrthancUnreachable, TransfersError
from ...orthanc.answers import Head, Header, IReceiver, NoHttpError, Reading
from ...orthanc.connection import OF_STORE
from ...transfer.client import Stall, Stalled, innermost, why
from ...transfer.streams import widen
from ...transfer.trust import tls_problem
from .headers import request_head

_IDLE_S = 4.0
"""Seconds that a connection is kept without use, where Orthanc does not tell how long it does."""
_SAFETY_S = 0.2
"""Seconds before Orthanc closes it that a connection is used no more."""
_MOST_IDLE = 16
"""Idle connections that are kept; each holds one of Orthanc's threads."""
_LOOPBACK = re.compile(r"localhost|127(\.\d+){3}|::1")


class Gone(Exception):
    """The connection was closed before any byte of an answer came."""


class Connection(Protocol):
    """One connection, for one request at a time."""

    transport: Any

    def __init__(self, upstream: "Upstream") -> None:
        self._upstream = upstream
        self._reading: Reading | None = None
        self._receiver: IReceiver | None = None
        self._is_sent = True
        self.was_used = False

    def connectionMade(self) -> None:
        """See :class:`Protocol`."""
        widen(self.transport)

    def ask(self, method: bytes, head: bytes, receiver: IReceiver, has_body: bool) -> None:
        """Send a request; where it has a body, :meth:`write` and :meth:`body_ended` follow."""
        self._receiver = receiver
        self._is_sent = not has_body
        self._reading = Reading(method, receiver, self._ended)
        self.transport.write(head)

    def write(self, *parts: bytes) -> None:
        """The next bytes of the body."""
        if self._receiver is not None:
            self.transport.writeSequence(parts)

    def body_ended(self) -> None:
        """The request is sent."""
        self._is_sent = True

    def abort(self) -> None:
        """Cut the connection; the receiver is told nothing any more."""
        self._receiver = None
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """See :class:`Protocol`."""
        if self._receiver is None or self._reading is None:
            self.transport.abortConnection()  # nothing was asked
            return
        try:
            self._reading.feed(data)
        except NoHttpError as error:
            self._fail(error)
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`Protocol`."""
        self._upstream.forget(self)
        reading, receiver = self._reading, self._receiver
        if reading is None or receiver is None:
            return
        if reading.ends_with_connection and reason.check(net.ConnectionDone):
            self._receiver = None
            receiver.end()
        elif reading.has_begun:
            self._fail(reason.value)
        else:
            self._fail(Gone(reason.getErrorMessage().rstrip(".")))

    def _fail(self, error: BaseException | None) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.failed(error or Gone())

    def _ended(self, rest: bytes) -> None:
        receiver, self._receiver = self._receiver, None
        reading = self._reading
        if receiver is None or reading is None:
            return
        if reading.persists and self._is_sent and not rest:
            self.was_used = True
            self._upstream.keep(self, reading.keeps_s)
        else:
            self.transport.abortConnection()
        receiver.end()


@attrs.frozen
class Fetched:
    """An answer in memory."""

    head: Head
    body: bytes


class Upstream:
    """The Orthanc behind us, at one address."""

    def __init__(
        self, reactor: Any, endpoint: IStreamClientEndpoint, url: str, patience: float
    ) -> None:
        """:param url: as in the configuration, with a slash at its end; for people, and for Host.

        :param patience: seconds without any progress after which Orthanc is given up.
        """
        self.url = url
        self.patience = patience
        parts = urlsplit(url)
        self._prefix = parts.path.rstrip("/").encode()
        self.netloc = parts.netloc.encode()
        self.host = None if _LOOPBACK.fullmatch(parts.hostname or "") else self.netloc
        """The ``Host`` that it is asked for: a name may be one of several at an address. On this
        machine it is the client's own, so that Orthanc sees what its client sees."""
        self.clock: IReactorTime = reactor
        self._endpoint = endpoint
        self._factory = Factory.forProtocol(lambda: Connection(self))
        self._factory.noisy = False
        self._idle: dict[Connection, IDelayedCall] = {}

    def target(self, uri: bytes) -> bytes:
        """Where a path and its query, as they came, are there."""
        return self._prefix + uri

    async def take(self, may_be_used: bool) -> Connection:
        """A connection, kept or new; it belongs to the caller.

        :raises OrthancUnreachable: there is none to be had.
        """
        if may_be_used and self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            return connection
        try:
            taken: Any = await self._endpoint.connect(self._factory)
        except Exception as error:
            raise self.explain(error) from error
        return taken  # type: ignore[no-any-return]

    def keep(self, connection: Connection, seconds: float | None) -> None:
        """Keep an idle connection. :param seconds: that Orthanc does so."""
        left = _IDLE_S if seconds is None else seconds - _SAFETY_S
        if len(self._idle) >= _MOST_IDLE or left <= 0:
            connection.transport.loseConnection()
            return
        self._idle[connection] = self.clock.callLater(left, self._drop, connection)

    def forget(self, connection: Connection) -> None:
        """The connection is no more."""
        timer = self._idle.pop(connection, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _drop(self, connection: Connection) -> None:
        del self._idle[connection]
        connection.transport.loseConnection()

    def close(self) -> None:
        """Close the idle connections."""
        for connection in list(self._idle):
            self.forget(connection)
            connection.transport.abortConnection()

    async def fetch(
        self, target: bytes, headers: list[Header], limit: int, patience: float | None = None
    ) -> Fetched:
        """GET a path that is Orthanc's, in memory.

        :param patience: seconds without progress; None for those of all requests.

        :raises OrthancUnreachable: it gave no answer, or none of HTTP.
        :raises BodyTooLarge: the answer has more than ``limit`` bytes.
        """
        for may_be_used in (True, False):
            connection = await self.take(may_be_used)
            stall = Stall(self.clock, patience or self.patience)
            collector = _Collector(connection, limit, stall)
            head = request_head(b"GET", self.target(target), headers)
            connection.ask(b"GET", head, collector, has_body=False)
            try:
                return await stall.watch(collector.fetched)
            except Gone as error:
                if not connection.was_used:
                    raise self.explain(error) from None
            except Exception as error:
                raise self.explain(error) from error
        raise AssertionError("a new connection was not used before")

    def explain(self, error: BaseException) -> TransfersError:
        """The domain's word for what went wrong."""
        inner = innermost(error)
        who = f"Orthanc at {self.url}"
        if isinstance(inner, TransfersError):
            return inner
        reason = why(inner, "its host name cannot be resolved; check Store.Url")
        if isinstance(inner, Stalled):
            return OrthancSilent(f"{who}: {reason} Store.ProxyTimeout says how long to wait")
        if isinstance(inner, net.TimeoutError | net.TCPTimedOutError):
            return OrthancSilent(f"{who}: {reason} Check Store.Url")
        if problem := tls_problem(inner, OF_STORE):
            reason = problem
        if isinstance(inner, NoHttpError):
            reason = f"what answers there speaks no HTTP ({inner}); check Store.Url"
        return OrthancUnreachable(f"{who}: {reason}")


class _Collector:
    """Has an answer in memory."""

    def __init__(self, connection: Connection, limit: int, stall: Stall) -> None:
        self.fetched: Deferred[Fetched] = Deferred(lambda _d: connection.abort())
        self._connection = connection
        self._limit = limit
        self._stall = stall
        self._parts: list[bytes] = []
        self._size = 0

    def interim(self, head: Head) -> None:
        pass

    def head(self, head: Head) -> None:
        self._head = head

    def data(self, data: bytes) -> None:
        self._stall.touch()
        self._parts.append(data)
        self._size += len(data)
        if self._size > self._limit:
            self._connection.abort()
            self.failed(BodyTooLarge(f"Orthanc's answer has more than {self._limit} bytes"))

    def end(self) -> None:
        self.fetched.callback(Fetched(self._head, b"".join(self._parts)))

    def failed(self, error: BaseException) -> None:
        self.fetched.errback(error)
