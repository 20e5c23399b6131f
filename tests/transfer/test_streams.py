"""Bytes on their way: nothing lost, nothing held for long, backpressure both ways."""

import gzip
import struct
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.dicom_files import make
from txtransfers.errors import BadCompression, BodyTooLarge, WrongLength
from txtransfers.store.memory import MemoryStore
from txtransfers.threads import SynchronousThreads
from txtransfers.transfer.streams import (
    SLICE,
    BucketCutter,
    BucketReader,
    MemorySlices,
    RequestBody,
    Sink,
    SliceProducer,
    bucket_sink,
    collecting_sink,
)
from txtransfers.wire.codec import Codec, usual
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

    def test_a_slow_socket_pauses_the_reading(self) -> None:
        slices = Slices()
        transport = StringTransport()
        body = RequestBody(6, slices, lambda _size: None)
        done = body.startProducing(transport)
        body.pauseProducing()
        for data in (b"ab", b"cd"):
            slices.asked[-1].callback(data)
        self.assertEqual((transport.value(), len(slices.asked)), (b"", 2))
        body.resumeProducing()
        body.resumeProducing()
        slices.asked[-1].callback(b"ef")
        slices.asked[-1].callback(b"")
        self.successResultOf(done)
        self.assertEqual(transport.value(), b"abcdef")


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

    def test_aborted_while_the_socket_is_paused(self) -> None:
        """It goes on: otherwise nobody would learn that the connection is closed."""
        for _ in range(3):
            self.sink.write(bytes(SLICE))
        self.assertEqual(self.transport.producerState, "paused")
        self.sink.abort()
        self.working[0].callback(None)
        self.assertEqual(self.transport.producerState, "producing")
        self.failureResultOf(self.end(), CancelledError)

    def test_all_that_came_is_consumed_before_the_end(self) -> None:
        self.sink.write(bytes(SLICE))
        self.sink.write(b"ab")
        done = self.end()
        self.assertEqual(len(self.taken), 1)
        self.working[0].callback(None)
        self.assertEqual(self.taken[1:], [b"ab"])
        self.assertNoResult(done)
        self.working[1].callback(None)
        self.successResultOf(done)
        self.assertEqual(self.sink.taken, SLICE + 2)

    def test_an_empty_body(self) -> None:
        self.successResultOf(self.end())
        self.assertEqual((self.taken, self.finished), ([], 1))

    def test_the_last_slice_fails(self) -> None:
        self.sink.write(b"ab")
        done = self.end()
        self.working[0].errback(ValueError())
        self.failureResultOf(done, ValueError)
        self.assertEqual(self.finished, 0)

    def test_never_more_than_one_slice_at_work(self) -> None:
        for _ in range(5):
            self.sink.write(bytes(SLICE))
        self.assertEqual(len(self.working), 1)
        self.working[0].callback(None)
        self.assertEqual([len(data) for data in self.taken], [SLICE, 4 * SLICE])

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


class BucketTests(SynchronousTestCase):
    """From a store, as it travels, into another."""

    def setUp(self) -> None:
        self.store = MemoryStore()
        self.threads = SynchronousThreads()
        self.id = self.store.add(make(filler=5000))
        self.other = self.store.add(make(2, filler=100))
        self.size = len(self.store.files[self.id])
        self.chunks = (
            Chunk(self.id, 1000, self.size - 1000),
            Chunk(self.other, 0, len(self.store.files[self.other])),
        )
        self.plain = self.store.files[self.id][1000:] + self.store.files[self.other]

    def travelling(self, codec: Codec) -> bytes:
        reader = BucketReader(self.store, self.threads, self.chunks, usual(codec))
        slices = self.successResultOf(Deferred.fromCoroutine(reader.read_all()))
        self.assertTrue(all(slices))
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(reader.read())), b"")
        for _ in range(2):
            reader.close()
        return b"".join(slices)

    def receive(self, data: bytes, codec: Codec, step: int) -> Any:
        """What was staged: place -> byte, by instance."""
        staged: dict[str, dict[int, int]] = {self.id: {}, self.other: {}}

        class Incoming:
            def write(self, pieces: Any) -> "Deferred[None]":
                for piece in pieces:
                    staged[piece.id].update(enumerate(bytes(piece.data), piece.offset))
                return succeed(None)

        incoming: Any = Incoming()
        sink = bucket_sink(self.threads, incoming, self.chunks, codec)
        for start in range(0, len(data), step):
            sink.write(data[start : start + step])
        return Deferred.fromCoroutine(sink.finish()).addCallback(lambda _r: staged)

    def test_read(self) -> None:
        self.assertEqual(self.travelling(Codec.NONE), self.plain)
        self.assertEqual(gzip.decompress(self.travelling(Codec.GZIP)), self.plain)

    def test_received_at_its_places(self) -> None:
        for codec in Codec:
            for step in (1, 700, 10**6):
                data = self.travelling(codec)
                staged = self.successResultOf(self.receive(data, codec, step))
                whole = self.store.files[self.id]
                self.assertEqual(staged[self.id], dict(enumerate(whole[1000:], 1000)))
                self.assertEqual(staged[self.other], dict(enumerate(self.store.files[self.other])))

    def test_a_gzip_header_that_comes_byte_by_byte(self) -> None:
        """A sink collects slices: what decodes them gets the header, with its checksum, whole."""
        header = b"\x1f\x8b\x08\x02" + struct.pack("<IBB", 1700000000, 2, 3)
        header += struct.pack("<H", zlib.crc32(header) & 0xFFFF)
        member = header + gzip.compress(self.plain)[10:]
        staged = self.successResultOf(self.receive(member, Codec.GZIP, 1))
        self.assertEqual(len(staged[self.id]), self.size - 1000)

    def test_another_length_or_no_gzip(self) -> None:
        for data, codec, error in (
            (self.plain[:-1], Codec.NONE, WrongLength),
            (self.plain + b"!", Codec.NONE, WrongLength),
            (gzip.compress(self.plain[:-1]), Codec.GZIP, WrongLength),
            (gzip.compress(self.plain + b"!"), Codec.GZIP, WrongLength),
            (gzip.compress(self.plain)[:-1], Codec.GZIP, BadCompression),
            (self.plain, Codec.GZIP, BadCompression),
            (b"", Codec.GZIP, BadCompression),
            (b"", Codec.NONE, WrongLength),
        ):
            self.failureResultOf(self.receive(data, codec, 10**6), error)

    def test_nothing_beyond_the_bucket_is_staged(self) -> None:
        writes: list[Any] = []

        class Incoming:
            def write(self, pieces: Any) -> "Deferred[None]":
                writes.extend(pieces)
                return succeed(None)

        incoming: Any = Incoming()
        sink = bucket_sink(self.threads, incoming, self.chunks, Codec.NONE)
        sink.write(self.plain + bytes(SLICE))
        self.assertTrue(sink.failed)
        self.assertEqual(writes, [])
