"""How large buckets are made, and that a tapered plan is a plan."""

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.transfer.cuts import LARGEST, UNKNOWN, choose_cut
from txtransfers.transfer.transaction import Transaction
from txtransfers.wire.plan import Cut, Instance, bucket_size, check_plan, plan_buckets

MB = 2**20


def instances(*sizes: int) -> list[Instance]:
    return [Instance(f"{number:08d}", size, "") for number, size in enumerate(sizes)]


class CutTests(SynchronousTestCase):
    def test_a_size_that_is_configured_is_kept_to(self) -> None:
        self.assertEqual(choose_cut(3 * MB, 8, 1e6, 0.1, False), Cut(3 * MB))

    def test_near(self) -> None:
        self.assertEqual(choose_cut(None, 8, 1e9, 0.001, True), Cut(2 * LARGEST))

    def test_unknown(self) -> None:
        self.assertEqual(choose_cut(None, 32, None, 0.1, False).target, UNKNOWN)

    def test_seconds_of_one_connection_on_a_thin_link(self) -> None:
        """5 Mbit/s on four connections: some 300 KB each."""
        cut = choose_cut(None, 4, 5e6 / 8, 0.05, False)
        self.assertEqual(cut.target, int(2 * 5e6 / 8 / 4))
        self.assertLess(cut.least, cut.target)

    def test_never_beyond_what_stock_peers_make(self) -> None:
        self.assertEqual(choose_cut(None, 1, 1e9, 0.1, False).target, LARGEST)

    def test_seconds_of_a_limit_of_ours(self) -> None:
        """Near or far, known or not: else nothing could be seen to arrive for long."""
        for goodput, near in ((None, False), (1e9, False), (1e9, True)):
            cut = choose_cut(None, 8, goodput, 0.1, near, 125e3)
            self.assertEqual((cut.target, cut.least <= cut.target), (500_000, True))
        self.assertEqual(choose_cut(None, 8, 1e9, 0.001, True, 1e9), Cut(2 * LARGEST))
        self.assertEqual(choose_cut(3 * MB, 8, 1e6, 0.1, False, 125e3), Cut(3 * MB))

    @given(
        st.integers(1, 64),
        st.none() | st.floats(1, 1e10),
        st.none() | st.floats(1e-5, 3),
        st.none() | st.floats(1e3, 1e10),
    )
    def test_always_a_sensible_one(
        self, limit: int, goodput: float | None, round_trip: float | None, allowed: float | None
    ) -> None:
        cut = choose_cut(None, limit, goodput, round_trip, False, allowed)
        self.assertTrue(0 < cut.least <= cut.target <= LARGEST, cut)


class TaperTests(SynchronousTestCase):
    def test_a_large_instance_ends_in_small_buckets(self) -> None:
        plan = plan_buckets(instances(256 * MB), Cut(4 * MB, 16, MB // 4))
        sizes = [bucket_size(bucket) for bucket in plan]
        self.assertEqual(sum(sizes), 256 * MB)
        self.assertEqual(sizes[0], 4 * MB)
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertLess(sizes[-1], MB // 2)

    def test_instances_of_half_the_size_do_too(self) -> None:
        """No group waits for its second one while others are cut."""
        plan = plan_buckets(instances(*[525_484] * 500), Cut(MB, 128, MB // 8, 12_000))
        check_plan(instances(*[525_484] * 500), plan)
        sizes = [bucket_size(bucket) for bucket in plan]
        for late in sizes[-100:]:
            self.assertLess(late, MB // 4)

    def test_the_first_shows_progress_soon(self) -> None:
        for sizes in ((8 * MB, 5), (4 * MB,), (500_000, 500_000)):
            plan = plan_buckets(instances(*sizes), Cut(MB, 8, MB // 8, 12_000))
            self.assertEqual(bucket_size(plan[0]), 12_000, sizes)
            self.assertEqual(plan[1][0].offset, 12_000)
            check_plan(instances(*sizes), plan)
        for sizes in ((12_000, 5), (12_000, 20_000), (100,)):
            plan = plan_buckets(instances(*sizes), Cut(MB, 8, MB // 8, 12_000))
            self.assertEqual(plan[0][0].offset, 0)
            whole = [chunk.size for chunk in plan[0]]
            self.assertEqual(whole, list(sizes[: len(whole)]))

    def test_so_do_many_small_ones(self) -> None:
        plan = plan_buckets(instances(*[512 * 1024] * 500), Cut(4 * MB, 16, MB))
        sizes = [bucket_size(bucket) for bucket in plan]
        self.assertEqual((max(sizes), sizes[0]), (4 * MB, 4 * MB))
        self.assertLessEqual(max(sizes[-16:]), MB)

    @given(
        st.lists(st.integers(0, 9000), max_size=60),
        st.integers(1, 3000),
        st.integers(1, 40),
        st.integers(1, 3000),
        st.integers(0, 3000),
        st.none() | st.just(1700),
    )
    def test_every_byte_once(
        self, sizes: list[int], target: int, parts: int, least: int, first: int, base: int | None
    ) -> None:
        wanted = instances(*sizes)
        cut = Cut(target, parts, min(least, target), min(first, target))
        plan = plan_buckets(wanted, cut, base)
        check_plan(wanted, plan)
        self.assertTrue(all(plan), "no empty bucket")
        for bucket in plan:
            self.assertTrue(all(chunk.offset == 0 for chunk in bucket[1:]))
            self.assertLess(bucket_size(bucket), 2 * target + 2)


class RememberedTests(SynchronousTestCase):
    def test_a_transaction_keeps_its_plan(self) -> None:
        wanted = instances(*[300] * 9)
        first = Transaction({})
        first.instances = wanted
        first.begin(frozenset(), Cut(1000, 3, 400))
        again = Transaction(json.loads(json.dumps(first.state())))
        again.instances = wanted
        again.make_plan()
        self.assertEqual((again.plan, again.key), (first.plan, first.key))

    def test_one_of_an_earlier_version_too(self) -> None:
        """It had one size for all its buckets."""
        wanted = instances(*[300] * 9)
        again = Transaction({"path": "/transfers/push/x", "bucket_size": 1000})
        again.instances = wanted
        again.make_plan()
        self.assertEqual(again.plan, plan_buckets(wanted, Cut(1000)))
