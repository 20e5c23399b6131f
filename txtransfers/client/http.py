"""The HTTP below the client: one daemon's address and credentials, and what can go wrong.

Whatever goes wrong becomes a :class:`DaemonError` whose text names the daemon and says what to
check. Time limits mean *no progress for so long*. Redirections are not followed: credentials go to
the address that was given, and nowhere else.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, NoReturn
from urllib.parse import urlsplit

import attrs
from treq.client import HTTPClient
from twisted.internet import error as net
from twisted.internet.defer import CancelledError
from twisted.internet.ssl import Certificate, trustRootFromCertificates
from twisted.web._newclient import ParseError
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer

from .. import __version__
from ..errors import (
    AccessDenied,
    ConfigurationError,
    DaemonNonsense,
    DaemonRefused,
    DaemonUnreachable,
    TransfersError,
)
from ..transfer.client import PlainAgent, Stall, Stalled, deliver, innermost
from ..transfer.streams import MemorySlices, RequestBody, Sink, collecting_sink
from ..wire.messages import MAX_MESSAGE_SIZE

TIMEOUT_S = 60.0
"""Seconds without progress after which a daemon has failed."""

MakeBody = Callable[[Stall], IBodyProducer]

_LONGEST_QUOTE = 300


def checked_url(url: str) -> str:
    """A daemon's address, with a slash at its end.

    :raises ConfigurationError: it is none, or holds credentials, which others would see.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{url[:100]!r} is no address of a daemon") from None
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "The address holds credentials, which others see in the list of processes: give them"
            " by TXTRANSFERS_USER and TXTRANSFERS_PASSWORD, or a file"
        )
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or port == 0
        or parts.query
        or parts.fragment
        or not is_plain
    ):
        raise ConfigurationError(
            f"{url[:100]!r} is no address of a daemon: expected http://host:8042/, or https"
        )
    return url if url.endswith("/") else f"{url}/"


@attrs.frozen
class Request:
    """One request.

    :ivar body: makes it, for each try. :ivar timeout: seconds without progress; None for the usual.
    :ivar is_kept: whether a kept connection is taken (a GET takes one in any case), which may turn
        out to be gone: then it fails as :class:`DaemonUnreachable`.
    """

    method: str
    path: str
    body: MakeBody | None = None
    headers: dict[str, str] = attrs.Factory(dict)
    timeout: float | None = None
    is_kept: bool = False


class Connection:
    """How one daemon is asked. Connections are kept for requests that may be made twice."""

    def __init__(
        self,
        reactor: Any,
        url: str,
        user: str = "",
        password: str = "",
        authorities: bytes | None = None,
        timeout: float = TIMEOUT_S,
        connections: int = 4,
        agent: IAgent | None = None,
    ) -> None:
        """:param authorities: certificates in PEM that vouch for the daemon; None: the system's.

        :param timeout: seconds without progress. :param connections: kept at the most.
        :param agent: makes the requests instead, in tests.
        :raises ConfigurationError: the address is none, or the certificates are none.
        """
        self.url = checked_url(url)
        self.reactor = reactor
        self.timeout = timeout
        self._headers = {"User-Agent": f"txtransfers/{__version__}"}
        if user:
            pair = b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {pair}"
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = connections
        policy = policy_of(authorities)

        def client(pool: HTTPConnectionPool) -> HTTPClient:
            made = agent or Agent(reactor, policy, connectTimeout=timeout, pool=pool)
            return HTTPClient(PlainAgent(made))

        self._kept = client(self._pool)
        self._once = client(HTTPConnectionPool(reactor, persistent=False))

    async def close(self) -> None:
        """Close what is idle."""
        await self._pool.closeCachedConnections()

    async def json(self, method: str, path: str, value: Any = None) -> Any:
        """One request; gives the JSON of the answer.

        :param value: the JSON of the request.
        """
        body = None if value is None else constant(json.dumps(value).encode())
        return self.parse(await self.ask(Request(method, path, body)), method, path)

    def parse(self, answer: bytes, method: str, path: str) -> Any:
        """The JSON value of an answer."""
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            raise DaemonNonsense(
                f"{self.who} answered {method} {_shorten(path)} with something that is no JSON."
                f" {_NO_DAEMON}"
            ) from None

    async def ask(self, request: "Request") -> bytes:
        """One request; gives the body of the answer."""
        sink, parts = collecting_sink(MAX_MESSAGE_SIZE)
        await self.into(sink, request)
        return b"".join(parts)

    async def into(self, sink: Sink, request: "Request") -> Mapping[str, str]:
        """One request, whose answer goes into ``sink``; gives the answer's headers."""
        try:
            return await self._ask(sink, request)
        except Exception as error:
            self._explain(error, request.method, request.path)

    async def _ask(self, sink: Sink, request: "Request") -> Mapping[str, str]:
        stall = Stall(self.reactor, request.timeout or self.timeout)
        body = request.body
        if body is None and request.method in ("POST", "PUT"):
            body = constant(b"")
        client = self._kept if request.is_kept or request.method == "GET" else self._once
        response: Any = await stall.watch(
            client.request(
                request.method,
                self.url.rstrip("/") + request.path,
                headers=Headers(
                    {name: [text] for name, text in (self._headers | request.headers).items()}
                ),
                data=body(stall) if body is not None else None,
                allow_redirects=False,
                unbuffered=True,
            )
        )
        if response.code != 200:
            collector, parts = collecting_sink(MAX_MESSAGE_SIZE)
            await deliver(response, collector, stall, _ignore)
            self._refuse(response.code, b"".join(parts), request.method, request.path)
        await deliver(response, sink, stall, _ignore)
        return {
            name.decode("latin-1").lower(): values[0].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }

    @property
    def who(self) -> str:
        """The daemon, as errors name it."""
        return f"The daemon at {self.url}"

    def _refuse(self, status: int, answer: bytes, method: str, path: str) -> NoReturn:
        what = f"{self.who} answered {status} to {method} {_shorten(path)}"
        if status == 401:
            raise AccessDenied(
                f"{what}: it wants a user and a password that it knows (RegisteredUsers); give"
                " them by TXTRANSFERS_USER and TXTRANSFERS_PASSWORD, or a file",
                status,
            )
        if status == 403:
            raise AccessDenied(
                f"{what}: it does not let this host in (RemoteAccessAllowed), or not this user",
                status,
            )
        reason = _reason(answer)
        if reason is None:
            where = " It redirects elsewhere, which is not followed." if status < 400 else ""
            raise DaemonRefused(f"{what}.{where} {_NO_DAEMON}", status)
        raise DaemonRefused(f"{what}: {reason}", status)

    def _explain(self, error: Exception, method: str, path: str) -> NoReturn:
        """Raise ``error`` as the domain's word for it."""
        if isinstance(error, TransfersError | CancelledError):
            raise error
        inner = innermost(error)
        if isinstance(inner, TransfersError):
            raise inner from error
        if isinstance(inner, ParseError | ValueError):
            raise DaemonNonsense(
                f"{self.who} answered {method} {_shorten(path)} with something that is no HTTP;"
                " if it speaks TLS, its address begins with https"
            ) from error
        raise DaemonUnreachable(f"{self.who}: {explained(inner)}") from error


def constant(data: bytes) -> MakeBody:
    """A body that is in memory."""

    def make(stall: Stall) -> IBodyProducer:
        return RequestBody(len(data), MemorySlices([data]), lambda _size: stall.touch())

    return make


def explained(error: BaseException) -> str:
    """Why there is no answer, and what to check."""
    if isinstance(error, Stalled):
        return f"no progress for {error.seconds:g} s; is it overloaded, is the link down?"
    if isinstance(error, net.ConnectionRefusedError):
        return "connection refused; is it running, and is the port right?"
    if isinstance(error, net.DNSLookupError):
        return "its host name cannot be resolved; check the address"
    if isinstance(error, net.TimeoutError | net.TCPTimedOutError):
        return "no connection in time; is the address right, does a firewall drop it?"
    said = str(error).rstrip(".") or type(error).__name__
    if "certificate verify failed" in said:
        return "its certificate is not vouched for by a known authority; name it by --authorities"
    if "wrong version number" in said or "record layer failure" in said:
        return "it does not speak TLS; its address begins with http"
    return f"the connection broke ({said})"


def policy_of(authorities: bytes | None) -> BrowserLikePolicyForHTTPS:
    """Whose certificates are believed.

    :param authorities: in PEM; None for the system's.
    """
    if authorities is None:
        return BrowserLikePolicyForHTTPS()
    begin = b"-----BEGIN CERTIFICATE-----"
    try:
        found = [Certificate.loadPEM(begin + part) for part in authorities.split(begin)[1:]]
    except Exception as error:  # OpenSSL raises whatever it finds
        raise ConfigurationError(f"The authorities cannot be read: {error}") from None
    if not found:
        raise ConfigurationError("The file of authorities has no certificate in PEM")
    return BrowserLikePolicyForHTTPS(trustRootFromCertificates(found))


_NO_DAEMON = "Is this the address of a txtransfers, or of an Orthanc?"


def _reason(answer: bytes) -> str | None:
    """What an Orthanc says in the body of an error; None where it is no Orthanc that speaks."""
    try:
        body = json.loads(answer)
        text = body.get("Details") or body.get("Message") or body["OrthancError"]
    except (ValueError, RecursionError, AttributeError, KeyError):
        return None
    return str(text)[:_LONGEST_QUOTE]


def _shorten(path: str) -> str:
    return path if len(path) <= 120 else f"{path[:117]}..."


def _ignore(_left: int) -> None:
    pass
