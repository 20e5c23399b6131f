"""Measures the codecs of buckets: ``python -m bench.codecs``, a minute or less.

Slices of 512 KB of synthetic CT go through each, as buckets do, by one core. Machines are noisy:
what counts is the ratio to isal's gzip, measured in turns in the same run. Without shuffling, zstd
is here only to show what shuffling is worth; no bucket travels so.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import attrs
from rich.console import Console
from rich.table import Table

from demo import dataset
from txtransfers.wire import zstd_frames
from txtransfers.wire.codec import GZIP_LEVEL, STORED, ZSTD_LEVELS, Codec, Coding
from txtransfers.wire.codecs import decoder, encoder
from txtransfers.wire.zstd_frames import shuffle, unshuffle, zstd

SLICE = 512 * 1024
MEGABYTE = 10**6
REPEATS = 5
COUNT = 32

Slices = Sequence[bytes]
Work = Callable[[Slices], list[bytes]]


@attrs.frozen
class Contender:
    """A codec: what it does with slices, and what turns its output back."""

    name: str
    encode: Work
    decode: Work


def contenders() -> Iterator[Contender]:
    """All that are measured; the first is what they are compared with."""
    yield _bucket("gzip", Coding(Codec.GZIP, GZIP_LEVEL))
    yield _bucket("gzip, stored", Coding(Codec.GZIP, STORED))
    yield _bucket("none", Coding(Codec.NONE, STORED))
    for level in ZSTD_LEVELS:
        yield _plain_zstd(level)
        yield _bucket(f"zstd {level}, shuffled where it helps", Coding(Codec.ZSTD, level))
    yield Contender(
        "shuffling alone",
        lambda slices: [shuffle(each) for each in slices],
        lambda slices: [unshuffle(each) for each in slices],
    )
    yield Contender(
        "its sample alone",
        lambda slices: [each for each in slices if zstd_frames.best_kind(each) >= 0],
        list,
    )


def _bucket(name: str, coding: Coding) -> Contender:
    """As a bucket travels: one stream for all slices."""

    def encode(slices: Slices) -> list[bytes]:
        stream = encoder(coding)
        return [*map(stream.encode, slices), stream.finish()]

    def decode(travelling: Slices) -> list[bytes]:
        back = decoder(coding.codec, COUNT * SLICE * 2)
        made = []
        for each in travelling:
            made.append(back.decode(each))
            while back.has_more:
                made.append(back.decode(b""))
        return made

    return Contender(name, encode, decode)


def _plain_zstd(level: int) -> Contender:
    return Contender(
        f"zstd {level}, not shuffled",
        lambda slices: [zstd.compress(each, level) for each in slices],
        lambda slices: [zstd.decompress(each) for each in slices],
    )


@attrs.define
class Row:
    """What was measured of a contender; times in seconds, size in bytes as it travels."""

    contender: Contender
    encoding: list[float] = attrs.Factory(list)
    decoding: list[float] = attrs.Factory(list)
    size: int = 0


def measure(slices: Slices, repeats: int) -> list[Row]:
    """All contenders in turns, ``repeats`` times."""
    rows = [Row(each) for each in contenders()]
    for _ in range(repeats):
        for row in rows:
            started = time.perf_counter()
            travelling = row.contender.encode(slices)
            between = time.perf_counter()
            back = row.contender.decode(travelling)
            row.decoding.append(time.perf_counter() - between)
            row.encoding.append(between - started)
            row.size = sum(map(len, travelling))
            if b"".join(back) != b"".join(slices):
                raise AssertionError(f"{row.contender.name} gives back other bytes")
    return rows


def table(rows: Sequence[Row], size: int) -> Table:
    """Speeds and sizes, and how they are to the first row's."""
    made = Table(title=f"Codecs, {size / MEGABYTE:.0f} MB of CT slices, one core (medians)")
    made.add_column("codec")
    for name in ("MB/s", "to gzip", "times as small", "to gzip", "back, MB/s", "to gzip"):
        made.add_column(name, justify="right")
    first = rows[0]
    for row in rows:
        made.add_row(
            row.contender.name,
            f"{size / MEGABYTE / median(row.encoding):.0f}",
            f"{median(first.encoding) / median(row.encoding):.2f}",
            f"{size / row.size:.2f}",
            f"{first.size / row.size:.2f}",
            f"{size / MEGABYTE / median(row.decoding):.0f}",
            f"{median(first.decoding) / median(row.decoding):.2f}",
        )
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("files", nargs="*", type=Path, help="instead of synthetic slices")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        paths = arguments.files or dataset.ct_series(Path(folder), COUNT, 512, 1)
        data = b"".join(path.read_bytes() for path in paths)[: COUNT * SLICE * 2]
    slices = [data[start : start + SLICE] for start in range(0, len(data), SLICE)]
    Console().print(table(measure(slices, arguments.repeats), len(data)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
