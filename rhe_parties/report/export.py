"""A report's tables and figures as files: CSV and LaTeX, SVG and PNG."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from markupsafe import Markup

from rhe_parties.errors import DataError
from rhe_parties.report.cells import row_name
from rhe_parties.report.evidence import curve_figures, interval_plots, score_figures
from rhe_parties.report.figures import sequence_svg
from rhe_parties.report.frontier import frontiers
from rhe_parties.report.goals import goal_title
from rhe_parties.report.latex import matrix_latex
from rhe_parties.report.matrix import Cell, Entry, Matrix, build_matrix
from rhe_parties.report.matrix_figure import matrix_svg
from rhe_parties.report.record import Record
from rhe_parties.report.standalone import standalone, svg_text
from rhe_parties.report.trends import trends
from rhe_parties.report.wording import find, printable, world_cost, world_phrase

__all__ = ["CSV_COLUMNS", "export_record", "export_sweep", "matrix_csv"]

CSV_COLUMNS = (
    "row", "setting", "world", "defence", "epsilon", "accuracy", "accuracy_low", "accuracy_high", "head_bytes",
    "request_bytes", "reply_bytes", "answer_seconds", "training_seconds", "goal", "adversary", "variant", "outcome",
    "statistic", "value", "low", "high", "n", "heads", "chance", "queries", "reason", "positive_control",
)  # fmt: skip

Figures = Iterator[tuple[str, str, Markup]]


def export_record(record: Record, folder: Path) -> list[Path]:
    """Write `matrix.csv`, `matrix.tex`, `captions.txt` and every figure as `NAME.svg` and `NAME.png`.

    Returns:
        The files, in the order in which they were written.

    Raises:
        DataError: the folder cannot be written.
    """
    return _export(build_matrix([Entry("", record)]), _record_figures(record), folder)


def export_sweep(entries: Sequence[Entry], folder: Path) -> list[Path]:
    """The same files of all places of a sweep, with what changes along its grid."""
    matrix = build_matrix(entries)
    return _export(matrix, _trend_figures(matrix), folder)


def _export(matrix: Matrix, figures: Figures, folder: Path) -> list[Path]:
    """Write the files; `figures` are (name, caption, drawing) besides those that every matrix has."""
    from rhe_parties.report.raster import save_png  # draws with matplotlib, which takes a second to load

    files = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("matrix.csv", matrix_csv(matrix)), ("matrix.tex", matrix_latex(matrix))):
            files.append(folder / name)
            files[-1].write_text(text, encoding="utf-8", newline="")
        captions = []
        for name, caption, drawing in [*_matrix_figures(matrix), *figures]:
            root = standalone(drawing)
            files += [folder / f"{name}.svg", folder / f"{name}.png"]
            files[-2].write_text(svg_text(root), encoding="utf-8")
            save_png(root, files[-1])
            captions.append(f"{name}: {caption}\n")
        files.append(folder / "captions.txt")
        files[-1].write_text("".join(captions), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot export to {str(folder)!r}: {error.strerror or error}") from error
    return files


def _matrix_figures(matrix: Matrix) -> Figures:
    if matrix.columns:
        yield "matrix", "Outcome of every adversary in every world.", matrix_svg(matrix)
    rows = "; ".join(f"{cells[0].row.number}: {row_name(cells[0])}" for cells in matrix.cells if cells)
    for plots in frontiers(matrix):
        for key, title, drawing in plots.drawings:
            yield f"{key}-{_slug(plots.adversary)}", f"{plots.title}, leakage {title}. Points: {rows}.", drawing


def _record_figures(record: Record) -> Figures:
    """(name, caption, drawing) of a run's ROC curves, scores, intervals and message diagrams."""
    for number, figure in enumerate(curve_figures(record), 1):
        lines = "; ".join(f"{chr(ord('A') + i % 26)}: {text}" for i, (_, text) in enumerate(figure.legend))
        yield f"roc-{number}", f"{figure.title}. {figure.reading} {lines}.", figure.drawing
    for number, (caption, drawing) in enumerate(score_figures(record), 1):
        yield f"scores-{number}", caption, drawing
    for number, (title, drawing) in enumerate(interval_plots(record), 1):
        yield f"intervals-{number}", f"{title}, with 95 % intervals.", drawing
    for number, world in enumerate(record.worlds, 1):
        if world.messages:
            phrase = f"Messages between the parties: {world_phrase(world)}."
            yield f"messages-{number}", phrase, sequence_svg(world, record.corrupted)


def _trend_figures(matrix: Matrix) -> Figures:
    for number, figure in enumerate(trends(matrix), 1):
        lines = "; ".join(f"{chr(ord('A') + i)}: {text}" for i, (_, text) in enumerate(figure.legend))
        yield f"trend-{number}", f"{figure.title}. {figure.reading} {lines}.", figure.drawing


def matrix_csv(matrix: Matrix) -> str:
    """One row per cell, with full precision; `outcome` is the record's word."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, CSV_COLUMNS, lineterminator="\r\n")
    writer.writeheader()
    for cells in matrix.cells:
        for cell in cells:
            writer.writerow({name: _plain(value) for name, value in _row(cell).items()})
    return buffer.getvalue()


def _row(cell: Cell) -> dict[str, object]:
    world, shown, result = cell.row.world, cell.shown, cell.result
    row: dict[str, object] = {
        "row": cell.row.number,
        "setting": cell.row.entry.name,
        "goal": goal_title(cell.column.goal),
        "adversary": cell.column.adversary,
        "outcome": shown.outcome if shown is not None else cell.word,
        "variant": shown.variant if shown is not None else "",
        "reason": cell.reason,
        "positive_control": "yes" if cell.controlled else "no",
    }
    if world is not None:
        cost, accuracy = world_cost(world), find(world.utility, "accuracy")
        row |= {"world": world.name, "defence": world.defence, "epsilon": world.epsilon, "accuracy": world.accuracy}
        row |= {"head_bytes": cost.head, "request_bytes": cost.request, "reply_bytes": cost.reply}
        row |= {"answer_seconds": cost.answering, "training_seconds": cost.training}
        if accuracy is not None:
            row |= {"accuracy": accuracy.value, "accuracy_low": accuracy.low, "accuracy_high": accuracy.high}
    if result is not None and shown is not None:
        asked = find(shown.results, "queries")
        row |= result.model_dump() | {"queries": asked.value if asked is not None else None}
    return row


def _plain(value: object) -> object:
    """Text that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@") else text


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "x"
