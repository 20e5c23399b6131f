"""How a peer is asked: its address, credentials and warm connections, and one request over them.

Whatever goes wrong becomes a :class:`PeerError`: :mod:`.answers` has the words. Time limits mean
*no progress for so long*, so that a slow link is no error and a dead one is.
"""

import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from http.cookiejar import Cookie, CookieJar
from typing import Any, TypeVar

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.web.client import (
    URI,
    Agent,
    ProxyAgent,
    RequestTransmissionFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer

from ..config import PeerSettings
from ..config_tls import HttpProxy
from ..errors import (
    BodyTooLarge,
    PeerNonsense,
    TransfersError,
)
from ..threads import IThreads
from ..wire import messages, packed
from ..wire.pieces import PIECE
from .answers import Answer, Words
from .client import (
    PlainAgent,
    Stall,
    WideEndpointFactory,
    deliver,
    innermost,
)
from .congestion import Congestion
from .connection import Connection
from .link import Link
from .pool import Behind, Pool, Unused
from .proxy import authorization
from .streams import Sink, collecting_sink
from .trust import PeerTls, UntrustedError

T = TypeVar("T")

_ERROR_SIZE = 64 * 1024


@attrs.frozen
class Body:
    """What a request carries: a producer for each try."""

    make: Callable[[Stall], IBodyProducer | bytes]
    content_type: str = "application/json"
    headers: Mapping[str, str] = {}


@attrs.frozen
class Destination:
    """Where the body of an answer goes, and who is told how much of it is still to come."""

    sink: Sink
    on_left: Callable[[int], None]


def ignore(_left: int) -> None:
    """Whom nobody needs to tell how much is still to come."""


def constant(
    data: bytes,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Body:
    """A body that is in memory, and further headers of its request."""
    return Body(lambda _stall: data, content_type, headers or {})


class Asking:
    """See the module. One lives as long as its peer."""

    def __init__(
        self,
        reactor: Any,
        threads: IThreads,
        name: str,
        settings: PeerSettings,
        http_timeout: float,
        link: Link,
        congestion: Congestion | None = None,
        tls: PeerTls | None = None,
        proxy: HttpProxy | None = None,
    ) -> None:
        """:param congestion: see :func:`.congestion.choose`; None leaves the system's own.

        :param http_timeout: seconds without progress, where the peer has no ``Timeout`` of its own.
        :param tls: for a peer that is reached by https. :param proxy: by which it is reached.
        """
        self.name = name
        self.settings = settings
        self.base_url = settings.url.rstrip("/")
        self.timeout = settings.timeout or http_timeout
        self.tls = tls
        self.link = link
        self.reactor: IReactorTime = reactor
        self.threads = threads
        self._proxy = proxy
        self._words = Words(f'Peer "{name}" ({self.base_url}/)', proxy)
        self._pool = Pool(reactor, link.cap + 1, self._served)  # one for what is no bucket
        self._endpoints = WideEndpointFactory(
            reactor, self.timeout, congestion or Congestion(), link.connected, tls, proxy
        )
        self._warm = self._agent(self._pool)
        self._fresh = self._agent(Unused(self._pool))

    def _agent(self, pool: Any) -> PlainAgent:
        if self._proxy is not None and not self.settings.is_secure:
            return PlainAgent(ProxyAgent(self._endpoint(), self.reactor, pool))
        return PlainAgent(Agent.usingEndpointFactory(self.reactor, self._endpoints, pool))

    def _endpoint(self) -> IStreamClientEndpoint:
        return self._endpoints.endpointForURI(URI.fromBytes(self.base_url.encode()))

    def _served(self, connection: Connection) -> None:
        if self.tls is not None:
            self.tls.remember(connection.transport)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.close()

    def connect(self, count: int) -> "Deferred[Any]":
        """Make so many connections ahead; fires, whatever happens, when that is over."""
        return self._pool.prepare(self._endpoint(), count)

    async def knock(self) -> str:
        """Connect, and leave. Tells where to.

        :raises PeerUnreachable: nobody is there.
        """
        uri = URI.fromBytes(self.base_url.encode())
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self.reactor, uri.host, uri.port, timeout=self.timeout
        )
        if self._proxy is not None:
            endpoint = self._endpoint()
        try:
            protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        except Exception as error:
            self._words.explain(error, "a connection", f"to port {uri.port}")
        address = protocol.transport.getPeer()
        protocol.transport.loseConnection()
        return f"{address.host} port {address.port}"

    def session(self, transfer_id: str) -> "Session":
        """What the requests of one transfer share; without ``transfer_id``, a request alone."""
        jar: Any = CookieJar()
        return Session(
            transfer_id,
            jar,
            HTTPClient(self._warm, cookiejar=jar),
            HTTPClient(self._fresh, cookiejar=jar),
            HTTPClient(self._agent(Behind(self._pool, self.link)), cookiejar=jar),
        )

    async def call(
        self,
        session: "Session",
        method: str,
        path: str,
        body: Body | None = None,
        timeout: float | None = None,
        client: HTTPClient | None = None,
        most: int = messages.MAX_MESSAGE_SIZE,
    ) -> Answer:
        """One request whose answer is JSON, or packed, ``most`` bytes; see :meth:`request`."""
        answer = await self.request(session, method, path, body, None, timeout, client, most)
        if answer.content_type not in (packed.PACKED, PIECE):
            self._words.check_json(answer, method, path)
        return answer

    async def request(
        self,
        session: "Session",
        method: str,
        path: str,
        body: Body | None,
        sink: "Destination | None" = None,
        timeout: float | None = None,
        client: HTTPClient | None = None,
        most: int = messages.MAX_MESSAGE_SIZE,
    ) -> Answer:
        """One request. On a warm connection that turns out to be gone, once more on another.

        :param client: of the session's; None: ``fresh``. :param most: bytes of an answer that is
            kept in memory.
        """
        for way in _ways(session, client or session.fresh):
            try:
                return await self._try(session, way, method, path, body, sink, timeout, most)
            except (ResponseNeverReceived, RequestTransmissionFailed) as error:
                is_final = isinstance(innermost(error), UntrustedError)
                taken = sink is not None and sink.sink.taken
                if is_final or way is session.fresh or taken:
                    self._words.explain(error, method, path)
            except Exception as error:
                self._words.explain(error, method, path)
        raise AssertionError("the last way is a new connection")

    async def _try(
        self,
        session: "Session",
        client: HTTPClient,
        method: str,
        path: str,
        body: Body | None,
        sink: "Destination | None",
        timeout: float | None,
        most: int,
    ) -> Answer:
        stall = Stall(self.reactor, timeout or self.timeout)
        data = body.make(stall) if body is not None else None
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
            await deliver(response, sink.sink, stall, sink.on_left)
            return Answer(200, b"", content_type)
        collector, parts = collecting_sink(most if response.code == 200 else _ERROR_SIZE)
        try:
            await deliver(response, collector, stall, ignore)
        except BodyTooLarge as error:  # of a refusal the beginning is enough
            if response.code == 200:
                self._words.too_much(error, method, path)
        answer = Answer(response.code, b"".join(parts), content_type)
        if answer.status != 200:
            self._words.refuse(
                answer, method, path, _first(response.headers.getRawHeaders("Retry-After"))
            )
        return answer

    def _headers(self, session: "Session", body: Body | None) -> Headers:
        headers = dict(self.settings.headers)
        if self.settings.username:
            pair = f"{self.settings.username}:{self.settings.password}".encode()
            headers["Authorization"] = f"Basic {b64encode(pair).decode()}"
        if self._proxy is not None and self._proxy.username and not self.settings.is_secure:
            headers["Proxy-Authorization"] = authorization(self._proxy)
        if session.transfer_id:
            headers["sender-transfer-id"] = session.transfer_id
        if body is not None:
            headers["Content-Type"] = body.content_type
            headers.update(body.headers)
        return Headers({name: [value] for name, value in headers.items()})

    @property
    def who(self) -> str:
        """It, in a sentence."""
        return self._words.who

    def parse(self, answer: Answer, parse: Callable[[bytes], T], path: str) -> T:
        """What ``parse`` makes of an answer; takes long for a large one."""
        try:
            return parse(answer.body)
        except TransfersError as error:
            raise PeerNonsense(f"{self.who} answered {path} with nonsense: {error}") from error

    def opened(self, answer: Answer, route: str) -> tuple[str, str]:
        """The ID and path of what was opened, or begun."""
        id_, path = self.parse(answer, messages.parse_opened, route)
        self.check_path(path, route)
        return id_, path

    def check_path(self, path: str, route: str) -> None:
        """Refuse a path that would lead elsewhere."""
        if not _PATH.match(path):
            raise PeerNonsense(f"{self.who} answered {route} with the path {path[:100]!r}")


@attrs.frozen
class Session:
    """What the requests of one transfer to one peer share: its id, and the peer's cookies."""

    transfer_id: str
    jar: CookieJar
    warm: HTTPClient
    fresh: HTTPClient
    behind: HTTPClient

    def cookies(self) -> list[dict[str, Any]]:
        """The peer's cookies, as JSON values: a load balancer must know us after a restart too."""
        return [vars(cookie) for cookie in self.jar]

    def restore(self, cookies: Sequence[Mapping[str, Any]]) -> None:
        """Take up what :meth:`cookies` gave."""
        for fields in cookies:
            values = dict(fields)
            self.jar.set_cookie(Cookie(**values | {"rest": values.pop("_rest", {})}))


_PATH = re.compile(r"/[!-~]*\Z", re.ASCII)


def _ways(session: Session, client: HTTPClient) -> tuple[HTTPClient, ...]:
    """Where a request is tried, the last time on a new connection.

    One that stood behind another, whose connection was ended, finds others that are warm.
    """
    if client is session.behind:
        return (client, client, session.fresh)
    return (client,) if client is session.fresh else (client, session.fresh)


def _first(values: Sequence[str] | None) -> str:
    return values[0] if values else ""
