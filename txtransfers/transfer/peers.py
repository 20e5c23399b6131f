"""A peer: its address, credentials and warm connections, and the requests of the protocol to it.

Whatever goes wrong becomes a :class:`PeerError` that names the peer and reads like advice. Time
limits mean *no progress for so long*, so that a slow link is no error and a dead one is.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Sequence
from http.cookiejar import CookieJar
from typing import Any, NoReturn, TypeVar

import attrs
from treq.client import HTTPClient
from twisted.internet import error as net
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import (
    IProtocolFactory,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from ..config import PeerSettings
from ..errors import (
    PeerNonsense,
    PeerRefused,
    PeerUnreachable,
    TransfersError,
)
from ..wire import messages
from ..wire.messages import LookupAnswer, Resource, TransferRequest
from ..wire.plan import Instance, Plan
from .streams import Sink, collecting_sink, widen

T = TypeVar("T")

_CACHED_CONNECTION_S = 30
_ERROR_SIZE = 64 * 1024
_LONGEST_QUOTE = 300
PLUGIN = "transfers"


@attrs.frozen
class Answer:
    """A peer's answer: status, its body where it was asked for."""

    status: int
    body: bytes
    content_type: str


@attrs.frozen
class Body:
    """What a request carries: a producer for each try."""

    make: Callable[[Callable[[], None]], IBodyProducer | bytes]
    content_type: str = "application/json"


def constant(data: bytes, content_type: str = "application/json") -> Body:
    """A body that is in memory."""
    return Body(lambda _touch: data, content_type)


class Peer:
    """See the module. One lives as long as the daemon, and keeps its connections warm."""

    def __init__(
        self,
        reactor: Any,
        name: str,
        settings: PeerSettings,
        http_timeout: float,
        connections: int,
    ) -> None:
        """:param connections: idle connections that are kept, as many as buckets in flight.

        :param http_timeout: seconds without progress, where the peer has no ``Timeout`` of its own.
        """
        self.name = name
        self.settings = settings
        self.base_url = settings.url.rstrip("/")
        self.timeout = settings.timeout or http_timeout
        self._reactor: IReactorTime = reactor
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = connections
        self._pool.cachedConnectionTimeout = _CACHED_CONNECTION_S
        self._pool.retryAutomatically = False
        factory = _WideEndpointFactory(reactor, self.timeout)
        self._warm = _PlainAgent(Agent.usingEndpointFactory(reactor, factory, self._pool))
        self._fresh = _PlainAgent(Agent.usingEndpointFactory(reactor, factory))

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.closeCachedConnections()

    # The requests of the protocol

    async def lookup(self, resources: Sequence[Resource], session: "Session") -> LookupAnswer:
        """Ask for the instances below ``resources`` (``POST /transfers/lookup``)."""
        body = constant(messages.resources_json(resources))
        answer = await self._call(session, "POST", "/transfers/lookup", body)
        return self._parse(answer, messages.parse_lookup_answer, "/transfers/lookup")

    async def open_push(
        self,
        instances: Sequence[Instance],
        plan: Plan,
        compression: messages.Compression,
        session: "Session",
    ) -> str:
        """Open a push transaction; gives the path of the transaction at the peer."""
        body = constant(messages.push_json(instances, plan, compression))
        answer = await self._call(session, "POST", "/transfers/push", body)
        return self._opened(answer, "/transfers/push")[1]

    async def put_bucket(self, path: str, number: int, body: Body, session: "Session") -> None:
        """Send a bucket of the transaction at ``path``."""
        await self._call(session, "PUT", f"{path}/{number}", body, warm=True)

    async def commit(self, path: str, timeout: float, session: "Session") -> None:
        """Commit the transaction at ``path``; ``timeout`` seconds until the answer at the most."""
        body = constant(b"", "application/x-www-form-urlencoded")
        await self._call(session, "POST", f"{path}/commit", body, timeout=timeout)

    async def discard(self, path: str, session: "Session") -> None:
        """Drop the transaction at ``path``."""
        await self._call(session, "DELETE", path)

    async def get_bucket(self, path: str, sink: Sink, session: "Session") -> None:
        """Fetch ``path`` (with its arguments) into ``sink``; returns when the sink has it all."""
        await self._request(session, "GET", path, None, sink=sink, warm=True)

    async def request_pull(
        self, request: TransferRequest, originator: str, as_peer: str, session: "Session"
    ) -> tuple[str, str]:
        """Ask the peer to pull from us; gives its job's ID and path."""
        body = constant(messages.pull_json(request, originator, as_peer))
        answer = await self._call(session, "POST", "/transfers/pull", body)
        return self._opened(answer, "/transfers/pull")

    async def has_accelerator(self, timeout: float) -> bool:
        """Whether the peer speaks this protocol; ``timeout`` seconds in all."""
        session = self.session("")
        call = Deferred.fromCoroutine(self._call(session, "GET", "/plugins"))
        call.addTimeout(timeout, self._reactor)
        try:
            plugins = json.loads((await call).body)
        except (TransfersError, DeferTimeoutError, ValueError, RecursionError):
            return False
        return isinstance(plugins, list) and PLUGIN in plugins

    def session(self, transfer_id: str) -> "Session":
        """What the requests of one transfer share; without ``transfer_id``, a request alone."""
        jar: Any = CookieJar()
        return Session(
            transfer_id,
            HTTPClient(self._warm, cookiejar=jar),
            HTTPClient(self._fresh, cookiejar=jar),
        )

    # How they are made

    async def _call(
        self,
        session: "Session",
        method: str,
        path: str,
        body: Body | None = None,
        timeout: float | None = None,
        warm: bool = False,
    ) -> Answer:
        answer = await self._request(session, method, path, body, timeout=timeout, warm=warm)
        if not _is_json(answer):
            raise PeerNonsense(
                f"{self._who} answered {method} {path} with something that is no JSON"
                f" ({_quote(answer)}). {_NO_PEER}"
            )
        return answer

    async def _request(
        self,
        session: "Session",
        method: str,
        path: str,
        body: Body | None,
        sink: Sink | None = None,
        timeout: float | None = None,
        warm: bool = False,
    ) -> Answer:
        """One request. On a warm connection that turns out to be gone, once more on a new one."""
        try:
            return await self._try(
                session, session.warm if warm else session.fresh, method, path, body, sink, timeout
            )
        except (ResponseNeverReceived, RequestTransmissionFailed) as error:
            if not warm or (sink is not None and sink.taken):
                self._explain(error, method, path)
        except Exception as error:
            self._explain(error, method, path)
        try:
            return await self._try(session, session.fresh, method, path, body, sink, timeout)
        except Exception as error:
            self._explain(error, method, path)

    async def _try(
        self,
        session: "Session",
        client: HTTPClient,
        method: str,
        path: str,
        body: Body | None,
        sink: Sink | None,
        timeout: float | None,
    ) -> Answer:
        stall = Stall(self._reactor, timeout or self.timeout)
        data = body.make(stall.touch) if body is not None else None
        headers = self._headers(session, body)
        response: Any = await stall.watch(
            client.request(
                method,
                self.base_url + path,
                headers=headers,
                data=data,
                allow_redirects=False,
                unbuffered=True,
            )
        )
        content_type = _first(response.headers.getRawHeaders("Content-Type"))
        if response.code == 200 and sink is not None:
            await _deliver(response, sink, stall)
            return Answer(200, b"", content_type)
        limit = messages.MAX_MESSAGE_SIZE if response.code == 200 else _ERROR_SIZE
        collector, parts = collecting_sink(limit)
        await _deliver(response, collector, stall)
        answer = Answer(response.code, b"".join(parts), content_type)
        if answer.status != 200:
            self._refuse(
                answer, method, path, _first(response.headers.getRawHeaders("Retry-After"))
            )
        return answer

    def _headers(self, session: "Session", body: Body | None) -> Headers:
        headers = dict(self.settings.headers)
        if self.settings.username:
            pair = f"{self.settings.username}:{self.settings.password}".encode()
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        if session.transfer_id:
            headers["sender-transfer-id"] = session.transfer_id
        if body is not None:
            headers["Content-Type"] = body.content_type
        return Headers({name: [value] for name, value in headers.items()})

    @property
    def _who(self) -> str:
        return f'Peer "{self.name}" ({self.base_url}/)'

    def _parse(self, answer: Answer, parse: Callable[[bytes], T], path: str) -> T:
        try:
            return parse(answer.body)
        except TransfersError as error:
            raise PeerNonsense(f"{self._who} answered {path} with nonsense: {error}") from error

    def _opened(self, answer: Answer, route: str) -> tuple[str, str]:
        id_, path = self._parse(answer, messages.parse_opened, route)
        if not _PATH.match(path):
            raise PeerNonsense(f"{self._who} answered {route} with the path {path[:100]!r}")
        return id_, path

    def _refuse(self, answer: Answer, method: str, path: str, retry_after: str) -> NoReturn:
        text = f"{self._who} answered {answer.status} to {method} {_shorten(path)}"
        reason = _reason(answer)
        if answer.status in (401, 403):
            text += ": check the Username and Password of the peer in OrthancPeers"
        elif reason is None:
            busy = answer.status in (408, 429) or answer.status >= 500
            text += f" ({_quote(answer)}){'' if busy else f'. {_NO_PEER}'}"
        else:
            text += f": {reason}"
            if answer.status == 404 and path in _NOT_FOUND:
                text += f". {_NOT_FOUND[path]}, or it has no transfers accelerator"
        delay = int(retry_after) if retry_after.isdecimal() else None
        raise PeerRefused(text, answer.status, delay)

    def _explain(self, error: BaseException, method: str, path: str) -> NoReturn:
        """Raise ``error`` as the domain's word for it."""
        if isinstance(error, TransfersError | CancelledError):
            raise error
        what = f"{method} {_shorten(path)}"
        inner = _innermost(error)
        if isinstance(inner, TransfersError):
            raise inner from error
        if isinstance(inner, Stalled):
            reason = f"no progress for {inner.seconds:g} s; is it overloaded, is the link down?"
        elif isinstance(inner, net.ConnectionRefusedError):
            reason = "connection refused; is it running, and is the port right?"
        elif isinstance(inner, net.DNSLookupError):
            reason = "its host name cannot be resolved; check Url in OrthancPeers"
        elif isinstance(inner, net.TimeoutError | net.TCPTimedOutError):
            reason = "no connection in time; is the address right, does a firewall drop it?"
        elif isinstance(inner, net.ConnectError):
            reason = f"cannot connect: {inner}"
        else:
            reason = f"the connection broke ({inner})"
        raise PeerUnreachable(f"{self._who}, {what}: {reason}") from error


@attrs.frozen
class Session:
    """What the requests of one transfer to one peer share: its id, and the peer's cookies."""

    transfer_id: str
    warm: HTTPClient
    fresh: HTTPClient


_NO_PEER = (
    "Is this URL that of an Orthanc with the transfers accelerator, or of txtransfers?"
    ' GET /plugins there would list "transfers"'
)
_NOT_FOUND = {
    "/transfers/lookup": "It does not hold the resource (check Level and ID)",
    "/transfers/push": "It does not know the route",
    "/transfers/pull": "It knows no peer of the name that RemoteSelf gives",
}
_PATH = re.compile(r"/[!-~]*\Z", re.ASCII)


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

    def touch(self) -> None:
        """There was progress."""
        self._last = self._clock.seconds()

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


async def _deliver(response: IResponse, sink: Sink, stall: Stall) -> None:
    """The body of ``response`` into ``sink``, until the sink has it all."""
    receiver = _Receiver(sink, stall)
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

    def __init__(self, sink: Sink, stall: Stall) -> None:
        self._sink = sink
        self._stall = stall
        self.finished: Deferred[None] = Deferred(lambda _d: self._abort())

    def connectionMade(self) -> None:
        self._sink.attach(self.transport)  # type: ignore[arg-type]

    def dataReceived(self, data: bytes) -> None:
        self._stall.touch()
        self._sink.write(data)
        if self._sink.failed:
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        if reason.check(ResponseDone) or self._sink.failed:
            self.finished.callback(None)  # the sink's own failure shows when it is finished
        else:
            self.finished.errback(reason)

    def _abort(self) -> None:
        transport: Any = self.transport
        abort = getattr(transport, "abortConnection", None) or transport.loseConnection
        abort()


@implementer(IAgent)
class _PlainAgent:
    """Asks for bytes as they are: treq would ask for gzip, which is decided elsewhere here."""

    def __init__(self, inner: Agent) -> None:
        self._inner = inner

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> "Deferred[IResponse]":
        headers = headers.copy() if headers is not None else Headers()
        headers.removeHeader(b"Accept-Encoding")
        return self._inner.request(method, uri, headers, bodyProducer)


@implementer(IAgentEndpointFactory)
class _WideEndpointFactory:
    """Plain TCP, whose transports move more bytes at a time than Twisted's do."""

    def __init__(self, reactor: Any, timeout: float) -> None:
        self._reactor = reactor
        self._timeout = timeout

    def endpointForURI(self, uri: Any) -> IStreamClientEndpoint:
        return _WideEndpoint(
            HostnameEndpoint(self._reactor, uri.host, uri.port, timeout=self._timeout)
        )


@implementer(IStreamClientEndpoint)
class _WideEndpoint:
    def __init__(self, inner: IStreamClientEndpoint) -> None:
        self._inner = inner

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":
        protocolFactory.noisy = False  # type: ignore[attr-defined]

        def connected(protocol: Any) -> Any:
            widen(protocol.transport)
            return protocol

        return self._inner.connect(protocolFactory).addCallback(connected)


def _innermost(error: BaseException) -> BaseException:
    """The reason inside Twisted's wrappers; our own error, where one of the reasons is one."""
    while reasons := [failure.value for failure in getattr(error, "reasons", ())]:
        own = [reason for reason in reasons if isinstance(reason, TransfersError)]
        error = (own or reasons)[0]
    return error


def _is_json(answer: Answer) -> bool:
    return answer.body.lstrip()[:1] in (b"{", b"[")


def _reason(answer: Answer) -> str | None:
    """What an Orthanc says in the body of an error; None where it is no Orthanc that speaks."""
    if not answer.body:
        return None
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or "OrthancError" not in body:
        return None
    details = body.get("Details") or ""
    text = f"{body.get('Message') or body['OrthancError']}"
    return (f"{text} ({details})" if details else text)[:_LONGEST_QUOTE]


def _quote(answer: Answer) -> str:
    if not answer.body:
        return "an empty body"
    kind = answer.content_type.split(";")[0] or "unknown type"
    if "html" in kind:
        return "a web page"
    start = answer.body[:60].decode("utf-8", "replace").strip()
    return f"{len(answer.body)} bytes of {kind}: {start!r}"


def _shorten(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:117]}..."


def _first(values: Sequence[str] | None) -> str:
    return values[0] if values else ""
