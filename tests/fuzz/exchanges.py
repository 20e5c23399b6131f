"""Harnesses of what has two ends: our server, our client of peers, and that of an Orthanc."""

from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web._newclient import Request, ResponseFailed
from twisted.web.client import ResponseDone, readBody
from twisted.web.http_headers import Headers

from tests.fuzz.harness import Cutter, Harness, Logged, is_frozen
from tests.orthanc.fake_orthanc import settings
from tests.web.harness import FakePeer, House, make_dicom, parse_answers
from txtransfers.config_tls import HttpProxy
from txtransfers.errors import TransfersError
from txtransfers.orthanc.catalogue import Catalogue
from txtransfers.orthanc.connection import Agents
from txtransfers.orthanc.rest import OrthancRest
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.connection import Connection
from txtransfers.transfer.proxy import ProxyError, Tunnel
from txtransfers.wire.messages import Level, Resource

FILES = tuple(make_dicom(size, f"1.2.3.{size}") for size in (600, 1000))
_DEFECT = b"A defect of txtransfers"


@cache
def _house() -> House:
    house = House(
        {
            "AuthenticationEnabled": True,
            "RegisteredUsers": {"a": "b"},
            "JobsHistorySize": 1,
            "Transfers": {"ChunksCaching": "shared"},
        },
        peers=[FakePeer("B")],
    )
    for data in FILES:
        house.store.add(data)
    return house


def ask_server(data: bytes) -> None:
    """Whatever comes at the socket, as a user who may do everything, or as nobody."""
    house = _house()
    cutter = Cutter(data)
    is_user = cutter.number(3)
    connection = house.connect()
    methods: list[str] = []
    real = connection.wire.protocol.allHeadersReceived

    def begun() -> None:
        methods.append(connection.wire.protocol._command.decode("latin-1"))
        if is_user:
            headers = connection.wire.protocol.requests[-1].requestHeaders
            headers.setRawHeaders("Authorization", ["Basic YTpi"])
        real()

    connection.wire.protocol.allHeadersReceived = begun
    with Logged():
        for piece in cutter.pieces():
            connection.send(piece)
        connection.leave()
        house.clock.advance(house.settings.http_timeout + 1)
    received = connection.received()
    assert _DEFECT not in received
    final = 0
    for answer in parse_answers(received, methods, True):
        assert 100 <= answer.status < 600
        final += answer.status >= 200
        assert not any("\r" in v or "\n" in v for _n, v in answer.headers)
    assert final <= len(methods) + 1, "one more, where the last was no request"


def ask_chunks(data: bytes) -> None:
    """The address of a bucket: identifiers, then arguments."""
    house = _house()
    ids = sorted(house.store.files)
    target = data.replace(b"A", ids[0].encode()).replace(b"B", ids[1].encode())
    target = bytes(c for c in target if 0x20 < c < 0x7F)[:30_000]
    with Logged():
        answer = house.request(
            "GET", "/transfers/chunks/" + target.decode(), headers={"Authorization": "Basic YTpi"}
        )
    assert answer.whole
    assert answer.status in (200, 400, 404, 405), answer.status
    plain = target.partition(b"?")[0] == b"%s.%s" % (ids[0].encode(), ids[1].encode())
    if answer.status == 200 and plain and b"compression" not in target and answer.header("ETag"):
        assert answer.body in house.store.files[ids[0]] + house.store.files[ids[1]]


class _Cut(StringTransport):
    def abortConnection(self) -> None:
        self.disconnecting = True


def answer_client(data: bytes) -> None:
    """What a peer answers to three requests that stand behind each other."""
    cutter = Cutter(data)
    ends: list[Any] = []
    connection = Connection(lambda _c: None, lambda: None)
    wire = _Cut()
    connection.makeConnection(wire)
    with Logged():
        for method in (b"GET", b"HEAD", b"GET"):
            request = Request._construct(
                method, b"/x", Headers({"Host": ["b"]}), None, persistent=True
            )
            asked = connection.request(request)
            asked.addCallback(readBody)
            asked.addBoth(ends.append)
        for piece in cutter.pieces():
            if wire.disconnecting:
                break
            connection.dataReceived(piece)
        connection.connectionLost(Failure(ConnectionLost()))
    assert len(ends) == 3, "each is answered, or fails"
    for end in ends:
        assert isinstance(end, bytes | Failure)


class _Response:
    """An answer whose parts the input is."""

    def __init__(self, code: int, headers: Headers, body: bytes) -> None:
        self.code = code
        self.headers = headers
        self.length = len(body)
        self._body = body

    def deliverBody(self, receiver: Any) -> None:
        receiver.makeConnection(StringTransport())
        receiver.dataReceived(self._body)
        receiver.connectionLost(Failure(ResponseDone()))


class _Agent:
    def __init__(self, answer: Callable[[], _Response]) -> None:
        self._answer = answer

    def request(self, *_args: Any) -> "Deferred[Any]":
        return succeed(self._answer())


def answer_rest(data: bytes) -> None:
    """What an Orthanc answers to the store that it is."""
    cutter = Cutter(data)
    code = (200, 200, 200, 400, 404, 500, 507)[cutter.number(7)]
    parts = cutter.rest().split(b"\0\0")
    queue = list(parts)

    def answer() -> _Response:
        return _Response(code, Headers({"ETag": ['"1-x"']}), queue.pop(0) if queue else parts[-1])

    agent: Any = _Agent(answer)
    rest = OrthancRest(Clock(), SynchronousThreads(), Agents(agent, agent), settings(), 10)

    async def read_md5(_known: Any) -> str | None:
        return None

    catalogue = Catalogue(Clock(), rest, read_md5)
    id_ = "-".join(["01234567"] * 5)
    for call in (
        lambda: rest.get_json("/system"),
        lambda: catalogue.lookup([Resource(Level.SERIES, id_)]),
        lambda: catalogue.lookup([Resource(Level.INSTANCE, id_)]),
        lambda: rest.delete("/x"),
    ):
        queue[:] = parts
        ends: list[Any] = []
        Deferred.fromCoroutine(call()).addBoth(ends.append)
        (end,) = ends or [None]
        if isinstance(end, Failure):
            end.trap(TransfersError)
            str(end.value).encode("utf-8", "backslashreplace")
        elif isinstance(end, tuple):
            assert is_frozen(end)
            assert all(0 <= instance.size <= 2**62 for instance in end), end


class _Endpoint:
    def __init__(self) -> None:
        self.wire = _Cut()

    def connect(self, factory: Any) -> "Deferred[Any]":
        self.protocol = factory.buildProtocol(None)
        self.protocol.makeConnection(self.wire)
        return succeed(self.protocol)


class _Inner:
    """What the tunnel is for."""

    def __init__(self) -> None:
        self.data = b""

    def buildProtocol(self, _address: Any) -> "_Inner":
        return self

    def makeConnection(self, _transport: Any) -> None:
        pass

    def dataReceived(self, data: bytes) -> None:
        self.data += data


def answer_tunnel(data: bytes) -> None:
    """What a proxy answers to CONNECT."""
    cutter = Cutter(data)
    endpoint: Any = _Endpoint()
    inner: Any = _Inner()
    ends: list[Any] = []
    tunnel = Tunnel(endpoint, HttpProxy("proxy", 3128, "", ""), "b", 443)
    with Logged(), suppress(ProxyError):
        tunnel.connect(inner).addBoth(ends.append)
        for piece in cutter.pieces():
            if endpoint.wire.disconnecting or inner.data:
                break
            endpoint.protocol.dataReceived(piece)
        endpoint.protocol.connectionLost(Failure(ConnectionLost()))
    assert len(ends) == 1
    if isinstance(ends[0], Failure):
        ends[0].trap(ProxyError)


_HTTP = (
    *(b"\r\n", b"\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"Content-Length: 5\r\n", b"\r\n "),
    *(b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n", b"Connection: close\r\n", b"5\r\nhello\r\n"),
    *(b"HTTP/1.1 100 Continue\r\n\r\n", b"9" * 5000, b"\0", b"-1", b"Set-Cookie: a=b\r\n"),
)

HARNESSES = (
    Harness(
        "server",
        ask_server,
        3 * 2**20,
        tokens=(*_HTTP, b"Expect: 100-continue\r\n", b" HTTP/1.1\r\n", b"POST /transfers/push"),
    ),
    Harness(
        "chunks", ask_chunks, 3 * 2**20, tokens=(b"A", b"B", b".", b"?", b"&", b"%00", b"size=")
    ),
    Harness("client", answer_client, tokens=_HTTP),
    Harness("rest", answer_rest, tokens=(b"\0\0", b'"FileSize":', b"-1", b"[]", b"{}", b"true")),
    Harness("tunnel", answer_tunnel, tokens=_HTTP),
)

__all__ = ["HARNESSES", "ResponseFailed"]
