"""How many buckets are in flight, on simulated links."""

from statistics import median

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.transfer.links import Simulated, run
from txtransfers.transfer.concurrency import START, START_LOSS_BASED, Concurrency, Phase

MBIT = 1e6 / 8


def settled(limits: list[int]) -> float:
    """The number that it usually was in the second half."""
    return median(limits[len(limits) // 2 :])


class SimulatedTests(SynchronousTestCase):
    def assert_fills(self, link: Simulated, share: float, seconds: float = 60) -> list[int]:
        """The link carries so much of its rate, in the second half, with what was decided."""
        goodput, limits = run(link, Concurrency(64), seconds)
        self.assertGreater(goodput, share * link.rate)
        return limits

    def test_without_loss_a_few_are_enough(self) -> None:
        for rate, round_trip in ((1000, 0.001), (100, 0.02), (200, 0.1), (5, 0.05)):
            limits = self.assert_fills(Simulated(rate * MBIT, round_trip), 0.9)
            self.assertLessEqual(settled(limits), 2 * START)

    def test_with_loss_as_many_as_it_needs(self) -> None:
        some = self.assert_fills(Simulated(200 * MBIT, 0.1, 0.001), 0.8)
        self.assertGreater(settled(some), START)
        many = self.assert_fills(Simulated(200 * MBIT, 0.1, 0.01), 0.4)
        self.assertGreater(settled(many), 40)

    def test_much_more_than_a_fixed_number(self) -> None:
        link = Simulated(200 * MBIT, 0.1, 0.01)
        fixed, _limits = run(link, Concurrency(4, 4), 60)
        free, _limits = run(link, Concurrency(64), 60)
        self.assertGreater(free, 6 * fixed)

    def test_found_within_seconds(self) -> None:
        _goodput, limits = run(Simulated(200 * MBIT, 0.1, 0.01), Concurrency(64), 5)
        self.assertEqual(limits[-1], 64)

    def test_windows_that_a_start_opened_wide_shrink(self) -> None:
        """A few fill the link at first; loss by loss they carry less, and more are needed."""
        for seed in range(1, 9):
            link = Simulated(200 * MBIT, 0.1, 0.001, seed=seed)
            goodput, limits = run(link, Concurrency(64, START_LOSS_BASED), 40)
            self.assertGreater(goodput, 0.85 * link.rate, seed)
            self.assertGreater(settled(limits), START_LOSS_BASED)

    def test_windows_that_do_not_mind_loss(self) -> None:
        limits = self.assert_fills(Simulated(200 * MBIT, 0.1, 0.01, bbr=True), 0.9)
        self.assertLessEqual(settled(limits), 2 * START)

    def test_the_link_becomes_worse_and_better(self) -> None:
        link = Simulated(200 * MBIT, 0.1)

        def change(time: float) -> None:
            link.loss = 0.01 if 60 < time < 120 else 0.0

        goodput, limits = run(link, Concurrency(64), 180, change)
        self.assertGreater(max(limits), 40)
        self.assertLess(limits[len(limits) // 4], 2 * START)
        self.assertGreater(goodput, 0.5 * link.rate)

    def test_others_keep_a_share(self) -> None:
        """It does not crowd out 20 connections: neither side starves."""
        link = Simulated(200 * MBIT, 0.1, others=20)
        goodput, _limits = run(link, Concurrency(64), 120)
        self.assertGreater(goodput, 0.2 * link.rate)
        self.assertLess(goodput, 0.9 * link.rate)

    @given(st.floats(1, 1000), st.floats(0.001, 0.3), st.floats(0, 0.03), st.integers(1, 64))
    def test_always_within_its_bounds(
        self, rate: float, round_trip: float, loss: float, cap: int
    ) -> None:
        _goodput, limits = run(Simulated(rate * MBIT, round_trip, loss), Concurrency(cap), 10)
        self.assertTrue(all(1 <= limit <= cap for limit in limits))


class SampleTests(SynchronousTestCase):
    def feed(self, decide: Concurrency, rate: float, epochs: int = 1, **more: bool) -> None:
        for _ in range(epochs * 4):
            decide.sample(0.05, rate * 0.05, 0.1, full=more.get("full", True), queued=False)

    def test_trouble_halves_once_in_an_epoch(self) -> None:
        decide = Concurrency(64)
        decide.trouble()
        decide.trouble()
        self.assertEqual(decide.limit, START // 2)
        self.feed(decide, 1e6)
        for expected in (START // 4, START // 8, 1):
            decide.trouble()
            self.feed(decide, 1e6)
            self.assertEqual(decide.limit, expected)

    def test_after_trouble_it_recovers(self) -> None:
        decide = Concurrency(64)
        decide.trouble()
        _goodput, limits = run(Simulated(200 * MBIT, 0.1, 0.005), decide, 60)
        self.assertGreater(limits[-1], START)

    def test_nothing_is_learned_where_there_is_not_enough_to_send(self) -> None:
        decide = Concurrency(64)
        self.feed(decide, 1e6, 50, full=False)
        self.assertEqual((decide.limit, decide.phase), (START, Phase.SEEK))

    def test_a_full_queue_ends_the_search(self) -> None:
        decide = Concurrency(64)
        for _ in range(40):
            decide.sample(0.05, 1e6, 0.1, full=True, queued=True)
        self.assertLessEqual(decide.limit, START)
        self.assertIsNot(decide.phase, Phase.SEEK)

    def test_a_thin_link_is_shared_by_few(self) -> None:
        decide = Concurrency(64, START_LOSS_BASED)
        for _ in range(40):
            decide.sample(0.05, 0.6e6 * 0.05, 0.05, full=True, queued=True)
        few = decide.limit
        self.assertLess(few, START_LOSS_BASED / 2)
        run(Simulated(200 * MBIT, 0.1, 0.01), decide, 20)
        self.assertGreater(decide.limit, few, "it has become another")

    def test_a_moment_without_anything_is_not_a_thin_link(self) -> None:
        decide = Concurrency(64, START_LOSS_BASED)
        for rate in (*([20e6] * 40), *([0.2e6] * 8)):
            decide.sample(0.05, rate * 0.05, 0.1, full=True, queued=True)
        self.assertGreaterEqual(decide.limit, START_LOSS_BASED)

    def test_more_are_begun_with_where_a_round_trip_is_long(self) -> None:
        for round_trip, expected in ((0.01, 16), (0.05, 16), (0.08, 25), (0.1, 32), (0.6, 32)):
            decide = Concurrency(64, START_LOSS_BASED)
            decide.met(round_trip)
            self.assertEqual(decide.limit, expected)
        for cap, start in ((20, START_LOSS_BASED), (64, START)):
            decide = Concurrency(cap, start)
            decide.met(0.1)
            self.assertEqual(decide.limit, min(cap, 20) if start != START else START)

    def test_where_packets_get_lost_all_are_taken_at_once_and_judged(self) -> None:
        for after, expected in ((4e6, 64), (1e6, START)):
            decide = Concurrency(64)
            self.feed(decide, 1e6, 2)
            decide.hurry()
            self.assertEqual((decide.limit, decide.phase), (64, Phase.SEEK))
            self.feed(decide, after, 10)
            self.assertEqual((decide.limit, decide.phase), (expected, Phase.HOLD))
            decide.hurry()
            self.assertEqual(decide.limit, expected, "once")

    def test_where_losses_slow_nothing_down_fewer_are_enough(self) -> None:
        for is_found in (False, True):
            decide = Concurrency(64, START_LOSS_BASED)
            decide.met(0.1)
            for _ in range(40 if is_found else 2):
                decide.sample(0.05, 1e6, 0.1, full=True, queued=True)
            self.assertEqual(decide.phase, Phase.HOLD if is_found else Phase.SEEK)
            before = decide.phase
            decide.calm()
            self.assertEqual((decide.limit, decide.phase), (START_LOSS_BASED, before))
        decide.met(0.1)
        decide.calm()
        decide.hurry()
        self.assertEqual(decide.limit, 2 * START_LOSS_BASED, "once")

    def test_what_was_found_is_kept_over_a_break(self) -> None:
        decide = Concurrency(64)
        run(Simulated(200 * MBIT, 0.1, 0.01), decide, 20)
        found = decide.limit
        decide.idle()
        self.assertGreaterEqual(decide.limit, found * 0.7)

    def test_a_cap_below_the_start(self) -> None:
        self.assertEqual(Concurrency(3).limit, 3)
