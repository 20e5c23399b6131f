"""Goodput over time as SVG: one line for each contender, readable in light and dark."""

from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape

import attrs

from bench.wan.link import Link
from bench.wan.results import CUBIC, Result

WIDTH, HEIGHT = 900, 420
LEFT, RIGHT, TOP, BOTTOM = 60, 270, 34, 44
COLOURS = {
    "txtransfers-push": "#0a84c6",
    "txtransfers-pull": "#d9480f",
    f"txtransfers-push{CUBIC}": "#7a5af8",
    f"txtransfers-pull{CUBIC}": "#c2408e",
    "orthanc": "#2f9e44",
    "curl": "#b08900",
    "rsync": "#0c9aa8",
    "storescu": "#8a8f98",
}
"""By contender, ours by mode: of a middle lightness, so that each stands out on black and white."""
DASHES = {"none": "", "gzip": "6 3", "auto": "1.5 2.5"}
"""By compression."""
STRETCH = 3.0
"""The time axis ends where the fastest would have ended so many times: slow ones run out of it."""
_STYLE = """
  svg { --ink: #1f2328; --faint: #d0d7de; --paper: #ffffff; }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf3; --faint: #30363d; --paper: #0d1117; }
  }
  text { font: 12px system-ui, sans-serif; fill: var(--ink); }
  .title { font-weight: 600; }
  .paper { fill: var(--paper); }
  .grid { stroke: var(--faint); stroke-width: 1; }
  .rate { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 2 4; }
  .line { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
"""


@attrs.frozen
class Axes:
    """Where times and speeds are drawn."""

    seconds: float
    speed: float

    def x(self, seconds: float) -> float:
        """Return where a time is."""
        return LEFT + (WIDTH - LEFT - RIGHT) * seconds / self.seconds

    def y(self, speed: float) -> float:
        """Return where a speed is; what is above the axes is at their top."""
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(speed / self.speed, 1)


def svg(link: Link, title: str, results: Sequence[Result]) -> str:
    """Return a picture of those results that have samples."""
    drawn = sorted((each for each in results if each.samples), key=lambda each: each.seconds)
    if not drawn:
        return ""
    longest = max(each.seconds for each in drawn)
    axes = Axes(min(longest, STRETCH * drawn[0].seconds), link.rate * 1.1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style>",
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="20">{escape(title)}</text>',
        *_grid(axes, link),
        *(_line(axes, each) for each in drawn),
        *_legend(drawn),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def steps(most: float) -> list[float]:
    """Return round numbers from 0 to ``most``: nine of them at the most."""
    sizes = (digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5))
    size = next(each for each in sizes if most / each <= 8)
    return [size * number for number in range(int(most / size + 1e-9) + 1)]


def look(contender: str) -> tuple[str, str]:
    """Return the colour and the dashes of a contender's line."""
    if contender in COLOURS:
        return COLOURS[contender], ""
    name, mode, compression, *congestion = contender.split("-")
    suffix = CUBIC if congestion else ""
    return COLOURS[f"{name}-{mode}{suffix}"], DASHES.get(compression, "")


def _grid(axes: Axes, link: Link) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    for speed in steps(axes.speed):
        y = axes.y(speed)
        yield f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{speed:g}</text>'
    for seconds in steps(axes.seconds):
        x = axes.x(seconds)
        yield f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{bottom}"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{seconds:g}</text>'
    y = axes.y(link.rate)
    yield f'<line class="rate" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    middle = (LEFT + right) / 2
    yield f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">seconds</text>'
    yield f'<text x="{right}" y="20" text-anchor="end">Mbit/s at the receiver</text>'


def _line(axes: Axes, result: Result) -> str:
    points = [
        f"{axes.x((number + 0.5) * result.interval):.1f},{axes.y(speed):.1f}"
        for number, speed in enumerate(result.samples)
        if (number + 0.5) * result.interval <= axes.seconds
    ]
    return f'<polyline class="line" {_stroke(result)} points="{" ".join(points)}"/>'


def _legend(drawn: Sequence[Result]) -> Iterator[str]:
    left = WIDTH - RIGHT + 16
    for number, result in enumerate(drawn):
        y = TOP + 8 + number * 20
        yield f'<path class="line" {_stroke(result)} d="M{left} {y}h26"/>'
        text = f"{result.contender}, {result.trouble or f'{result.seconds:.1f} s'}"
        yield f'<text x="{left + 32}" y="{y + 4}">{escape(text)}</text>'


def _stroke(result: Result) -> str:
    colour, dashes = look(result.contender)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'stroke="{colour}"{dashed}'
