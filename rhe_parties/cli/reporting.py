"""`rhe report`: a run or a sweep shown again from what its folder holds, and exported."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from rhe_parties.cli.running import show_record
from rhe_parties.errors import DataError
from rhe_parties.report.export import export_record, export_sweep
from rhe_parties.report.html import render_html
from rhe_parties.report.matrix import Entry
from rhe_parties.report.record import load_record
from rhe_parties.report.sweep_page import SweepFacts, render_sweep, sweep_table
from rhe_parties.report.table import FULL_WIDTH
from rhe_parties.sweep.results import MANIFEST, SweepCell, load_sweep
from rhe_parties.sweep.store import Store
from rhe_parties.sweep.table import table_bytes, table_rows

__all__ = ["show_report"]


def show_report(place: str, as_json: bool, target: Path | None = None) -> None:
    """Render a recorded run or sweep again, and export its tables and figures to `target`.

    Args:
        place: folder of a run or of a sweep, or URL of a sweep.

    Raises:
        DataError: no record there, or the folder cannot be written.
    """
    if "://" in place or (Path(place) / MANIFEST).is_file():
        files = _show_sweep(place, as_json, target)
    else:
        files = _show_run(Path(place), as_json, target)
    if files and not as_json:
        typer.echo(f"Exported {len(files)} files to {target}")


def _show_run(folder: Path, as_json: bool, target: Path | None) -> list[Path]:
    record = load_record(folder)
    place = folder if folder.is_dir() else folder.parent
    try:
        (place / "report.html").write_text(render_html(record), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write {str(place / 'report.html')!r}: {error.strerror}") from error
    files = export_record(record, target) if target is not None else []
    show_record(record, place, as_json)
    return files


def _show_sweep(place: str, as_json: bool, target: Path | None) -> list[Path]:
    sweep = load_sweep(place)
    facts = SweepFacts(sweep.manifest.scenario, sweep.manifest.summary, sweep.manifest.command)
    entries = [_entry(cell) for cell in sweep.cells]
    store = Store(place)
    store.write("report.html", render_sweep(facts, entries).encode())
    files = export_sweep(entries, target) if target is not None else []
    if as_json:
        typer.echo(table_bytes(row for cell in sweep.cells for row in table_rows(cell)).decode(), nl=False)
        return files
    console = Console()
    if not console.is_terminal:
        console = Console(width=FULL_WIDTH)  # a file or a log has no width of its own
    console.print(sweep_table(facts, entries, console.width))
    console.print(f"Report: {store.where('report.html')}", markup=False, highlight=False, soft_wrap=True)
    return files


def _entry(cell: SweepCell) -> Entry:
    return Entry(cell.label, cell.record, cell.error, tuple(cell.values.items()))
