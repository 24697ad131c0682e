"""The matrix as a drawing, for slides and papers; the page itself has it as a table."""

from __future__ import annotations

from markupsafe import Markup

from rhe_parties.report.matrix import STATES, Cell, Column, Matrix
from rhe_parties.report.matrix_words import row_facts
from rhe_parties.report.svg import cut, svg, tag
from rhe_parties.report.wording import printable

__all__ = ["matrix_svg"]

_LEFT, _ACCURACY, _EACH = 250.0, 110.0, 128.0
_HEAD, _ROW = 96.0, 52.0
_RIGHT = 12.0


def matrix_svg(matrix: Matrix) -> Markup:
    """A tile per cell with symbol, word, number and interval; groups of adversaries under their goal."""
    width = _LEFT + _ACCURACY + _EACH * len(matrix.columns) + _RIGHT
    content = [_text("world", 10, _HEAD - 12, "tile-head"), _text("accuracy", _LEFT + 4, _HEAD - 12, "tile-head")]
    start = 0
    for title, count in matrix.groups:
        x = _x(start)
        content.append(tag("line", x1=x, x2=x, y1=8, y2=_HEAD + _ROW * len(matrix.rows), class_="axis"))
        for place, line in enumerate(_lines(title, 15 * count)[:2]):
            content.append(_text(line, x + 5, 22 + 15 * place, "tile-head"))
        start += count
    for place, column in enumerate(matrix.columns):
        content += _column_head(column, _x(place))
    for place, row in enumerate(matrix.rows):
        y = _HEAD + _ROW * place
        world = printable(row.world.name if row.world is not None else row.error or "no record")
        content.append(_text(cut(f"{row.number}  {world}", 30), 10, y + 21, "tile-head"))
        facts = row_facts(row)
        under = printable(row.entry.name) or ", ".join(f"{name} {value}" for name, value in facts.privacy)
        content.append(_text(cut(under, 38), 10, y + 38, "tile-small"))
        content.append(_text(facts.accuracy, _LEFT + 4, y + 21, "tile-head"))
        content.append(_text(facts.accuracy_interval, _LEFT + 4, y + 38, "tile-small"))
        content += [_tile(cell, _x(i), y) for i, cell in enumerate(matrix.cells[place])]
    bottom = _HEAD + _ROW * len(matrix.rows)
    legend = "     ".join(" ".join(STATES[state]) for state in matrix.states)
    content.append(_text(legend, 10, bottom + 24, "tile-small"))
    return svg(bottom + 38, "The matrix of worlds and adversaries", "figure tiles", *content, width=width)


def _x(place: int) -> float:
    return _LEFT + _ACCURACY + _EACH * place


def _text(text: str, x: float, y: float, css: str) -> Markup:
    return tag("text", text, x=x, y=y, class_=css)


def _lines(text: str, length: int) -> list[str]:
    """The text in lines of about so many characters, broken at spaces."""
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + len(word) >= length:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _column_head(column: Column, x: float) -> list[Markup]:
    name = _text(cut(printable(column.adversary), 17), x + 5, _HEAD - 40, "tile-head")
    lines = _lines(column.label, 19)[:2]
    counts = [_text(line, x + 5, _HEAD - 25 + 13 * i, "tile-small") for i, line in enumerate(lines)]
    return [name, *counts]


def _tile(cell: Cell, x: float, y: float) -> Markup:
    css = cell.state
    under = cell.interval or cut(cell.reason, 19)
    words = f"{cell.symbol} {cell.value or cell.word}{' †' if cell.uncontrolled else ''}"
    parts = [
        tag("rect", x=x + 2, y=y + 2, width=_EACH - 4, height=_ROW - 4, rx=4, class_=f"tile {css}"),
        _text(words, x + 9, y + 22, f"tile-number {css}"),
        _text(under, x + 9, y + 40, f"tile-small {css}"),
    ]
    return tag("g", Markup("").join(parts))
