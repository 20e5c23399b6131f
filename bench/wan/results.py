"""What was measured, as it is kept in results.json, and what is reckoned from it."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from statistics import mean, median, median_low
from typing import Any

import attrs

from bench.wan.link import Link

ANY = "any"
"""The files of a result that no files were needed for."""
MOST_SAMPLES = 300
OWN = "txtransfers"
CUBIC = "-cubic"
"""How the names of those of us end that may not use bbr."""
LIMIT = "iperf3"
YARDSTICK = "iperf3-64"

Key = tuple[str, str, str]


@attrs.frozen
class Result:
    """One contender on one link with one kind of files."""

    link: Link
    files: str
    contender: str
    instances: int = 0
    size: int = 0
    """Bytes of image files."""
    goodputs: tuple[float, ...] = ()
    """Mbit/s of each repeat."""
    trouble: str = ""
    """Why there is no goodput."""
    limit: float = 0.0
    """Where it was ended: the seconds it had taken until then."""
    late: float = 0.0
    """The largest share of packets that the emulator was late with in a run."""
    samples: tuple[float, ...] = ()
    """Mbit/s of IP packets at the receiver over the time of a run of median goodput."""
    interval: float = 0.0
    """Seconds between the samples."""
    command: str = ""

    @property
    def key(self) -> Key:
        """What a newer result replaces it by."""
        return self.link.name, self.files, self.contender

    @property
    def goodput(self) -> float | None:
        """The median, in Mbit/s."""
        return median(self.goodputs) if self.goodputs and not self.trouble else None

    @property
    def seconds(self) -> float:
        """How long the run with the samples took, or where it was ended."""
        return self.limit or self.size * 8e-6 / median_low(self.goodputs)

    @property
    def at_most(self) -> float | None:
        """The goodput, or what that of an ended run was below of, in Mbit/s."""
        return self.goodput or (self.size * 8e-6 / self.limit if self.limit else None)


@attrs.frozen
class Results:
    """All of results.json."""

    machine: dict[str, str] = attrs.field(factory=dict)
    results: tuple[Result, ...] = ()

    def merged(self, newer: "Results") -> "Results":
        """Return these with newer ones added; of the same key, the newer one."""
        kept = {each.key: each for each in self.results}
        kept.update((each.key, each) for each in newer.results)
        return Results(self.machine | newer.machine, tuple(kept.values()))

    def of(self, link: Link) -> list[Result]:
        """Return those of one link."""
        return [each for each in self.results if each.link == link]

    @property
    def links(self) -> list[Link]:
        """Each link once, as they came."""
        return list(dict.fromkeys(each.link for each in self.results))

    @property
    def commands(self) -> list[str]:
        """The command lines that the results come from."""
        return list(dict.fromkeys(each.command for each in self.results if each.command))


@attrs.frozen
class Ratio:
    """How our best compares with something, for one kind of files."""

    value: float
    at_least: bool = False
    """The other one was ended before it was done."""
    other: str = ""


def load(path: Path) -> Results:
    """Read what a file holds; nothing where there is none."""
    if not path.exists():
        return Results()
    told = json.loads(path.read_text(encoding="utf-8"))
    return Results(told["machine"], tuple(_result(each) for each in told["results"]))


def _result(told: dict[str, Any]) -> Result:
    lists = {name: tuple(told[name]) for name in ("goodputs", "samples")}
    return Result(**told | lists | {"link": Link(**told["link"])})


def save(path: Path, results: Results) -> None:
    """Write all of them, one a line: so that versions can be compared."""
    lines = ",\n  ".join(json.dumps(attrs.asdict(each)) for each in results.results)
    machine = json.dumps(results.machine, indent=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(f'{{"machine": {machine},\n "results": [\n  {lines}\n]}}\n', encoding="utf-8")
    fresh.replace(path)


def thinned(samples: Sequence[float], interval: float) -> tuple[tuple[float, ...], float]:
    """Return at most MOST_SAMPLES samples and their interval: neighbours become their mean."""
    step = -(-len(samples) // MOST_SAMPLES) or 1
    parts = (samples[start : start + step] for start in range(0, len(samples), step))
    return tuple(round(mean(part), 1) for part in parts), interval * step


def ratios(
    results: Iterable[Result], link: Link, files: str, *, cubic: bool
) -> Iterator[tuple[str, Ratio | None]]:
    """Yield (what it is compared with, ratio) of the best of our transfers without compression."""
    results = list(results)
    ours = _best(results, files, lambda name: name.startswith(OWN) and _is_plain(name, cubic))
    others = [
        (f"{YARDSTICK}", _best(results, ANY, lambda name: name == YARDSTICK)),
        ("the best other", _best(results, files, _is_other)),
    ]
    mine = ours.goodput if ours else None
    yield "the rate", Ratio(mine / link.rate) if mine else None
    for title, other in others:
        pace = other.at_most if other else None
        if mine and other and pace:
            yield title, Ratio(mine / pace, other.goodput is None, other.contender)
        else:
            yield title, None


def _is_plain(name: str, cubic: bool) -> bool:
    return "-none" in name and name.endswith(CUBIC) is cubic


def _is_other(name: str) -> bool:
    return not name.startswith((OWN, LIMIT))


def _best(results: list[Result], files: str, wanted: Callable[[str], bool]) -> Result | None:
    """Return the fastest; of those that all were ended, the one that could have been it."""
    those = [each for each in results if each.files == files and wanted(each.contender)]
    timed = [each for each in those if each.at_most]
    done = [each for each in timed if each.goodput]
    return max(done or timed, key=lambda each: each.at_most or 0, default=None)
