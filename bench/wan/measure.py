"""Takes the measures: each run with a fresh link, a fresh receiver and fresh processes."""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median_low

import attrs

from bench.wan import plan
from bench.wan.contenders import NotOfferedError, everybody
from bench.wan.iperf import Iperf, limits
from bench.wan.link import Host, Link, lateness, up
from bench.wan.plan import Files, Load
from bench.wan.programs import ProgramError, TooLongError, find
from bench.wan.results import ANY, Result, thinned
from bench.wan.stage import Contender, Stage
from bench.wan.traffic import INTERVAL, sampled
from demo.daemon import DaemonError, Json

NOT_OFFERED = "-"
"""The trouble of what this version does not know."""
LATE = 0.01
"""The share of late packets from which a run should be taken again."""


_KEPT = 300 * 2**20
"""Bytes, up to which what was received stays until all contenders had their turn: ext4 gives no new
file an inode that was deleted lately, and to look for others costs who comes next seconds."""

_DELETED_SECONDS = 6.0
"""For so long a file was deleted lately, once the disk knows it."""


@attrs.frozen
class Plan:
    """What the command line asks for."""

    links: tuple[Link, ...]
    files: tuple[Files, ...]
    wanted: Callable[[str], bool]
    """Tells of a contender's name whether it is measured."""
    seconds: float
    """What the files take on the link at least, at the most."""
    limit_seconds: float
    """How long iperf3 runs."""
    repeats: int
    settings: dict[str, Json]
    command: str


@attrs.frozen
class _Run:
    goodput: float
    late: float
    samples: tuple[float, ...] = ()


class Bench:
    """Goes through a plan."""

    def __init__(self, asked: Plan, folder: Path) -> None:
        """:param folder: where all is written; it should be on a disk, as archives are."""
        self._plan = asked
        self._folder = folder
        self._wan = f"bench{os.getpid()}"

    def results(self) -> Iterator[Result]:
        """Yield each result when it is there."""
        for link in self._plan.links:
            for iperf in limits(lossy=bool(link.loss)):
                if self._plan.wanted(iperf.name):
                    yield self._limit(link, iperf)
            those = [c for c in everybody(lossy=bool(link.loss)) if self._plan.wanted(c.name)]
            for files in self._plan.files if those else ():
                with _folder(self._folder) as folder:
                    load = plan.load(files, link, self._plan.seconds, folder / "files")
                    for contender in those:
                        yield self._result(link, load, contender, folder)
                os.sync()
                time.sleep(_DELETED_SECONDS)

    def _limit(self, link: Link, iperf: Iperf) -> Result:
        result = Result(link, ANY, iperf.name, command=self._plan.command)

        def once(a: Host, b: Host) -> _Run:
            with _folder(self._folder) as folder:
                goodput = iperf.goodput(a, b, folder, self._plan.limit_seconds)
                return _Run(goodput, lateness(self._wan))

        return self._repeated(result, ("iperf3",), once)

    def _result(self, link: Link, load: Load, contender: Contender, folder: Path) -> Result:
        limit = plan.limit(link, load.size)
        result = Result(
            *(link, load.name, contender.name, len(load.paths), load.size),
            command=self._plan.command,
        )

        def once(a: Host, b: Host) -> _Run:
            with _folder(folder, stays=load.size <= _KEPT) as own:
                stage = Stage(a, b, load, folder, own, limit, self._plan.settings)
                return self._once(stage, contender)

        try:
            return self._repeated(result, contender.programs, once)
        except TooLongError as error:
            ended = attrs.evolve(result, trouble=f"> {limit:.0f} s", limit=limit)
            return _with_samples(ended, error.speeds)

    def _once(self, stage: Stage, contender: Contender) -> _Run:
        with ExitStack() as stack:
            ready = contender.ready(stage, stack)
            try:
                with sampled(stage.receiver) as sampler:
                    started = time.perf_counter()
                    told = ready.go()
                    seconds = time.perf_counter() - started if told is None else told
            except TooLongError as error:
                error.speeds = sampler.speeds()
                raise
            late, arrived = lateness(self._wan), ready.arrived()
        if arrived != len(stage.load.paths):
            raise ProgramError(f"{arrived} of {len(stage.load.paths)} arrived")
        return _Run(stage.load.size * 8e-6 / seconds, late, tuple(sampler.speeds()))

    def _repeated(
        self, result: Result, programs: Sequence[str], once: Callable[[Host, Host], _Run]
    ) -> Result:
        """Return the result with its runs, or with its trouble."""
        missing = [each for each in programs if find(each) is None]
        if missing:
            return attrs.evolve(result, trouble=f"not installed: {', '.join(missing)}")
        runs = []
        try:
            for seed in range(1, self._plan.repeats + 1):
                with up(self._wan, result.link, seed=seed) as hosts:
                    runs.append(once(*hosts))
        except NotOfferedError:
            return attrs.evolve(result, trouble=NOT_OFFERED)
        except (ProgramError, DaemonError, OSError) as error:
            return attrs.evolve(result, trouble=f"failed: {error}")
        return _with_runs(result, runs)


def _with_runs(result: Result, runs: list[_Run]) -> Result:
    goodputs = [each.goodput for each in runs]
    typical = next(each for each in runs if each.goodput == median_low(goodputs))
    late = round(max(each.late for each in runs), 5)
    rounded = tuple(round(each, 3) for each in goodputs)
    return _with_samples(attrs.evolve(result, goodputs=rounded, late=late), typical.samples)


def _with_samples(result: Result, speeds: Sequence[float]) -> Result:
    if result.files != plan.PLOTTED:
        return result
    samples, interval = thinned(speeds, INTERVAL)
    return attrs.evolve(result, samples=samples, interval=interval)


@contextlib.contextmanager
def _folder(parent: Path, *, stays: bool = False) -> Iterator[Path]:
    """Have an empty folder that is gone afterwards, unless it stays until its parent is."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    try:
        yield folder
    finally:
        if not stays:
            shutil.rmtree(folder, ignore_errors=True)
