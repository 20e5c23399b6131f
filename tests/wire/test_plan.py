"""Planning: every byte travels exactly once, in buckets of the protocol's sizes (section 3)."""

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests import recorded
from txtransfers.errors import BadMessage
from txtransfers.wire.codec import Codec, Coding, usual
from txtransfers.wire.plan import (
    MAX_URL_LENGTH,
    Chunk,
    Cut,
    Instance,
    bucket_size,
    check_plan,
    chunks_path,
    plan_buckets,
    rest_of,
)
from txtransfers.wire.pushes import parse_push, push_json


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
            plan = plan_buckets(wanted, Cut(target), base)
            check_plan(wanted, plan)
            self.assertTrue(all(plan), "no empty bucket")
            for bucket in plan:
                self.assertTrue(all(chunk.offset == 0 for chunk in bucket[1:]))
                self.assertLess(bucket_size(bucket), 2 * target + len(plan))

    @given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 80), st.booleans())
    def test_laid_end_to_end_the_bytes_are_the_same(
        self, files: list[bytes], target: int, is_pull: bool
    ) -> None:
        wanted = instances(*map(len, files))
        held = {i.id: data for i, data in zip(wanted, files, strict=True)}
        arrived = {i.id: bytearray(i.size) for i in wanted}
        for bucket in plan_buckets(wanted, Cut(target), 1700 if is_pull else None):
            # As a chunks URL says it: instances end to end, from the first chunk's offset on.
            whole = b"".join(held[chunk.id] for chunk in bucket)
            travelling = whole[bucket[0].offset :][: bucket_size(bucket)]
            for chunk in bucket:
                part, travelling = travelling[: chunk.size], travelling[chunk.size :]
                arrived[chunk.id][chunk.offset : chunk.offset + chunk.size] = part
            self.assertEqual(travelling, b"")
        self.assertEqual(arrived, {id_: bytearray(data) for id_, data in held.items()})

    @given(st.integers(1, 10**12), st.integers(1, 10**7))
    def test_the_cut_of_one_instance(self, size: int, target: int) -> None:
        target = max(target, size // 1000)
        plan = plan_buckets(instances(size), Cut(target))
        self.assertEqual(len(plan), -(-size // (2 * target)) if size >= 2 * target else 1)
        *equal, last = [bucket_size(bucket) for bucket in plan]
        self.assertEqual(set(equal), {size // len(plan)} if equal else set())
        self.assertEqual(last, size - sum(equal))

    @given(st.lists(st.integers(1, 99), max_size=60))
    def test_a_bucket_is_closed_as_soon_as_it_holds_the_target(self, sizes: list[int]) -> None:
        plan = plan_buckets(instances(*sizes), Cut(100))
        for bucket in plan[:-1]:
            self.assertGreaterEqual(bucket_size(bucket), 100)
        for bucket in plan:
            self.assertLess(bucket_size(bucket[:-1]), 100)
        ids = [chunk.id for bucket in plan for chunk in bucket]
        self.assertEqual(ids, sorted(ids))

    def test_the_plan_of_a_stock_peer(self) -> None:
        opening = recorded.load("push-none")[0]
        assert opening.request_body is not None
        request = parse_push(opening.request_body)
        plan = plan_buckets(request.instances, Cut(65536))
        self.assertEqual(plan, request.buckets)
        self.assertEqual([bucket_size(bucket) for bucket in plan], [107018] * 3 + [67676, 33838])
        ours = parse_push(push_json(request.instances, plan, Codec.NONE))
        self.assertEqual(ours, request)

    def test_the_plans_of_stock_peers_are_accepted(self) -> None:
        for name in ("push-none", "push-gzip", "push-sendertransferid"):
            body = recorded.load(name)[0].request_body
            assert body is not None
            request = parse_push(body)
            check_plan(request.instances, request.buckets)

    def test_at_twice_the_target_an_instance_is_cut_in_equal_parts(self) -> None:
        plan = plan_buckets(instances(1000), Cut(100))
        self.assertEqual([bucket_size(bucket) for bucket in plan], [200] * 5)
        plan = plan_buckets(instances(1001), Cut(100))
        self.assertEqual([bucket_size(bucket) for bucket in plan], [166] * 5 + [171])
        self.assertEqual(plan[5], (Chunk(identifier(0), 830, 171),))

    def test_from_the_target_on_an_instance_travels_alone(self) -> None:
        plan = plan_buckets(instances(100, 199), Cut(100))
        self.assertEqual([len(bucket) for bucket in plan], [1, 1])
        plan = plan_buckets(instances(10, 100, 10, 199, 200, 10), Cut(100))
        self.assertEqual([bucket_size(bucket) for bucket in plan], [100, 199, 200, 30])

    def test_small_ones_are_grouped_in_order_of_id(self) -> None:
        plan = plan_buckets(reversed(instances(60, 30, 20, 50)), Cut(100))
        self.assertEqual(
            [[chunk.id for chunk in bucket] for bucket in plan],
            [[identifier(0), identifier(1), identifier(2)], [identifier(3)]],
        )

    def test_an_empty_instance_makes_no_chunk(self) -> None:
        self.assertEqual(plan_buckets(instances(0), Cut(100)), ())
        plan = plan_buckets(instances(0, 5, 0), Cut(100))
        self.assertEqual(plan, ((Chunk(identifier(1), 0, 5),),))
        check_plan(instances(0, 5, 0), plan)

    def test_in_pull_mode_a_url_stays_short(self) -> None:
        small = instances(*[10] * 100)
        for length in range(20, 80):
            plan = plan_buckets(small, Cut(10**6), length)
            urls = [
                "x" * length + chunks_path(bucket, Coding(Codec.ZSTD, 3), "c" * 32)
                for bucket in plan
            ]
            self.assertLessEqual(max(map(len, urls)), MAX_URL_LENGTH)
            self.assertGreater(len(urls[0]), MAX_URL_LENGTH - 100, "it is used, too")
        self.assertEqual(len(plan_buckets(small, Cut(10**6))), 1)

    def test_in_pull_mode_a_base_url_that_leaves_no_room(self) -> None:
        """Each instance travels alone then: there is no shorter URL."""
        plan = plan_buckets(instances(10, 10), Cut(10**6), 3000)
        self.assertEqual([len(bucket) for bucket in plan], [1, 1])

    def test_the_route(self) -> None:
        bucket = (Chunk("a", 5, 10), Chunk("b", 0, 20))
        self.assertEqual(
            chunks_path(bucket, usual(Codec.NONE)),
            "/transfers/chunks/a.b?offset=5&size=30&compression=none",
        )
        self.assertEqual(
            chunks_path(bucket, Coding(Codec.ZSTD, 3)),
            "/transfers/chunks/a.b?offset=5&size=30&compression=zstd&level=3",
        )


class RestTests(SynchronousTestCase):
    @given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=6), st.data())
    def test_first_bytes_and_rest_are_the_whole(
        self, sizes: list[tuple[int, int]], data: st.DataObject
    ) -> None:
        bucket = tuple(Chunk(str(n), offset, size) for n, (offset, size) in enumerate(sizes))
        places = [(c.id, c.offset + n) for c in bucket for n in range(c.size)]
        offset = data.draw(st.integers(0, len(places)))
        rest = rest_of(bucket, offset)
        self.assertEqual(
            [(c.id, c.offset + n) for c in rest for n in range(c.size)], places[offset:]
        )
        self.assertTrue(all(chunk.size for chunk in rest[:1]))

    def test_the_whole_and_nothing(self) -> None:
        bucket = (Chunk("a", 5, 10), Chunk("b", 0, 3))
        self.assertEqual(rest_of(bucket, 0), bucket)
        self.assertEqual(rest_of(bucket, 4), (Chunk("a", 9, 6), Chunk("b", 0, 3)))
        self.assertEqual(rest_of(bucket, 10), (Chunk("b", 0, 3),))
        self.assertEqual(rest_of(bucket, 13), ())


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
        self.assertIn("Byte 9", self.refused(one, (Chunk(a, 0, 9),)))
        self.assertIn("Byte 0", self.refused(one, (Chunk(a, 10, 0),)))
        self.assertIn("overlap", self.refused(one, (Chunk(a, 0, 10),), (Chunk(a, 0, 10),)))
        self.assertIn("overlap", self.refused(one, (Chunk(a, 0, 10), Chunk(a, 3, 1))))
        self.assertIn("Bucket 1", self.refused(one, (Chunk(a, 0, 10),), (Chunk(a, 11, 0),)))
        two = instances(10, 10)
        self.assertIn(f"Byte 0 of instance {b}", self.refused(two, (Chunk(a, 0, 10),)))

    def test_any_order_and_empty_buckets_are_fine(self) -> None:
        a = identifier(0)
        check_plan(instances(10), ((), (Chunk(a, 4, 6),), (Chunk(a, 0, 4), Chunk(a, 4, 0))))

    @given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=5))
    def test_exactly_the_plans_with_every_byte_once_pass(
        self, ranges: list[tuple[int, int]]
    ) -> None:
        one = instances(6)
        plan = [(Chunk(identifier(0), offset, size),) for offset, size in ranges]
        covered = sorted(byte for start, size in ranges for byte in range(start, start + size))
        inside = all(start + size <= 6 for start, size in ranges)
        if covered == list(range(6)) and inside:
            check_plan(one, plan)
        else:
            self.assertRaises(BadMessage, check_plan, one, plan)
