"""`rhe certificates`: a deployment's authority, and who may speak for which party."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhe_parties.service.revocation import serial_text

if TYPE_CHECKING:
    from rhe_parties.service.authority import CertificateRow, Issued

__all__ = ["certificates"]

certificates = typer.Typer(
    name="certificates", help="Make, show and revoke the certificates of a deployment.", no_args_is_help=True
)

_KEEP_OFF = (
    "The authority's key ({key}) can make a certificate for any party: keep it off the machines that serve, "
    "and hand each party its own folder only."
)
Days = Annotated[int, typer.Option("--days", help="How long the certificates are valid.")]


@certificates.command("new")
def new_command(
    deployment: Annotated[str, typer.Argument(help="Name of the deployment, such as hospital.")],
    out: Annotated[Path, typer.Option("--out", help="New folder, with one below it for each party.")],
    client: Annotated[list[str] | None, typer.Option("--client", help="Name of a client (default: alice).")] = None,
    days: Days = 365,
) -> None:
    """Make an authority and the certificates of all parties of a deployment."""
    from rhe_parties.service.authority import AUTHORITY, new_deployment

    _print_issued(new_deployment(deployment, out, client or ["alice"], days))
    typer.echo(_KEEP_OFF.format(key=out / AUTHORITY / "key.pem"))


@certificates.command("issue")
def issue_command(
    folder: Annotated[Path, typer.Argument(help="Folder that `certificates new` made, with the authority in it.")],
    role: Annotated[str, typer.Argument(help="model-host, key-holder, data-owner, operator or client.")],
    name: Annotated[str, typer.Argument(help="Name of a client; other roles have none.")] = "",
    out: Annotated[
        Path | None, typer.Option("--out", help="New folder for it (default: below FOLDER, named after the party).")
    ] = None,
    days: Days = 365,
) -> None:
    """Make one more certificate: of a new client, or in place of one that ends."""
    from rhe_parties.service.authority import issue

    _print_issued([issue(folder, role, name, out, days)])


@certificates.command("show")
def show_command(
    place: Annotated[Path, typer.Argument(help="A certificate, a party's folder, or the folder of a deployment.")],
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of the table.")] = False,
) -> None:
    """Show whom certificates speak for, and until when."""
    from rhe_parties.service.authority import rows_of

    rows = rows_of(place)
    if json:
        typer.echo(json_module.dumps([_plain(row) for row in rows], indent=1))
    else:
        _print_rows(rows)


@certificates.command("revoke")
def revoke_command(
    folder: Annotated[Path, typer.Argument(help="Folder that `certificates new` made.")],
    which: Annotated[str, typer.Argument(help="A party's folder, or a serial number as `show` prints it.")],
) -> None:
    """Put a certificate on the revocation lists; a server that runs reads its own again when it changes."""
    from rhe_parties.service.authority import revoke

    serial, lists = revoke(folder, which)
    typer.echo(f"Revoked {serial_text(serial)} in:")
    for path in lists:
        typer.echo(f"  {path}")
    typer.echo("Where a server's folder lies on another machine, copy its list there.")


def _print_issued(issued: list[Issued]) -> None:
    for item in issued:
        typer.echo(f"{item.identity.uri}  valid until {item.not_after:%Y-%m-%d}  {item.folder}")


def _plain(row: CertificateRow) -> dict[str, str]:
    return {
        "deployment": row.deployment,
        "role": row.role,
        "name": row.name,
        "serial": serial_text(row.serial),
        "valid_until": f"{row.not_after:%Y-%m-%d %H:%M} UTC",
        "state": row.state,
    }


def _print_rows(rows: list[CertificateRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_edge=False)
    for column in _plain(rows[0]):
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*_plain(row).values())
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=150, highlight=False)  # a file or a log has no width of its own
    console.print(table, markup=False)
