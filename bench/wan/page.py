"""The tables of the results: for a terminal, and as the page README.md with its pictures."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from bench.wan import plan
from bench.wan.contenders import everybody
from bench.wan.iperf import limits
from bench.wan.link import Link
from bench.wan.measure import LATE
from bench.wan.plot import svg
from bench.wan.results import ANY, CUBIC, Ratio, Result, Results, ratios

HEAD = Path(__file__).with_name("page.md")
LATE_TEXT = "! The emulator got too little CPU in this run: more than 1 % of the packets left late."


def render(folder: Path, results: Results) -> None:
    """Write the page and its pictures to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    pictures = {}
    for link in _in_order(results):
        drawn = svg(link, f"CT over {link.name}", _rows(results.of(link), plan.PLOTTED))
        if drawn:
            pictures[link] = f"{_slug(link.name)}.svg"
            (folder / pictures[link]).write_text(drawn, encoding="utf-8")
    (folder / "README.md").write_text(page(results, pictures), encoding="utf-8")


def page(results: Results, pictures: dict[Link, str]) -> str:
    """Return the page."""
    lines = [HEAD.read_text(encoding="utf-8"), *_origin(results)]
    for link in _in_order(results):
        lines += ["", f"## {link.name}", "", *_section(results.of(link), link)]
        if link in pictures:
            lines += ["", f"![Goodput over time]({pictures[link]})"]
    return "\n".join(lines) + "\n"


def table(link: Link, results: Sequence[Result]) -> Table:
    """Return one link's table for a terminal."""
    shown = Table(title=f"{link.name}: Mbit/s (% of the rate)", caption=_limits(results) or None)
    shown.add_column("contender")
    columns = _columns(results)
    for name in columns:
        shown.add_column(_head(results, name), justify="right")
    for name, cells in _cells(link, results, columns):
        shown.add_row(name, *cells)
    for name, cells in _ratios(link, results, columns):
        shown.add_row(name, *cells, style="bold")
    return shown


def cell(link: Link, result: Result | None) -> str:
    """Return what a table says of a result."""
    if result is None:
        return ""
    if result.goodput is None:
        return result.trouble.partition(":")[0]
    mark = " !" if result.late > LATE else ""
    share = 100 * result.goodput / link.rate
    return f"{_number(result.goodput)} ({share:.{0 if share >= 10 else 1}f} %){mark}"


def _origin(results: Results) -> Iterator[str]:
    if results.commands:
        yield "Measured by\n\n```sh"
        yield from results.commands
        yield "```\n"
    if results.machine:
        yield "On this machine, which has both hosts and the emulator to run:\n"
        yield "| | |\n| --- | --- |"
        yield from (f"| {name} | {value} |" for name, value in results.machine.items())


def _section(results: Sequence[Result], link: Link) -> Iterator[str]:
    columns = _columns(results)
    limit = _limits(results)
    if limit:
        yield f"The limit: {limit}.\n"
    if not columns:
        return
    yield f"| contender | {' | '.join(_head(results, name) for name in columns)} |"
    yield f"| --- |{' ---: |' * len(columns)}"
    for name, cells in _cells(link, results, columns):
        yield f"| {name} | {' | '.join(cells)} |"
    if any(each.late > LATE for each in results):
        yield f"\n{LATE_TEXT}"
    for each in results:
        if ": " in each.trouble:
            told = " ".join(each.trouble.split())
            yield f"\n{each.contender}, {each.files}: {told}"
    lines = list(_ratios(link, results, columns))
    if lines:
        yield f"\n| best of ours, uncompressed, to | {' | '.join(columns)} |"
        yield f"| --- |{' ---: |' * len(columns)}"
        yield from (f"| {name} | {' | '.join(cells)} |" for name, cells in lines)


def _in_order(results: Results) -> list[Link]:
    return sorted(results.links, key=lambda each: _place(each, plan.LINKS))


def _place(link: Link, links: Sequence[Link]) -> int:
    return links.index(link) if link in links else len(links)


def _rows(results: Sequence[Result], files: str) -> list[Result]:
    """Return the results with these files in the order of the contenders."""
    names = [each.name for each in everybody(lossy=True)]
    those = [each for each in results if each.files == files and each.contender in names]
    return sorted(those, key=lambda each: names.index(each.contender))


def _columns(results: Sequence[Result]) -> list[str]:
    there = {each.files for each in results}
    return [each.name for each in plan.FILES if each.name in there]


def _head(results: Sequence[Result], files: str) -> str:
    """Return a column's heading: the files, and how many of them this link got."""
    amounts = {(each.instances, each.size) for each in results if each.files == files}
    told = (f"{count:,} files, {size * 1e-6:.0f} MB" for count, size in sorted(amounts))
    return f"{files}: {' or '.join(told)}"


def _cells(
    link: Link, results: Sequence[Result], columns: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    found = {(each.contender, each.files): each for each in results}
    for contender in everybody(lossy=True):
        cells = [cell(link, found.get((contender.name, name))) for name in columns]
        if any(cells):
            yield contender.name, cells


def _ratios(
    link: Link, results: Sequence[Result], columns: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    for cubic in (False, True):
        of_files = [list(ratios(results, link, name, cubic=cubic)) for name in columns]
        for number, (title, _ratio) in enumerate(of_files[0] if of_files else ()):
            cells = [_ratio_text(each[number][1]) for each in of_files]
            if any(cells):
                yield f"{title}{f' ({CUBIC[1:]})' if cubic else ''}", cells


def _ratio_text(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    other = f" ({ratio.other})" if ratio.other and not ratio.other.startswith("iperf3") else ""
    return f"{'> ' if ratio.at_least else ''}{ratio.value:.2f}{other}"


def _limits(results: Sequence[Result]) -> str:
    """Return what iperf3 found, in one line."""
    found = {each.contender: each for each in results if each.files == ANY}
    told = (
        f"{each.title} {cell(found[each.name].link, found[each.name])}"
        for each in limits(lossy=True)
        if each.name in found
    )
    return ", ".join(told)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")
