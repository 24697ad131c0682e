"""What a sweep shows: each adversary's number, and the accuracy, against every number that the grid varies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rhe_parties.report.evidence import CurveFigure
from rhe_parties.report.matrix import Cell, Matrix
from rhe_parties.report.meanings import statistic
from rhe_parties.report.plots import line_dash, swatch_svg
from rhe_parties.report.record import ResultRecord
from rhe_parties.report.scales import Scale, span, ticks
from rhe_parties.report.svg import WIDTH, svg, tag
from rhe_parties.report.wording import find, printable

__all__ = ["Series", "trend_svg", "trends"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, WIDTH - 18.0, 30.0, 280.0
# More lines than this cannot be told apart; what the grid varies besides is then in the matrix alone.
_MOST = 8
# From this ratio of the largest to the smallest value on, an axis is logarithmic.
_WIDE = 16


@dataclass(frozen=True)
class Series:
    """A line: its words, and (grid value, state, result) of its points in ascending order."""

    words: str
    points: list[tuple[float, str, ResultRecord]]

    @property
    def state(self) -> str:
        """A line on which something leaked is drawn as a leak."""
        return "leaked" if any(state in ("leaked", "partly") for _, state, _ in self.points) else "not-leaked"


def trends(matrix: Matrix) -> list[CurveFigure]:
    """A figure per numeric key of the grid and thing measured; none where a key has a single value."""
    figures = []
    for key in _numeric_keys(matrix):
        accuracies = [[(cells[0], _accuracy(cells[0])) for cells in matrix.cells if cells]]
        columns = [[(cell, _headline(cell)) for cell in matrix.column_cells(column)] for column in matrix.columns]
        titles = ["accuracy of the classifier", *(f"{printable(c.adversary)}: {c.label}" for c in matrix.columns)]
        for title, measured in zip(titles, accuracies + columns, strict=True):
            figures += _figure(measured, key, title)
    return figures


def _numeric_keys(matrix: Matrix) -> list[str]:
    values: dict[str, set[object]] = {}
    for row in matrix.rows:
        for key, value in row.entry.values:
            values.setdefault(key, set()).add(value)
    return [key for key, found in values.items() if len(found) > 1 and all(map(_is_number, found))]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _accuracy(cell: Cell) -> ResultRecord | None:
    return find(cell.row.world.utility, "accuracy") if cell.row.world is not None else None


def _headline(cell: Cell) -> ResultRecord | None:
    return find(cell.shown.results, cell.column.statistic) if cell.shown is not None else None


def _figure(measured: Sequence[tuple[Cell, ResultRecord | None]], key: str, title: str) -> list[CurveFigure]:
    """One figure, or none where no line has two points or there are too many lines to tell apart."""
    lines: dict[str, list[tuple[float, str, ResultRecord]]] = {}
    for cell, result in measured:
        values, world = dict(cell.row.entry.values), cell.row.world
        if world is None or result is None or key not in values:
            continue
        if not (math.isfinite(result.low) and math.isfinite(result.high)):
            continue
        others = [f"{name}={value}" for name, value in values.items() if name != key]
        words = printable(", ".join([world.name, *others]))
        state = "" if result.statistic == "accuracy" else cell.state
        lines.setdefault(words, []).append((float(values[key]), state, result))
    series = [Series(words, sorted(points, key=lambda p: p[0])) for words, points in lines.items() if len(points) > 1]
    if not series or len(series) > _MOST:
        return []
    whole = f"{title} against {printable(key)}"
    legend = [(swatch_svg(chr(ord("A") + i), line.state, i), line.words) for i, line in enumerate(series)]
    drawing = trend_svg(whole, series, printable(key), title)
    return [CurveFigure(whole, "A line per world; whiskers are 95 % intervals.", drawing, legend)]


def trend_svg(title: str, series: list[Series], across: str, up: str) -> Markup:
    """Lines with whiskers; a filled point leaked, an open one did not.

    Args:
        series: at least one, each of at least two points with finite intervals.
    """
    values = [x for line in series for x, _, _ in line.points]
    wide = min(values) > 0 and max(values) / min(values) >= _WIDE
    results = [result for line in series for _, _, result in line.points]
    rate = statistic(results[0].statistic).unit == "percent"
    bounded = all(0 <= value <= 1 for r in results for value in (r.low, r.value, r.high))
    x_ends = span(values, wide)
    y_ends = (0.0, 1.0) if bounded else span([v for r in results for v in (r.low, r.high)], False)
    x, y = Scale(*x_ends, _LEFT, _RIGHT, wide), Scale(*y_ends, _BOTTOM, _TOP)
    content = []
    for value in ticks(*y_ends, False):
        content.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=y.at(value), y2=y.at(value), class_="track"))
        text = f"{100 * value:.3g} %" if rate else f"{value:.3g}"
        content.append(tag("text", text, x=_LEFT - 6, y=y.at(value) + 4, class_="tick left"))
    content.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM, class_="axis"))
    for value in sorted(set(values)):
        content.append(tag("line", x1=x.at(value), x2=x.at(value), y1=_BOTTOM, y2=_BOTTOM + 5, class_="axis"))
        content.append(tag("text", f"{value:g}", x=x.at(value), y=_BOTTOM + 19, class_="tick"))
    content.append(tag("text", across, x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 40, class_="axis-name"))
    content.append(tag("text", up, x=2, y=13, class_="axis-name start"))
    content += [_line(line, place, x, y) for place, line in enumerate(series)]
    return svg(_BOTTOM + 50, title, "figure trend", *content)


def _line(line: Series, place: int, x: Scale, y: Scale) -> Markup:
    path = "M" + "L".join(f"{x.at(value):.1f} {y.at(result.value):.1f}" for value, _, result in line.points)
    parts = [tag("path", d=path, class_=f"curve {line.state}", stroke_dasharray=line_dash(place))]
    for value, state, result in line.points:
        at = x.at(value)
        parts.append(tag("line", x1=at, x2=at, y1=y.at(result.low), y2=y.at(result.high), class_=f"whisker {state}"))
        parts.append(tag("circle", cx=at, cy=y.at(result.value), r=5, class_=f"dot {state}"))
    value, _, result = line.points[place % len(line.points)]
    # Beside each other where lines run on each other.
    left = min(max(x.at(value) - 14 + 20 * (place // len(line.points)), 12), WIDTH - 12)
    top = max(y.at(result.value) - 14, 26)
    parts.append(tag("circle", cx=left, cy=top, r=9, class_=f"letter-back {line.state}"))
    parts.append(tag("text", chr(ord("A") + place), x=left, y=top + 4.5, class_="letter"))
    return tag("g", Markup("").join(parts))
