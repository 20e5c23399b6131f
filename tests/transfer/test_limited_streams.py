"""Streams that are limited: pieces, held sources, stops in between, and patience."""

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from tests.limits import bandwidth
from txtransfers.transfer.client import Stall, Stalled
from txtransfers.transfer.streams import (
    READ_SIZE,
    MemorySlices,
    Sink,
    SliceProducer,
    collecting_sink,
)
from txtransfers.transfer.turns import Turn

TURN = Turn(0, "the-job")
RATE = 250_000
"""Bytes a second, of 2 Mbit/s."""


class LimitedTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.bandwidth = bandwidth(self.clock, "2M", {"B": "1M"})

    def advance(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.01)):
            self.clock.advance(0.01)

    def assert_near(self, expected: float, found: float) -> None:
        self.assertLessEqual(abs(found - expected), expected * 0.05, (expected, found))


class ProducerTests(LimitedTestCase):
    def start(self, data: bytes, peer: str | None = None) -> "Deferred[None]":
        self.transport = StringTransport()
        self.sizes: list[int] = []
        flow = self.bandwidth.sending(TURN, peer)
        self.producer = SliceProducer(MemorySlices([data]), flow)
        self.transport.registerProducer(self.producer, True)
        return self.producer.start(self.transport, self.sizes.append)

    def test_in_pieces(self) -> None:
        data = bytes(range(250)) * 2000
        done = self.start(data)
        self.advance(1)
        self.assert_near(RATE, len(self.transport.value()))
        self.assertLessEqual(max(self.sizes), RATE // 20)
        self.advance(1.1)
        self.successResultOf(done)
        self.assertEqual((data, len(data)), (self.transport.value(), sum(self.sizes)))

    def test_the_limit_of_its_peer(self) -> None:
        self.start(bytes(10 * RATE), "B")
        self.advance(10)
        self.assert_near(5 * RATE, sum(self.sizes))

    def test_a_full_socket_takes_no_share(self) -> None:
        self.start(bytes(10 * RATE))
        self.producer.pauseProducing()
        other = Deferred.fromCoroutine(self.bandwidth.sending(Turn(0, "other")).take(1000))
        self.advance(1)
        self.successResultOf(other)
        self.assertLessEqual(len(self.sizes), 1)
        self.producer.resumeProducing()
        self.advance(2)
        self.assertGreater(sum(self.sizes), RATE)

    def test_stopped_while_it_waits(self) -> None:
        done = self.start(bytes(10 * RATE))
        self.producer.stopProducing()
        self.failureResultOf(done, CancelledError)
        self.assertEqual([], self.clock.getDelayedCalls())


class Source:
    """What a sink slows down."""

    def __init__(self) -> None:
        self.is_paused = False
        self.read_size = 0

    def pauseProducing(self) -> None:
        self.is_paused = True

    def resumeProducing(self) -> None:
        self.is_paused = False

    def read_at_most(self, size: int) -> None:
        self.read_size = size


class SinkTests(LimitedTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.sink, self.parts = collecting_sink(10**9)
        self.source = self.attach(self.sink)

    def attach(self, sink: Sink) -> Source:
        source = Source()
        sink.limit(self.bandwidth.receiving(TURN))
        sink.attach(source)
        return source

    def finish(self, sink: Sink) -> Any:
        return Deferred.fromCoroutine(sink.finish())

    def test_held_until_it_is_paid(self) -> None:
        self.assertEqual(RATE // 20, self.source.read_size)
        self.sink.write(bytes(RATE))
        self.advance(0.95)
        self.assertTrue(self.source.is_paused)
        self.advance(0.1)
        self.assertFalse(self.source.is_paused)

    def test_the_end_is_paid_too(self) -> None:
        self.sink.write(bytes(RATE))
        done = self.finish(self.sink)
        self.advance(0.95)
        self.assertNoResult(done)
        self.advance(0.1)
        self.successResultOf(done)
        self.assertEqual((RATE, READ_SIZE), (sum(map(len, self.parts)), self.source.read_size))

    def test_dropped_at_the_cost_of_others(self) -> None:
        self.sink.write(bytes(RATE))
        self.sink.abort()
        self.assertFalse(self.source.is_paused)
        other, _parts = collecting_sink(10**9)
        source = self.attach(other)
        other.write(bytes(1000))
        self.advance(0.9)
        self.assertTrue(source.is_paused)
        self.advance(0.2)
        self.assertFalse(source.is_paused)

    def test_one_that_fails_waits_no_longer(self) -> None:
        sink, _parts = collecting_sink(10)
        source = self.attach(sink)
        sink.write(bytes(RATE * 4))
        self.assertTrue(sink.failed)
        self.assertFalse(source.is_paused)

    def test_a_slow_disk_and_a_limit(self) -> None:
        """Whichever holds the source for longer."""
        working: list[Deferred[None]] = []

        async def consume(_data: bytes) -> None:
            working.append(Deferred())
            await working[-1]

        async def finish() -> None:
            pass

        for disk_first in (True, False):
            sink = Sink(consume, finish)
            source = self.attach(sink)
            for _ in range(8):
                sink.write(bytes(RATE))
            self.assertTrue(source.is_paused)
            if disk_first:
                working[-1].callback(None)
            else:
                self.advance(8.2)
            self.assertTrue(source.is_paused)
            if disk_first:
                self.advance(8.2)
            else:
                working[-1].callback(None)
            self.assertFalse(source.is_paused)
            sink.abort()

    def test_a_limit_that_comes_and_goes(self) -> None:
        for rate, size in (("0", READ_SIZE), ("8k", 1448), ("0", READ_SIZE)):
            self.change(rate)
            self.sink.write(bytes(10_000))
            self.assertEqual((rate != "0", size), (self.source.is_paused, self.source.read_size))

    def change(self, rate: str) -> None:
        limits = bandwidth(self.clock, rate).all
        self.bandwidth.all.download.change(limits.download.timetable)


class StallTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.stall = Stall(self.clock, 10)
        self.waiting: Deferred[None] = Deferred()
        self.watching = Deferred.fromCoroutine(self.stall.watch(self.waiting))

    def test_without_progress(self) -> None:
        self.clock.advance(10)
        self.failureResultOf(self.watching, Stalled)

    def test_nobody_is_blamed_for_what_we_hold_back(self) -> None:
        self.stall.hold()
        self.stall.hold()
        self.clock.pump([9] * 10)
        self.stall.release()
        self.clock.pump([9] * 10)
        self.stall.release()
        self.clock.advance(9.9)
        self.assertNoResult(self.watching)
        self.clock.advance(0.2)
        self.failureResultOf(self.watching, Stalled)

    def test_its_end(self) -> None:
        self.stall.hold()
        self.waiting.callback(None)
        self.successResultOf(self.watching)
        self.assertEqual([], self.clock.getDelayedCalls())
