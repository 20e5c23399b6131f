"""A limit is kept to, by everybody together, and shared as it should be."""

from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.limits import MONDAY_NOON, local_time, settings
from txtransfers.transfer.flow import Flow, Toll
from txtransfers.transfer.limit import PATIENCE_S, SMALLEST, Limit
from txtransfers.transfer.turns import Turn

TICK_S = 0.003
SLICE = 512 * 1024


class LimitTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.got: Counter[object] = Counter()

    def limit(self, form: object) -> Limit:
        return Limit("uploads", self.clock, local_time(self.clock), settings(form).upload)

    def advance(self, seconds: float, tick: float = TICK_S) -> None:
        for _ in range(round(seconds / tick)):
            self.clock.advance(tick)

    def send(self, *limits: Limit, job: object = "a", priority: int = 0, size: int = SLICE) -> Any:
        """A stream that sends for ever, ``size`` bytes at a time."""
        flow = Flow(limits, Turn(priority, job))

        async def run() -> None:
            while True:
                left = size
                while left:
                    sent = await flow.take(left)
                    left -= sent
                    self.got[job] += sent

        stream = Deferred.fromCoroutine(run())
        stream.addErrback(lambda failure: failure.trap(CancelledError))
        self.addCleanup(stream.cancel)
        return stream

    def rate(
        self, measure: Callable[[], float], seconds: float = 10, tick: float = TICK_S
    ) -> float:
        """Bytes a second."""
        before = measure()
        self.advance(seconds, tick)
        return (measure() - before) / seconds

    def assert_near(self, expected: float, found: float, part: float = 0.05) -> None:
        self.assertLessEqual(abs(found - expected), expected * part, (expected, found))


class RateTests(LimitTestCase):
    def test_within_a_twentieth(self) -> None:
        for form, rate, size, tick in (
            ("64k", 8e3, SLICE, 0.003),
            ("1M", 125e3, 700, 0.003),
            ("20M", 2.5e6, SLICE, 0.003),
            ("20M", 2.5e6, 1000, 0.003),
            ("20M", 2.5e6, SLICE, 0.1),
            ("2.5MB", 2.5e6, 300_000, 0.05),
            ("1G", 125e6, SLICE, 0.003),
            ("1G", 125e6, SLICE, 0.02),
        ):
            limit = self.limit(form)
            job = (form, size, tick)
            stream = self.send(limit, job=job, size=size)
            self.assert_near(rate, self.rate(lambda job=job: self.got[job], tick=tick))  # type: ignore[misc]
            stream.cancel()

    @hypothesis_settings(max_examples=25, deadline=None)
    @given(
        st.integers(500_000, 200_000_000),
        st.integers(1448, SLICE),
        st.integers(1, 8),
        st.floats(0.001, 0.08),
    )
    def test_any_rate(self, bits: int, size: int, streams: int, tick: float) -> None:
        self.clock = Clock()
        self.got = Counter()
        limit = self.limit(bits)
        running = [self.send(limit, size=size) for _ in range(streams)]
        seconds = max(1, round(10 / tick)) * tick
        self.advance(10, tick)
        self.assert_near(bits / 8 * seconds, self.got["a"])
        for stream in running:
            stream.cancel()

    def test_what_was_not_used_is_not_saved_up(self) -> None:
        limit = self.limit("20M")
        self.clock.advance(3600)
        self.send(limit)
        self.assert_near(2.5e6, self.rate(lambda: self.got["a"]))

    def test_no_limit(self) -> None:
        flow = Flow([self.limit("0"), self.limit("0")], Turn(0, "a"))
        self.assertFalse(flow.is_limited)
        taken = Deferred.fromCoroutine(flow.take(10**9))
        self.assertEqual(10**9, self.successResultOf(taken))

    def test_a_clock_that_was_put_back(self) -> None:
        limit = self.limit("20M")
        self.send(limit)
        self.advance(1)
        self.clock.rightNow -= 0.01
        self.assert_near(2.5e6, self.rate(lambda: self.got["a"]))

    def test_both_limits_of_a_chain(self) -> None:
        for narrow, wide in (("8M", "20M"), ("20M", "8M"), ("8M", "8M"), ("8M", "0"), ("0", "8M")):
            job = (narrow, wide)
            stream = self.send(self.limit(narrow), self.limit(wide), job=job)
            self.assert_near(1e6, self.rate(lambda job=job: self.got[job]))  # type: ignore[misc]
            stream.cancel()


class SharingTests(LimitTestCase):
    def test_jobs_get_the_same(self) -> None:
        """However many streams they have, and in whatever pieces they ask."""
        limit = self.limit("20M")
        for _ in range(6):
            self.send(limit, job="a")
        self.send(limit, job="b")
        self.send(limit, job="c", size=20_000)
        self.advance(10)
        for job in "abc":
            self.assert_near(2.5e7 / 3, self.got[job])

    def test_streams_of_a_job_end_one_after_the_other(self) -> None:
        """Else none would before all do: nothing could be seen to arrive, for long."""
        limit = self.limit("8M")
        self.begin_some(limit, 10, 10**6)
        for _second in range(10):
            self.advance(1)
            self.assertLess(self.most_unfinished(10**6), 10**6)
        self.advance(0.5)
        self.assertEqual([10**6] * 10, self.sent)

    def begin_some(self, limit: Limit, streams: int, size: int) -> None:
        self.sent = [0] * streams

        async def run(number: int, flow: Flow) -> None:
            while self.sent[number] < size:
                self.sent[number] += await flow.take(size - self.sent[number])

        flows = [Flow([limit], Turn(0, "a")) for _ in range(streams)]
        self.streams = [Deferred.fromCoroutine(run(n, flow)) for n, flow in enumerate(flows)]
        for stream in self.streams:
            stream.addErrback(lambda failure: failure.trap(CancelledError))

    def most_unfinished(self, size: int) -> int:
        """Bytes of all that are on their way, but for the one that is next to end."""
        return sum(sorted(sent for sent in self.sent if sent < size)[:-1])

    def test_what_waits_for_an_earlier_stream_is_not_given_up(self) -> None:
        for form, streams in (("1M", 16), ("64k", 4)):
            self.begin_some(self.limit(form), streams, 10**8)
            for _ in range(6):
                before = list(self.sent)
                self.advance(2 * PATIENCE_S)
                for then, now in zip(before, self.sent, strict=True):
                    self.assertGreaterEqual(now - then, SMALLEST)
            for stream in self.streams:
                stream.cancel()

    def test_a_job_that_its_peer_slows_leaves_the_rest(self) -> None:
        limit = self.limit("20M")
        self.send(self.limit("4M"), limit, job="slow")
        self.send(limit, job="fast")
        self.advance(10)
        self.assert_near(5e6, self.got["slow"])
        self.assert_near(2e7, self.got["fast"])

    def test_a_peer_that_is_not_slower_gets_its_half(self) -> None:
        limit = self.limit("20M")
        self.send(self.limit("15M"), limit, job="a")
        self.send(limit, job="b")
        self.advance(10)
        self.assert_near(1.25e7, self.got["a"])

    def test_priority_first(self) -> None:
        limit = self.limit("20M")
        for _ in range(3):
            self.send(limit, job="low")
        high = [self.send(limit, job="high", priority=1) for _ in range(3)]
        self.advance(10)
        self.assertGreater(self.got["high"], 0.95 * 2.5e7)
        for stream in high:
            stream.cancel()
        self.assert_near(2.5e6, self.rate(lambda: self.got["low"]))

    def test_nobody_waits_for_ever(self) -> None:
        """A connection on which nothing moves would be given up by the other side."""
        limit = self.limit("1M")
        for n in range(4):
            self.send(limit, job=n)
        self.send(limit, job="high", priority=1)
        for _ in range(6):
            before = Counter(self.got)
            self.advance(PATIENCE_S * 1.5)
            for n in range(4):
                self.assertGreaterEqual(self.got[n] - before[n], SMALLEST)
        self.assertGreater(self.got["high"], 0.9 * sum(self.got.values()))


class FlowTests(LimitTestCase):
    def test_what_a_stream_is_allowed(self) -> None:
        for forms, rate in ((("0", "0"), None), (("8M", "0"), 1e6), (("16M", "8M"), 1e6)):
            self.assertEqual(rate, Flow([self.limit(form) for form in forms], Turn(0, 1)).rate)

    def test_whether_it_is_held(self) -> None:
        """By others that share its limits, too."""
        limit = self.limit("8M")
        flow = Flow([self.limit("0"), limit], Turn(0, "a"))
        self.assertFalse(flow.is_held)
        stream = self.send(limit, job="b")
        self.assertTrue(flow.is_held)
        stream.cancel()
        self.assertFalse(flow.is_held)


class ChangeTests(LimitTestCase):
    def test_while_somebody_waits(self) -> None:
        limit = self.limit("64k")
        self.send(limit)
        self.advance(1)
        for form, rate in (("20M", 2.5e6), ("1M", 125e3), ("800kB", 8e5)):
            limit.change(settings(form).upload)
            self.assert_near(rate, self.rate(lambda: self.got["a"]))

    def test_lifted_while_somebody_waits(self) -> None:
        limit = self.limit("8k")
        waiting = limit.take(10**6, Turn(0, "a"))
        self.assertNoResult(waiting)
        limit.change(settings("0").upload)
        self.assertEqual(10**6, self.successResultOf(waiting))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_by_the_time(self) -> None:
        self.assertEqual((12, 0), (MONDAY_NOON.hour, MONDAY_NOON.weekday()))
        limit = self.limit({"Mon 12:00-12:01": "8M", "Mon 12:01-12:02": "16M"})
        self.assertEqual(8_000_000, limit.bits)
        self.send(limit, size=10**6)
        self.advance(59)
        self.assert_near(59e6, self.got["a"])
        self.advance(3)
        self.assert_near(2e6, self.rate(lambda: self.got["a"]))
        self.assertEqual(16_000_000, limit.bits)

    def test_a_limit_that_begins(self) -> None:
        limit = self.limit({"Mon 12:01-12:02": "8M"})
        self.assertEqual((0, 10**9), (limit.bits, limit.take_now(10**9)))
        self.clock.advance(61)
        self.assertEqual(8_000_000, limit.bits)
        self.assertEqual(0, limit.take_now(10**9))


class CancelTests(LimitTestCase):
    def test_what_waits_leaves(self) -> None:
        limit = self.limit("8k")
        waiting = limit.take(1448, Turn(0, "a"))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_what_it_had_is_given_back(self) -> None:
        """To the first limit, when it is cancelled while it waits for the second."""
        first, second = self.limit("1M"), self.limit("8k")
        self.clock.advance(1)
        second.spend(100_000)
        flow = Flow([first, second], Turn(0, "a"))
        available = first.take_now(10**6)
        first.give_back(available)
        taking = Deferred.fromCoroutine(flow.take(available))
        self.assertNoResult(taking)
        taking.cancel()
        self.failureResultOf(taking, CancelledError)
        self.assertEqual(available, first.take_now(available))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_half_a_grant_gives_the_other_half_back(self) -> None:
        first, second = self.limit("20M"), self.limit("64k")
        self.send(first, second, job="slow")
        self.send(first, job="fast")
        self.advance(10)
        self.assert_near(80_000, self.got["slow"], 0.1)
        self.assert_near(2.5e7, self.got["slow"] + self.got["fast"])


class Patience:
    """Counts how often it is told to hold."""

    def __init__(self) -> None:
        self.holds = 0

    def hold(self) -> None:
        self.holds += 1

    def release(self) -> None:
        self.holds -= 1


class TollTests(LimitTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.is_held = False
        self.patience = Patience()

    def toll(self, limit: Limit) -> Toll:
        def hold() -> None:
            self.is_held = True

        def release() -> None:
            self.is_held = False

        flow = Flow([limit], Turn(0, "a"))
        flow.watched_by(self.patience)
        return Toll(flow, hold, release)

    def test_held_until_it_is_paid(self) -> None:
        toll = self.toll(self.limit("8M"))
        toll.owe(1_000_000)
        paid = Deferred.fromCoroutine(toll.paid())
        self.advance(0.9)
        self.assertEqual((True, 1), (self.is_held, self.patience.holds))
        self.assertNoResult(paid)
        self.advance(0.15)
        self.assertEqual((False, 0), (self.is_held, self.patience.holds))
        self.successResultOf(paid)

    def test_more_comes_while_it_is_held(self) -> None:
        toll = self.toll(self.limit("8M"))
        for _ in range(10):
            toll.owe(100_000)
        self.advance(0.95)
        self.assertTrue(self.is_held)
        self.advance(0.1)
        self.assertFalse(self.is_held)

    def test_without_a_limit(self) -> None:
        toll = self.toll(self.limit("0"))
        toll.owe(10**9)
        self.assertFalse(self.is_held)
        self.successResultOf(Deferred.fromCoroutine(toll.paid()))

    def test_dropped_the_others_pay(self) -> None:
        limit = self.limit("8M")
        toll = self.toll(limit)
        toll.owe(1_000_000)
        paid = Deferred.fromCoroutine(toll.paid())
        toll.drop()
        self.successResultOf(paid)
        self.assertEqual((False, 0), (self.is_held, self.patience.holds))
        self.send(limit, job="b")
        self.advance(0.9)
        self.assertEqual(0, self.got["b"])
        self.advance(0.2)
        self.assertGreater(self.got["b"], 0)
