"""Measures transfers over long links, beside other programs: root, and README.md beside this file.

Each contender moves the same files from host to host over a link that is emulated. What is not
installed is told. With ``--write`` the results are added to those that the folder holds: a long
measurement can be made in pieces, and a newer result takes an older one's place.
"""

import argparse
import json
import re
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.wan import plan, stopping
from bench.wan.contenders import everybody
from bench.wan.iperf import limits
from bench.wan.machine import describe
from bench.wan.measure import LATE, Bench, Plan
from bench.wan.page import cell, render, table
from bench.wan.results import Result, Results, load, save
from demo.daemon import ROOT

FOLDER = ROOT / ".demo"
PERFORMANCE = Path("docs/performance")
QUICK_SECONDS = 1.0
SECONDS = 30.0
LIMIT_SECONDS = 10.0


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the command line asks for; return 0 unless something failed."""
    argv = sys.argv[1:] if argv is None else argv
    parser = _parser()
    arguments = parser.parse_args(argv)
    console = Console(width=None if sys.stdout.isatty() else 140)
    if arguments.render:
        folder = arguments.write or PERFORMANCE
        render(folder, load(folder / "results.json"))
        return 0
    asked = _plan(parser, arguments, shlex.join(["python", "-m", "bench.wan", *argv]))
    stopping.listen()
    FOLDER.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="wan-", dir=FOLDER))
    try:
        results = _measure(console, Bench(asked, folder), arguments.write)
    except KeyboardInterrupt:
        console.print("stopped")
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if any(each.trouble.startswith("failed") for each in results.results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.wan", description=__doc__)
    add = parser.add_argument
    add("--only-links", metavar="TEXT", default="", help="links whose name this matches: '100 ms$'")
    add("--only-files", metavar="NAME", action="append", choices=[f.name for f in plan.FILES])
    add("--only", metavar="NAME", action="append", help="contenders whose name begins so")
    add("--seconds", type=float, help=f"that the files take at least, at the most ({SECONDS:g})")
    add("--repeats", type=int, default=1)
    add("--quick", action="store_true", help=f"--seconds {QUICK_SECONDS:g}, iperf3 as short")
    add("--settings", metavar="JSON", type=json.loads, default={}, help="more of Transfers")
    add("--write", metavar="FOLDER", type=Path, help=f"add to results.json and page: {PERFORMANCE}")
    add("--render", action="store_true", help="only write the page anew, from results.json")
    return parser


def _plan(parser: argparse.ArgumentParser, arguments: argparse.Namespace, command: str) -> Plan:
    names = [each.name for each in everybody(lossy=True)]
    names += [each.name for each in limits(lossy=True)]
    starts = tuple(arguments.only or [""])
    links = tuple(each for each in plan.LINKS if re.search(arguments.only_links, each.name))
    if not any(name.startswith(starts) for name in names):
        parser.error(f"--only: there are {', '.join(names)}")
    if not links:
        parser.error(f"--only-links: there are {'; '.join(each.name for each in plan.LINKS)}")
    wanted = arguments.only_files or [each.name for each in plan.FILES]
    return Plan(
        links,
        tuple(each for each in plan.FILES if each.name in wanted),
        lambda name: name.startswith(starts),
        arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS),
        QUICK_SECONDS if arguments.quick else LIMIT_SECONDS,
        arguments.repeats,
        arguments.settings,
        command,
    )


def _measure(console: Console, bench: Bench, folder: Path | None) -> Results:
    """Tell each result when it is there, and keep it at once."""
    machine = describe() if folder else {}
    measured = Results(machine)
    try:
        for result in bench.results():
            measured = measured.merged(Results({}, (result,)))
            _tell(console, result)
            if folder:
                path = folder / "results.json"
                save(path, load(path).merged(Results(machine, (result,))))
    finally:
        for link in measured.links:
            console.print(table(link, measured.of(link)))
        if folder:
            render(folder, load(folder / "results.json"))
    return measured


def _tell(console: Console, result: Result) -> None:
    what = f"{result.link.name}; {result.files}; {result.contender}: "
    told = result.trouble or cell(result.link, result).replace(" (", " Mbit/s (", 1)
    console.print(what + told, markup=False, highlight=False)
    if result.late > LATE:
        share = 100 * result.late
        text = f"warning: {share:.1f} % of the packets left the emulator late: measure this again"
        console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
