"""All tests, some processes side by side: ``python -m tests [-j N] [NAME ...]``.

Most of the functional tests wait for other programs, so that one process leaves processors idle.
Each piece (a package of unit tests, a module of functional ones) is run by trial itself, with a
folder of its own; what a piece printed is shown when it is over, and the counts are added up into
a last line as trial writes it.
"""

import argparse
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

TESTS = Path(__file__).parent
SEVERAL = 2
"""Processes, where it is not said."""

_SUMMARY = re.compile(r"^(?:PASSED|FAILED)(?: \((.*)\))?$", re.MULTILINE)


def pieces() -> list[str]:
    """The names of all pieces, those that take longest first."""
    functional = sorted(
        (path for path in TESTS.glob("functional/test_*.py")),
        key=lambda path: path.stat().st_size,
        reverse=True,
    )
    packages = sorted(
        path.parent for path in TESTS.glob("*/__init__.py") if path.parent.name != "functional"
    )
    return [
        *(f"tests.functional.{path.stem}" for path in functional),
        *(f"tests.{path.name}" for path in packages if list(path.glob("test_*.py"))),
        *sorted(f"tests.{path.stem}" for path in TESTS.glob("test_*.py")),
    ]


class Run:
    """Goes through the pieces, with so many processes."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        """:param folder: where each piece gets a folder that trial may empty."""
        self._left: Iterator[str] = iter(names)
        self._folder = folder
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        """Pieces that failed, or came to no end."""

    def go(self, processes: int) -> bool:
        """Run all; tells whether all is well."""
        workers = [threading.Thread(target=self._work) for _ in range(processes)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        return not self.broken

    def _work(self) -> None:
        while True:
            with self._lock:
                name = next(self._left, None)
            if name is None:
                return
            self._run(name)

    def _run(self, name: str) -> None:
        began = time.monotonic()
        ended = subprocess.run(
            [
                sys.executable,
                "-m",
                "twisted.trial",
                f"--temp-directory={self._folder / name}",
                name,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
            check=False,
        )
        summaries = _SUMMARY.findall(ended.stdout)
        with self._lock:
            print(f"=== {name}, {time.monotonic() - began:.0f} s\n{ended.stdout}", flush=True)
            if ended.returncode or not summaries:
                self.broken.append(name)
            for count in re.findall(r"(\w+)=(\d+)", summaries[-1] if summaries else "errors=1"):
                self.counts[count[0]] += int(count[1])

    @property
    def summary(self) -> str:
        """As trial's last line."""
        counts = ", ".join(f"{name}={count}" for name, count in sorted(self.counts.items()))
        return f"{'FAILED' if self.broken else 'PASSED'} ({counts})"


def main() -> int:
    """Run what the command line asks for; the status is 0 if all is well."""
    parser = argparse.ArgumentParser(prog="python -m tests", description=__doc__)
    parser.add_argument(
        "-j", type=int, default=SEVERAL, metavar="N", help="processes (%(default)s)"
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="as trial takes them (all)")
    asked = parser.parse_args()
    folder = TESTS.parent / ".cache" / "trial"
    folder.mkdir(parents=True, exist_ok=True)
    run = Run(asked.names or pieces(), folder)
    began = time.monotonic()
    is_well = run.go(max(1, asked.j))
    if run.broken:
        print("Look at:", ", ".join(run.broken))
    print(f"{time.monotonic() - began:.0f} s with {asked.j} processes, {os.cpu_count()} processors")
    print(run.summary)
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
