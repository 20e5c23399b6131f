"""Bytes on their way: nothing lost, nothing held for long, backpressure both ways."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BodyTooLarge
from txtransfers.transfer.streams import (
    SLICE,
    BucketCutter,
    MemorySlices,
    RequestBody,
    Sink,
    SliceProducer,
    collecting_sink,
)
from txtransfers.wire.plan import Chunk


class Slices:
    """Slices that come when the test says so."""

    def __init__(self) -> None:
        self.asked: list[Deferred[bytes]] = []
        self.closed = False

    async def read(self) -> bytes:
        self.asked.append(Deferred())
        return await self.asked[-1]

    def close(self) -> None:
        self.closed = True


class ProducerTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.slices = Slices()
        self.transport = StringTransport()
        self.sizes: list[int] = []
        self.producer = SliceProducer(self.slices)
        self.transport.registerProducer(self.producer, True)
        self.done = self.producer.start(self.transport, self.sizes.append)

    def give(self, data: bytes) -> None:
        self.slices.asked[-1].callback(data)

    def test_to_the_end(self) -> None:
        for data in (b"ab", b"cde", b""):
            self.give(data)
        self.successResultOf(self.done)
        self.assertEqual((self.transport.value(), self.sizes), (b"abcde", [2, 3]))
        self.assertTrue(self.slices.closed)

    def test_one_slice_is_read_ahead_and_no_more(self) -> None:
        self.producer.pauseProducing()
        self.give(b"ab")
        self.give(b"cd")
        self.assertEqual((len(self.slices.asked), self.transport.value()), (2, b""))
        self.producer.resumeProducing()
        self.assertEqual(self.transport.value(), b"abcd")
        self.give(b"")
        self.successResultOf(self.done)

    def test_the_error_of_reading(self) -> None:
        self.slices.asked[0].errback(ValueError())
        self.failureResultOf(self.done, ValueError)
        self.assertTrue(self.slices.closed)

    def test_stopped_while_reading_and_while_paused(self) -> None:
        self.producer.pauseProducing()
        self.give(b"ab")
        self.producer.stopProducing()
        self.failureResultOf(self.done, CancelledError)
        self.assertTrue(self.slices.closed)
        self.producer.resumeProducing()
        self.assertEqual(self.transport.value(), b"")

    def test_stopped_by_a_write(self) -> None:
        """A consumer that has enough says so while it is being written to."""
        self.transport.write = lambda _data: self.producer.stopProducing()  # type: ignore[assignment]
        self.give(b"ab")
        self.failureResultOf(self.done, CancelledError)
        self.assertTrue(self.slices.closed)


class RequestBodyTests(SynchronousTestCase):
    def test_bytes(self) -> None:
        transport = StringTransport()
        body = RequestBody(4, MemorySlices([b"ab", b"cd"]), lambda _size: None)
        self.successResultOf(body.startProducing(transport))
        self.assertEqual(transport.value(), b"abcd")

    def test_silent_when_stopped(self) -> None:
        slices = Slices()
        body = RequestBody(4, slices, lambda _size: None)
        done = body.startProducing(StringTransport())
        body.stopProducing()
        self.assertNoResult(done)
        self.assertTrue(slices.closed)

    def test_the_error_of_reading(self) -> None:
        slices = Slices()
        done = RequestBody(4, slices, lambda _size: None).startProducing(StringTransport())
        slices.asked[0].errback(ValueError())
        self.failureResultOf(done, ValueError)


class SinkTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.working: list[Deferred[None]] = []
        self.taken: list[bytes] = []
        self.finished = 0
        self.transport = StringTransport()
        self.sink = Sink(self.consume, self.finish)
        self.sink.attach(self.transport)

    async def consume(self, data: bytes) -> None:
        self.taken.append(data)
        self.working.append(Deferred())
        await self.working[-1]

    async def finish(self) -> None:
        self.finished += 1

    def end(self) -> "Deferred[None]":
        return Deferred.fromCoroutine(self.sink.finish())

    def test_small_bytes_wait_for_others(self) -> None:
        self.sink.write(b"ab")
        self.sink.write(b"cd")
        self.assertEqual(self.taken, [])
        done = self.end()
        self.assertEqual(self.taken, [b"abcd"])
        self.assertNoResult(done)
        self.working[0].callback(None)
        self.successResultOf(done)
        self.assertEqual(self.finished, 1)

    def test_a_slow_disk_pauses_the_socket(self) -> None:
        self.sink.write(bytes(SLICE))
        self.assertEqual(self.transport.producerState, "producing")
        self.sink.write(bytes(SLICE))
        self.sink.write(bytes(SLICE))
        self.assertEqual(self.transport.producerState, "paused")
        self.working[0].callback(None)
        self.assertEqual(self.transport.producerState, "producing")
        self.assertEqual([len(data) for data in self.taken], [SLICE, 2 * SLICE])

    def test_the_first_error_ends_it(self) -> None:
        self.sink.write(bytes(2 * SLICE))
        self.sink.write(bytes(2 * SLICE))
        self.working[0].errback(ValueError())
        self.assertTrue(self.sink.failed)
        self.assertEqual(self.transport.producerState, "producing")
        self.sink.write(bytes(SLICE))
        self.failureResultOf(self.end(), ValueError)
        self.assertEqual((len(self.taken), self.finished), (1, 0))

    def test_abort_waits_only_for_what_is_under_way(self) -> None:
        self.sink.write(bytes(SLICE))
        self.sink.write(bytes(SLICE))
        self.sink.abort()
        idle = Deferred.fromCoroutine(self.sink.idle())
        self.assertNoResult(idle)
        self.working[0].callback(None)
        self.successResultOf(idle)
        self.assertEqual(len(self.taken), 1)

    def test_a_limit(self) -> None:
        sink, parts = collecting_sink(10)
        sink.write(b"0123456789")
        self.successResultOf(Deferred.fromCoroutine(sink.finish()))
        self.assertEqual(b"".join(parts), b"0123456789")
        sink, parts = collecting_sink(10)
        sink.write(b"0123456789!")
        self.failureResultOf(Deferred.fromCoroutine(sink.finish()), BodyTooLarge)
        self.assertEqual(parts, [])


class CutterTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, 50), max_size=12), st.integers(1, 40), st.integers(0, 9))
    def test_each_byte_at_its_place(self, sizes: list[int], step: int, offset: int) -> None:
        bucket = tuple(Chunk(str(n), offset if n == 0 else 0, size) for n, size in enumerate(sizes))
        data = bytes(n % 256 for n in range(sum(sizes)))
        cutter = BucketCutter(bucket)
        found: dict[str, dict[int, int]] = {chunk.id: {} for chunk in bucket}
        for start in range(0, len(data), step):
            for piece in cutter.cut(data[start : start + step]):
                for place, value in enumerate(bytes(piece.data), piece.offset):
                    found[piece.id][place] = value
        joined: list[Any] = []
        for chunk in bucket:
            places = found[chunk.id]
            self.assertEqual(sorted(places), list(range(chunk.offset, chunk.offset + chunk.size)))
            joined.extend(places[place] for place in sorted(places))
        self.assertEqual(bytes(joined), data)
