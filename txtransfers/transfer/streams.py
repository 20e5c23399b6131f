"""Bytes on their way: from a store into a consumer, and from a producer into a store.

Both ways move slices through threads, never a whole bucket in a row of copies, and pass
backpressure on: a slow socket stops the reading of files, a slow disk stops the reading of sockets.
A producer always settles: end, error, or :meth:`SliceProducer.stopProducing`.
"""

import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IPushProducer
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from ..errors import BodyTooLarge
from ..store.interfaces import IIncoming, IInstanceReader, IInstanceStore, Piece
from ..threads import IThreads
from ..wire.codec import Codec, Coding
from ..wire.codecs import decoder, encoder
from ..wire.inflation import UNLIMITED, Inflation
from ..wire.plan import Bucket, bucket_size
from .flow import Flow, IPatience, Toll

SLICE = 576 * 1024
"""Bytes that one hop to a thread handles: a CT slice of 512 by 512, with its header."""

READ_SIZE = 256 * 1024
"""Bytes that a transport reads, and buffers for writing, at a time; Twisted's own are 64 KB."""

_SEND_SIZE = 512 * 1024
"""Bytes that a transport offers the kernel at a time; Twisted's own are 128 KB."""

_HIGH_WATER = 2 * SLICE


def lowest(transport: Any) -> Any:
    """The TCP transport below TLS, or the transport itself."""
    while isinstance(transport, ProtocolWrapper):
        transport = transport.transport
    return transport


def widen(transport: Any) -> None:
    """Let a TCP transport move more at a time; other transports (tests) are left as they are."""
    real = lowest(transport)
    if hasattr(real, "bufferSize"):
        real.bufferSize = READ_SIZE
        real.SEND_LIMIT = _SEND_SIZE
    if hasattr(real, "setTcpNoDelay"):
        real.setTcpNoDelay(True)


def read_at_most(transport: Any, size: int) -> None:
    """Let a TCP transport read so many bytes at a time: what is read at once is paid at once."""
    # That of a client's response is in a proxy.
    real = lowest(getattr(transport, "_producer", transport))
    if hasattr(real, "bufferSize"):
        real.bufferSize = size


class ISlices(Protocol):
    """Bytes that come slice by slice."""

    async def read(self) -> bytes:
        """The next slice; none after the last. One call at a time."""

    def close(self) -> None:
        """Give back what is open; safe to call twice."""


class MemorySlices:
    """Slices that are in memory; see :class:`ISlices`."""

    def __init__(self, slices: Iterable[bytes]) -> None:
        self._slices = deque(slices)

    async def read(self) -> bytes:
        """See :meth:`ISlices.read`."""
        return self._slices.popleft() if self._slices else b""

    def close(self) -> None:
        """See :meth:`ISlices.close`."""
        self._slices.clear()


class BucketReader:
    """The bytes of a bucket as they travel, slice by slice.

    :ivar seconds: of a core that compressing has taken.
    """

    def __init__(
        self,
        store: IInstanceStore,
        threads: IThreads,
        chunks: Bucket,
        coding: Coding,
        md5s: Mapping[str, str] | None = None,
    ) -> None:
        """:param md5s: see :meth:`IInstanceStore.open`."""
        self._reader: IInstanceReader = store.open(chunks, md5s)
        self._threads = threads
        self._compressed = coding.codec is not Codec.NONE
        self._encoder = encoder(coding)
        self._finished = False
        self.seconds = 0.0

    async def read(self) -> bytes:
        """The next slice; none after the last. One call at a time."""
        while not self._finished:
            raw = await self._reader.read(SLICE)
            if not raw:
                self._finished = True
                return self._encoder.finish()
            data = await self._threads.run(self._encode, raw) if self._compressed else raw
            if data:
                return data
        return b""

    def _encode(self, raw: bytes) -> bytes:
        started = time.thread_time()  # what others do meanwhile on this core does not count
        data = self._encoder.encode(raw)
        self.seconds += time.thread_time() - started
        return data

    async def read_all(self) -> list[bytes]:
        """All slices: for a compressed bucket, whose length is not known before."""
        slices = []
        while data := await self.read():
            slices.append(data)
        return slices

    def close(self) -> None:
        """Give back what is open; safe to call twice."""
        self._reader.close()


@implementer(IPushProducer)
class SliceProducer:
    """Writes slices to a consumer, one read ahead of it, until there are no more."""

    def __init__(self, source: ISlices, flow: Flow | None = None) -> None:
        """:param source: is closed at the end, whatever the end is.

        :param flow: how fast it may be; None for as fast as it can.
        """
        self._source = source
        self._flow = flow
        self._resumed: Deferred[None] | None = None
        self._stopped = False
        self._writing = False
        self._running: Deferred[None] | None = None

    def start(self, consumer: IConsumer, on_slice: Callable[[int], None]) -> "Deferred[None]":
        """Produce. Fires after the last slice, or with the error of reading.

        :param on_slice: called with the bytes of each slice, or piece of one, that the consumer
            could pass on.
        """
        self._running = Deferred.fromCoroutine(self._run(consumer, on_slice))
        return self._running

    async def _run(self, consumer: IConsumer, on_slice: Callable[[int], None]) -> None:
        upcoming = Deferred.fromCoroutine(self._source.read())
        try:
            while data := await upcoming:
                upcoming = Deferred.fromCoroutine(self._source.read())
                await self._send(consumer, data, on_slice)
        finally:
            upcoming.addErrback(lambda _failure: None)
            upcoming.cancel()
            self._source.close()

    async def _send(
        self, consumer: IConsumer, data: bytes, on_slice: Callable[[int], None]
    ) -> None:
        """Write a slice: whole, or piece by piece where there is a limit."""
        done = 0
        while done < len(data):
            await self._while_paused()
            size = len(data) - done
            if self._flow is not None and self._flow.is_limited:
                size = await self._flow.take(size)
                await self._while_paused()
            self._write(consumer, data[done : done + size])
            await self._while_paused()
            on_slice(size)
            done += size

    async def _while_paused(self) -> None:
        if self._resumed is not None:
            await self._resumed
        if self._stopped:
            raise CancelledError

    def _write(self, consumer: IConsumer, data: bytes) -> None:
        self._writing = True
        try:
            consumer.write(data)
        finally:
            self._writing = False

    def pauseProducing(self) -> None:
        """See :class:`IPushProducer`."""
        if self._resumed is None:
            self._resumed = Deferred()

    def resumeProducing(self) -> None:
        """See :class:`IPushProducer`."""
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed.callback(None)

    def stopProducing(self) -> None:
        """See :class:`IPushProducer`: the consumer has no use for more."""
        self._stopped = True
        if self._running is not None and not self._writing:
            self._running.cancel()


@implementer(IBodyProducer)
class RequestBody:
    """The body of a request to a peer, of known length."""

    def __init__(
        self,
        length: int,
        source: ISlices,
        on_slice: Callable[[int], None],
        flow: Flow | None = None,
    ) -> None:
        self.length = length
        self._producer = SliceProducer(source, flow)
        self._on_slice = on_slice

    def startProducing(self, consumer: IConsumer) -> "Deferred[None]":
        """See :class:`IBodyProducer`."""
        finished: Deferred[None] = Deferred()

        def ended(result: Any) -> None:
            # Twisted wants silence, not an error, after stopProducing.
            if not (isinstance(result, Failure) and result.check(CancelledError)):
                finished.callback(result)

        self._producer.start(consumer, self._on_slice).addBoth(ended)
        return finished

    def pauseProducing(self) -> None:
        """See :class:`IBodyProducer`."""
        self._producer.pauseProducing()

    def resumeProducing(self) -> None:
        """See :class:`IBodyProducer`."""
        self._producer.resumeProducing()

    def stopProducing(self) -> None:
        """See :class:`IBodyProducer`."""
        self._producer.stopProducing()


class IPausable(Protocol):
    """What a sink slows down: a request's body, or a response's transport."""

    def pauseProducing(self) -> None:
        """Send no more for now."""

    def resumeProducing(self) -> None:
        """Go on."""

    def read_at_most(self, size: int) -> None:
        """Take so many bytes at a time."""


class Sink:
    """Takes bytes as they arrive and hands them on in slices, one at a time, away from the reactor.

    The first error of ``consume`` ends it: later bytes are dropped, and :meth:`finish` fails.
    """

    def __init__(
        self,
        consume: Callable[[bytes], Awaitable[None]],
        finish: Callable[[], Awaitable[None]],
    ) -> None:
        self._consume = consume
        self._finish = finish
        self._source: IPausable | None = None
        self._pending: list[bytes] = []
        self._size = 0
        self._paused = False
        self._flow: Flow | None = None
        self._toll: Toll | None = None
        self._owing = False
        self._is_narrow = False
        self._ended = False
        self._failure: Failure | None = None
        self._busy = False
        self._idle_waiters: list[Deferred[None]] = []
        self.taken = 0
        self.consumed = 0
        """Bytes of ``taken`` that have been handed on."""

    def attach(self, source: IPausable) -> None:
        """Tell whom to pause while more is pending than is good, or is allowed."""
        self._source = source
        self._fit_reads()

    def limit(self, flow: Flow) -> None:
        """Take no more than ``flow`` allows; before :meth:`attach`."""
        self._flow = flow
        self._toll = Toll(flow, self._hold, self._let_go)

    def watched_by(self, patience: IPatience) -> None:
        """Tell who would give it up when it holds its source back."""
        if self._flow is not None:
            self._flow.watched_by(patience)

    @property
    def is_holding(self) -> bool:
        """Whether the source is to be paused."""
        return self._paused or self._owing

    @property
    def failed(self) -> bool:
        """Whether no more bytes are wanted."""
        return self._failure is not None

    def write(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._failure is not None:
            return
        self.taken += len(data)
        if self._toll is not None:
            self._fit_reads()
            self._toll.owe(len(data))
        self._pending.append(data)
        self._size += len(data)
        if self._size >= SLICE:
            self._work()
        if self._size >= _HIGH_WATER and self._source is not None and not self._ended:
            self._paused = True
            self._source.pauseProducing()

    async def finish(self) -> None:
        """No more bytes come. Returns once all are consumed, and paid; raises the first error."""
        self._ended = True
        if self._toll is not None:
            await self._toll.paid()
            self._widen()
        await self.idle()
        self._work()
        await self.idle()
        if self._failure is not None:
            self._failure.raiseException()
        await self._finish()
        self._source = None  # which knows us: what was collected would stay in memory

    async def idle(self) -> None:
        """Wait until nothing is being consumed; never raises."""
        if self._busy:
            waiter: Deferred[None] = Deferred()
            self._idle_waiters.append(waiter)
            await waiter

    def abort(self) -> None:
        """Drop what is pending and what comes."""
        self._fail(self._failure or Failure(CancelledError()))
        self._widen()

    def _fail(self, failure: Failure) -> None:
        self._failure = failure
        self._pending, self._size = [], 0
        if self._toll is not None:
            self._toll.drop()

    def _work(self) -> None:
        if not self._busy and self._pending and self._failure is None:
            self._busy = True
            Deferred.fromCoroutine(self._consume_pending())

    async def _consume_pending(self) -> None:
        try:
            while self._pending and self._failure is None:
                data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
                self._pending, self._size = [], 0
                self._resume()
                await self._consume(data)
                self.consumed += len(data)
                if self._size < SLICE and not self._ended:
                    break
        except Exception:
            self._fail(Failure())
        self._busy = False
        self._resume()
        waiters, self._idle_waiters = self._idle_waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def _resume(self) -> None:
        if self._paused and self._source is not None:
            self._paused = False
            if not self._owing:
                self._source.resumeProducing()

    # How fast it may be

    def _hold(self) -> None:
        self._owing = True
        if self._source is not None:
            self._source.pauseProducing()

    def _let_go(self) -> None:
        self._owing = False
        if self._source is not None and not self._paused:
            self._source.resumeProducing()

    def _fit_reads(self) -> None:
        """Large reads would make a slow limit jerk."""
        if self._flow is None or self._source is None:
            return
        if self._flow.is_limited:
            self._is_narrow = True
            self._source.read_at_most(min(READ_SIZE, self._flow.piece))
        else:
            self._widen()

    def _widen(self) -> None:
        """The connection may serve what has no limit next."""
        if self._is_narrow and self._source is not None:
            self._is_narrow = False
            self._source.read_at_most(READ_SIZE)


class BucketCutter:
    """Cuts the bytes of a bucket, as they come, into the pieces of its chunks."""

    def __init__(self, bucket: Bucket) -> None:
        self._chunks = deque(chunk for chunk in bucket if chunk.size)
        self._done = 0

    def cut(self, data: bytes) -> list[Piece]:
        """The pieces that ``data``, the next bytes of the bucket, consists of."""
        pieces = []
        view = memoryview(data)
        while view:
            chunk = self._chunks[0]
            part = view[: chunk.size - self._done]
            pieces.append(Piece(chunk.id, chunk.offset + self._done, part))
            self._done += len(part)
            view = view[len(part) :]
            if self._done == chunk.size:
                self._chunks.popleft()
                self._done = 0
        return pieces


def bucket_sink(
    threads: IThreads,
    incoming: IIncoming,
    bucket: Bucket,
    codec: Codec,
    inflation: Inflation = UNLIMITED,
) -> Sink:
    """A sink for the body of ``bucket``: inflated, and staged at its offsets.

    Its errors: :class:`WrongLength`, :class:`BadCompression`, and those of ``IIncoming.write``.
    """
    decode = decoder(codec, bucket_size(bucket))
    cutter = BucketCutter(bucket)
    came = made = 0

    async def write(data: bytes) -> None:
        nonlocal made
        made += len(data)
        if codec is not Codec.NONE:
            inflation.check(came, made)
        await incoming.write(cutter.cut(data))

    async def consume(data: bytes) -> None:
        nonlocal came
        came += len(data)
        if codec is Codec.NONE:
            data = decode.decode(data)
        else:
            data = await threads.run(decode.decode, data)
        if data:
            await write(data)
        while decode.has_more:
            await write(await threads.run(decode.decode, b""))

    async def finish() -> None:
        decode.finish()

    return Sink(consume, finish)


def collecting_sink(limit: int) -> tuple[Sink, list[bytes]]:
    """A sink that keeps up to ``limit`` bytes in memory, in the list that is returned with it.

    Its error: :class:`BodyTooLarge`.
    """
    parts: list[bytes] = []
    size = 0

    async def consume(data: bytes) -> None:
        nonlocal size
        size += len(data)
        if size > limit:
            raise BodyTooLarge(f"The body has more than {limit} bytes")
        parts.append(data)

    async def finish() -> None:
        pass

    return Sink(consume, finish), parts
