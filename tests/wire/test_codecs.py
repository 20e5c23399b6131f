"""Both codecs stream; a decoder makes no more than was declared."""

import gzip
import zlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from txtransfers.errors import BadCompression, WrongLength
from txtransfers.wire.codecs import decoder, encoder
from txtransfers.wire.messages import Compression

TEXT = bytes(range(256)) * 20


def decode(data: bytes, size: int, compression: Compression, step: int = 1000) -> bytes:
    stream = decoder(compression, size)
    parts = [stream.decode(data[n : n + step]) for n in range(0, len(data), step)]
    stream.finish()
    return b"".join(parts)


def gunzip(data: bytes, size: int = len(TEXT), step: int = 1000) -> bytes:
    return decode(data, size, Compression.GZIP, step)


class CodecTests(SynchronousTestCase):
    @given(st.binary(max_size=3000), st.integers(1, 700), st.sampled_from(Compression))
    def test_round_trip_in_any_slices(self, data: bytes, step: int, kind: Compression) -> None:
        stream = encoder(kind)
        slices = [stream.encode(data[n : n + step]) for n in range(0, len(data), step)]
        travelling = b"".join([*slices, stream.finish()])
        self.assertEqual(decode(travelling, len(data), kind, step), data)

    @given(st.integers(0, 9), st.integers(1, 300))
    def test_any_level_in_any_slices(self, level: int, step: int) -> None:
        self.assertEqual(gunzip(gzip.compress(TEXT, level), step=step), TEXT)

    def test_a_stock_decoder_reads_ours(self) -> None:
        stream = encoder(Compression.GZIP)
        self.assertEqual(gzip.decompress(stream.encode(TEXT) + stream.finish()), TEXT)

    def test_what_follows_the_member_counts_for_nothing(self) -> None:
        self.assertEqual(gunzip(gzip.compress(TEXT) + b"garbage"), TEXT)

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
        ):
            self.assertRaises(BadCompression, gunzip, bad)

    def test_lengths(self) -> None:
        good = gzip.compress(TEXT)
        self.assertRaises(WrongLength, gunzip, good, len(TEXT) - 1)
        self.assertRaises(WrongLength, gunzip, good, len(TEXT) + 1)
        self.assertRaises(WrongLength, gunzip, good + good, 2 * len(TEXT))
        self.assertRaises(WrongLength, decode, TEXT, len(TEXT) - 1, Compression.NONE)
        self.assertRaises(WrongLength, decode, TEXT, len(TEXT) + 1, Compression.NONE)

    def test_a_bomb_stops_at_the_declared_size(self) -> None:
        bomb = gzip.compress(bytes(50_000_000))
        error = self.assertRaises(WrongLength, gunzip, bomb, 1000, len(bomb))
        self.assertIn("1000", str(error))
