"""The matrix on a terminal: a symbol and a number per cell, as many adversaries side by side as the width takes."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rhe_parties.report.matrix import STATES, Cell, Column, Matrix
from rhe_parties.report.wording import printable

__all__ = ["matrix_table"]

_STYLES = {"leaked": "bold red", "partly": "red", "not-leaked": "green", "blocked": "yellow", "error": "bold magenta"}
_WORLD = 20
# Room for the longest number, and for the words of most names.
_CELL, _WIDEST = 9, 11


def matrix_table(matrix: Matrix, width: int) -> RenderableType:
    """Every cell of the matrix within `width` columns, in blocks of adversaries, and what the symbols mean."""
    words = [len(word) for column in matrix.columns for word in printable(column.adversary).split("-")]
    room = min(max([_CELL, *words]), _WIDEST)
    each = max(1, (width - _WORLD - 2) // (room + 1))
    blocks = [matrix.columns[start : start + each] for start in range(0, len(matrix.columns), each)]
    legend = [f"{STATES[state][0]} {STATES[state][1]}" for state in matrix.states]
    notes = ["† no positive control"] if any(cell.uncontrolled for row in matrix.cells for cell in row) else []
    return Group(*(_block(matrix, columns, room) for columns in blocks), Text("   ".join(legend + notes), style="dim"))


def _block(matrix: Matrix, columns: list[Column], room: int) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("World", width=_WORLD, overflow="fold", style="bold")
    for column in columns:
        table.add_column(Text(printable(column.adversary).replace("-", "\n")), width=room, overflow="fold")
    for row, cells in zip(matrix.rows, matrix.cells, strict=True):
        world = row.world.name if row.world is not None else row.error or "no record"
        name = printable(", ".join(filter(None, (row.entry.name, world))))
        chosen = [cell for cell in cells if cell.column in columns]
        table.add_row(Text(name), *map(_text, chosen))
    return table


def _text(cell: Cell) -> Text:
    mark = "†" if cell.uncontrolled else ""
    return Text(" ".join(filter(None, (cell.symbol, cell.value))) + mark, style=_STYLES.get(cell.state, "dim"))
