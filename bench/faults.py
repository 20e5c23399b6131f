"""The loop of ``tests/functional/test_faults.py``, for as long as it pleases.

``python -m bench.faults --rounds 2000 --seed 7`` prints how the rounds of each fault ended, and
each violation with what is needed to play its round again. Two cores play about one a second.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.functional.fault_rounds import FULL, Loop, Result, small_disk


def main(argv: Sequence[str] | None = None) -> int:
    """Play what the command line asks for; return 0 if nothing was that must not be."""
    parser = argparse.ArgumentParser(prog="python -m bench.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the number of the first round")
    parser.add_argument("--only", metavar="FAULT", help="this kind of fault alone")
    parser.add_argument("--violations", type=int, default=5, help="stop after so many")
    parser.add_argument(
        "--full", action="store_true", help="a disk that fills, in each round; needs root"
    )
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140)
    loop = Loop(arguments.seed, arguments.violations)
    if arguments.only:
        loop.kinds = (arguments.only,)
    numbers = range(arguments.first, arguments.first + arguments.rounds)
    started = time.monotonic()

    def told(result: Result) -> None:
        if result.violation:
            where = f"seed {arguments.seed}, round {result.round.number}"
            console.print(f"{where}: {result.violation}", markup=False, highlight=False)
        elif len(loop.results) % 100 == 0:
            seconds = time.monotonic() - started
            console.print(f"{len(loop.results)} rounds, {seconds:.0f} s", highlight=False)

    if arguments.full:
        loop.kinds = (FULL,)
        with (
            tempfile.TemporaryDirectory() as folder,
            small_disk(Path(folder) / "disk") as loop.store_b,
        ):
            loop.run(numbers, told)
    else:
        loop.run(numbers, told)
    console.print(_table(loop.results))
    console.print(f"injected: {dict(loop.injected)}", markup=False, highlight=False)
    return 1 if loop.violations else 0


def _table(results: Sequence[Result]) -> Table:
    table = Table(title=f"{len(results)} rounds")
    table.add_column("fault")
    for name in ("rounds", "touched", "s, longest"):
        table.add_column(name, justify="right")
    table.add_column("ended")
    for name in ("left at B", "violations"):
        table.add_column(name, justify="right")
    for kind in sorted({result.round.kind for result in results}):
        rows = [result for result in results if result.round.kind == kind]
        ends = Counter(result.ended or "not at all" for result in rows)
        table.add_row(
            kind,
            str(len(rows)),
            str(sum(result.touched for result in rows)),
            f"{max(result.seconds for result in rows):.1f}",
            "; ".join(f"{count} {end}" for end, count in ends.most_common()),
            str(sum(result.left for result in rows) or ""),
            str(sum(bool(result.violation) for result in rows) or ""),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())
