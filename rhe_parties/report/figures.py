"""Inline SVG of the report: who sent what to whom, and rates with their intervals.

Colours come from the report's style sheet through classes; every meaning also has a shape or a word, so that
the figures work in black and white. They are drawn narrow, so that text stays readable on a phone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from markupsafe import Markup

from rhe_parties.report.exposure import LANES
from rhe_parties.report.record import MessageRecord, ResultRecord, WorldRecord
from rhe_parties.report.svg import WIDTH, cut, svg, tag
from rhe_parties.report.wording import (
    format_interval,
    format_value,
    kind_words,
    party_words,
    printable,
    size_text,
)

__all__ = ["IntervalRow", "eye_svg", "interval_svg", "sequence_svg"]

_HEADER = 74
_STEP = 50
# Mean width of a character relative to the font size, for keeping labels inside the picture.
_ADVANCE, _BOLD = 0.56, 0.63
_LABEL_SIZE, _DETAIL_SIZE = 14.5, 12.5


def _eye(x: float, y: float) -> Markup:
    """The mark of "the adversary sees this": an eye, recognisable without colour."""
    return tag(
        "g",
        tag("path", d=f"M{x - 8:.1f} {y:.1f}q8 -9 16 0q-8 9 -16 0z", class_="eye-lid")
        + tag("circle", cx=x, cy=y, r=2.6, class_="eye-pupil"),
    )


def eye_svg() -> Markup:
    """The eye alone, for running text."""
    return Markup('<svg class="eye" viewBox="0 0 18 12" role="img" aria-label="seen by the adversary">{}</svg>').format(
        _eye(9.0, 6.0)
    )


def sequence_svg(world: WorldRecord, corrupted: list[str]) -> Markup:
    """Sequence diagram of a world: a lane per party, an arrow per kind of message, in the order of the first.

    The adversary's seat is drawn at the corrupted parties; what it sees is marked by an eye and a heavy line.
    """
    ends = [end for message in world.messages for end in (message.sender, message.recipient)]
    lanes = [*LANES, *sorted(set(ends) - set(LANES))]
    margin = 56
    place = {name: margin + i * (WIDTH - 2 * margin) / (len(lanes) - 1) for i, name in enumerate(lanes)}
    bottom = _HEADER + _STEP * len(world.messages) + 14
    box = min(100.0, (WIDTH - 2 * margin) / (len(lanes) - 1) - 6)
    content = [_lane(name, x, bottom, box, name in corrupted) for name, x in place.items()]
    for i, message in enumerate(world.messages):
        content.append(_arrow(message, world, place, float(_HEADER + _STEP * i + 16), corrupted))
    label = f"Messages between the parties in world {printable(world.name)}, in order"
    return svg(bottom, label, "figure sequence", *content)


def _lane(name: str, x: float, bottom: float, box: float, corrupted: bool) -> Markup:
    seat = " seat" if corrupted else ""
    words = [cut(word, 10) for word in party_words(name).split(" ", 1)]
    lines = [tag("tspan", word, x=x, dy="0" if i == 0 else "1.1em") for i, word in enumerate(words)]
    parts = [
        tag("line", x1=x, x2=x, y1=_HEADER - 20, y2=bottom, class_="life" + seat),
        tag("rect", x=x - box / 2, y=4, width=box, height=42, rx=6, class_="party" + seat),
        tag("text", Markup("").join(lines), x=x, y=30 if len(words) == 1 else 22, class_="party-name"),
    ]
    if corrupted:
        parts += [
            tag("rect", x=x - box / 2, y=46, width=box, height=22, rx=4, class_="badge"),
            tag("text", "adversary", x=x + 10, y=61.5, class_="badge-text"),
            tag("g", _eye(x - 38, 57.0), class_="on-badge"),
        ]
    return Markup("").join(parts)


def _arrow(
    message: MessageRecord, world: WorldRecord, place: dict[str, float], y: float, corrupted: list[str]
) -> Markup:
    start, end = place[message.sender], place[message.recipient]
    seen = " seen" if message.seen_by_adversary else ""
    label = cut(kind_words(message, world), 34)
    detail = f"{message.count:,} × {size_text(message.total_bytes / max(message.count, 1))}"
    half = max(len(label) * _LABEL_SIZE, len(detail) * _DETAIL_SIZE) * (_BOLD if seen else _ADVANCE) / 2
    centre = min(max((start + end) / 2, half), WIDTH - half)
    line = y + 22
    tip = end - math.copysign(2, end - start)
    back = end - math.copysign(11, end - start)
    shaft = f"M{start:.1f} {line:.1f}H{back:.1f}"
    head = f"M{tip:.1f} {line:.1f}L{back:.1f} {line - 5:.1f}V{line + 5:.1f}z"
    parts = [
        tag("path", d=shaft, class_="shaft" + seen),
        tag("path", d=head, class_="head" + seen),
        tag("circle", cx=start, cy=line, r=3, class_="head" + seen),
        tag("text", label, x=centre, y=y, class_="label" + seen),
        tag("text", detail, x=centre, y=y + 15, class_="detail"),
    ]
    if seen:
        # Behind the corrupted party's lane, where the arrow leaves room; on a tapped link behind its tip.
        behind = start if message.sender in corrupted and message.recipient not in corrupted else end
        other = end if behind == start else start
        parts.append(_eye(behind + math.copysign(18, behind - other), line))
    return tag("g", Markup("").join(parts))


@dataclass(frozen=True)
class IntervalRow:
    """A row of the plot: a heading (no result, no words), a result, or words where nothing was measured."""

    label: str
    outcome: str = ""
    result: ResultRecord | None = None
    words: str = ""


def interval_svg(title: str, rows: list[IntervalRow], scale: str = "rate") -> Markup:
    """Dots with 95 % intervals on a scale from 0 to 1, with a dashed line at each row's chance.

    `scale` says how the axis is labelled: "rate" in percent, "number" as it is.

    Rows whose numbers are not finite are shown as words.
    """
    y, content = 8.0, []
    for row in rows:
        heading = row.result is None and not row.words
        y += 30 if heading else 22
        content.append(
            tag("text", cut(row.label, 36), x=8 if heading else 20, y=y, class_="row-head" if heading else "row-label")
        )
        if heading:
            continue
        value = _value_words(row)
        content.append(tag("text", value, x=WIDTH - 8, y=y, class_=f"row-value {row.outcome}"))
        if row.result is not None and _finite(row.result):
            content.append(_interval(row.result, row.outcome, y + 13))
        y += 22 if row.result is not None else 8
    axis = y + 14
    content.append(_axis(axis, scale))
    return svg(axis + 22, title, "figure intervals", *content)


def _finite(result: ResultRecord) -> bool:
    return all(math.isfinite(v) for v in (result.value, result.low, result.high))


def _value_words(row: IntervalRow) -> str:
    if row.result is None:
        return row.words
    return f"{format_value(row.result.statistic, row.result.value)} {format_interval(row.result)}".strip()


def _at(rate: float) -> float:
    """Position of a rate from 0 to 1 on the scale."""
    return 20 + min(max(rate, 0.0), 1.0) * (WIDTH - 40)


def _interval(result: ResultRecord, outcome: str, y: float) -> Markup:
    parts = [tag("line", x1=_at(0), x2=_at(1), y1=y, y2=y, class_="track")]
    if result.chance is not None and math.isfinite(result.chance):
        x = _at(result.chance)
        parts.append(tag("line", x1=x, x2=x, y1=y - 9, y2=y + 9, class_="chance"))
    parts += [
        tag("line", x1=_at(result.low), x2=_at(result.high), y1=y, y2=y, class_=f"interval {outcome}"),
        tag("circle", cx=_at(result.value), cy=y, r=5, class_=f"dot {outcome}"),
    ]
    return Markup("").join(parts)


def _axis(y: float, scale: str) -> Markup:
    parts = [tag("line", x1=_at(0), x2=_at(1), y1=y, y2=y, class_="axis")]
    for percent in (0, 25, 50, 75, 100):
        x = _at(percent / 100)
        parts.append(tag("line", x1=x, x2=x, y1=y, y2=y + 4, class_="axis"))
        parts.append(
            tag("text", f"{percent} %" if scale == "rate" else f"{percent / 100:g}", x=x, y=y + 18, class_="tick")
        )
    return Markup("").join(parts)
