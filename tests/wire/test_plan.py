"""Planning: every byte travels exactly once, in buckets of the protocol's sizes (section 3)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadMessage
from txtransfers.wire.plan import (
    MAX_URL_LENGTH,
    Chunk,
    Instance,
    bucket_size,
    check_plan,
    chunks_path,
    plan_buckets,
)


def identifier(number: int) -> str:
    digits = f"{number:040x}"
    return "-".join(digits[n : n + 8] for n in range(0, 40, 8))


def instances(*sizes: int) -> list[Instance]:
    return [Instance(identifier(n), size, "") for n, size in enumerate(sizes)]


class PlanTests(SynchronousTestCase):
    @given(st.lists(st.integers(0, 5000), max_size=60), st.integers(1, 1500))
    def test_every_byte_once(self, sizes: list[int], target: int) -> None:
        wanted = instances(*sizes)
        for base in (None, 30):
            plan = plan_buckets(wanted, target, base)
            check_plan(wanted, plan)
            self.assertTrue(all(plan), "no empty bucket")
            for bucket in plan:
                self.assertTrue(all(chunk.offset == 0 for chunk in bucket[1:]))
                self.assertLess(bucket_size(bucket), 2 * target + len(plan))

    def test_at_twice_the_target_an_instance_is_cut_in_equal_parts(self) -> None:
        plan = plan_buckets(instances(1000), 100)
        self.assertEqual([bucket_size(bucket) for bucket in plan], [200] * 5)
        plan = plan_buckets(instances(1001), 100)
        self.assertEqual([bucket_size(bucket) for bucket in plan], [166] * 5 + [171])
        self.assertEqual(plan[5], (Chunk(identifier(0), 830, 171),))

    def test_from_the_target_on_an_instance_travels_alone(self) -> None:
        plan = plan_buckets(instances(100, 199), 100)
        self.assertEqual([len(bucket) for bucket in plan], [1, 1])

    def test_small_ones_are_grouped_in_order_of_id(self) -> None:
        plan = plan_buckets(reversed(instances(60, 30, 20, 50)), 100)
        self.assertEqual(
            [[chunk.id for chunk in bucket] for bucket in plan],
            [[identifier(0), identifier(1), identifier(2)], [identifier(3)]],
        )

    def test_an_empty_instance_makes_no_chunk(self) -> None:
        self.assertEqual(plan_buckets(instances(0), 100), ())

    def test_in_pull_mode_a_url_stays_short(self) -> None:
        base = "http://a.peer.somewhere:8042"
        plan = plan_buckets(instances(*[10] * 500), 10**6, len(base))
        for bucket in plan:
            self.assertLessEqual(len(base + chunks_path(bucket, "gzip")), MAX_URL_LENGTH)
        self.assertGreater(len(plan[0]), 35)
        self.assertEqual(len(plan_buckets(instances(*[10] * 500), 10**6)), 1)

    def test_the_route(self) -> None:
        bucket = (Chunk("a", 5, 10), Chunk("b", 0, 20))
        self.assertEqual(
            chunks_path(bucket, "none"),
            "/transfers/chunks/a.b?offset=5&size=30&compression=none",
        )


class CheckTests(SynchronousTestCase):
    def refused(self, wanted: list[Instance], *buckets: tuple[Chunk, ...]) -> str:
        return str(self.assertRaises(BadMessage, check_plan, wanted, buckets))

    def test_refusals_name_the_instance_and_the_bytes(self) -> None:
        one = instances(10)
        a, b = identifier(0), identifier(1)
        self.assertIn(b, self.refused(one, (Chunk(b, 0, 10),)))
        self.assertIn("ends at byte 12", self.refused(one, (Chunk(a, 2, 10),)))
        self.assertIn("overlap", self.refused(one, (Chunk(a, 0, 6),), (Chunk(a, 5, 5),)))
        self.assertIn("Byte 4", self.refused(one, (Chunk(a, 0, 4),), (Chunk(a, 6, 4),)))
        self.assertIn("Byte 0", self.refused(one))
        self.assertIn("twice", self.refused(one * 2, (Chunk(a, 0, 10),)))

    def test_any_order_and_empty_buckets_are_fine(self) -> None:
        a = identifier(0)
        check_plan(instances(10), ((), (Chunk(a, 4, 6),), (Chunk(a, 0, 4), Chunk(a, 4, 0))))
