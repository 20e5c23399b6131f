"""Measures transfers between two daemons on loopback: ``bench/loopback.py [--quick] [--only X]``.

A time runs from the request to the job's Success: verified, synced and in the index. Between the
runs the receiver deletes what it got. Machines are noisy: before each run the same bytes are copied
to the same disk by cp and synced, and one core's MD5 is timed; ratios are against these medians.
Memory is the highest VmHWM of a run less what the daemon held when it had just started.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import attrs
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo import dataset, moves
from demo.daemon import Client, Daemon, DaemonError, pair

FOLDER = Path(".demo")
MEGABYTE = 1024 * 1024
POLL_SECONDS = 0.02
UPLOADERS = 4
MD5_BYTES = 64 * MEGABYTE
REPEATS = 3

Write = Callable[[Path], list[Path]]


@attrs.frozen
class Load:
    """Files that are uploaded once to fresh daemons, and what is then measured with them."""

    name: str
    write: Write
    transfers: tuple[tuple[str, str], ...]
    """(mode, compression) of each measure; none: the lookup is measured."""

    def measures(self) -> Iterator[tuple[str, str, str]]:
        """Yield (name, mode, compression) of each measure."""
        for mode, compression in self.transfers or (("lookup", "none"),):
            suffix = "" if mode == "lookup" else f"-{compression}-{mode}"
            yield f"{self.name}{suffix}", mode, compression


@attrs.frozen
class Measure:
    """A row of the table; times in seconds, memory in MB."""

    name: str
    instances: int
    size: int
    times: list[float]
    copies: list[float]
    md5s: list[float]
    """Seconds that one core took for the MD5 of MD5_BYTES."""
    memory: tuple[float, float]


def loads(quick: bool) -> list[Load]:
    """Return everything that can be measured."""
    part = 10 if quick else 1
    both = (("push", "none"), ("pull", "none"))
    zipped = (("push", "gzip"), ("pull", "gzip"))
    chosen = (("push", "auto"), ("pull", "auto"))
    return [
        Load("ct", lambda f: dataset.ct_series(f, 500 // part, 512, 1), both + zipped + chosen),
        Load("small", lambda f: dataset.ct_series(f, 3000 // part, 19, 1), both),
        Load("large", lambda f: [dataset.multiframe(f / "large.dcm", 1024 // part, 1)], both),
        Load("lookup", lambda f: dataset.ct_series(f, 10_000 // part, 2, 1), ()),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return 0 when every transfer was complete."""
    parser = argparse.ArgumentParser(prog="bench/loopback.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, each once")
    parser.add_argument("--only", metavar="NAME", help="those whose name begins so: ct, large-none")
    arguments = parser.parse_args(argv)
    chosen = {
        load.name: [each for each in load.measures() if each[0].startswith(arguments.only or "")]
        for load in loads(arguments.quick)
    }
    if not any(chosen.values()):
        names = [each[0] for load in loads(arguments.quick) for each in load.measures()]
        parser.error(f"nothing is named {arguments.only!r}; there are: {', '.join(names)}")
    console = Console(width=None if sys.stdout.isatty() else 140)
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=FOLDER)).resolve()
    repeats = 1 if arguments.quick else REPEATS
    rows: list[Measure] = []
    try:
        for load in loads(arguments.quick):
            if chosen[load.name]:
                rows += _measure_load(console, folder / load.name, load, chosen[load.name], repeats)
                shutil.rmtree(folder / load.name)
    except DaemonError as error:
        console.print(str(error), markup=False)
        for note in getattr(error, "__notes__", []):
            console.print(note, markup=False, highlight=False)
        return 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if rows:
            console.print(_table(rows))
    return 0


def _measure_load(
    console: Console,
    folder: Path,
    load: Load,
    measures: list[tuple[str, str, str]],
    repeats: int,
) -> list[Measure]:
    """Start two fresh daemons, fill A, and take these measures."""
    console.print(f"{load.name}: drawing and uploading", highlight=False)
    paths = load.write(folder / "files")
    rows = []
    with pair(folder) as daemons:
        idle = [daemon.memory("VmRSS") for daemon in daemons]
        cargo = _upload(daemons[0], paths)
        for name, mode, compression in measures:
            row = Measure(name, len(paths), cargo.size, [], [], [], (0.0, 0.0))
            for number in range(1, repeats + 1):
                row = _once(row, folder, daemons, cargo, how=(mode, compression), idle=idle)
                seconds, speed = row.times[-1], cargo.size / MEGABYTE / row.times[-1]
                text = f"{name} {number} of {repeats}: {seconds:.2f} s, {speed:.0f} MB/s"
                console.print(text, highlight=False)
            rows.append(row)
    return rows


def _upload(daemon: Daemon, paths: list[Path]) -> moves.Cargo:
    """Store the files by several connections at once; return them as one cargo."""

    def part(number: int) -> moves.Cargo:
        client = Client(daemon.port)
        try:
            return moves.upload(client, paths[number::UPLOADERS], lambda _: None)
        finally:
            client.close()

    with ThreadPoolExecutor(UPLOADERS) as pool:
        parts = [each for each in pool.map(part, range(UPLOADERS)) if each.instances]
    instances = {key: value for each in parts for key, value in each.instances.items()}
    return moves.Cargo(parts[0].resources, instances, parts[0].patients)


def _once(
    row: Measure,
    folder: Path,
    daemons: tuple[Daemon, Daemon],
    cargo: moves.Cargo,
    *,
    how: tuple[str, str],
    idle: list[int],
) -> Measure:
    """Take one time, with the yardsticks right before; return the row with it."""
    sender, receiver = daemons
    mode, compression = how
    row.copies.append(_copy_seconds(folder))
    row.md5s.append(_md5_seconds())
    if mode != "lookup":
        moves.delete(receiver, cargo)
        if not moves.is_absent(receiver, cargo):
            raise DaemonError(f"{row.name}: the receiver still holds what was deleted")
    for daemon in daemons:
        daemon.reset_peak_memory()
    if mode == "lookup":
        started = time.perf_counter()
        found = sender.client.lookup(cargo.resources)
        row.times.append(time.perf_counter() - started)
        trouble = None if found == cargo.instances else f"{len(found)} instances found"
    else:
        row.times.append(
            moves.move(
                mode,
                sender,
                receiver,
                cargo.resources,
                compression=compression,
                interval=POLL_SECONDS,
            )
        )
        trouble = None
    peaks = [daemon.memory("VmHWM") for daemon in daemons]
    if mode != "lookup":
        trouble = moves.verify((receiver,), cargo)
    if trouble:
        raise DaemonError(f"{row.name}: {trouble}")
    above = [(peak - before) / 1024 for peak, before in zip(peaks, idle, strict=True)]
    memory = (max(row.memory[0], above[0]), max(row.memory[1], above[1]))
    return attrs.evolve(row, memory=memory)


def _copy_seconds(folder: Path) -> float:
    """Time cp of the files to the same disk, and the sync of each."""
    target = folder / "copy"
    started = time.perf_counter()
    subprocess.run(["cp", "-r", folder / "files", target], check=True)
    for path in target.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    shutil.rmtree(target)
    return seconds


def _md5_seconds() -> float:
    """Time the MD5 of MD5_BYTES on one core."""
    piece = bytes(range(256)) * (MEGABYTE // 256)
    md5 = hashlib.md5()
    started = time.perf_counter()
    for _ in range(MD5_BYTES // MEGABYTE):
        md5.update(piece)
    return time.perf_counter() - started


def _table(rows: list[Measure]) -> Table:
    table = Table(title="Loopback (medians; ratio: times as fast as the yardstick)")
    table.add_column("measure")
    for name in ("instances", "MB", "seconds", "spread", "MB/s", "inst./s", "cp+sync MB/s"):
        table.add_column(name, justify="right")
    for name in ("to cp", "MD5 MB/s", "to MD5", "A +MB", "B +MB"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(row.name, *_cells(row))
    return table


def _cells(row: Measure) -> Iterator[str]:
    size, seconds = row.size / MEGABYTE, median(row.times)
    speed = size / seconds
    copy, md5 = size / median(row.copies), MD5_BYTES / MEGABYTE / median(row.md5s)
    yield str(row.instances)
    yield f"{size:.0f}"
    yield f"{seconds:.2f}"
    yield f"{min(row.times):.2f}-{max(row.times):.2f}"
    # A lookup moves no bytes: only its instances per second mean something.
    lookup = row.name == "lookup"
    yield "-" if lookup else f"{speed:.0f}"
    yield f"{row.instances / seconds:.0f}" if row.instances > 1 else "-"
    yield "-" if lookup else f"{copy:.0f}"
    yield "-" if lookup else f"{speed / copy:.2f}"
    yield "-" if lookup else f"{md5:.0f}"
    yield "-" if lookup else f"{speed / md5:.2f}"
    yield from (f"{each:.0f}" for each in row.memory)


if __name__ == "__main__":
    sys.exit(main())
