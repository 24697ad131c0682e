"""Inline SVG of ROC curves and of two groups of scores.

Lines differ by their dashes and carry a letter that the legend repeats, so that they are told apart without colour.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from rhe_parties.report.record import CurveRecord, HistogramRecord
from rhe_parties.report.svg import WIDTH, svg, tag

__all__ = ["Line", "drawable", "histogram_svg", "line_dash", "rate_at", "roc_svg", "swatch_svg"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 50.0, WIDTH - 14.0, 28.0, 268.0
_LOWEST = 1e-4
_GUIDE = 0.01
_DASHES = ("", "9 4", "3 3", "12 3 3 3", "1 4")
_BARS_BOTTOM = 150.0


@dataclass(frozen=True)
class Line:
    """One curve of a plot: its letter, and `leaked`, `not-leaked` or `null`, which decide its colour."""

    letter: str
    state: str
    curve: CurveRecord


def drawable(curve: CurveRecord) -> bool:
    """Whether the curve has points, all of them rates, in an order that can be drawn."""
    columns = (curve.fpr, curve.tpr, curve.low, curve.high)
    if len(curve.fpr) < 2 or len({len(column) for column in columns}) != 1:
        return False
    rates = all(math.isfinite(value) and 0 <= value <= 1 for column in columns for value in column)
    return rates and all(a < b for a, b in zip(curve.fpr, curve.fpr[1:], strict=False)) and curve.fpr[0] > 0


def rate_at(curve: CurveRecord, fpr: float) -> float | None:
    """The true-positive rate at the largest drawn false-positive rate that does not exceed `fpr`."""
    below = [rate for place, rate in zip(curve.fpr, curve.tpr, strict=True) if place <= fpr * 1.0001]
    return below[-1] if below else None


def _start(lines: list[Line]) -> float:
    """Where the axis begins: the power of ten below the first point of any curve."""
    first = max(min(line.curve.fpr[0] for line in lines), _LOWEST)
    return float(min(10.0 ** math.floor(math.log10(first) + 1e-9), 0.1))


def _x(fpr: float, start: float) -> float:
    share = 1 - math.log10(max(fpr, start)) / math.log10(start)
    return _LEFT + share * (_RIGHT - _LEFT)


def _y(rate: float) -> float:
    return _BOTTOM - rate * (_BOTTOM - _TOP)


def roc_svg(title: str, lines: list[Line], across: str, up: str) -> Markup:
    """ROC curves over a logarithmic false-positive rate, with their bands and the dashed curve of guessing.

    Args:
        lines: at least one, all `drawable`.
        across, up: what the axes count, in plain words.
    """
    start = _start(lines)
    content = _grid(start, across, up)
    grid = [start * (1 / start) ** (i / 60) for i in range(61)]
    content.append(tag("path", d=_path([(_x(p, start), _y(p)) for p in grid]), class_="guess"))
    content.append(tag("text", "guessing", x=_x(0.2, start) + 8, y=_y(0.2) + 14, class_="plot-note"))
    content += [_band(line, start) for line in lines]
    content += [_line(line, place, len(lines), start) for place, line in enumerate(lines)]
    return svg(_BOTTOM + 50, title, "figure roc", *content)


def _grid(start: float, across: str, up: str) -> list[Markup]:
    parts = []
    for percent in (0, 25, 50, 75, 100):
        y = _y(percent / 100)
        parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=y, y2=y, class_="track" if percent else "axis"))
        parts.append(tag("text", f"{percent} %", x=_LEFT - 6, y=y + 4, class_="tick left"))
    decade = start
    while decade <= 1.0001:
        x = _x(decade, start)
        parts.append(tag("line", x1=x, x2=x, y1=_BOTTOM, y2=_BOTTOM + 5, class_="axis"))
        end = " end" if decade > 0.99 else ""
        parts.append(tag("text", f"{decade * 100:g} %", x=x, y=_BOTTOM + 19, class_="tick" + end))
        decade *= 10
    if start < _GUIDE:
        x = _x(_GUIDE, start)
        parts.append(tag("line", x1=x, x2=x, y1=_TOP, y2=_BOTTOM, class_="track"))
    parts.append(tag("text", across, x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 40, class_="axis-name"))
    parts.append(tag("text", up, x=2, y=11, class_="axis-name start"))
    return parts


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _points(line: Line, rates: list[float], start: float) -> list[tuple[float, float]]:
    pairs = zip(line.curve.fpr, rates, strict=True)
    return [(_x(place, start), _y(rate)) for place, rate in pairs if place >= start * 0.999]


def _band(line: Line, start: float) -> Markup:
    outline = _points(line, line.curve.high, start) + _points(line, line.curve.low, start)[::-1]
    return tag("path", d=_path(outline) + "z", class_=f"band {line.state}")


def _line(line: Line, place: int, count: int, start: float) -> Markup:
    points = _points(line, line.curve.tpr, start)
    # Letters stand at different places along the curves, so that they do not cover each other.
    x, y = points[min(int((0.08 + 0.66 * (place + 0.5) / count) * len(points)), len(points) - 1)]
    return tag(
        "g",
        tag("path", d=_path(points), class_=f"curve {line.state}", stroke_dasharray=line_dash(place))
        + tag("circle", cx=x, cy=y, r=9, class_=f"letter-back {line.state}")
        + tag("text", line.letter, x=x, y=y + 4.5, class_="letter"),
    )


def line_dash(place: int) -> str:
    """The dashes of a plot's line by its number."""
    return _DASHES[place % len(_DASHES)] or "none"


def swatch_svg(letter: str, state: str, place: int) -> Markup:
    """A short piece of a plot's line for the legend, with its letter; `place` is its number in the plot."""
    return Markup('<svg class="swatch" viewBox="0 0 52 20" aria-hidden="true">{}</svg>').format(
        tag("path", d="M1 10H51", class_=f"curve {state}", stroke_dasharray=line_dash(place))
        + tag("circle", cx=26, cy=10, r=9, class_=f"letter-back {state}")
        + tag("text", letter, x=26, y=14.5, class_="letter")
    )


def histogram_svg(title: str, data: HistogramRecord, state: str) -> Markup | None:
    """Filled bars for the positives' scores, an outline for the negatives'; None for what is no histogram."""
    bins = len(data.positives)
    numbers = [*data.edges, *data.positives, *data.negatives]
    if bins < 1 or len(data.negatives) != bins or len(data.edges) != bins + 1 or not all(map(math.isfinite, numbers)):
        return None
    highest = max(*data.positives, *data.negatives)
    span = data.edges[-1] - data.edges[0]
    if not (highest > 0 and span > 0):
        return None

    def at(edge: float) -> float:
        return 12 + (edge - data.edges[0]) / span * (WIDTH - 24)

    def up(share: float) -> float:
        return _BARS_BOTTOM - max(share, 0.0) / highest * (_BARS_BOTTOM - 14)

    css = f"bar-positive {state}"
    bars = [
        tag("rect", x=at(a), y=up(share), width=at(b) - at(a), height=_BARS_BOTTOM - up(share), class_=css)
        for a, b, share in zip(data.edges, data.edges[1:], data.positives, strict=False)
    ]
    steps = [
        point
        for a, b, share in zip(data.edges, data.edges[1:], data.negatives, strict=False)
        for point in ((at(a), up(share)), (at(b), up(share)))
    ]
    outline = [(at(data.edges[0]), _BARS_BOTTOM), *steps, (at(data.edges[-1]), _BARS_BOTTOM)]
    return svg(
        _BARS_BOTTOM + 24,
        title,
        "figure bars",
        *bars,
        tag("path", d=_path(outline), class_="outline-negative"),
        tag("line", x1=12, x2=WIDTH - 12, y1=_BARS_BOTTOM, y2=_BARS_BOTTOM, class_="axis"),
        tag("text", "← rather not", x=12, y=_BARS_BOTTOM + 19, class_="axis-name start"),
        tag("text", "score", x=WIDTH / 2, y=_BARS_BOTTOM + 19, class_="axis-name"),
        tag("text", "rather so →", x=WIDTH - 12, y=_BARS_BOTTOM + 19, class_="axis-name end"),
    )
