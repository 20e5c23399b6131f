"""The packed form of an opening, and of the answer to a lookup: the same values, and no others."""

import json
import struct
from collections.abc import Callable
from hashlib import sha1
from typing import Any
from uuid import UUID

import attrs
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadMessage, OutOfRange
from txtransfers.wire import packed
from txtransfers.wire.abilities import ALL_ABILITIES, NO_ABILITIES, Abilities, parse_plugin
from txtransfers.wire.codec import OURS, Codec
from txtransfers.wire.messages import LookupAnswer
from txtransfers.wire.plan import MAX_INSTANCE_SIZE, Chunk, Cut, Instance, plan_buckets
from txtransfers.wire.pushes import (
    MAX_CHUNKS_PER_BUCKET,
    PushExtension,
    PushLimits,
    PushRequest,
    push_json,
)

KEY = str(UUID(int=7))
SIZES = st.integers(0, MAX_INSTANCE_SIZE)


def instance(number: int, size: int = 1000) -> Instance:
    digest = sha1(str(number).encode()).hexdigest()
    id_ = "-".join(digest[start : start + 8] for start in range(0, 40, 8))
    return Instance(id_, size, digest[:32])


def instances(count: int, size: int = 1000) -> tuple[Instance, ...]:
    return tuple(sorted((instance(n, size) for n in range(count)), key=lambda i: i.id))


def push(count: int = 3, size: int = 1000, **changes: Any) -> PushRequest:
    some = instances(count, size)
    request = PushRequest(some, plan_buckets(some, Cut(1500)), Codec.NONE)
    return attrs.evolve(request, **changes)


def raw(body: bytes) -> bytes:
    """What was compressed."""
    return packed.zstd.decompress(body)


def changed(body: bytes, change: Callable[[dict[str, Any]], Any], tail: bytes = b"") -> bytes:
    """The message with another head, and more behind it."""
    data = raw(body)
    (size,) = struct.unpack_from("<I", data)
    head = json.loads(data[4 : 4 + size])
    change(head)
    told = json.dumps(head).encode()
    data = struct.pack("<I", len(told)) + told + data[4 + size :] + tail
    return packed.zstd.compress(data)


class PushTests(SynchronousTestCase):
    def pack(self, request: PushRequest) -> bytes:
        body = packed.pack_push(request)
        assert body is not None
        return body

    def assert_refused(self, body: bytes, *told: str, limits: PushLimits | None = None) -> None:
        error = self.assertRaises(BadMessage, packed.parse_packed_push, body, limits)
        for text in told:
            self.assertIn(text, str(error))

    @given(
        st.lists(SIZES, max_size=6),
        st.lists(st.lists(st.tuples(st.integers(0, 5), SIZES, SIZES), max_size=3), max_size=4),
        st.sampled_from([Codec.NONE, Codec.GZIP]),
        st.sampled_from([None, PushExtension(KEY, True, OURS), PushExtension(KEY, False)]),
    )
    def test_what_is_packed_is_read(
        self, sizes: list[int], plan: Any, codec: Codec, extension: PushExtension | None
    ) -> None:
        some = tuple(instance(n, size) for n, size in enumerate(sizes))
        buckets = tuple(
            tuple(Chunk(some[n % len(some)].id, *numbers) for n, *numbers in bucket)
            for bucket in (plan if some else ())
        )
        request = PushRequest(some, buckets, codec, extension)
        self.assertEqual(request, packed.parse_packed_push(self.pack(request)))

    def test_it_is_a_fraction_of_the_json(self) -> None:
        request = push(500, 1000)
        body = self.pack(request)
        json_ = push_json(request.instances, request.buckets, request.compression)
        self.assertLess(4 * len(body), len(json_))
        self.assertLess(len(body), 41 * 500, "identifiers and MD5s are 36 bytes")

    def test_what_cannot_be_packed(self) -> None:
        for changes in (
            {"id": "x"},
            {"id": "a" * 40},
            {"md5": "A" * 32},
            {"md5": "ab"},
            {"md5": ""},
        ):
            odd = attrs.evolve(instance(1), **changes)
            self.assertIsNone(packed.pack_push(PushRequest((odd,), (), Codec.NONE)), changes)
            self.assertIsNone(packed.pack_lookup(LookupAnswer((odd,), "me")))
        self.patch(packed, "LARGEST", 1000)
        self.assertIsNone(packed.pack_push(push(30)))

    def test_no_zstd_and_damaged_zstd(self) -> None:
        body = self.pack(push())
        for bad in (b"", b"{}", body[:-1], body + b"x", body + body, bytes(100)):
            self.assert_refused(bad)
        for at in range(len(body)):
            mangled = body[:at] + bytes([body[at] ^ 0x40]) + body[at + 1 :]
            try:
                found = packed.parse_packed_push(mangled)
            except (BadMessage, OutOfRange):
                continue
            self.assertIsInstance(found, PushRequest)

    def test_a_bomb(self) -> None:
        for size in (3 * 2**20, 20 * 2**20, 2**30):
            bomb = packed.zstd.compress(bytes(min(size, 2**26)) * (size // min(size, 2**26)))
            self.assert_refused(bomb, "becomes more than")

    def test_lengths_that_are_wrong(self) -> None:
        body = self.pack(push())
        for name in ("Instances", "Buckets", "Chunks"):
            for number in (-1, 0, 1, 4, 2**31, 2**62):
                if json.loads(raw(body)[4:].partition(b"}")[0] + b"}")[name] != number:
                    self.assert_refused(changed(body, lambda h, n=name, v=number: h.update({n: v})))
            self.assert_refused(changed(body, lambda h, n=name: h.pop(n)), name)
        self.assert_refused(changed(body, lambda _head: None, b"\0"))
        self.assert_refused(packed.zstd.compress(b""), "too few")
        self.assert_refused(packed.zstd.compress(b"\xff" * 10), "too few")

    def test_buckets_of_other_chunks_than_there_are(self) -> None:
        request = push(2)
        data = raw(self.pack(request))
        lengths = struct.pack(f"<{len(request.buckets)}I", *map(len, request.buckets))
        self.assertEqual(1, data.count(lengths))
        other = struct.pack(f"<{len(request.buckets)}I", 7, *map(len, request.buckets[1:]))
        self.assert_refused(packed.zstd.compress(data.replace(lengths, other)), "chunks, not 2")

    def test_numbers_that_are_too_large(self) -> None:
        head = {"Instances": 1, "Buckets": 1, "Chunks": 1, "Compression": "none"}
        told = json.dumps(head).encode()

        def body(size: int = 9, position: int = 0, offset: int = 0, chunk: int = 9) -> bytes:
            lists = bytes(36) + struct.pack("<QIIQQ", size, 1, position, offset, chunk)
            return packed.zstd.compress(struct.pack("<I", len(told)) + told + lists)

        self.assertEqual(9, packed.parse_packed_push(body()).instances[0].size)
        self.assert_refused(body(size=2**63), "An instance has 9223372036854775808 bytes")
        self.assert_refused(body(position=1), "of instance 1, of 1")
        self.assert_refused(body(offset=2**64 - 1), "the offset or size")
        self.assert_refused(body(chunk=2**63), "the offset or size")

    def test_limits(self) -> None:
        body = self.pack(push(3))
        self.assert_refused(body, "3 instances", "MaxInstances", limits=PushLimits(instances=2))
        self.assert_refused(body, "MaxBuckets", limits=PushLimits(buckets=1))
        self.assert_refused(body, "MaxChunks", limits=PushLimits(chunks=1))
        one = instance(1, MAX_CHUNKS_PER_BUCKET + 1)
        chunks = tuple(Chunk(one.id, n, 1) for n in range(one.size))
        request = PushRequest((one,), (chunks,), Codec.NONE)
        self.assert_refused(self.pack(request), "Bucket 0 has 100001 chunks")

    def test_members_of_the_head(self) -> None:
        body = self.pack(push(extension=PushExtension(KEY, True)))
        self.assert_refused(changed(body, lambda h: h["TxTransfers"].update(Key="x")), "Key")
        self.assert_refused(changed(body, lambda h: h.update(Compression=1)), "Compression")
        later = changed(
            body, lambda h: h.update(Later=[1], TxTransfers=h["TxTransfers"] | {"L": 1})
        )
        self.assertEqual(push(extension=PushExtension(KEY, True)), packed.parse_packed_push(later))


class LookupTests(SynchronousTestCase):
    def test_what_is_packed_is_read(self) -> None:
        for codecs in (None, frozenset(), OURS):
            for count in (0, 1, 500):
                answer = LookupAnswer(instances(count), "who", codecs)
                body = packed.pack_lookup(answer)
                assert body is not None
                self.assertEqual(answer, packed.parse_packed_lookup(body))
        self.assertLess(len(body), 39 * 500)

    def test_what_is_none(self) -> None:
        opening = packed.pack_push(push())
        assert opening is not None
        for body in (b"", b"{}", opening):
            self.assertRaises(BadMessage, packed.parse_packed_lookup, body)


class AbilitiesTests(SynchronousTestCase):
    def test_as_they_travel(self) -> None:
        told = json.dumps({"ID": "transfers", "TxTransfers": ALL_ABILITIES.to_json()}).encode()
        self.assertEqual(ALL_ABILITIES, parse_plugin(told))

    def test_others_have_none(self) -> None:
        self.assertEqual(NO_ABILITIES, parse_plugin(b'{"ID": "transfers", "Version": "1.7"}'))
        self.assertEqual(
            Abilities(packed=True), parse_plugin(b'{"TxTransfers": {"Packed": true, "Later": 1}}')
        )
        self.assertRaises(BadMessage, parse_plugin, b'{"TxTransfers": {"Packed": 3}}')
