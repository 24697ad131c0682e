"""`rhe run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from rhe_parties.errors import RheError
from rhe_parties.report.record import Record
from rhe_parties.report.table import FULL_WIDTH, render_table
from rhe_parties.runner.parameters import parse_assignments, read_parameter_file
from rhe_parties.runner.scenario import default_folder, load_scenario, repeat_command

__all__ = ["fail_on_errors", "run_scenario", "show_record"]


def run_scenario(
    file: Path,
    assignments: list[str],
    parameter_file: Path | None,
    out: Path | None,
    flags: Mapping[str, str | None],
    as_json: bool,
) -> None:
    """Load, run and show a scenario; exits with 1 when a strategy failed although the run went through.

    Args:
        flags: parameters that have an option of their own, None where it was not used; they win over all others.
    """
    scenario = load_scenario(file)
    given: dict[str, Any] = read_parameter_file(parameter_file) if parameter_file is not None else {}
    given |= parse_assignments(assignments)
    given |= {key: value for key, value in flags.items() if value is not None}
    folder = out if out is not None else default_folder(scenario.name)
    try:
        record = scenario.run(out=folder, command=repeat_command(file, given), **given)
    except KeyboardInterrupt:
        raise RheError(f"interrupted; what was done until then is in {str(folder)!r}") from None
    show_record(record, folder, as_json)
    fail_on_errors(record)


def fail_on_errors(record: Record) -> None:
    """Exit with 1 where a strategy failed although the run went through."""
    failed = [cell for world in record.worlds for cell in world.attacks if cell.outcome == "error"]
    if failed:
        names = ", ".join(sorted({cell.adversary for cell in failed}))
        typer.echo(f"rhe: {len(failed)} attack cells failed ({names}); everything else is kept", err=True)
        raise typer.Exit(1)


def show_record(record: Record, folder: Path, as_json: bool) -> None:
    """The table of a record, or with `as_json` the record itself."""
    if as_json:
        typer.echo(record.model_dump_json(indent=1))
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=FULL_WIDTH)  # a file or a log has no width of its own
    console.print(render_table(record, str(folder / "report.html"), console.width))
