"""Shows the daemon at work: ``python -m demo [--keep] [--size small|full]``.

Two daemons get generated and real DICOM files and move them both ways, in every mode, with and
without compression.
Each move starts with nothing at the receiver and ends with all MD5s compared with the files' own.
With DEMO_STAY=1 in the environment both daemons stay up at the end, for a look at their pages.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import attrs
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from demo import dataset, moves
from demo.daemon import Daemon, pair

FOLDER = Path(".demo")
MEGABYTE = 1024 * 1024
STAY = "DEMO_STAY"
POLL_SECONDS = 0.2
SIZES = {
    "small": {"slices": 20, "multiframe": 20, "back": 10},
    "full": {"slices": 100, "multiframe": 300, "back": 80},
}
"""Slices of 512 KB and MB of multi-frame that A holds; slices of 512 KB that B holds."""


@attrs.frozen
class Outcome:
    """One row of the table at the end."""

    mode: str
    direction: str
    compression: str
    instances: int
    size: int
    seconds: float
    trouble: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demonstration; return 0 when every transfer was complete."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep files, stores and logs")
    parser.add_argument("--size", choices=SIZES, default="full")
    arguments = parser.parse_args(argv)
    console = Console()
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="run-", dir=FOLDER)).resolve()
    try:
        return _run(console, folder, arguments.size)
    except KeyboardInterrupt:
        console.print("[yellow]stopped[/]")
        return 130
    except Exception as error:  # whatever it is, the person wants it beside the daemons' logs
        console.print(f"[red]failed:[/] {type(error).__name__}: ", end="")
        console.print(str(error), markup=False)
        for note in getattr(error, "__notes__", []):
            console.print(note, markup=False, highlight=False)
        return 1
    finally:
        if arguments.keep:
            console.print(f"kept: {folder}", highlight=False)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _run(console: Console, folder: Path, size: str) -> int:
    started = time.perf_counter()
    with console.status("drawing DICOM files"):
        at_a, at_b = _files(folder / "files", size)
    with pair(folder) as (a, b), _progress(console) as progress:
        console.print(f"daemons: A at {a.url}, B at {b.url}", highlight=False)
        cargo_a, cargo_b = _upload(progress, a, at_a), _upload(progress, b, at_b)
        routes = [(a, b, cargo_a), (b, a, cargo_b)]
        outcomes = [
            _move(progress, mode, sender, receiver, cargo=cargo, compression=compression)
            for (sender, receiver, cargo), compression, mode in product(
                routes, moves.COMPRESSIONS, moves.MODES
            )
        ]
        progress.stop()
        console.print(_table(outcomes))
        if bad := [each for each in outcomes if each.trouble]:
            _tell(console, bad, (a, b))
        for daemon in (a, b):
            console.print(f"the page of {daemon.name}: {daemon.url}", highlight=False)
        if os.environ.get(STAY) == "1":
            _stay(console)
    seconds = time.perf_counter() - started
    console.print(f"both daemons stopped as asked; {seconds:.0f} s in all", highlight=False)
    return 1 if bad else 0


def _stay(console: Console) -> None:
    """Wait for Ctrl-C, or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console.print("both daemons stay up until Ctrl-C")
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        console.print()


def _files(folder: Path, size: str) -> tuple[list[Path], list[Path]]:
    """Write the files; return those for A and those for B."""
    amounts = SIZES[size]
    at_a = [
        *dataset.shipped(),
        *dataset.ct_series(folder / "a", amounts["slices"], 512, 1, patient_id="DEMO-CT"),
        dataset.multiframe(folder / "multi.dcm", amounts["multiframe"], 1, patient_id="DEMO-MF"),
        dataset.compressed(folder / "rle.dcm", 1, patient_id="DEMO-MF"),
    ]
    at_b = [
        *dataset.ct_series(folder / "b", amounts["back"], 512, 2, patient_id="DEMO-BACK"),
        *dataset.ct_series(folder / "b", 50, 19, 2, patient_id="DEMO-BACK", prefix="small"),
    ]
    return at_a, at_b


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )


def _upload(progress: Progress, daemon: Daemon, paths: list[Path]) -> moves.Cargo:
    size = sum(path.stat().st_size for path in paths)
    note = f"{len(paths)} files, {size / MEGABYTE:.0f} MB"
    task = progress.add_task(f"upload to {daemon.name}", total=size, note=note)
    return moves.upload(daemon.client, paths, lambda done: progress.advance(task, done))


def _move(
    progress: Progress,
    mode: str,
    sender: Daemon,
    receiver: Daemon,
    *,
    cargo: moves.Cargo,
    compression: str,
) -> Outcome:
    """Make one transfer and verify it; what goes wrong becomes the outcome's trouble."""
    direction = f"{sender.name} to {receiver.name}"
    task = progress.add_task(f"{mode}, {direction}, {compression}", total=100, note="")
    seconds, trouble = 0.0, None
    try:
        moves.delete(receiver, cargo)
        if not moves.is_absent(receiver, cargo):
            trouble = f"{receiver.name} still holds instances that were deleted"
        seconds = moves.move(
            mode,
            sender,
            receiver,
            cargo.resources,
            compression=compression,
            interval=POLL_SECONDS,
            watch=lambda job: progress.update(task, completed=job["Progress"], note=job["State"]),
        )
        trouble = trouble or moves.verify((sender, receiver), cargo)
    except Exception as error:  # the other transfers still have something to show
        trouble = f"{type(error).__name__}: {error}"
    progress.update(task, note="verified" if trouble is None else "FAILED")
    progress.stop_task(task)
    count = len(cargo.instances)
    return Outcome(mode, direction, compression, count, cargo.size, seconds, trouble)


def _table(outcomes: list[Outcome]) -> Table:
    table = Table(title="Transfers", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("mode", "direction", "compression"):
        table.add_column(name)
    for name in ("instances", "MB", "seconds", "MB/s"):
        table.add_column(name, justify="right")
    table.add_column("verified")
    for each in outcomes:
        size = each.size / MEGABYTE
        table.add_row(
            each.mode,
            each.direction,
            each.compression,
            str(each.instances),
            f"{size:.1f}",
            f"{each.seconds:.2f}" if each.seconds else "-",
            f"{size / each.seconds:.0f}" if each.seconds else "-",
            "[red]no[/]" if each.trouble else "[green]all MD5[/]",
        )
    return table


def _tell(console: Console, bad: list[Outcome], daemons: tuple[Daemon, Daemon]) -> None:
    for each in bad:
        console.print(f"[red]{each.mode}, {each.direction}, {each.compression}:[/]")
        console.print(each.trouble, markup=False)
    for daemon in daemons:
        console.rule(f"end of the log of {daemon.name}")
        console.print(daemon.log_tail(), markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
