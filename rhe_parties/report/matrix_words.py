"""What the matrix says besides its numbers: what a symbol means, what a row costs, what a screen reader reads out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rhe_parties.report.cells import evidence, row_name
from rhe_parties.report.frontier import frontiers
from rhe_parties.report.matrix import Cell, Matrix, Row
from rhe_parties.report.wording import (
    find,
    format_interval,
    format_value,
    printable,
    seconds_text,
    size_text,
    world_cost,
)

__all__ = ["STATE_MEANINGS", "RowFacts", "matrix_context", "row_facts", "spoken"]

STATE_MEANINGS = {
    "leaked": "more than half-way from chance to certainty",
    "partly": "above chance, but less than half-way to certainty",
    "not-leaked": "it ran, and did no better than chance",
    "blocked": "it could not start: its seat never saw what it needs",
    "error": "it failed, so nothing is known",
    "not-applicable": "the question does not arise here",
    "none": "was not tried here",
}


@dataclass(frozen=True)
class RowFacts:
    """What a world is worth and costs; `costs` and `privacy` are (name, value)."""

    accuracy: str
    accuracy_interval: str
    costs: list[tuple[str, str]]
    privacy: list[tuple[str, str]]


def row_facts(row: Row) -> RowFacts:
    """Accuracy, cost and guarantee of a row, as far as its record has them."""
    world = row.world
    if world is None:
        return RowFacts(format_value("accuracy", None), "", [], [])
    result = find(world.utility, "accuracy")
    value = result.value if result is not None else world.accuracy
    cost = world_cost(world)
    sizes = (("head", cost.head), ("reply", cost.reply))
    times = (("answer", cost.answering), ("training", cost.training))
    costs = [(name, size_text(size)) for name, size in sizes if size is not None]
    costs += [(name, seconds_text(spent)) for name, spent in times if spent is not None]
    privacy = [(printable(name), printable(text)) for name, text in world.privacy]
    if not privacy and world.epsilon is not None:
        privacy = [("ε", f"{world.epsilon:g}")]
    interval = format_interval(result) if result is not None else ""
    return RowFacts(format_value("accuracy", value), interval, costs, privacy)


def spoken(cell: Cell) -> str:
    """The whole cell as one sentence, for whoever cannot see where it stands."""
    counted = cell.own_label or cell.column.label
    parts = [
        f"{printable(cell.column.adversary)} against {row_name(cell)}: {cell.word}",
        f"{counted} {cell.value} {cell.interval}".strip() if cell.value else "",
        cell.chance,
        cell.count,
        cell.queries,
        cell.reason,
        "no positive control" if cell.uncontrolled else "",
    ]
    return f"{', '.join(filter(None, parts))}. Show the evidence."


def matrix_context(matrix: Matrix | None, controls: Sequence[str], pictures: bool = True) -> dict[str, Any]:
    """What the template of the matrix reads; without a matrix only the sentences on controls."""
    if matrix is None:
        return {"matrix": None, "controls": controls}
    starts = [0]
    for _, count in matrix.groups:
        starts.append(starts[-1] + count)
    return {
        "matrix": matrix,
        "controls": controls,
        "evidence": evidence(matrix, pictures),
        "frontiers": frontiers(matrix),
        "common": {column.number: matrix.common(column) for column in matrix.columns},
        "first_columns": [matrix.columns[start].number for start in starts[:-1]],
    }
