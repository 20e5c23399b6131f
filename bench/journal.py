"""What the log of staged bytes costs: a store receives with it, and with one that notes nothing.

``python -m bench.journal`` prints the ratio of both times, for small, middle and large instances,
without any network, which would hide some of it. Both run in turns, in one process.
"""

import hashlib
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

from demo import dataset
from txtransfers.store import reception
from txtransfers.store.embedded import EmbeddedStore
from txtransfers.store.interfaces import Piece
from txtransfers.store.staging_log import StagingLog
from txtransfers.threads import SynchronousThreads
from txtransfers.wire.plan import Instance

MEGABYTE = 2**20
SLICE = MEGABYTE // 2
REPEATS = 7


def instances(files: Sequence[bytes]) -> list[Instance]:
    """What a transfer would declare."""
    return [
        Instance(f"{n:08x}-00000000-00000000-00000000-00000000", len(data), _md5(data))
        for n, data in enumerate(files)
    ]


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def receive(store: EmbeddedStore, declared: Sequence[Instance], files: Sequence[bytes]) -> float:
    """Seconds to stage and commit all; it is discarded by the next start of the store."""
    started = time.perf_counter()
    incoming: Any = _now(store.receive(declared))
    for one, data in zip(declared, files, strict=True):
        for offset in range(0, len(data), SLICE):
            _now(incoming.write([Piece(one.id, offset, memoryview(data)[offset : offset + SLICE])]))
    _now(incoming.commit())
    return time.perf_counter() - started


def _now(result: Any) -> Any:
    """What a Deferred that has fired holds."""
    values: list[Any] = []
    result.addCallback(values.append)
    return values[0]


def compare(files: Sequence[bytes], folder: Path) -> tuple[float, float]:
    """Medians of the seconds with the log, and without."""
    declared = instances(files)
    kept = StagingLog.append

    def rows_only(self: StagingLog, _claims: Any, rows: Any) -> None:
        kept(self, (), rows)

    def run(name: str) -> float:
        store = EmbeddedStore(str(folder / name), SynchronousThreads())
        store.start()
        try:
            return receive(store, declared, files)
        finally:
            store.stop()

    def without(name: str) -> float:
        with (
            mock.patch.object(StagingLog, "append", rows_only),
            mock.patch.object(reception.isal_zlib, "crc32", return_value=0),
        ):
            return run(name)

    times: dict[Callable[[str], float], list[float]] = {run: [], without: []}
    for number in range(REPEATS):
        for way, seconds in times.items():
            seconds.append(way(f"{len(files)}-{number}-{way.__name__}"))
    return median(times[run]), median(times[without])


def main() -> None:
    """Measure and print."""
    table = Table("instances", "with the log", "without", "ratio")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=".") as name:
        folder = Path(name)
        small = [path.read_bytes() for path in dataset.ct_series(folder / "small", 2000, 19, 1)]
        middle = [path.read_bytes() for path in dataset.ct_series(folder / "middle", 200, 512, 1)]
        large = [dataset.multiframe(folder / "large.dcm", 200, 1).read_bytes()]
        for title, files in (
            ("2,000 x 19 KB", small),
            ("200 x 512 KB", middle),
            ("1 x 200 MB", large),
        ):
            with_log, without = compare(files, folder)
            table.add_row(
                title, f"{with_log:.3f} s", f"{without:.3f} s", f"{with_log / without:.3f}"
            )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
