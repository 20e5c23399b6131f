"""Both codecs stream; a decoder makes no more than was declared."""

import gzip
import random
import struct
import tracemalloc
import zlib
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadCompression, WrongLength
from txtransfers.wire.codec import Codec, usual
from txtransfers.wire.codecs import decoder, encoder

TEXT = bytes(range(256)) * 20


def decode(data: bytes, size: int, codec: Codec, step: int = 1000) -> bytes:
    stream = decoder(codec, size)
    parts = []
    for start in range(0, len(data), step):
        parts.append(stream.decode(data[start : start + step]))
        while stream.has_more:
            parts.append(stream.decode(b""))
    stream.finish()
    return b"".join(parts)


def gunzip(data: bytes, size: int = len(TEXT), step: int = 1000) -> bytes:
    return decode(data, size, Codec.GZIP, step)


class CodecTests(SynchronousTestCase):
    @given(st.binary(max_size=3000), st.integers(1, 700), st.sampled_from(Codec))
    def test_round_trip_in_any_slices(self, data: bytes, step: int, kind: Codec) -> None:
        stream = encoder(usual(kind))
        slices = [stream.encode(data[n : n + step]) for n in range(0, len(data), step)]
        travelling = b"".join([*slices, stream.finish()])
        self.assertEqual(decode(travelling, len(data), kind, step), data)

    @given(st.lists(st.integers(0, 300), max_size=8), st.sampled_from(Codec))
    def test_cut_anywhere(self, cuts: list[int], kind: Codec) -> None:
        data = TEXT[:900] + random.Random(1).randbytes(200)
        stream = encoder(usual(kind))
        travelling = stream.encode(data) + stream.finish()
        places = [0, *sorted(cuts), len(travelling)]
        back = decoder(kind, len(data))
        pairs = pairwise(places)
        parts = [back.decode(travelling[start:end]) for start, end in pairs]
        back.finish()
        self.assertEqual(b"".join(parts), data)

    @given(st.lists(st.tuples(st.booleans(), st.integers(0, 200_000)), max_size=6))
    def test_what_shrinks_and_what_does_not_in_one_member(
        self, slices: list[tuple[bool, int]]
    ) -> None:
        noise = random.Random(2)
        stream = encoder(usual(Codec.GZIP))
        parts = [noise.randbytes(size) if bare else bytes(size) for bare, size in slices]
        travelling = b"".join([*(stream.encode(part) for part in parts), stream.finish()])
        data = b"".join(parts)
        self.assertEqual(gzip.decompress(travelling), data)
        self.assertEqual(gunzip(travelling, len(data), 70_000), data)
        back = zlib.decompressobj(31)
        self.assertEqual(back.decompress(travelling), data)
        self.assertTrue(back.eof)

    def test_what_does_not_shrink_hardly_grows(self) -> None:
        data = random.Random(3).randbytes(500_000)
        stream = encoder(usual(Codec.GZIP))
        travelling = stream.encode(data) + stream.finish()
        self.assertIn(data[:60_000], travelling, "stored")
        self.assertLess(len(travelling), len(data) * 1.0002)

    def test_a_member_with_all_that_a_header_can_have(self) -> None:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(TEXT) + deflate.flush()
        head = b"\x1f\x8b\x08\x1f" + struct.pack("<IBB", 1700000000, 2, 3)
        head += struct.pack("<H", 4) + b"AB\0\0" + b"name.dcm\0" + b"a comment\0"
        head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
        member = head + body + struct.pack("<II", zlib.crc32(TEXT), len(TEXT))
        self.assertEqual(gzip.decompress(member), TEXT)
        back = decoder(Codec.GZIP, len(TEXT))
        first = len(head) + 1  # whoever decodes hands over large slices: a header is in the first
        parts = [back.decode(member[:first])]
        parts += [back.decode(member[n : n + 1]) for n in range(first, len(member))]
        back.finish()
        self.assertEqual(b"".join(parts), TEXT)

    def test_a_header_with_a_name_cut_anywhere(self) -> None:
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        member = b"\x1f\x8b\x08\x08" + struct.pack("<IBB", 1700000000, 2, 3) + b"name.dcm\0"
        member += deflate.compress(TEXT) + deflate.flush()
        member += struct.pack("<II", zlib.crc32(TEXT), len(TEXT))
        for step in (1, 3, 11, 100_000):
            self.assertEqual(gunzip(member, step=step), TEXT)

    def test_a_name_that_never_ends_costs_nothing(self) -> None:
        back = decoder(Codec.GZIP, 10)
        back.decode(b"\x1f\x8b\x08\x08" + bytes(6))
        for _ in range(100):
            self.assertEqual(back.decode(b"x" * 10_000), b"")
        self.assertRaises(BadCompression, back.finish)

    def test_no_bytes_at_all(self) -> None:
        stream = encoder(usual(Codec.GZIP))
        self.assertEqual(gunzip(stream.encode(b"") + stream.finish(), size=0), b"")
        self.assertEqual(decode(b"", 0, Codec.NONE), b"")
        self.assertRaises(WrongLength, gunzip, gzip.compress(b"x"), 0)

    @given(st.integers(0, 9), st.integers(1, 300))
    def test_any_level_in_any_slices(self, level: int, step: int) -> None:
        self.assertEqual(gunzip(gzip.compress(TEXT, level), step=step), TEXT)

    def test_a_stock_decoder_reads_ours(self) -> None:
        stream = encoder(usual(Codec.GZIP))
        self.assertEqual(gzip.decompress(stream.encode(TEXT) + stream.finish()), TEXT)

    def test_what_follows_the_member_counts_for_nothing(self) -> None:
        member = gzip.compress(TEXT)
        for after in (b"garbage", gzip.compress(b"more"), bytes(10_000)):
            for step in (1, 100, len(member), 100_000):
                self.assertEqual(gunzip(member + after, step=step), TEXT)

    def test_damage(self) -> None:
        good = gzip.compress(TEXT)
        for bad in (
            b"",
            TEXT,
            zlib.compress(TEXT),
            good[:-1],
            good[:-12],
            good[:-8] + b"\0\0\0\0" + good[-4:],
            good[:-4] + b"\1\0\0\0",
            good[:5],
            b"\x1f\x8b\x09" + good[3:],
            b"\x1f\x8b" + good,
            good[:40] + bytes([good[40] ^ 1]) + good[41:],
        ):
            self.assertRaises(BadCompression, gunzip, bad)

    def test_lengths(self) -> None:
        good = gzip.compress(TEXT)
        self.assertRaises(WrongLength, gunzip, good, len(TEXT) - 1)
        self.assertRaises(WrongLength, gunzip, good, len(TEXT) + 1)
        self.assertRaises(WrongLength, gunzip, good + good, 2 * len(TEXT))
        self.assertRaises(WrongLength, decode, TEXT, len(TEXT) - 1, Codec.NONE)
        self.assertRaises(WrongLength, decode, TEXT, len(TEXT) + 1, Codec.NONE)

    def test_a_bomb_stops_at_the_declared_size(self) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        error = self.assertRaises(WrongLength, gunzip, bomb, 1000, len(bomb))
        self.assertIn("1000", str(error))

    def test_a_bomb_takes_no_memory(self) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        tracemalloc.start()
        try:
            self.assertRaises(WrongLength, gunzip, bomb, 1000, len(bomb))
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 500_000)

    @given(st.integers(0, 3000), st.integers(1, 200), st.sampled_from(Codec))
    def test_no_more_comes_out_than_was_declared(self, size: int, step: int, kind: Codec) -> None:
        data = bytes(3000)
        stream = encoder(usual(kind))
        travelling = stream.encode(data) + stream.finish()
        back, made = decoder(kind, size), 0
        try:
            for start in range(0, len(travelling), step):
                made += len(back.decode(travelling[start : start + step]))
            back.finish()
        except WrongLength:
            self.assertNotEqual(size, len(data))
        else:
            self.assertEqual(size, len(data))
        self.assertLessEqual(made, size)
