"""The evidence behind a cell of the matrix: pictures, curves, scores, numbers, and what the adversary saw."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from rhe_parties.report.deeds import above_chance, deed
from rhe_parties.report.evidence import CurveFigure, cell_curves, cell_scores
from rhe_parties.report.exposure import exposure
from rhe_parties.report.gallery import Panel, cell_panels
from rhe_parties.report.matrix import Cell, Matrix
from rhe_parties.report.record import AttackRecord, MessageRecord, Record, WorldRecord
from rhe_parties.report.verdicts import MEASURED
from rhe_parties.report.wording import printable, size_text, world_phrase, world_release

__all__ = ["Evidence", "evidence", "row_name"]


@dataclass(frozen=True)
class Evidence:
    """One cell's evidence.

    Attributes:
        sentence: what the adversary did, or why it did nothing.
        control: what makes a failure mean something, or that nothing does; "" beside a success.
        seen: the messages that reached the adversary; `seen_words` sums them up.
        held: kinds of information that it holds, (what, whether in clear or as ciphertext).
        others: the neighbouring cells of the same adversary: (words for the link, cell).
    """

    cell: Cell
    title: str
    sentence: str
    control: str
    panels: list[Panel]
    curves: list[CurveFigure]
    scores: list[tuple[str, Markup]]
    seen: list[MessageRecord]
    seen_words: str
    held: list[tuple[str, str]]
    others: list[Cell]


def row_name(cell: Cell) -> str:
    """The row of a cell in a few words: the place in a sweep, and the world's name."""
    world = printable(cell.row.world.name) if cell.row.world is not None else ""
    return ", ".join(filter(None, (printable(cell.row.entry.name), world)))


def evidence(matrix: Matrix, pictures: bool = True) -> list[Evidence]:
    """The evidence of every cell in which something was run, in the order of the matrix."""
    found = []
    for cells in matrix.cells:
        for cell in cells:
            record, world, attack = cell.row.entry.record, cell.row.world, cell.shown
            if record is not None and world is not None and attack is not None:
                found.append(_evidence(matrix, cell, record, world, attack, pictures))
    return found


def _evidence(
    matrix: Matrix, cell: Cell, record: Record, world: WorldRecord, attack: AttackRecord, pictures: bool
) -> Evidence:
    control = _control(matrix, cell)
    rival = next((a for a in control.attacks if a.outcome == "leaked"), None) if control is not None else None
    against = (f"the same in world {row_name(control)}", rival) if control is not None and rival is not None else None
    seen = [message for message in world.messages if message.seen_by_adversary]
    release = world_release(world, str(record.parameters.get("release", "classes")))
    held = [(row.what, row.adversary) for row in exposure(world, record.corrupted, release)] if world.messages else []
    return Evidence(
        cell=cell,
        title=f"{printable(cell.column.adversary)} against {row_name(cell)}",
        sentence=_sentence(cell, record, world, attack),
        control=_control_words(cell, control),
        panels=cell_panels(record, world, cell.attacks) if pictures else [],
        curves=cell_curves(record, world, cell.attacks, against),
        scores=cell_scores(cell.attacks),
        seen=seen,
        seen_words=_seen_words(seen, cell.queries),
        held=held,
        others=[other for other in matrix.column_cells(cell.column) if other is not cell],
    )


def _sentence(cell: Cell, record: Record, world: WorldRecord, attack: AttackRecord) -> str:
    start = world_phrase(world)
    if attack.outcome in MEASURED:
        name = f"{printable(attack.adversary)}{', run on ciphertexts,' if attack.variant == 'ciphertext' else ''}"
        return f"{start} {name} {deed(cell.result, attack, record, False)}{_compared(cell, attack)}."
    name = printable(attack.adversary)
    if attack.outcome == "blocked":
        return f"{start} {name} could not start: {cell.reason}."
    if attack.outcome == "error":
        return f"{start} nothing is known about {name}: it failed ({cell.reason})."
    return f"{start} there is nothing for {name} to do{f': {cell.reason}' if cell.reason else ''}."


def _compared(cell: Cell, attack: AttackRecord) -> str:
    """What the outcome says beyond the number: a failure is named one even where the number looks large."""
    if attack.outcome == "leaked" or cell.result is None or above_chance(cell.result):
        return ""
    return "; the interval reaches down to chance"


def _control(matrix: Matrix, cell: Cell) -> Cell | None:
    """Where the same adversary did best: the positive control of this cell."""
    leaks = [c for c in matrix.column_cells(cell.column) if c is not cell and c.state in ("leaked", "partly")]
    return max(leaks, key=lambda c: (c.state == "leaked", c.share or 0.0)) if leaks else None


def _control_words(cell: Cell, control: Cell | None) -> str:
    if cell.state in ("leaked", "partly"):
        return ""
    if control is None:
        return "No positive control: this adversary succeeded nowhere in this run, so its failure here proves nothing."
    number = " ".join(filter(None, (control.value, control.interval)))
    return f"Positive control: the same adversary leaked in world {row_name(control)} ({number})."


def _seen_words(seen: list[MessageRecord], queries: str) -> str:
    asked = f" Besides, it asked the key holder itself: {queries} per head." if queries else ""
    if not seen:
        return f"The adversary saw no message.{asked}"
    count, size = sum(m.count for m in seen), sum(m.total_bytes for m in seen)
    return f"The adversary saw {count:,} messages, {size_text(size)} in all.{asked}"
