"""A peer in memory, and a store that can be slow: for tests of transfers, without HTTP."""

import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit
from uuid import uuid4

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from tests.limits import bandwidth
from txtransfers.errors import (
    BadDicom,
    BadState,
    CorruptedInstances,
    PeerRefused,
    StorageFailure,
    UnknownResource,
    WrongLength,
)
from txtransfers.store.interfaces import CommitReport, IIncoming
from txtransfers.store.memory import MemoryStore
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.client import Stall
from txtransfers.transfer.incoming import PushTransactions
from txtransfers.transfer.link import Link
from txtransfers.transfer.parts import Limits, Parts
from txtransfers.transfer.received_push import committed_status
from txtransfers.transfer.slots import Slots
from txtransfers.wire.abilities import Abilities
from txtransfers.wire.codec import OURS, Codec, parse_coding
from txtransfers.wire.codecs import encoder
from txtransfers.wire.messages import LookupAnswer, Resource
from txtransfers.wire.plan import Instance
from txtransfers.wire.pushes import PushOpened, PushRequest, PushStatus, parse_push_status

Step = Exception | Awaitable[Any]


class FakeMemo:
    """Remembers in memory; a new transfer with it is one after a restart."""

    id = "the-job"
    priority = 0

    def __init__(self) -> None:
        self.state: Mapping[str, Any] = {}
        self.anew = False
        self.said: list[str] = []
        self.kept: tuple[Instance, ...] | None = None

    async def keep(self, state: Mapping[str, Any]) -> None:
        self.state = json.loads(json.dumps(state))

    async def instances(self) -> tuple[Instance, ...] | None:
        return self.kept

    async def keep_instances(self, instances: Sequence[Instance]) -> None:
        self.kept = tuple(instances)

    def say(self, text: str) -> None:
        self.said.append(text)


class FakeSession(str):
    """The transfer's id, and the cookies of the peer."""

    def cookies(self) -> list[dict[str, Any]]:
        return []

    def restore(self, _cookies: Any) -> None:
        pass


class FakePeer:
    """Does what a peer does, with a store of its own; notes what it is asked.

    :ivar is_stock: whether it knows no extension. :ivar awaits: whether its commit can wait.

    :ivar link: what it is like to the transfers. :ivar codecs: that it knows, of our own.
    :ivar offered: codecs of each opening and lookup. :ivar prepared: connections made ahead.

    :ivar steps: by request (such as ``PUT 1``), what happens at its next times: an error that is
        raised, or a Deferred that is waited for.
    """

    name = "b"
    base_url = "http://b.test:8042"

    def __init__(self, clock: Clock, originator: str = "b's uuid") -> None:
        self.store = MemoryStore()
        self.is_stock = False
        self.awaits = False
        self.codecs = OURS
        self.offered: list[frozenset[Codec]] = []
        self.knows_extension: bool | None = None
        self.abilities: Abilities | None = None
        self.originator = originator
        self.asked: list[str] = []
        self.prepared: list[int] = []
        self.sessions: set[str] = set()
        self.steps: dict[str, list[Step]] = defaultdict(list)
        self.commit_timeouts: list[float] = []
        self.paths: list[str] = []
        self.lie: Callable[[tuple[Instance, ...]], Sequence[Instance]] = lambda instances: instances
        self.mangle: Callable[[bytes], bytes] = lambda data: data
        self._clock = clock
        self.link = Link(clock, 2, 64)
        self._threads = SynchronousThreads()
        self.pushes = PushTransactions(clock, self._threads, self.store, 4, Slots(99))

    def session(self, transfer_id: str) -> FakeSession:
        return FakeSession(transfer_id)

    def take(self, threads: int) -> None:
        """Have so many buckets in flight."""
        link = Link(self._clock, threads, 64)
        link.goodput, link.round_trip = self.link.goodput, self.link.round_trip
        self.link = link

    def seem(self, goodput: float | None, round_trip: float | None = None) -> None:
        """Have the link look like that; bytes a second, seconds."""
        self.link.goodput, self.link.round_trip = goodput, round_trip

    async def meet(self) -> None:
        pass

    def prepare(self, count: int) -> None:
        self.prepared.append(count)

    async def _ask(self, request: str, session: str) -> None:
        if request != "answer to commit":
            self.asked.append(request)
        self.sessions.add(session)
        if self.steps[request]:
            step = self.steps[request].pop(0)
            if isinstance(step, Exception):
                raise step
            await step

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Errors of the receiver become what its sender gets."""
        try:
            yield
        except UnknownResource as error:
            raise PeerRefused(str(error), 404) from error
        except BadDicom as error:
            raise PeerRefused(str(error), 400) from error
        except BadState as error:
            raise PeerRefused(str(error), 409) from error
        except (CorruptedInstances, WrongLength) as error:
            raise PeerRefused(str(error), 500) from error

    async def learn(self) -> None:
        pass

    async def open_push(
        self, request: PushRequest, session: str, on_asked: Callable[[], None] = lambda: None
    ) -> PushOpened:
        asking = Deferred.fromCoroutine(self._ask("POST push", session))
        on_asked()
        await asking
        if self.is_stock:
            request = attrs.evolve(request, extension=None)
        with self._answering():
            id_, already = await self.pushes.open(request)
        self.knows_extension = not self.is_stock
        path = f"/transfers/push/{id_}"
        self.opened_with = request.compression
        self.offered.append(request.extension.codecs if request.extension else frozenset())
        if request.extension is None:
            return PushOpened(id_, path, None)
        codecs = request.extension.codecs & self.codecs
        return PushOpened(id_, path, already, codecs, self.awaits)

    async def push_status(
        self, path: str, instances: int, buckets: int, verify: bool, session: str
    ) -> PushStatus:
        await self._ask("GET push verify" if verify else "GET push", session)
        with self._answering():
            status = await self.pushes.status(path.removeprefix("/transfers/push/"), verify)
        encoded = json.dumps(status.to_json()).encode()
        return parse_push_status(encoded, instances, buckets)

    async def put_bucket(self, path: str, body: Any, session: str) -> None:
        whole = path
        path, _, asked = path.rpartition("/")
        bucket, _, query = asked.partition("?")
        number, arguments = int(bucket), dict(parse_qsl(query))
        codec = Codec(arguments["codec"]) if "codec" in arguments else None
        assert codec is None or not self.is_stock
        self.paths.append(whole)
        asked = (
            re.sub("[?&]codec=[a-z]+", "", asked)
            .replace("?early", "&early")
            .replace("&early=1", " early")
        )
        touched: list[int] = []
        stall = Stall(Clock(), 60)
        stall.touch = lambda: touched.append(1)  # type: ignore[method-assign]
        producer = body.make(stall)
        transport = StringTransport()
        await producer.startProducing(transport)
        data = transport.value()
        assert producer.length == len(data), "the Content-Length is wrong"
        assert touched, "progress shows"
        assert body.content_type == "application/octet-stream"
        await self._ask(f"PUT {asked}", session)
        id_ = path.removeprefix("/transfers/push/")
        with self._answering():
            if "early" in arguments:
                await self.pushes.expect(id_)
                (await self.pushes.get(id_)).check_unchanged(number)
            sink = await self.pushes.receive(id_, number, int(arguments.get("offset", 0)), codec)
            sink.write(data)
            await self.pushes.finish_bucket(id_, sink, 0)

    async def commit(self, path: str, timeout: float, session: str) -> None:
        self.commit_timeouts.append(timeout)
        await self._ask("POST commit", session)
        with self._answering():
            id_ = path.removeprefix("/transfers/push/")
            if self.is_stock:
                await self.pushes.get(id_)
            await self.pushes.commit(id_)
        await self._ask("answer to commit", session)

    async def commit_after(
        self, path: str, after: Iterable[int], timeout: float, instances: int, session: str
    ) -> PushStatus:
        await self._ask("POST commit after", session)
        with self._answering():
            id_ = path.removeprefix("/transfers/push/")
            report = await self.pushes.commit(id_, frozenset(after))
        await self._ask("answer to commit", session)
        return committed_status(report)

    async def discard(self, path: str, session: str) -> None:
        await self._ask("DELETE", session)
        with self._answering():
            await self.pushes.discard(path.removeprefix("/transfers/push/"))

    async def lookup(
        self, resources: Sequence[Resource], session: str, codecs: frozenset[Codec] = frozenset()
    ) -> LookupAnswer:
        await self._ask("POST lookup", session)
        with self._answering():
            found = await self.store.lookup(resources)
        self.offered.append(codecs)
        known = None if self.is_stock else codecs & self.codecs
        return LookupAnswer(tuple(self.lie(found)), self.originator, known)

    async def get_bucket(self, path: str, sink: Any, session: str, _on_left: Any) -> None:
        url = urlsplit(path)
        arguments = {name: values[0] for name, values in parse_qs(url.query).items()}
        offset, size = int(arguments["offset"]), int(arguments["size"])
        ids = url.path.removeprefix("/transfers/chunks/").split(".")
        self.paths.append(path)
        await self._ask(f"GET {','.join(id_[:2] for id_ in ids)} {offset}", session)
        if any(id_ not in self.store.files for id_ in ids):
            raise PeerRefused("Unknown instance", 404)
        data = b"".join(self.store.files[id_] for id_ in ids)[offset : offset + size]
        coding = parse_coding(arguments["compression"], int(arguments.get("level", 0)))
        assert coding.codec in {Codec.NONE, Codec.GZIP} or not self.is_stock
        assert not self.is_stock or set(arguments) == {"offset", "size", "compression"}
        stream = encoder(coding)
        sink.write(self.mangle(stream.encode(data) + stream.finish()))
        await sink.finish()


class SlowIncoming:
    """See :class:`SlowStore`."""

    def __init__(self, store: "SlowStore", inner: IIncoming) -> None:
        self._store = store
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def commit(self) -> "Deferred[CommitReport]":
        return self._store.when_free("commit").addCallback(lambda _r: self._inner.commit())

    def discard(self) -> "Deferred[bool]":
        if self._store.is_broken:
            return fail(StorageFailure("The disk is broken"))
        self._store.discarded += 1
        return self._store.when_free("discard").addCallback(lambda _r: self._inner.discard())

    def close(self) -> "Deferred[None]":
        return self._store.when_free("close").addCallback(lambda _r: self._inner.close())


class SlowStore(MemoryStore):
    """A store some of whose calls wait until the test lets them go on.

    :ivar slow: their names: ``receive``, ``reopen``, ``commit``, ``discard``, ``close``.
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

    def receive(self, *args: Any) -> Any:
        received = self.when_free("receive").addCallback(
            lambda _r: MemoryStore.receive(self, *args)
        )
        return received.addCallback(lambda inner: SlowIncoming(self, inner))

    def reopen(self, name: str) -> Any:
        reopened = self.when_free("reopen").addCallback(lambda _r: MemoryStore.reopen(self, name))
        return reopened.addCallback(lambda inner: inner and SlowIncoming(self, inner))


def parts(
    clock: Clock,
    store: MemoryStore,
    bucket_size: int = 1000,
    retries: int = 0,
    memory: int = 2**27,
    delta: bool | None = None,
) -> Parts:
    """The collaborators of a transfer."""
    limits = Limits(bucket_size, retries, commit_timeout=600.0, delta=delta)
    return Parts(
        clock, store, SynchronousThreads(), Slots(memory), limits, str(uuid4()), bandwidth(clock)
    )
