"""A whole site in memory, and a client that speaks raw HTTP to it.

Nothing here opens a socket or waits: time is a Clock, threads run at once, and what a connection
carries is in the hands of the test: who sends how much, who reads, who goes away.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from tests.limits import local_time
from txtransfers.audit import AuditLog
from txtransfers.config import Settings, parse
from txtransfers.config_limits import push_limits
from txtransfers.config_peers import PeerSettings
from txtransfers.errors import PeerUnreachable, TransfersError
from txtransfers.jobs.events import LONGEST_LIST, Events
from txtransfers.jobs.journal import MemoryJournal
from txtransfers.jobs.model import Direction
from txtransfers.jobs.runner import JobLimits, JobRunner
from txtransfers.metrics import Measures
from txtransfers.store.archive import EmbeddedArchive
from txtransfers.store.dicom import Header
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import Outcome
from txtransfers.store.memory import MemoryStore
from txtransfers.threads import IThreads, SynchronousThreads
from txtransfers.transfer.bandwidth import Bandwidth
from txtransfers.transfer.directory import Directory
from txtransfers.transfer.greeting import Greeting
from txtransfers.transfer.incoming import PushTransactions
from txtransfers.transfer.link import Link
from txtransfers.transfer.parts import ITransfer, Limits, Memo, Parts, is_passing
from txtransfers.transfer.progress import Progress
from txtransfers.transfer.slots import Slots
from txtransfers.web.auditing import Auditor
from txtransfers.web.gateway.peers import OrthancPeers
from txtransfers.web.gateway.tree import Gateway
from txtransfers.web.gateway.upstream import Upstream
from txtransfers.web.jobs import job_json
from txtransfers.web.site import SiteParts, make_site
from txtransfers.wire.identifiers import DicomIdentifiers, ResourceIdentifiers
from txtransfers.wire.messages import TransferRequest
from txtransfers.wire.plan import Chunk, Instance

ORIGINATOR = "11111111-2222-3333-4444-555555555555"
READ = 64 * 1024
"""Bytes that a connection delivers at a time."""


def md5(data: bytes) -> str:
    """The MD5 as it travels."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def make_dicom(size: int, instance: str = "1.2.3.4", **tags: str) -> bytes:
    """A DICOM file of exactly ``size`` bytes; at least 500.

    :param instance: its SOPInstanceUID. :param tags: ``patient``, ``study``, ``series``.
    """
    values = {"patient": "P", "study": "1.2.1", "series": "1.2.2", **tags}
    meta = _element(0x0002, 0x0010, b"UI", b"1.2.840.10008.1.2.1")
    body = b"".join(
        (
            _element(0x0008, 0x0016, b"UI", b"1.2.840.10008.5.1.4.1.1.7"),
            _element(0x0008, 0x0018, b"UI", instance.encode()),
            _element(0x0010, 0x0020, b"LO", values["patient"].encode()),
            _element(0x0020, 0x000D, b"UI", values["study"].encode()),
            _element(0x0020, 0x000E, b"UI", values["series"].encode()),
            _element(0x0020, 0x0013, b"IS", b"1"),
            _element(0x0020, 0x0032, b"DS", b"0\\0\\0"),
            _element(0x0020, 0x0037, b"DS", b"1\\0\\0\\0\\1\\0"),
        )
    )
    head = bytes(128) + b"DICM" + _element(0x0002, 0x0000, b"UL", struct.pack("<I", len(meta)))
    head += meta + body
    pixels = size - len(head) - 12
    assert pixels >= 0, size
    noise = hashlib.shake_128(instance.encode()).digest(pixels)
    return head + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, pixels) + noise


def _element(group: int, element: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr == b"UI" else b" "
    return struct.pack("<HH2sH", group, element, vr, len(value)) + value


def put_stand_in(store: MemoryStore, data: bytes, ids: ResourceIdentifiers) -> None:
    """Let ``store`` hold ``data`` under identifiers that are not its own."""
    store.files[ids.instance] = data
    store.headers[ids.instance] = Header(DicomIdentifiers("", "", "", ""), ids, {}, "", "")


class FakePeer:
    """A peer that cannot be reached, or whose answers the test gives."""

    def __init__(
        self, name: str, accelerated: bool = False, remote_self: str | None = None
    ) -> None:
        self.name = name
        self.accelerated = accelerated
        self.base_url = f"http://{name.lower()}.test:8042"
        self.settings = peer_settings(f"{self.base_url}/", remote_self=remote_self)
        self.knows_extension: bool | None = None
        self.abilities: Any = None
        self.link = Link(Clock(), 4, 4)
        self.answers: dict[str, Any] = {}
        """To requests of Orthanc's own API; an error is raised."""
        self.asked: list[Any] = []

    async def resolve(self) -> list[str]:
        """See ``Peer.resolve``."""
        return ["127.0.0.1"]

    async def knock(self) -> str:
        """See ``Peer.knock``."""
        if not self.accelerated:
            raise PeerUnreachable(f'Peer "{self.name}": connection refused')
        return "127.0.0.1 port 8042"

    async def ask(self, method: str, path: str, value: Any = None) -> Any:
        """See ``Peer.ask``."""
        self.asked.append(value)
        answer = self.answers[path]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def greet(self, timeout: float) -> Greeting:
        """See ``Peer.greet``."""
        if not self.accelerated:
            return Greeting(False, f'Peer "{self.name}": connection refused', 0.0)
        return Greeting(True, "", 0.0015, f"far {self.name}", "1.10.1", "", "1.7")

    async def meet(self) -> None:
        """See ``Peer.meet``."""

    async def learn(self) -> None:
        """See ``Peer.learn``."""

    def prepare(self, count: int) -> None:
        """See ``Peer.prepare``."""

    def session(self, transfer_id: str) -> "FakeSession":
        """What goes along with each request."""
        return FakeSession(transfer_id)

    async def has_accelerator(self, timeout: float) -> bool:
        """See ``Peer.has_accelerator``."""
        return self.accelerated

    async def open_push(self, *args: Any) -> Any:
        """See ``Peer.open_push``."""
        raise PeerUnreachable(f'Peer "{self.name}": connection refused')

    async def lookup(self, *args: Any) -> Any:
        """See ``Peer.lookup``."""
        if self.accelerated:
            return None
        raise PeerUnreachable(f'Peer "{self.name}": connection refused')

    async def request_pull(self, *args: Any) -> tuple[str, str]:
        """See ``Peer.request_pull``."""
        raise PeerUnreachable(f'Peer "{self.name}": connection refused')


@attrs.define
class FakeSession:
    """What goes along with each request of a transfer."""

    transfer_id: str
    restored: Sequence[Any] = ()

    def cookies(self) -> list[Any]:
        """See ``Session.cookies``."""
        return list(self.restored)

    def restore(self, cookies: Sequence[Any]) -> None:
        """See ``Session.restore``."""
        self.restored = cookies


def peer_settings(url: str, **more: Any) -> PeerSettings:
    """The settings of a peer, with nothing but what is given."""
    values = {
        "username": "",
        "password": "",
        "headers": {},
        "timeout": None,
        "remote_self": None,
        "extra": {},
        **more,
    }
    return PeerSettings(url=url, **values)


@implementer(ITransfer)
class ScriptedTransfer:
    """A transfer of one bucket that ends when the test says so."""

    def __init__(self, direction: Direction, request: TransferRequest, memo: Memo) -> None:
        self.direction = direction
        self.request = request
        self.memo = memo
        self.ending: Deferred[None] = Deferred()
        self.abandoned = 0

    async def run(self, progress: Progress) -> None:
        """See :meth:`ITransfer.run`."""
        instance = Instance("0" * 8, 10, "")
        await self.memo.keep_instances([instance])
        progress.planned([instance], [], ((Chunk(instance.id, 0, 10),),))
        self.ending = Deferred()
        await self.ending
        progress.bucket_done(10)

    async def abandon(self) -> bool:
        """See :meth:`ITransfer.abandon`."""
        self.abandoned += 1
        return False

    async def close(self) -> None:
        """See :meth:`ITransfer.close`."""

    def state(self) -> Mapping[str, Any]:
        """See :meth:`ITransfer.state`."""
        return {}

    def keeps(self, error: TransfersError) -> bool:
        """See :meth:`ITransfer.keeps`."""
        return is_passing(error)

    def figures(self) -> dict[str, Any]:
        """See :meth:`ITransfer.figures`."""
        return {}

    def outcomes(self) -> Sequence[Outcome | None]:
        """See :meth:`ITransfer.outcomes`."""
        return [Outcome.STORED]


class House:
    """A site with all its parts. ``store`` is a MemoryStore, unless ``folder`` is given."""

    def __init__(
        self,
        configuration: Mapping[str, Any] | None = None,
        folder: str | None = None,
        peers: Iterable[FakePeer] = (),
        make_transfer: Callable[[Direction, TransferRequest, Memo], Any] | None = None,
        store: Any = None,
        endpoint: Any = None,
        threads: IThreads | None = None,
    ) -> None:
        """:param folder: where an embedded store and its archive are made; :meth:`stop` ends it.

        :param endpoint: where the Orthanc is that ``Store`` names. :param threads: others than
            those that run at once.
        """
        self.clock = Clock()
        self.threads = threads or SynchronousThreads()
        self.settings: Settings = parse(
            json.dumps(configuration or {}), "test", {}, folder or "/nowhere"
        )
        transfers = self.settings.transfers
        archive = None
        if folder is not None:
            store = EmbeddedStore(folder, self.threads, self.settings.overwrite_instances, 1)
            store.start()
            archive = EmbeddedArchive(store)
        self.store: Any = MemoryStore() if store is None else store
        self.transfers: list[ScriptedTransfer] = []
        self.peers = {peer.name: peer for peer in peers}
        self.bandwidth = Bandwidth(
            self.clock,
            local_time(self.clock),
            transfers.bandwidth,
            {name: peer.settings.bandwidth for name, peer in self.peers.items()},
        )
        self.parts = Parts(
            self.clock,
            self.store,
            self.threads,
            Slots(2**27),
            Limits(transfers.bucket_size, 0, transfers.peer_commit_timeout),
            ORIGINATOR,
            self.bandwidth,
        )
        self.jobs = JobRunner(
            self.clock,
            self.threads,
            MemoryJournal(),
            make_transfer or self._make_transfer,
            JobLimits(
                self.settings.concurrent_jobs,
                self.settings.jobs_history_size,
                transfers.job_retry_delays,
            ),
            self._wall_clock,
            self._describe_peer,
            Events("life", lambda job: job_json(job, self._wall_clock(), LONGEST_LIST)),
            lambda job: self.auditor.job_ended(job) if self.auditor else None,
        )
        self.transactions = PushTransactions(
            self.clock,
            self.threads,
            self.store,
            transfers.max_push_transactions,
            Slots(8),
            push_limits(self.settings.limits),
        )
        self.made: list[str] = []
        self.gateway = self._make_gateway(endpoint)
        auditor = None
        if self.settings.audit_log:
            log = AuditLog(self.settings.audit_log, self.threads, self._wall_clock)
            auditor = Auditor(log, self.clock, self.settings, self.store, archive)
        self.auditor = auditor
        self.site = make_site(
            SiteParts(
                self.settings,
                self.clock,
                self._wall_clock,
                self.threads,
                self.store,
                archive,
                self.jobs,
                self._make_directory(),
                self.transactions,
                ORIGINATOR,
                lambda: 0,
                self.bandwidth,
                self.gateway,
                auditor,
                Measures({*self.peers, *self.settings.registered_users}),
                self.store if folder is not None else None,
                self.parts.memory,
            )
        )
        self.site.reactor = self.clock  # type: ignore[assignment]

    def _make_directory(self) -> Directory:
        peers: dict[str, Any] = dict(self.peers)
        store = self.settings.store
        if store is None or self.gateway is None:
            return Directory(peers)
        upstream = self.gateway.upstream
        return OrthancPeers(peers, upstream, store, self.threads, self._make_peer)

    def _make_peer(self, name: str, settings: Any) -> Any:
        """A peer that only Orthanc has; each call makes another one."""
        self.made.append(name)
        peer = FakePeer(name, accelerated=True)
        peer.settings = settings
        return peer

    def _make_gateway(self, endpoint: Any) -> Gateway | None:
        store = self.settings.store
        if store is None:
            return None
        upstream = Upstream(self.clock, endpoint, store.url, store.proxy_timeout)
        return Gateway(upstream, store.explorer_root)

    def _wall_clock(self) -> float:
        return 1_795_000_000 + self.clock.seconds()

    def _describe_peer(self, name: str) -> tuple[str, str]:
        peer = self.peers.get(name)
        return self.settings.name, peer.settings.url if peer is not None else ""

    def _make_transfer(
        self, direction: Direction, request: TransferRequest, memo: Memo
    ) -> ScriptedTransfer:
        self.transfers.append(ScriptedTransfer(direction, request, memo))
        return self.transfers[-1]

    def stop(self) -> None:
        """Close an embedded store."""
        self.store.stop()

    def connect(self, host: str = "127.0.0.1") -> "Connection":
        """A new connection from ``host``."""
        return Connection(self, host)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        version: str = "HTTP/1.1",
    ) -> "Answer":
        """One request on a connection of its own; its final answer."""
        connection = self.connect(host)
        connection.request(method, target, body, headers, version)
        answers = [answer for answer in connection.answers() if answer.status >= 200]
        if len(answers) != 1:
            raise AssertionError(f"{method} {target[:80]}: {len(answers)} answers")
        connection.leave()
        return answers[0]


@attrs.frozen
class Answer:
    """One answer as it came over the wire."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    whole: bool

    def header(self, name: str) -> str | None:
        """The first header of that name."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class Wire(StringTransport):
    """The server's end of a connection, which does as a TCP transport does."""

    protocol: Any

    def __init__(self, clock: Clock, host: str) -> None:
        super().__init__(peerAddress=IPv4Address("TCP", host, 50000), lenient=True)
        self._clock = clock
        self.aborted = False
        self.write_closed = False
        self.room: int | None = None
        self._paused = False

    def write(self, data: bytes) -> None:
        """Take bytes, none after the end; once there is no room, ask for no more."""
        if self.connected and not self.disconnected and not self.write_closed:
            super().write(data)
        if self.room is not None and self.io.tell() > self.room and not self._paused:
            self._paused = True
            if self.producer is not None:
                self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """As :meth:`write`."""
        self.write(b"".join(data))

    def make_room(self, room: int | None) -> None:
        """The client has read: there is room for ``room`` bytes in all; None for any number."""
        self.room = room
        self._paused = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def loseConnection(self) -> None:
        """Write what is written, then end."""
        if not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(0, self.lost, Failure(ConnectionDone()))

    def loseWriteConnection(self) -> None:
        """Write no more."""
        self.write_closed = True

    def abortConnection(self) -> None:
        """End now."""
        if self.connected and not self.aborted:
            self.aborted = self.disconnected = self.disconnecting = True
            self._clock.callLater(0, self.lost, Failure(ConnectionAborted()))

    def unregisterProducer(self) -> None:
        """Safe to call twice, as TCP's is."""
        self.producer = None

    def lost(self, reason: Failure) -> None:
        """The connection is gone."""
        if self.connected:
            self.connected = False
            producer, self.producer = self.producer, None
            if producer is not None:
                producer.stopProducing()
            self.protocol.connectionLost(reason)


class Connection:
    """The client's end of a connection."""

    def __init__(self, house: House, host: str) -> None:
        self._clock = house.clock
        self._methods: list[str] = []
        self._unsent = b""
        self.wire = Wire(house.clock, host)
        self.wire.protocol = house.site.buildProtocol(None)
        self.wire.protocol.makeConnection(self.wire)

    def request(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        version: str = "HTTP/1.1",
    ) -> None:
        """Send a request, with a Content-Length unless ``headers`` has one or is chunked."""
        lines = {"Host": "here", **(headers or {})}
        names = {name.lower() for name in lines}
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            lines["Content-Length"] = str(len(body))
        head = f"{method} {target} {version}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.send(f"{head}\r\n".encode("latin-1") + (body or b""), method)

    def send(self, data: bytes, *methods: str) -> None:
        """Send bytes, as far as the server reads. :param methods: of the requests that begin."""
        self._methods.extend(methods)
        self._unsent += data
        self.flush()

    def flush(self) -> int:
        """Send what the server did not read before; tells how many bytes it still does not."""
        wire = self.wire
        position = 0
        while position < len(self._unsent) and self.is_read:
            wire.protocol.dataReceived(self._unsent[position : position + READ])
            position += READ
            self._clock.advance(0)
        self._unsent = self._unsent[position:]
        self._clock.advance(0)
        return len(self._unsent)

    @property
    def is_read(self) -> bool:
        """Whether the server reads from this connection."""
        wire = self.wire
        return wire.connected and not wire.disconnecting and wire.producerState == "producing"

    @property
    def is_open(self) -> bool:
        """Whether the server has left it open."""
        return bool(self.wire.connected)

    def stop_reading_after(self, size: int) -> None:
        """Read only so many bytes."""
        self.wire.room = size

    def read_on(self, size: int | None = None) -> None:
        """Read on, up to ``size`` bytes in all; None for all that comes."""
        self.wire.make_room(size)
        self._clock.advance(0)

    def leave(self) -> None:
        """Close the connection."""
        self.wire.lost(Failure(ConnectionLost()))
        self._clock.advance(0)

    def received(self) -> bytes:
        """All that came from the server."""
        return self.wire.value()

    def answers(self) -> list[Answer]:
        """All answers so far; the last may not be whole."""
        return parse_answers(self.received(), self._methods, not self.is_open)


def parse_answers(data: bytes, methods: Iterable[str], ended: bool) -> list[Answer]:
    """Read the answers to requests of these methods. :param ended: the connection is closed."""
    answers = []
    queue = iter(methods)
    while b"\r\n\r\n" in data:
        head, _, data = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = tuple((n, v) for n, _, v in (line.partition(": ") for line in lines))
        answer = Answer(int(first.split(" ")[1]), headers, b"", True)
        if answer.status >= 200 and next(queue, "?") != "HEAD":
            answer, data = _with_body(answer, data, ended)
        answers.append(answer)
    if data:
        raise AssertionError(f"What is this? {data[:200]!r}")
    return answers


def _with_body(answer: Answer, data: bytes, ended: bool) -> tuple[Answer, bytes]:
    length = answer.header("Content-Length")
    if length is not None:
        size = int(length)
        body, data = data[:size], data[size:]
        return attrs.evolve(answer, body=body, whole=len(body) == size), data
    if answer.header("Transfer-Encoding") != "chunked":
        return attrs.evolve(answer, body=data, whole=ended), b""
    body = b""
    while True:
        line, _, rest = data.partition(b"\r\n")
        if not line:
            return attrs.evolve(answer, body=body, whole=False), b""
        size = int(line, 16)
        if not size:
            return attrs.evolve(answer, body=body), rest.removeprefix(b"\r\n")
        if len(rest) < size + 2:
            return attrs.evolve(answer, body=body + rest[:size], whole=False), b""
        body, data = body + rest[:size], rest[size + 2 :]
