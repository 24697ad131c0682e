"""`rhe sweep`: a grid of runs."""

from __future__ import annotations

import json as json_module
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rhe_parties.errors import ParameterError, RheError

if TYPE_CHECKING:
    from rhe_parties.sweep.driver import SweepSummary

__all__ = ["sweep_command"]

_SHOWN_FAILURES = 5


def sweep_command(
    scenario: Annotated[Path, typer.Argument(help="Scenario file, such as scenarios/quickstart.py.")],
    grid: Annotated[
        list[str] | None,
        typer.Option(
            "-g",
            "--grid",
            metavar="KEY=A,B,C",
            help="Vary a parameter; once for each key, and every combination is a cell. Where a value itself holds "
            "commas, separate the values by semicolons: -g 'worlds=none,rhe;none,rhe+client'. Lists (worlds, "
            "adversary, corrupted …) always want semicolons: -g 'adversary=head-readout;span-inversion'.",
        ),
    ] = None,
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="KEY=VALUE", help="Set a parameter of all cells.")
    ] = None,
    parameters: Annotated[Path | None, typer.Option("--parameters", help="JSON or TOML file of parameters.")] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder or fsspec URL (default: new, below runs/); a sweep there is continued."),
    ] = None,
    address: Annotated[str | None, typer.Option("--address", help="A running Ray cluster to join.")] = None,
    parallel: Annotated[
        int | None, typer.Option("--parallel", help="Cells at a time (default: the cluster's cores).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Run a scenario for every cell of a grid, as Ray tasks; the same command with --out goes on where it stopped.

    A cell is one process with one thread (transport=local, threads=1; more with -p threads=N). The folder gets a
    record of each cell, and table.jsonl with one row per cell, world, attack and statistic.
    """
    from rhe_parties.runner.parameters import parse_assignments, read_parameter_file
    from rhe_parties.runner.scenario import default_folder, load_scenario
    from rhe_parties.sweep.driver import Interrupted, SweepRequest, sweep
    from rhe_parties.sweep.grid import parse_grid

    if parallel is not None and parallel < 1:
        raise ParameterError(f"parallel {parallel} is not allowed (allowed: 1 or more)")
    values = parse_grid(grid or [])
    loaded = load_scenario(scenario)
    given: dict[str, Any] = read_parameter_file(parameters) if parameters is not None else {}
    given |= parse_assignments(parameter or [])
    place = out if out is not None else str(default_folder(f"{loaded.name}-sweep"))
    command = ["rhe", "sweep", str(scenario)]
    for item in grid or []:
        command += ["-g", item]
    for item in parameter or []:
        command += ["-p", item]
    command += ["--parameters", str(parameters)] if parameters is not None else []
    command += ["--address", address] if address is not None else []
    command += ["--out", place]
    request = SweepRequest(
        loaded, scenario, values, given, place, address, parallel, shlex.join(command),
        note=lambda text: typer.echo(text, err=True),
    )  # fmt: skip
    try:
        summary = sweep(request)
    except Interrupted as error:
        raise RheError(f"{error}; go on with: {shlex.join(command)}") from None
    except KeyboardInterrupt:
        raise RheError(f"interrupted; every finished cell is kept in {place!r}") from None
    _show(summary, place, json)


def _show(summary: SweepSummary, place: str, as_json: bool) -> None:
    """The summary; exits with 1 when cells failed."""
    failed = summary.failed
    if as_json:
        typer.echo(json_module.dumps(_as_json(summary, place), indent=1))
    else:
        ran = len(summary.cells) - summary.kept
        typer.echo(
            f"{summary.finished} of {len(summary.cells)} cells finished, {len(failed)} failed; {ran} run now in "
            f"{summary.seconds:.0f} s ({summary.compute_seconds:.0f} s of compute)"
        )
        for cell in failed[:_SHOWN_FAILURES]:
            typer.echo(f"  {cell.label}: {cell.error}")
        typer.echo(f"Table: {summary.table}")
    if failed:
        typer.echo(
            f"rhe: {len(failed)} of {len(summary.cells)} cells failed: first {failed[0].label}: {failed[0].error}",
            err=True,
        )
        raise typer.Exit(1)


def _as_json(summary: SweepSummary, place: str) -> dict[str, object]:
    return {
        "status": "error" if summary.failed else "ok",
        "out": place,
        "cells": len(summary.cells),
        "finished": summary.finished,
        "failed": len(summary.failed),
        "kept": summary.kept,
        "parallel": summary.parallel,
        "seconds": summary.seconds,
        "compute_seconds": summary.compute_seconds,
        "table": summary.table,
        "failures": [{"values": cell.values, "error": cell.error} for cell in summary.failed],
    }
