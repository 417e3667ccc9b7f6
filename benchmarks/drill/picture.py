"""The time line of a drill as an SVG: queries per second by server, which director sent them, what was lost. Pure.

Its colours hold on a light and on a dark page; text follows the reader's scheme.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import median
from typing import NamedTuple
from xml.sax.saxutils import escape

from benchmarks.drill.watching import Sample

WIDTH, LEFT, RIGHT = 960, 76, 16
TOP, FLOW, GAP = 58, 180, 10            # where the flow begins, its height, between the parts
LANE, LOST, LINE = 12, 34, 18           # heights: a director's lane, the lost queries, a line of the legend
SERVER_COLOURS, DIRECTOR_COLOURS = ("#4f8ef7", "#22b8a2"), ("#a371f7", "#e3954b")
STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600)
BIN = 0.25                              # seconds of lost queries in one bar

STYLE = """
text { font: 12px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #333b45 }
.quiet { fill: #6e7781 } .end { text-anchor: end } .middle { text-anchor: middle }
.rule { stroke: #6e7781; stroke-opacity: .35 } .band { fill: #6e7781; fill-opacity: .14 }
.mark { stroke: #e5534b; stroke-opacity: .8; stroke-dasharray: 3 3 } .lost { fill: #e5534b }
.badge { fill: #e5534b } .number { fill: #fff; font-size: 10px; font-weight: 600; text-anchor: middle }
@media (prefers-color-scheme: dark) { text { fill: #d5dce4 } .quiet { fill: #9aa4af } .number { fill: #fff } }
"""


class Span(NamedTuple):
    """A fault from when it broke until it was mended (None: there was nothing to mend), and what is written of it."""

    began: float
    mended: float | None
    text: str


def draw(samples: Sequence[Sample], servers: Sequence[str], directors: Sequence[str], lost: Sequence[float],
         spans: Sequence[Span]) -> str:
    """The whole picture. Times are seconds since 1970; `lost` is when the lost queries were sent."""
    begin, end = samples[0].time, samples[-1].time
    scale = (WIDTH - LEFT - RIGHT) / max(BIN, end - begin)
    # Peaks, as when a client sends at once what it had to keep, are cut off: they are not what is to be seen here.
    highest = _round_up(1.2 * median(sum(sample.qps.values()) for sample in samples))
    bottom = TOP + FLOW
    lanes = bottom + GAP
    axis = lanes + len(directors) * (LANE + 4) + LOST + GAP
    legend = axis + 46

    def x(time: float) -> float:
        return LEFT + (min(max(time, begin), end) - begin) * scale

    def parts() -> Iterator[str]:
        yield from _keys(servers, directors)
        for span in spans:
            yield _mark(x, span, axis)
        yield from _flow(samples, servers, x, highest, bottom)
        for number, director in enumerate(directors):
            yield from _lane(samples, director, DIRECTOR_COLOURS[number], x, lanes + number * (LANE + 4))
        yield from _losses(lost, x, axis)
        step = next((step for step in STEPS if (end - begin) / step <= 12), STEPS[-1])
        for second in range(0, int(end - begin) + 1, step):
            yield _text(x(begin + second), axis + 16, f"{second} s", "quiet middle")
        for number, span in enumerate(spans, 1):
            yield _badge(x(span.began), TOP - 14, number)
            yield _badge(LEFT + 8, legend + LINE * (number - 1) - 4, number)
            yield _text(LEFT + 24, legend + LINE * (number - 1), span.text)

    height = legend + LINE * len(spans)
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="Queries per second by server while parts of the cluster break">',
        f"<style>{STYLE}</style>", *parts(), "</svg>"]) + "\n"


def _keys(servers: Sequence[str], directors: Sequence[str]) -> Iterator[str]:
    """What the colours mean."""
    place = float(LEFT)
    words = [(f"to {name}", colour) for name, colour in zip(servers, SERVER_COLOURS, strict=True)]
    words += [(f"forwarded by {name}", colour) for name, colour in zip(directors, DIRECTOR_COLOURS, strict=True)]
    for what, colour in [*words, ("lost", "#e5534b")]:
        yield f'<rect x="{place:g}" y="8" width="11" height="11" rx="2" fill="{colour}"/>'
        yield _text(place + 17, 18, what)
        place += 42 + 6.4 * len(what)


def _mark(x: Callable[[float], float], span: Span, axis: float) -> str:
    left = x(span.began)
    band = "" if span.mended is None else (f'<rect class="band" x="{left:.1f}" y="{TOP}" height="{axis - TOP}" '
                                           f'width="{x(span.mended) - left:.1f}"/>')
    return f'{band}<line class="mark" x1="{left:.1f}" x2="{left:.1f}" y1="{TOP - 6}" y2="{axis}"/>'


def _flow(samples: Sequence[Sample], servers: Sequence[str], x: Callable[[float], float], highest: float,
          bottom: float) -> Iterator[str]:
    """Stacked, the first server at the bottom; a scale beside it."""
    below = [0.0] * len(samples)
    for server, colour in zip(servers, SERVER_COLOURS, strict=True):
        above = [base + sum(qps for (_, to), qps in sample.qps.items() if to == server)
                 for base, sample in zip(below, samples, strict=True)]
        edges = [[f"{x(sample.time):.1f},{bottom - FLOW * min(1, level / highest):.1f}"
                  for sample, level in zip(samples, levels, strict=True)] for levels in (above, below)]
        yield f'<polygon points="{" ".join([*edges[0], *reversed(edges[1])])}" fill="{colour}" fill-opacity=".8"/>'
        below = above
    yield _text(LEFT - 8, TOP - 10, "queries/s", "quiet end")
    for share in (0.0, 0.5, 1.0):
        y = bottom - FLOW * share
        yield f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:g}" y2="{y:g}"/>'
        yield _text(LEFT - 8, y + 4, f"{highest * share:,.0f}", "quiet end")


def _lane(samples: Sequence[Sample], director: str, colour: str, x: Callable[[float], float],
          y: float) -> Iterator[str]:
    """When this director sent queries to any server."""
    yield _text(LEFT - 8, y + LANE - 2, director, "end")
    spans: list[tuple[float, float]] = []
    for before, sample in pairwise(samples):
        if sum(qps for (of, _), qps in sample.qps.items() if of == director) > 0:
            since = spans.pop()[0] if spans and spans[-1][1] == before.time else before.time
            spans.append((since, sample.time))
    for since, until in spans:
        yield (f'<rect x="{x(since):.1f}" y="{y:g}" width="{x(until) - x(since):.1f}" height="{LANE}" rx="2" '
               f'fill="{colour}"/>')


def _losses(lost: Sequence[float], x: Callable[[float], float], axis: float) -> Iterator[str]:
    """Bars as high as the worst quarter of a second."""
    yield _text(LEFT - 8, axis - 4, "lost", "end")
    yield f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{axis:g}" y2="{axis:g}"/>'
    bins: dict[int, int] = {}
    for time in lost:
        bins[int(time / BIN)] = bins.get(int(time / BIN), 0) + 1
    for number, count in sorted(bins.items()):
        left, high = x(number * BIN), max(2.0, (LOST - 6) * count / max(bins.values()))
        width = max(1.5, x((number + 1) * BIN) - left)
        yield (f'<rect class="lost" x="{left:.1f}" y="{axis - high:.1f}" width="{width:.1f}" height="{high:.1f}">'
               f"<title>{count}</title></rect>")


def _badge(x: float, y: float, number: int) -> str:
    return f'<circle class="badge" cx="{x:.1f}" cy="{y:g}" r="8"/>{_text(x, y + 3.5, str(number), "number")}'


def _text(x: float, y: float, text: str, kind: str = "") -> str:
    kind = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:g}"{kind}>{escape(text)}</text>'


def _round_up(value: float) -> float:
    """To 1, 2 or 5 times a power of ten; at least 10."""
    size = 10.0
    while True:
        for step in (1, 2, 2.5, 5):
            if step * size >= value:
                return step * size
        size *= 10
