"""Frames of zstd: any bytes come back, and what was not made by us is refused before it costs."""

import contextlib
import random
import struct
import tracemalloc
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from isal import isal_zlib
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadCompression, OutOfRange, WrongLength
from txtransfers.wire.codec import ZSTD_LEVELS, Codec, Coding, parse_codec, parse_coding
from txtransfers.wire.zstd_frames import (
    MAX_FRAME,
    PLAIN,
    SHUFFLED,
    STORED,
    ZstdDecoder,
    ZstdEncoder,
    best_kind,
    shuffle,
    unshuffle,
    zstd,
)

NOISE = random.Random(1)
PIXELS = struct.pack("<60000h", *(int(NOISE.gauss(40, 11)) for _ in range(60_000)))
"""As 16-bit images are: the low byte is noise, the high one hardly changes."""
TEXT = b"some text, again and again, as in a header; " * 3000


def frame(kind: int, raw: int, payload: bytes, wire: int | None = None, damage: int = 0) -> bytes:
    head = struct.pack("<BII", kind, raw, len(payload) if wire is None else wire)
    crc = isal_zlib.crc32(payload, isal_zlib.crc32(head)) ^ damage
    return head + struct.pack("<I", crc) + payload


def decode(data: bytes, size: int, step: int = 1_000_000) -> bytes:
    back = ZstdDecoder(size)
    parts = []
    for start in range(0, len(data), step):
        parts.append(back.decode(data[start : start + step]))
        while back.has_more:
            parts.append(back.decode(b""))
    back.finish()
    return b"".join(parts)


class ShuffleTests(SynchronousTestCase):
    @given(st.binary(max_size=200))
    def test_there_and_back(self, data: bytes) -> None:
        self.assertEqual(unshuffle(shuffle(data)), data)
        self.assertEqual(sorted(shuffle(memoryview(data))), sorted(data))

    def test_what_is_best(self) -> None:
        for data, kind in (
            (PIXELS, SHUFFLED),
            (PIXELS[1:], SHUFFLED),
            (TEXT, PLAIN),
            (NOISE.randbytes(100_000), STORED),
            (b"", STORED),
        ):
            self.assertEqual(best_kind(data), kind)


class FrameTests(SynchronousTestCase):
    @given(
        st.lists(
            st.tuples(st.sampled_from(["stored", "text", "pixels"]), st.integers(0, 70_000)),
            max_size=5,
        ),
        st.sampled_from(ZSTD_LEVELS),
        st.integers(1, 90_000),
    )
    def test_there_and_back(self, slices: list[tuple[str, int]], level: int, step: int) -> None:
        sources = {"stored": NOISE.randbytes(70_000), "text": TEXT, "pixels": PIXELS}
        parts = [sources[name][:size] for name, size in slices]
        stream = ZstdEncoder(level)
        travelling = b"".join([*map(stream.encode, parts), stream.finish()])
        data = b"".join(parts)
        self.assertEqual(decode(travelling, len(data), step), data)

    @given(st.binary(max_size=2000), st.integers(1, 50))
    def test_any_bytes_in_any_slices(self, data: bytes, step: int) -> None:
        stream = ZstdEncoder(1)
        travelling = stream.encode(data) + stream.finish()
        self.assertEqual(decode(travelling, len(data), step), data)

    @given(st.lists(st.integers(0, 400), max_size=8))
    def test_cut_anywhere(self, cuts: list[int]) -> None:
        stream = ZstdEncoder(1)
        travelling = stream.encode(TEXT[:5000]) + stream.encode(PIXELS[:300])
        back = ZstdDecoder(5300)
        places = [0, *sorted(min(cut, len(travelling)) for cut in cuts), len(travelling)]
        made = b"".join(back.decode(travelling[a:b]) for a, b in pairwise(places))
        back.finish()
        self.assertEqual(made, TEXT[:5000] + PIXELS[:300])

    def test_pixels_become_smaller_than_by_gzip(self) -> None:
        stream = ZstdEncoder(1)
        gzipped = isal_zlib.compress(PIXELS, 1)
        self.assertLess(len(stream.encode(PIXELS)), 0.9 * len(gzipped))

    def test_what_does_not_shrink_hardly_grows(self) -> None:
        data = NOISE.randbytes(500_000)
        travelling = ZstdEncoder(7).encode(data)
        self.assertEqual(len(travelling), len(data) + 13)

    def test_a_slice_larger_than_a_frame(self) -> None:
        data = TEXT * 20
        self.assertGreater(len(data), 2 * MAX_FRAME)
        self.assertEqual(decode(ZstdEncoder(1).encode(data), len(data), 7777), data)


class HostileTests(SynchronousTestCase):
    def test_what_is_no_frame(self) -> None:
        packed = zstd.compress(TEXT, 1)
        size = len(TEXT)
        longer = zstd.compress(TEXT + b"!", 1)
        unpledged = zstd.ZstdCompressor(1)
        wide = zstd.ZstdCompressor(options={zstd.CompressionParameter.window_log: 27})
        window = wide.compress(TEXT) + wide.flush()
        for bad in (
            frame(3, size, packed),
            frame(255, size, packed),
            frame(PLAIN, 0, b""),
            frame(PLAIN, size, b""),
            frame(STORED, 0, b""),
            frame(STORED, 5, b"abcd"),
            frame(STORED, 3, b"abcd"),
            frame(PLAIN, len(packed), packed),
            frame(PLAIN, MAX_FRAME + 1, packed),
            frame(PLAIN, 2**32 - 1, packed),
            frame(PLAIN, size, packed, wire=2**32 - 1),
            frame(PLAIN, size, packed, damage=1),
            frame(PLAIN, size, packed[:-1]),
            frame(PLAIN, size, packed + b"\0"),
            frame(PLAIN, size, packed + zstd.compress(b"")),
            frame(PLAIN, size, longer),
            frame(PLAIN, size - 1, packed),
            frame(PLAIN, size, TEXT[: len(packed)]),
            frame(SHUFFLED, size, longer),
            frame(PLAIN, size, unpledged.compress(TEXT) + unpledged.flush(1)),
            frame(PLAIN, size, window),
            b"\1" * 13,
            frame(PLAIN, size, packed)[:-1],
            frame(PLAIN, size, packed)[:8],
        ):
            for step in (1, 1_000_000):
                self.assertRaises(BadCompression, decode, bad, size, step)

    def test_every_flipped_byte_is_found(self) -> None:
        good = ZstdEncoder(1).encode(TEXT[:9000])
        for place in range(len(good)):
            bad = good[:place] + bytes([good[place] ^ 4]) + good[place + 1 :]
            self.assertRaises((BadCompression, WrongLength), decode, bad, 9000)

    def test_lengths(self) -> None:
        good = ZstdEncoder(1).encode(TEXT)
        for size in (0, 1, len(TEXT) - 1, len(TEXT) + 1):
            self.assertRaises(WrongLength, decode, good, size)
        self.assertRaises(WrongLength, decode, good + good, len(TEXT))
        self.assertRaises(BadCompression, decode, good + b"!", len(TEXT))
        self.assertRaises(WrongLength, decode, b"", 1)
        self.assertEqual(decode(b"", 0), b"")

    def test_a_bomb_is_refused_by_its_header(self) -> None:
        bomb = frame(PLAIN, MAX_FRAME, zstd.compress(bytes(MAX_FRAME), 19)) * 1000
        error = self.assertRaises(WrongLength, decode, bomb, 1000)
        self.assertIn("1000", str(error))

    def test_little_that_becomes_much_is_made_piece_by_piece(self) -> None:
        count = 64
        bomb = frame(PLAIN, MAX_FRAME, zstd.compress(bytes(MAX_FRAME), 19)) * count
        back = ZstdDecoder(count * MAX_FRAME)
        tracemalloc.start()
        try:
            made = len(back.decode(bomb))
            while back.has_more:
                made += len(back.decode(b""))
            _now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        back.finish()
        self.assertEqual(made, count * MAX_FRAME)
        self.assertLess(peak, 5 * MAX_FRAME)

    @given(st.binary(max_size=300), st.integers(0, 400))
    def test_nonsense(self, data: bytes, size: int) -> None:
        with contextlib.suppress(BadCompression, WrongLength):
            self.assertEqual(len(decode(data, size, 7)), size)


class NameTests(SynchronousTestCase):
    def test_names(self) -> None:
        self.assertIs(parse_codec("gzip"), Codec.GZIP)
        self.assertIs(parse_codec("zstd", with_ours=True), Codec.ZSTD)
        for name in ("zstd", "GZIP", "", "auto"):
            self.assertRaises(OutOfRange, parse_codec, name)

    def test_levels(self) -> None:
        self.assertEqual(parse_coding("zstd", 7), Coding(Codec.ZSTD, 7))
        self.assertEqual(parse_coding("zstd", 0), Coding(Codec.ZSTD, 1))
        self.assertEqual(parse_coding("gzip", 9), Coding(Codec.GZIP, 1))
        self.assertEqual(parse_coding("none", 0), Coding(Codec.NONE, 0))
        for level in (2, 22, 2**63):
            self.assertRaises(OutOfRange, parse_coding, "zstd", level)
