"""`rhe audit`: what a server wrote down, and whether anybody changed it since."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rhe_parties.errors import ParameterError, RheError

if TYPE_CHECKING:
    from rhe_parties.service.audit_log import AuditRow, Verdict

__all__ = ["audit_command"]


def audit_command(
    ledger: Annotated[Path, typer.Argument(help="Ledger of a server; it may be running.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the chain of all rows in place of showing them.")
    ] = False,
    noted: Annotated[
        str, typer.Option("--noted", metavar="HASH", help="With --verify: a hash noted earlier, which must be there.")
    ] = "",
    last: Annotated[int, typer.Option("--last", help="How many of the newest rows to show, 0 for all.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Show the audit log of a server, or verify that no row of it was changed, taken out or put in between.

    Exit code 1 where the chain is broken. Note the hash that --verify prints somewhere else: with it (--noted) also a
    log that was cut off or written anew is found.
    """
    from rhe_parties.service.audit_log import read_log
    from rhe_parties.service.audit_log import verify as verify_log

    if last < 0:
        raise ParameterError(f"last = {last} is not allowed (allowed: 0 or more)")
    if noted and not verify:
        raise ParameterError("noted is not allowed without --verify")
    if verify:
        _print_verdict(verify_log(ledger, noted.strip().lower()), json)
        return
    rows = read_log(ledger, last)
    if json:
        typer.echo(json_module.dumps([_plain(row) for row in rows], indent=1))
    else:
        _print_rows(rows)


def _print_verdict(verdict: Verdict, json: bool) -> None:
    if json:
        shown = {"rows": verdict.rows, "hash": verdict.hash, "holds": verdict.holds, "broken": verdict.broken}
        typer.echo(json_module.dumps(shown, indent=1))
    else:
        typer.echo(f"{verdict.rows} rows hold; hash of the last of them: {verdict.hash}")
    if not verdict.holds:
        raise RheError(f"the audit log is broken: {verdict.broken}")


def _plain(row: AuditRow) -> dict[str, Any]:
    return row._asdict() | {"details": row.facts}


def _print_rows(rows: list[AuditRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False)
    for column in ("id", "time (UTC)", "event", "who", "details"):
        table.add_column(column, overflow="fold")
    for row in rows:
        details = ", ".join(f"{key} {value}" for key, value in row.facts.items())
        table.add_row(str(row.id), row.time[:19].replace("T", " "), row.event, row.who, details)
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console = Console(width=150, highlight=False, markup=False)  # a file or a log has no width of its own
    console.print(table)
