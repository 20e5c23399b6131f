"""A peer: its address, credentials and warm connections, and the requests of the protocol to it.

Whatever goes wrong becomes a :class:`PeerError` that names the peer and reads like advice. Time
limits mean *no progress for so long*, so that a slow link is no error and a dead one is.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from http.cookiejar import Cookie, CookieJar
from typing import Any, NoReturn, TypeVar

import attrs
import msgspec
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as DeferTimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.interfaces import IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.web._newclient import ParseError
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
    PeerNonsense,
    PeerRefused,
    PeerUnreachable,
    PeerUntrusted,
    TransfersError,
)
from ..threads import IThreads
from ..wire import messages, packed, pushes
from ..wire.abilities import Abilities, parse_plugin
from ..wire.codec import ACCEPTED_CODECS, Codec, codec_names
from ..wire.messages import LookupAnswer, Resource, TransferRequest, decode
from ..wire.pushes import PushOpened, PushRequest, PushStatus
from .client import (
    LONGEST_QUOTE,
    PlainAgent,
    Stall,
    WideEndpointFactory,
    deliver,
    innermost,
    resolve,
    what_orthanc_says,
    whole_characters,
    why,
)
from .congestion import Congestion
from .connection import Connection
from .link import Link
from .pool import Behind, Pool, Unused
from .proxy import ProxyError, authorization, describe, refusal
from .streams import Sink, collecting_sink
from .trust import PeerTls, UntrustedError, tls_problem

T = TypeVar("T")

_ERROR_SIZE = 64 * 1024
_MEET_S = 3.0
"""Seconds that a first connection may take before the first request, which has its own limit."""
_NOT_UNDERSTOOD = frozenset({400, 415})
PLUGIN = "transfers"

log = Logger()


@attrs.frozen
class Answer:
    """A peer's answer: status, its body where it was asked for."""

    status: int
    body: bytes
    content_type: str


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


def _ignore(_left: int) -> None:
    pass


def constant(
    data: bytes,
    content_type: str = "application/json",
    headers: Mapping[str, str] | None = None,
) -> Body:
    """A body that is in memory, and further headers of its request."""
    return Body(lambda _stall: data, content_type, headers or {})


class Peer:
    """See the module. One lives as long as the daemon, and keeps its connections warm."""

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
        self.knows_extension: bool | None = None
        """Whether the last push showed that it knows our extension of pushes."""
        self.pipelines = False
        """Whether it is ours: a server that is known to read one request behind the other."""
        self.abilities: Abilities | None = None
        """What its openings may be like; None while that is not known."""
        self.link = link
        self._reactor: IReactorTime = reactor
        self._threads = threads
        self._proxy = proxy
        self._pool = Pool(reactor, link.cap, self._served)
        self.tls = tls
        self._endpoints = WideEndpointFactory(
            reactor, self.timeout, congestion or Congestion(), link.connected, tls, proxy
        )
        self._warm = self._agent(self._pool)
        self._fresh = self._agent(Unused(self._pool))

    def _agent(self, pool: Any) -> PlainAgent:
        if self._proxy is not None and not self.settings.is_secure:
            return PlainAgent(ProxyAgent(self._endpoint(), self._reactor, pool))
        return PlainAgent(Agent.usingEndpointFactory(self._reactor, self._endpoints, pool))

    def _endpoint(self) -> IStreamClientEndpoint:
        return self._endpoints.endpointForURI(URI.fromBytes(self.base_url.encode()))

    def _served(self, connection: Connection) -> None:
        if self.tls is not None:
            self.tls.remember(connection.transport)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._pool.close()

    async def meet(self) -> None:
        """Have the link's round trip known; what fails will show in the next request."""
        if self.link.round_trip is None:
            connecting = self._prepare(1)
            connecting.addTimeout(_MEET_S, self._reactor)
            await connecting

    async def learn(self) -> None:
        """Have it known what its openings may be like, where a round trip more may save some."""
        if self.abilities is not None or self.link.is_near:
            return
        session, path = self.session(""), f"/plugins/{PLUGIN}"
        asking = Deferred.fromCoroutine(self._call(session, "GET", path, client=session.warm))
        asking.addTimeout(_MEET_S, self._reactor)
        try:
            self.abilities = await self._threads.run(parse_plugin, (await asking).body)
            self.pipelines = self.abilities.early
        except (TransfersError, DeferTimeoutError) as error:
            log.debug("What {name} can do is not known: {error}", name=self.name, error=error)

    def prepare(self, count: int) -> None:
        """Make up to ``count`` connections ahead, where that saves time."""
        if not self.link.is_near:
            self._prepare(count - self.link.connections)

    def _prepare(self, count: int) -> "Deferred[Any]":
        return self._pool.prepare(self._endpoint(), count)

    # The requests of the protocol

    async def lookup(
        self,
        resources: Sequence[Resource],
        session: "Session",
        codecs: Iterable[Codec] = (),
    ) -> LookupAnswer:
        """Ask for the instances below ``resources`` (``POST /transfers/lookup``).

        :param codecs: in which the bytes may come too; a peer that knows them tells which it has.
        """
        headers = {
            ACCEPTED_CODECS: ", ".join(codec_names(codecs)) or Codec.NONE.value,
            "Accept": f"{packed.PACKED}, application/json",
        }
        body = constant(messages.resources_json(resources), headers=headers)
        answer = await self._call(session, "POST", "/transfers/lookup", body, client=session.warm)
        is_packed = answer.content_type == packed.PACKED
        parse = packed.parse_packed_lookup if is_packed else messages.parse_lookup_answer
        parsed: LookupAnswer = await self._threads.run(
            self._parse, answer, parse, "/transfers/lookup"
        )
        self.pipelines = parsed.codecs is not None
        return parsed

    async def open_push(self, request: PushRequest, session: "Session") -> PushOpened:
        """Open a push transaction, in the smallest form that the peer takes."""
        if self.abilities is not None and self.abilities.packed:
            body = await self._threads.run(packed.pack_push, request)
            try:
                if body is not None:
                    return await self._open_push(request, constant(body, packed.PACKED), session)
            except PeerRefused as error:
                if error.status not in _NOT_UNDERSTOOD:
                    raise
                self.abilities = None  # it may have been replaced by an earlier version
        body = await self._threads.run(
            pushes.push_json,
            request.instances,
            request.buckets,
            request.compression,
            request.extension,
        )
        return await self._open_push(request, constant(body), session)

    async def _open_push(self, request: PushRequest, body: Body, session: "Session") -> PushOpened:
        answer = await self._call(session, "POST", "/transfers/push", body)
        count = len(request.instances)
        opened: PushOpened = await self._threads.run(
            self._parse,
            answer,
            lambda body: pushes.parse_push_opened(body, count),
            "/transfers/push",
        )
        self._check_path(opened.path, "/transfers/push")
        self.knows_extension = self.pipelines = opened.already_stored is not None
        self.abilities = opened.abilities
        return opened

    async def push_status(
        self, path: str, instances: int, buckets: int, verify: bool, session: "Session"
    ) -> PushStatus:
        """Where the transaction at ``path`` stands (an extension).

        :param verify: whether the peer is to read what it has staged once more.
        """
        route = f"{path}?verify=1" if verify else path
        answer = await self._call(session, "GET", route, client=session.warm)
        status: PushStatus = await self._threads.run(
            self._parse,
            answer,
            lambda body: pushes.parse_push_status(body, instances, buckets),
            path,
        )
        return status

    async def put_bucket(self, path: str, body: Body, session: "Session") -> None:
        """Send the bucket at ``path``."""
        await self._call(session, "PUT", path, body, client=self._for_buckets(session))

    async def commit(self, path: str, timeout: float, session: "Session") -> None:
        """Commit the transaction at ``path``; ``timeout`` seconds until the answer at the most."""
        body = constant(b"", "application/x-www-form-urlencoded")
        # Asking again on another connection is safe where a second commit is no error.
        client = session.warm if self.knows_extension else session.fresh
        await self._call(session, "POST", f"{path}/commit", body, timeout, client)

    async def commit_after(
        self,
        path: str,
        after: Iterable[int],
        timeout: float,
        instances: int,
        session: "Session",
    ) -> PushStatus:
        """Commit the transaction at ``path`` once these buckets have come (an extension).

        :param timeout: seconds until the answer at the most. :param instances: that it has.
        """
        route = f"{path}/commit"
        body = constant(pushes.commit_json(after))
        answer = await self._call(session, "POST", route, body, timeout, session.warm)
        status: PushStatus = await self._threads.run(
            self._parse, answer, lambda body: pushes.parse_push_status(body, instances, 0), route
        )
        return status

    async def discard(self, path: str, session: "Session") -> None:
        """Drop the transaction at ``path``."""
        await self._call(session, "DELETE", path)

    async def get_bucket(
        self, path: str, sink: Sink, session: "Session", on_left: Callable[[int], None] = _ignore
    ) -> None:
        """Fetch ``path`` (with its arguments) into ``sink``; returns when the sink has it all.

        :param on_left: called with the bytes that are still to come, where that is known.
        """
        destination = Destination(sink, on_left)
        client = self._for_buckets(session)
        await self._request(session, "GET", path, None, destination, client=client)

    def _for_buckets(self, session: "Session") -> HTTPClient:
        return session.behind if self.pipelines else session.warm

    async def request_pull(
        self, request: TransferRequest, originator: str, as_peer: str, session: "Session"
    ) -> tuple[str, str]:
        """Ask the peer to pull from us; gives its job's ID and path."""
        body = constant(messages.pull_json(request, originator, as_peer))
        answer = await self._call(session, "POST", "/transfers/pull", body)
        return self._opened(answer, "/transfers/pull")

    async def job(self, path: str, session: "Session") -> dict[str, Any]:
        """What its job at ``path`` does (:meth:`request_pull` gave it)."""
        answer = await self._call(session, "GET", path, client=session.warm)
        told = await self._threads.run(self._parse, answer, messages.parse_object, path)
        return dict(told)

    async def act_on_job(self, path: str, action: str, session: "Session") -> None:
        """Do something to its job at ``path``: ``cancel``, or another action of jobs."""
        await self._call(session, "POST", f"{path}/{action}", constant(b""))

    async def has_accelerator(self, timeout: float) -> bool:
        """Whether the peer speaks this protocol; ``timeout`` seconds in all."""
        session = self.session("")
        call = Deferred.fromCoroutine(self._call(session, "GET", "/plugins", client=session.warm))
        call.addTimeout(timeout, self._reactor)
        try:
            plugins = json.loads((await call).body)
        except (TransfersError, DeferTimeoutError, ValueError, RecursionError):
            return False
        return isinstance(plugins, list) and PLUGIN in plugins

    # What people ask of it

    async def ask(self, method: str, path: str, value: Any = None) -> Any:
        """A request of Orthanc's own REST API; gives the JSON of the answer."""
        body = constant(msgspec.json.encode(value)) if value is not None else None
        session = self.session("")
        answer = await self._call(session, method, path, body, client=session.warm)
        return await self._threads.run(self._parse, answer, lambda data: decode(data, Any), path)

    async def greet(self, timeout: float) -> "Greeting":
        """Who it is, and whether it has the accelerator; never raises. ``timeout`` in seconds."""
        started = self._reactor.seconds()

        async def talk() -> Greeting:
            plugins = await self.ask("GET", "/plugins")
            seconds = self._reactor.seconds() - started
            if not isinstance(plugins, list) or PLUGIN not in plugins:
                return Greeting(False, "It has no transfers accelerator", seconds)
            system = await self.ask("GET", "/system")
            plugin = await self.ask("GET", f"/plugins/{PLUGIN}")
            return Greeting(
                True,
                "",
                self.link.round_trip or seconds,
                _text(system, "Name"),
                _text(system, "Version"),
                _text(system, "TxtransfersVersion"),
                _text(plugin, "Version"),
            )

        try:
            return await Deferred.fromCoroutine(talk()).addTimeout(timeout, self._reactor)
        except DeferTimeoutError:
            return Greeting(False, f"{self._who} did not answer within {timeout:g} s", timeout)
        except TransfersError as error:
            return Greeting(False, str(error), self._reactor.seconds() - started)

    async def resolve(self) -> list[str]:
        """The addresses of its host; empty if there are none."""
        return await resolve(self._reactor, URI.fromBytes(self.base_url.encode()).host.decode())

    async def knock(self) -> str:
        """Connect, and leave. Tells where to.

        :raises PeerUnreachable: nobody is there.
        """
        uri = URI.fromBytes(self.base_url.encode())
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, uri.host, uri.port, timeout=self.timeout
        )
        if self._proxy is not None:
            endpoint = self._endpoint()
        try:
            protocol: Any = await endpoint.connect(Factory.forProtocol(Protocol))
        except Exception as error:
            self._explain(error, "a connection", f"to port {uri.port}")
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

    # How they are made

    async def _call(
        self,
        session: "Session",
        method: str,
        path: str,
        body: Body | None = None,
        timeout: float | None = None,
        client: HTTPClient | None = None,
    ) -> Answer:
        answer = await self._request(session, method, path, body, None, timeout, client)
        if not _is_json(answer) and answer.content_type != packed.PACKED:
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
        sink: "Destination | None" = None,
        timeout: float | None = None,
        client: HTTPClient | None = None,
    ) -> Answer:
        """One request. On a warm connection that turns out to be gone, once more on another.

        :param client: of the session's; None: ``fresh``.
        """
        for way in _ways(session, client or session.fresh):
            try:
                return await self._try(session, way, method, path, body, sink, timeout)
            except (ResponseNeverReceived, RequestTransmissionFailed) as error:
                is_final = isinstance(innermost(error), UntrustedError)
                taken = sink is not None and sink.sink.taken
                if is_final or way is session.fresh or taken:
                    self._explain(error, method, path)
            except Exception as error:
                self._explain(error, method, path)
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
    ) -> Answer:
        stall = Stall(self._reactor, timeout or self.timeout)
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
        limit = messages.MAX_MESSAGE_SIZE if response.code == 200 else _ERROR_SIZE
        collector, parts = collecting_sink(limit)
        await deliver(response, collector, stall, _ignore)
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
        if self._proxy is not None and self._proxy.username and not self.settings.is_secure:
            headers["Proxy-Authorization"] = authorization(self._proxy)
        if session.transfer_id:
            headers["sender-transfer-id"] = session.transfer_id
        if body is not None:
            headers["Content-Type"] = body.content_type
            headers.update(body.headers)
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
        self._check_path(path, route)
        return id_, path

    def _check_path(self, path: str, route: str) -> None:
        if not _PATH.match(path):
            raise PeerNonsense(f"{self._who} answered {route} with the path {path[:100]!r}")

    def _refuse(self, answer: Answer, method: str, path: str, retry_after: str) -> NoReturn:
        text = f"{self._who} answered {answer.status} to {method} {_shorten(path)}"
        said = what_orthanc_says(answer.body)
        if answer.status == 407 and self._proxy is not None:
            text = f"{self._who}: {describe(self._proxy)} {refusal(answer.status)}"
        elif answer.status in (401, 403):
            text += ": check the Username and Password of the peer in OrthancPeers"
        elif said is None:
            busy = answer.status in (408, 429) or answer.status >= 500
            text += f" ({_quote(answer)}){'' if busy else f'. {_NO_PEER}'}"
        else:
            text += f": {said[1]}"
            if answer.status == 404 and path in _NOT_FOUND:
                text += f". {_NOT_FOUND[path]}, or it has no transfers accelerator"
        delay = int(retry_after) if retry_after.isdecimal() else None
        raise PeerRefused(text, answer.status, delay)

    def _explain(self, error: BaseException, method: str, path: str) -> NoReturn:
        """Raise ``error`` as the domain's word for it."""
        if isinstance(error, TransfersError | CancelledError):
            raise error
        what = f"{method} {_shorten(path)}"
        inner = innermost(error)
        if isinstance(inner, TransfersError):
            raise inner from error
        if problem := tls_problem(inner):
            raise PeerUntrusted(f"{self._who}, {what}: {problem}") from error
        if isinstance(inner, ProxyError):
            raise PeerUnreachable(f"{self._who}, {what}: {inner}") from error
        if isinstance(inner, ParseError | ValueError):
            said = inner.data[:60] if isinstance(inner, ParseError) else str(inner)
            raise PeerNonsense(
                f"{self._who} answered {what} with something that is no HTTP ({said!r}). {_NO_PEER}"
            ) from error
        reason = why(inner, "its host name cannot be resolved; check Url in OrthancPeers")
        if self._proxy is not None:
            reason += f"; it is reached by {describe(self._proxy)}"
        raise PeerUnreachable(f"{self._who}, {what}: {reason}") from error


@attrs.frozen
class Greeting:
    """What a peer tells of itself.

    :ivar reason: why it has no accelerator, as far as is known. :ivar seconds: of a round trip.
    :ivar version: of the Orthanc whose API it has. :ivar own_version: of txtransfers.
    """

    accelerated: bool
    reason: str
    seconds: float
    name: str = ""
    version: str = ""
    own_version: str = ""
    plugin_version: str = ""

    @property
    def text(self) -> str:
        """For people."""
        product = f"txtransfers {self.own_version}" if self.own_version else "Orthanc"
        orthanc = f" (as Orthanc {self.version})" if self.own_version else f" {self.version}"
        called = f', called "{self.name}"' if self.name else ""
        return f"{product}{orthanc}, accelerator {self.plugin_version}{called}"


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


def _ways(session: Session, client: HTTPClient) -> tuple[HTTPClient, ...]:
    """Where a request is tried, the last time on a new connection.

    One that stood behind another, whose connection was ended, finds others that are warm.
    """
    if client is session.behind:
        return (client, client, session.fresh)
    return (client,) if client is session.fresh else (client, session.fresh)


def _is_json(answer: Answer) -> bool:
    return answer.body.lstrip()[:1] in (b"{", b"[")


def _quote(answer: Answer) -> str:
    if not answer.body:
        return "an empty body"
    kind = answer.content_type.split(";")[0] or "unknown type"
    if "html" in kind:
        return "a web page"
    start = answer.body[:60].decode("utf-8", "replace").strip()
    return f"{len(answer.body)} bytes of {kind}: {start!r}"


def _text(value: Any, name: str) -> str:
    found = value.get(name) if isinstance(value, dict) else None
    return whole_characters(found[:LONGEST_QUOTE]) if isinstance(found, str) else ""


def _shorten(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:117]}..."


def _first(values: Sequence[str] | None) -> str:
    return values[0] if values else ""
