"""What a defence buys and what it costs: leakage against accuracy, work and ε, a numbered point per world."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

from rhe_parties.report.cells import row_name
from rhe_parties.report.goals import goal_title
from rhe_parties.report.matrix import Cell, Column, Matrix
from rhe_parties.report.meanings import statistic
from rhe_parties.report.record import ResultRecord
from rhe_parties.report.scales import Scale, span, ticks
from rhe_parties.report.svg import WIDTH, svg, tag
from rhe_parties.report.wording import find, printable, seconds_text, size_text, world_cost

__all__ = ["Frontier", "Point", "frontier_svg", "frontiers"]

_LEFT, _RIGHT, _TOP, _BOTTOM = 52.0, WIDTH - 18.0, 30.0, 280.0
_RADIUS = 10.0
_MOST = 24


@dataclass(frozen=True)
class Point:
    """A world: number of its row, x with its interval, and the leakage measured there (y)."""

    number: int
    state: str
    x: float
    x_low: float
    x_high: float
    y: ResultRecord


@dataclass(frozen=True)
class Axis:
    """What lies along x: its name, where it is read from a cell, how a tick is written, and which end is better."""

    key: str
    name: str
    read: Callable[[Cell], tuple[float, float, float] | None]
    tick: Callable[[float], str]
    better: str
    logarithmic: bool = False


@dataclass(frozen=True)
class Frontier:
    """One adversary's plots: (file name, title, drawing); `chosen`: the strongest of what it is after."""

    adversary: str
    title: str
    drawings: list[tuple[str, str, Markup]]
    chosen: bool


def _accuracy(cell: Cell) -> tuple[float, float, float] | None:
    world = cell.row.world
    if world is None:
        return None
    result = find(world.utility, "accuracy")
    if result is not None and math.isfinite(result.low) and math.isfinite(result.high):
        return result.value, result.low, result.high
    found = world.accuracy
    return (found, found, found) if found is not None and math.isfinite(found) else None


def _positive(value: float | None) -> tuple[float, float, float] | None:
    return (value, value, value) if value is not None and math.isfinite(value) and value > 0 else None


def _work(cell: Cell) -> tuple[float, float, float] | None:
    return _positive(world_cost(cell.row.world).answering) if cell.row.world is not None else None


def _bytes(cell: Cell) -> tuple[float, float, float] | None:
    if cell.row.world is None:
        return None
    cost = world_cost(cell.row.world)
    return _positive(None if cost.request is None or cost.reply is None else cost.request + cost.reply)


def _epsilon(cell: Cell) -> tuple[float, float, float] | None:
    return _positive(cell.row.world.epsilon) if cell.row.world is not None else None


_AXES = (
    Axis("accuracy", "accuracy of the classifier", _accuracy, lambda v: f"{100 * v:.3g} %", "right"),
    Axis("bytes", "bytes sent for one prediction", _bytes, size_text, "left", True),
    Axis("work", "host's and key holder's work on one image", _work, seconds_text, "left", True),
    Axis("epsilon", "ε that the defence guarantees", _epsilon, lambda v: f"{v:g}", "", True),
)


def frontiers(matrix: Matrix) -> list[Frontier]:
    """The plots of every adversary that leaked somewhere; one that never did has no leakage to trade.

    None where there are more rows than a plot takes numbers. Of several adversaries after the same thing, the one that
    leaked furthest in most worlds is `chosen`.
    """
    if len(matrix.rows) > _MOST:
        return []
    found: list[tuple[Column, list[tuple[str, str, Markup]]]] = []
    for column in matrix.columns:
        cells = matrix.column_cells(column)
        if any(cell.state in ("leaked", "partly") for cell in cells):
            drawings = [drawn for axis in _AXES if (drawn := _drawing(column, cells, axis)) is not None]
            if drawings:
                found.append((column, drawings))
    chosen: dict[str, Column] = {}
    for column, _ in found:
        best = chosen.get(column.goal)
        if best is None or _reach(matrix, column) > _reach(matrix, best):
            chosen[column.goal] = column
    return [
        Frontier(
            printable(column.adversary),
            f"{goal_title(column.goal)}: {printable(column.adversary)}",
            drawings,
            chosen[column.goal] is column,
        )
        for column, drawings in found
    ]


def _reach(matrix: Matrix, column: Column) -> tuple[int, float]:
    leaks = [cell for cell in matrix.column_cells(column) if cell.state in ("leaked", "partly")]
    return len(leaks), sum(cell.share or 0.0 for cell in leaks)


def _drawing(column: Column, cells: list[Cell], axis: Axis) -> tuple[str, str, Markup] | None:
    """None where fewer than two worlds have a number on both axes."""
    points = []
    for cell in cells:
        y = find(cell.shown.results, column.statistic) if cell.shown is not None else None
        x = axis.read(cell)
        if x is not None and y is not None and math.isfinite(y.low) and math.isfinite(y.high):
            points.append(Point(cell.row.number, cell.state, *x, y))
    if len(points) < 2 or (axis.logarithmic and len({point.x for point in points}) < 2):
        return None
    words = "; ".join(f"{cell.row.number} {row_name(cell)} {cell.value}" for cell in cells if cell.value)
    title = f"{printable(column.adversary)}: {column.label} against {axis.name}. {words}"
    key = f"frontier-{column.number}-{axis.key}"
    return key, f"against {axis.name}", frontier_svg(title, points, axis, column.label)


def frontier_svg(title: str, points: list[Point], axis: Axis, up: str) -> Markup:
    """A scatter plot with error bars both ways; a filled point leaked, an open one did not.

    Args:
        points: at least two, all finite, and positive along x where that axis is logarithmic.
        up: what the y axis counts.
    """
    x_ends = span([v for p in points for v in (p.x_low, p.x_high)], axis.logarithmic)
    x = Scale(*x_ends, _LEFT, _RIGHT, axis.logarithmic)
    rate = statistic(points[0].y.statistic).unit == "percent"
    bounded = rate or all(0 <= v <= 1 for p in points for v in (p.y.low, p.y.value, p.y.high))
    y_ends = (0.0, 1.0) if bounded else span([v for p in points for v in (p.y.low, p.y.high)], False)
    y = Scale(*y_ends, _BOTTOM, _TOP)
    content = _frame(x, y, x_ends, y_ends, axis, up, rate)
    chances = [p.y.chance for p in points if p.y.chance is not None and math.isfinite(p.y.chance)]
    if chances:
        level = y.at(sum(chances) / len(chances))
        content.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=level, y2=level, class_="guess"))
        crowded = sum(x.at(p.x) for p in points) / len(points) > (_LEFT + _RIGHT) / 2
        place, css = (_LEFT + 4, "plot-note") if crowded else (_RIGHT, "plot-note end")
        content.append(tag("text", "chance", x=place, y=level - 5, class_=css))
    content += [_bars(point, x, y) for point in points]
    taken: list[tuple[float, float, float]] = []
    content += [_mark(group, taken) for group in _groups([(p, x.at(p.x), y.at(p.y.value)) for p in points])]
    return svg(_BOTTOM + 50, title, "figure frontier", *content)


def _frame(
    x: Scale, y: Scale, x_ends: tuple[float, float], y_ends: tuple[float, float], axis: Axis, up: str, rate: bool
) -> list[Markup]:
    parts = []
    for value in ticks(*y_ends, False):
        level = y.at(value)
        parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=level, y2=level, class_="track"))
        text = f"{100 * value:.3g} %" if rate else f"{value:.3g}"
        parts.append(tag("text", text, x=_LEFT - 6, y=level + 4, class_="tick left"))
    parts.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=_BOTTOM, y2=_BOTTOM, class_="axis"))
    for value in ticks(*x_ends, axis.logarithmic):
        place = x.at(value)
        parts.append(tag("line", x1=place, x2=place, y1=_BOTTOM, y2=_BOTTOM + 5, class_="axis"))
        end = " end" if place > _RIGHT - 16 else ""
        parts.append(tag("text", axis.tick(value), x=place, y=_BOTTOM + 19, class_="tick" + end))
    better = {"right": " (better: right and down)", "left": " (better: left and down)"}.get(axis.better, "")
    parts.append(tag("text", axis.name + better, x=(_LEFT + _RIGHT) / 2, y=_BOTTOM + 40, class_="axis-name"))
    parts.append(tag("text", f"leakage: {up}", x=2, y=13, class_="axis-name start"))
    return parts


def _bars(point: Point, x: Scale, y: Scale) -> Markup:
    centre, level = x.at(point.x), y.at(point.y.value)
    css = f"whisker {point.state}"
    return tag(
        "g",
        tag("line", x1=x.at(point.x_low), x2=x.at(point.x_high), y1=level, y2=level, class_=css)
        + tag("line", x1=centre, x2=centre, y1=y.at(point.y.low), y2=y.at(point.y.high), class_=css),
    )


@dataclass
class _Group:
    """Points of one state that would cover each other: one mark with all their numbers."""

    state: str
    numbers: list[int]
    x: float
    y: float

    @property
    def text(self) -> str:
        return ", ".join(map(str, self.numbers))

    @property
    def half(self) -> float:
        """Half the width of the mark."""
        return max(_RADIUS, 3.6 * len(self.text) + 3)


def _groups(points: list[tuple[Point, float, float]]) -> list[_Group]:
    groups: list[_Group] = []
    for point, x, y in points:
        near = next((g for g in groups if g.state == point.state and math.dist((g.x, g.y), (x, y)) < _RADIUS), None)
        if near is not None:
            near.numbers.append(point.number)
        else:
            groups.append(_Group(point.state, [point.number], x, y))
    return groups


def _mark(group: _Group, taken: list[tuple[float, float, float]]) -> Markup:
    """The numbered mark; one that would cover another is moved along x, so that its leakage still reads right."""
    x = group.x
    for step in range(1, 30):
        if all(abs(x - at) >= group.half + half or abs(group.y - level) >= 2 * _RADIUS for at, level, half in taken):
            break
        shift = (step + 1) // 2 * _RADIUS * (1 if step % 2 else -1)
        x = min(max(group.x - shift, _LEFT), _RIGHT - group.half)
    taken.append((x, group.y, group.half))
    back = tag(
        "rect", x=x - group.half, y=group.y - _RADIUS, width=2 * group.half, height=2 * _RADIUS, rx=_RADIUS,
        class_=f"point {group.state}",
    )  # fmt: skip
    moved = abs(x - group.x) > 1
    leader = tag("line", x1=group.x, y1=group.y, x2=x, y2=group.y, class_="leader") if moved else Markup("")
    return tag("g", leader + back + tag("text", group.text, x=x, y=group.y + 4.5, class_=f"point-number {group.state}"))
