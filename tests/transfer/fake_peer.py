"""A peer in memory, and a store that can be slow: for tests of transfers, without HTTP."""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from txtransfers.errors import StorageFailure
from txtransfers.store.interfaces import CommitReport, IIncoming
from txtransfers.store.memory import MemoryStore
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.incoming import PushTransactions
from txtransfers.transfer.parts import Limits, Parts
from txtransfers.transfer.slots import Slots
from txtransfers.wire.codecs import encoder
from txtransfers.wire.messages import Compression, LookupAnswer, Resource, parse_push
from txtransfers.wire.plan import Instance

Step = Exception | Awaitable[Any]


class FakePeer:
    """Does what a peer does, with a store of its own; notes what it is asked.

    :ivar steps: by request (such as ``PUT 1``), what happens at its next times: an error that is
        raised, or a Deferred that is waited for.
    """

    name = "b"
    base_url = "http://b.test:8042"

    def __init__(self, clock: Clock, originator: str = "b's uuid") -> None:
        self.store = MemoryStore()
        self.originator = originator
        self.asked: list[str] = []
        self.sessions: set[str] = set()
        self.steps: dict[str, list[Step]] = defaultdict(list)
        self.commit_timeouts: list[float] = []
        self.paths: list[str] = []
        self.lie: Callable[[tuple[Instance, ...]], Sequence[Instance]] = lambda instances: instances
        self.mangle: Callable[[bytes], bytes] = lambda data: data
        self._threads = SynchronousThreads()
        self.pushes = PushTransactions(clock, self._threads, self.store, 4, Slots(99))

    def session(self, transfer_id: str) -> str:
        return transfer_id

    async def _ask(self, request: str, session: str) -> None:
        self.asked.append(request)
        self.sessions.add(session)
        if self.steps[request]:
            step = self.steps[request].pop(0)
            if isinstance(step, Exception):
                raise step
            await step

    async def open_push(self, opening: bytes, session: str) -> str:
        await self._ask("POST push", session)
        return f"/transfers/push/{await self.pushes.open(parse_push(opening))}"

    async def put_bucket(self, path: str, number: int, body: Any, session: str) -> None:
        touched: list[None] = []
        producer = body.make(lambda: touched.append(None))
        transport = StringTransport()
        await producer.startProducing(transport)
        data = transport.value()
        assert producer.length == len(data), "the Content-Length is wrong"
        assert touched, "progress shows"
        assert body.content_type == "application/octet-stream"
        await self._ask(f"PUT {number}", session)
        id_ = path.removeprefix("/transfers/push/")
        sink = self.pushes.receive(id_, number)
        sink.write(data)
        await self.pushes.finish_bucket(id_, sink, 0)

    async def commit(self, path: str, timeout: float, session: str) -> None:
        self.commit_timeouts.append(timeout)
        await self._ask("POST commit", session)
        await self.pushes.commit(path.removeprefix("/transfers/push/"))

    async def discard(self, path: str, session: str) -> None:
        await self._ask("DELETE", session)
        await self.pushes.discard(path.removeprefix("/transfers/push/"))

    async def lookup(self, resources: Sequence[Resource], session: str) -> LookupAnswer:
        await self._ask("POST lookup", session)
        found = await self.store.lookup(resources)
        return LookupAnswer(tuple(self.lie(found)), self.originator)

    async def get_bucket(self, path: str, sink: Any, session: str) -> None:
        url = urlsplit(path)
        arguments = {name: values[0] for name, values in parse_qs(url.query).items()}
        offset, size = int(arguments["offset"]), int(arguments["size"])
        ids = url.path.removeprefix("/transfers/chunks/").split(".")
        self.paths.append(path)
        await self._ask(f"GET {','.join(id_[:2] for id_ in ids)} {offset}", session)
        data = b"".join(self.store.files[id_] for id_ in ids)[offset : offset + size]
        stream = encoder(Compression(arguments["compression"]))
        sink.write(self.mangle(stream.encode(data) + stream.finish()))
        await sink.finish()


class SlowIncoming:
    """See :class:`SlowStore`."""

    def __init__(self, store: "SlowStore", inner: IIncoming) -> None:
        self._store = store
        self._inner = inner

    def write(self, pieces: Any) -> "Deferred[None]":
        return self._inner.write(pieces)

    def commit(self) -> "Deferred[CommitReport]":
        return self._store.when_free("commit").addCallback(lambda _r: self._inner.commit())

    def discard(self) -> "Deferred[None]":
        if self._store.is_broken:
            return fail(StorageFailure("The disk is broken"))
        self._store.discarded += 1
        return self._store.when_free("discard").addCallback(lambda _r: self._inner.discard())


class SlowStore(MemoryStore):
    """A store some of whose calls wait until the test lets them go on.

    :ivar slow: the names of those calls: ``receive``, ``commit``, ``discard``.
    :ivar held: those that wait. :ivar is_broken: staging areas cannot be discarded.
    """

    def __init__(self, room: int = 2**30) -> None:
        super().__init__(room=room)
        self.slow: set[str] = set()
        self.held: list[Deferred[None]] = []
        self.discarded = 0
        self.is_broken = False

    def when_free(self, call: str) -> "Deferred[None]":
        waiting: Deferred[None] = Deferred()
        if call in self.slow:
            self.held.append(waiting)
        else:
            waiting.callback(None)
        return waiting

    def go_on(self) -> None:
        """Let all that wait go on, and make none wait any more."""
        self.slow.clear()
        while self.held:
            self.held.pop(0).callback(None)

    def receive(self, instances: Sequence[Instance]) -> Any:
        received = self.when_free("receive").addCallback(lambda _r: self._receive(instances))
        return received.addCallback(lambda inner: SlowIncoming(self, inner))


def parts(
    clock: Clock,
    store: MemoryStore,
    threads: int = 2,
    bucket_size: int = 1000,
    retries: int = 0,
    slots: int = 10,
) -> Parts:
    """The collaborators of a transfer."""
    limits = Limits(threads, bucket_size, retries, commit_timeout=600.0)
    return Parts(clock, store, SynchronousThreads(), Slots(slots), limits, str(uuid4()))
