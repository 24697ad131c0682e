"""`rhe fuzz`: spoilt messages for all three parties, and what came of them."""

from __future__ import annotations

import json as json_module
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from rhe_parties.runner.progress import Reporter

if TYPE_CHECKING:
    from rhe_parties.parties.fuzz import FuzzReport

__all__ = ["fuzz_command"]


def fuzz_command(
    messages: Annotated[int, typer.Option("--messages", help="Spoilt messages to send.")] = 100_000,
    seed: Annotated[int, typer.Option("--seed", help="Root seed of the mutations.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the counts as JSON.")] = False,
) -> None:
    """Send spoilt messages to the parties: no crash, no hang, no growth of memory, no wrong class without a sign."""
    from rhe_parties.parties.fuzz import fuzz

    with Reporter() as reporter, reporter.stage("fuzzing", messages) as update:
        report = fuzz(messages, seed, update)
    if json:
        typer.echo(json_module.dumps(report.to_dict(), indent=1))
    else:
        _show(report)
    if not report.ok:
        typer.echo(f"rhe: {len(report.defects)} defects: {report.defects[0]}", err=True)
        raise typer.Exit(1)


def _show(report: FuzzReport) -> None:
    console = Console(highlight=False)
    rate = report.messages / report.seconds if report.seconds else 0.0
    console.print(
        f"{report.messages} spoilt messages in {report.seconds:.0f} s ({rate:.0f} per second), "
        f"slowest {report.slowest_seconds * 1e3:.0f} ms, memory grew by {report.memory_growth_bytes / 2**20:.1f} MiB "
        f"(allowed: {report.memory_tolerance_bytes / 2**20:.0f}), service restored {report.restored} times"
    )
    for title, counts in (
        ("answers to spoilt messages", report.answers),
        ("honest questions with one spoilt envelope", report.questions),
        ("mutations", report.mutations),
        ("kinds", report.kinds),
    ):
        console.print(_table(title, counts))
    for defect in report.defects:
        console.print(f"defect: {defect}", markup=False)


def _table(title: str, counts: Counter[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None)
    table.add_column("what")
    table.add_column("count", justify="right")
    for name, count in counts.most_common():
        table.add_row(name, str(count))
    return table
