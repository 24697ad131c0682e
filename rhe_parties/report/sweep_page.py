"""The report of a sweep: one matrix of all its places, what changes with the grid, and what failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from rhe_parties.report.goals import acting
from rhe_parties.report.matrix import Entry, Matrix, build_matrix
from rhe_parties.report.matrix_words import matrix_context
from rhe_parties.report.page import template
from rhe_parties.report.record import Record
from rhe_parties.report.table_matrix import matrix_table
from rhe_parties.report.trends import trends
from rhe_parties.report.verdicts import control_sentences, headline, verdicts
from rhe_parties.report.wording import printable

__all__ = ["SweepFacts", "render_sweep", "sweep_table"]

# With more rows the pictures of all cells would make a page of many megabytes.
_ROWS_WITH_PICTURES = 40


@dataclass(frozen=True)
class SweepFacts:
    """What a sweep is: its scenario, what that shows, and the command that repeats it."""

    scenario: str
    summary: str = ""
    command: str = ""


def render_sweep(facts: SweepFacts, entries: Sequence[Entry]) -> str:
    """The report of a sweep as one HTML page that works offline, in print and without colour.

    Args:
        entries: every place of the grid in its order, with its record or with why there is none.
    """
    matrix = build_matrix(entries)
    whole = _whole(facts, entries)
    return template("sweep.html.j2").render(
        facts=facts,
        title=f"{facts.scenario}, sweep: who can learn what about the private training images?",
        headline=headline(verdicts(whole)),
        progress=_progress(entries),
        missing=[entry for entry in entries if entry.record is None or entry.error],
        trends=trends(matrix),
        acting=acting(whole),
        **matrix_context(matrix, control_sentences(whole), pictures=len(matrix.rows) <= _ROWS_WITH_PICTURES),
    )


def sweep_table(facts: SweepFacts, entries: Sequence[Entry], width: int) -> RenderableType:
    """The matrix of a sweep for a terminal of `width` columns."""
    matrix: Matrix = build_matrix(entries)
    head = Text.assemble((printable(facts.scenario), "bold"), f", sweep: {_progress(entries)}")
    return Group(head, matrix_table(matrix, width) if matrix.columns else Text("No adversary was run."))


def _whole(facts: SweepFacts, entries: Sequence[Entry]) -> Record:
    """All worlds of all places as if of one run, for the sentences that look at every number."""
    records = [entry.record for entry in entries if entry.record is not None]
    worlds = [world for record in records for world in record.worlds]
    corrupted = list(dict.fromkeys(party for record in records for party in record.corrupted))
    return Record(status="ok", scenario=facts.scenario, corrupted=corrupted, worlds=worlds)


def _progress(entries: Sequence[Entry]) -> str:
    done = sum(entry.record is not None for entry in entries)
    failed = sum(bool(entry.error) for entry in entries)
    return f"{done} of {len(entries)} places of the grid have a record" + (
        f", {failed} with an error" if failed else ""
    )
