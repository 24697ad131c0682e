"""The threat matrix of a run, or of several: worlds down, adversaries across, one outcome and number per cell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rhe_parties.report.deeds import above_chance
from rhe_parties.report.goals import goal_of, goal_rank, goal_title, headline_statistics
from rhe_parties.report.meanings import is_baseline, statistic
from rhe_parties.report.record import AttackRecord, Record, ResultRecord, WorldRecord
from rhe_parties.report.verdicts import BASELINE, MEASURED, PREFERRED, deciding_result
from rhe_parties.report.wording import find, format_interval, format_value, on_members, outcome_words, printable

__all__ = ["Cell", "Column", "Entry", "Matrix", "Row", "build_matrix", "matrix_of"]

# The stronger outcome of two variants stands in the cell. An error is not hidden behind a failed attack: whether that
# variant would have succeeded is unknown.
_STRENGTH = ("leaked", "error", "not-leaked", "blocked", "not-applicable")
# Numbers from 0 to 1 that are not written in percent.
_SHARES = ("auc", "property_auc", "head_cosine")
# Below this many cells the cards say all that a matrix would.
_FEWEST_CELLS = 5

#: Symbol and word of every state of a cell: the meaning without any colour.
STATES = {
    "leaked": ("●", "LEAKED"),
    "partly": ("◐", "LEAKED in part"),
    "not-leaked": ("○", "not leaked"),
    "blocked": ("⊘", "blocked"),
    "error": ("!", "error"),
    "not-applicable": ("–", "n.a."),
    "none": ("·", "not run"),
}


@dataclass(frozen=True)
class Entry:
    """A record with its place in a sweep, or why there is none. A single run has the name "" and no values.

    `values` are the grid's (key, value) pairs of that place, with their types.
    """

    name: str
    record: Record | None
    error: str = ""
    values: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class Column:
    """An adversary: what it is after, and the statistic that its cells show where they can."""

    number: int
    adversary: str
    summary: str
    goal: str
    statistic: str = ""
    members: bool = False

    @property
    def label(self) -> str:
        """What its numbers count."""
        return statistic(self.statistic, self.members).label if self.statistic else ""


@dataclass(frozen=True)
class Row:
    """A world of a record; None where the record is missing; `error` says what went wrong, if anything."""

    number: int
    entry: Entry
    world: WorldRecord | None
    error: str = ""


@dataclass(frozen=True)
class Cell:
    """One adversary in one world: every variant that ran, and the one that stands for them."""

    row: Row
    column: Column
    attacks: tuple[AttackRecord, ...]
    shown: AttackRecord | None
    result: ResultRecord | None
    state: str
    controlled: bool
    """Whether the same adversary leaked in some row, without which a failure shows nothing."""

    @property
    def key(self) -> str:
        """Name of the cell's evidence on the page."""
        return f"cell-{self.row.number}-{self.column.number}"

    @property
    def symbol(self) -> str:
        """See `STATES`."""
        return STATES[self.state][0]

    @property
    def word(self) -> str:
        """The outcome as a word."""
        return STATES[self.state][1]

    @property
    def value(self) -> str:
        """The headline number with its unit, "" without one."""
        return format_value(self.result.statistic, self.result.value) if self.result is not None else ""

    @property
    def interval(self) -> str:
        """Its 95 % interval in brackets."""
        return format_interval(self.result) if self.result is not None else ""

    @property
    def chance(self) -> str:
        """What guessing, or the statistic's baseline, gives: `chance 1.7 %`."""
        if self.result is None or self.result.chance is None or not math.isfinite(self.result.chance):
            return ""
        words = statistic(self.result.statistic).baseline.removeprefix("best constant ")
        return f"{words} {format_value(self.result.statistic, self.result.chance)}"

    @property
    def count(self) -> str:
        """Number of trials: `n 580`."""
        return f"n {self.result.n:,}" if self.result is not None else ""

    @property
    def own_label(self) -> str:
        """What the number counts, where that is not what the column's head says."""
        if self.result is None or self.shown is None or self.result.statistic == self.column.statistic:
            return ""
        return statistic(self.result.statistic, on_members(self.shown)).label

    @property
    def queries(self) -> str:
        """Questions asked per head: `2,000 queries`."""
        asked = find(self.shown.results, "queries") if self.shown is not None else None
        return f"{format_value('queries', asked.value)} queries" if asked is not None else ""

    @property
    def reason(self) -> str:
        """Why there is no number."""
        if self.shown is None:
            return printable(self.row.error)
        if self.state == "not-applicable":
            return printable(", ".join(self.shown.missing) or self.shown.error) or _first_note(self.shown)
        return outcome_words(self.shown)[1] if self.shown.outcome not in MEASURED else ""

    @property
    def uncontrolled(self) -> bool:
        """A failure that is no evidence: the adversary never succeeded."""
        return self.state == "not-leaked" and not self.controlled

    @property
    def share(self) -> float | None:
        """Where the number lies from 0 to 1; None for what is no share."""
        return _share(self.result) if self.result is not None else None


@dataclass(frozen=True)
class Matrix:
    """Rows, columns sorted by what the adversaries are after, and a list of cells per row."""

    rows: list[Row]
    columns: list[Column]
    cells: list[list[Cell]]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Title of every group of neighbouring columns and how many there are."""
        found: list[tuple[str, int]] = []
        for column in self.columns:
            title = goal_title(column.goal)
            count = found.pop()[1] if found and found[-1][0] == title else 0
            found.append((title, count + 1))
        return found

    def column_cells(self, column: Column) -> list[Cell]:
        """All cells of an adversary, from the first row to the last."""
        return [row[self.columns.index(column)] for row in self.cells]

    def common(self, column: Column) -> list[str]:
        """What holds for every number of a column, so that its head can say it once: chance, trials."""
        measured = [cell for cell in self.column_cells(column) if cell.value]
        if any(cell.own_label for cell in measured):
            return []
        kinds = [{cell.chance for cell in measured}, {cell.count for cell in measured}]
        return [kind.pop() for kind in kinds if len(kind) == 1 and kind != {""}]

    @property
    def states(self) -> list[str]:
        """The states that occur, in the order of `STATES`."""
        there = {cell.state for row in self.cells for cell in row}
        return [state for state in STATES if state in there]


def matrix_of(record: Record) -> Matrix | None:
    """The matrix of one run; None where two or three cells would say nothing that cards do not."""
    matrix = build_matrix([Entry("", record)])
    worlds, adversaries = len(matrix.rows), len(matrix.columns)
    return matrix if min(worlds, adversaries) >= 2 and worlds * adversaries >= _FEWEST_CELLS else None


def build_matrix(entries: Sequence[Entry]) -> Matrix:
    """All worlds of all records in their order, against all adversaries but the baseline."""
    rows: list[Row] = []
    for entry in entries:
        if entry.record is None:
            rows.append(Row(len(rows) + 1, entry, None, entry.error))
            continue
        for world in entry.record.worlds:
            broken = world.error or "the run broke off here" if world.status == "error" else ""
            rows.append(Row(len(rows) + 1, entry, world, broken))
    columns = _columns([row.world for row in rows if row.world is not None])
    found = {(row.number, column.number): _attacks(row, column) for row in rows for column in columns}
    leaked = {number for (_, number), attacks in found.items() if any(a.outcome == "leaked" for a in attacks)}
    cells = [[_cell(row, c, found[row.number, c.number], c.number in leaked) for c in columns] for row in rows]
    return Matrix(rows, columns, cells)


def _attacks(row: Row, column: Column) -> tuple[AttackRecord, ...]:
    attacks = row.world.attacks if row.world is not None else []
    return tuple(attack for attack in attacks if attack.adversary == column.adversary)


def _columns(worlds: list[WorldRecord]) -> list[Column]:
    by_name: dict[str, list[AttackRecord]] = {}
    for world in worlds:
        for attack in world.attacks:
            if attack.adversary != BASELINE:
                by_name.setdefault(attack.adversary, []).append(attack)
    goals = {name: goal_of(attacks) for name, attacks in by_name.items()}
    names = sorted(by_name, key=lambda name: goal_rank(goals[name]))
    return [_column(number, name, goals[name], by_name[name]) for number, name in enumerate(names, 1)]


def _column(number: int, name: str, goal: str, attacks: list[AttackRecord]) -> Column:
    measured = [attack for attack in attacks if attack.outcome in MEASURED]
    there = [result.statistic for attack in measured for result in attack.results if find([result], result.statistic)]
    own = [name for name in there if not is_baseline(name) and name != "queries"]
    shown = next((name for name in (*headline_statistics(goal), *PREFERRED, *own) if name in there), "")
    summary = next((attack.summary for attack in attacks if attack.summary), "")
    return Column(number, name, summary, goal, shown, any(map(on_members, measured)))


def _cell(row: Row, column: Column, attacks: tuple[AttackRecord, ...], controlled: bool) -> Cell:
    shown = min(attacks, key=lambda attack: _STRENGTH.index(attack.outcome), default=None)
    if shown is None:
        return Cell(row, column, attacks, None, None, "error" if row.error else "none", controlled)
    result = None
    if shown.outcome in MEASURED:
        result = find(shown.results, column.statistic)
        if result is None or (shown.outcome == "leaked" and not above_chance(result)):
            result = deciding_result(shown)
    state = shown.outcome if shown.outcome != "leaked" or not _partly(result) else "partly"
    return Cell(row, column, attacks, shown, result, state, controlled)


def _share(result: ResultRecord) -> float | None:
    bounded = statistic(result.statistic).unit == "percent" or result.statistic in (
        "auc",
        "property_auc",
        "head_cosine",
    )
    return min(max(result.value, 0.0), 1.0) if bounded and math.isfinite(result.value) else None


def _partly(result: ResultRecord | None) -> bool:
    """Whether a leak is nearer to chance than to certainty."""
    if result is None or result.chance is None or (share := _share(result)) is None:
        return False
    return share - result.chance < 0.5 * (1 - result.chance)


def _first_note(attack: AttackRecord) -> str:
    return next((printable(note) for note in attack.notes.values()), "")
