"""`rhe keys`: the key holder's vault, looked at and changed while nothing is served from it, or rotated by who serves.

SEAL and `pyrage` are loaded by the commands that need them, not with the command line.
"""

from __future__ import annotations

import asyncio
import json as json_module
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from rhe_parties.cli.linking import CertificatesFolder, DeploymentName, Plaintext, Showing, access_for
from rhe_parties.cli.planning import (
    Batch,
    Classes,
    FeatureNorm,
    Features,
    Hidden,
    LogitError,
    Scheme,
    Security,
    parse_hidden,
)
from rhe_parties.errors import DataError, ParameterError, VaultError
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import PublicMaterial
from rhe_parties.service.passphrase import find_passphrase

if TYPE_CHECKING:
    from rhe_parties.service.vault import Vault, VaultFile

__all__ = ["keys", "open_vault"]

_OLD_COPIES = "Backups and snapshots made before hold the old key still."

keys = typer.Typer(
    name="keys",
    help="Keep the key holder's key: encrypted, in a folder of its own. While no server uses it, but for `show`, and "
    "`rotate` with --key-holder.",
    no_args_is_help=True,
)

VaultFolder = Annotated[Path, typer.Option("--vault", help="Folder that holds the key.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file",
        help="File with the passphrase (default: RHE_PASSPHRASE, then the system's keyring, then the terminal).",
    ),
]


def open_vault(folder: Path, passphrase_file: Path | None) -> Vault:
    """Find the passphrase and open the vault.

    Raises:
        VaultError: see `find_passphrase` and `Vault.open`.
    """
    from rhe_parties.service.vault import Vault

    return Vault.open(folder, _passphrase(folder, passphrase_file))


def _passphrase(folder: Path, file: Path | None, new: bool = False) -> str:
    return find_passphrase(f"vault {str(folder)!r}", file, new, keyring_name=str(folder.absolute()))


@keys.command("new")
def new_command(
    vault: VaultFolder,
    features: Features,
    classes: Classes,
    hidden: Hidden = "",
    batch: Batch = 1,
    logit_error: LogitError = None,
    security: Security = 128,
    scheme: Scheme = None,
    feature_norm: FeatureNorm = 16.0,
    tag: Annotated[
        bool,
        typer.Option(help="Plan one class more, for the secret row by which replies of a cheating host show (bfv)."),
    ] = True,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Make a key, in a new vault or in one that holds none; plan parameters as for `rhe plan`."""
    from rhe_parties.he.sealed import check_sealable
    from rhe_parties.service.vault import IDENTITY, Vault

    widths = parse_hidden(hidden)
    rows = classes + (tag and not widths and scheme in (None, "bfv"))
    plan = plan_head(features, rows, widths, batch, logit_error, security, scheme, feature_norm)
    check_sealable(plan)
    if os.path.exists(vault / IDENTITY):  # False, too, where nothing may be looked at: `create` says why
        opened = open_vault(vault, passphrase_file)
    else:
        opened = Vault.create(vault, _passphrase(vault, passphrase_file, new=True))
    with opened:
        if opened.public() is not None:
            raise VaultError(f"{str(vault)!r} holds a key already; `rhe keys rotate` replaces it")
        public = opened.new_custody(plan).public
    typer.echo(f"Made key {public.fingerprint} in {vault}")
    typer.echo("Without this folder (or a backup of it) and its passphrase nobody can ever use it again.")


@keys.command("rotate")
def rotate_command(
    vault: Annotated[Path | None, typer.Option("--vault", help="Folder of a key that is not served.")] = None,
    key_holder: Annotated[
        str | None, typer.Option("--key-holder", metavar="HOST:PORT", help="Have the key holder that serves do it.")
    ] = None,
    passphrase_file: PassphraseFile = None,
    certificates: CertificatesFolder = None,
    plaintext: Plaintext = False,
    deployment: DeploymentName = None,
) -> None:
    """Replace the key by a new one under the same plan; the old one is destroyed."""
    shown = Showing(certificates, plaintext, deployment)
    if (vault is None) == (key_holder is None):
        raise ParameterError("give either --vault DIR or --key-holder HOST:PORT")
    if vault is not None:
        if shown != Showing(None, False, None):
            raise ParameterError("--certificates, --plaintext and --deployment are for --key-holder, not for --vault")
        _rotate_vault(vault, passphrase_file)
    elif passphrase_file is not None:
        raise ParameterError("--passphrase-file is for --vault; the key holder that serves knows its passphrase")
    else:
        _rotate_served(key_holder or "", shown)


def _rotate_vault(vault: Path, passphrase_file: Path | None) -> None:
    with open_vault(vault, passphrase_file) as opened:
        old = _public(opened)
        new = opened.new_custody(old.plan).public
    typer.echo(f"Replaced key {old.fingerprint} by {new.fingerprint}")
    typer.echo("Every encrypted head has to be encrypted and installed anew; those under the old key are of no use.")
    typer.echo(_OLD_COPIES)


def _rotate_served(key_holder: str, shown: Showing) -> None:
    from rhe_parties.service.grpc_errands import rotate
    from rhe_parties.service.identity import OPERATOR

    done = asyncio.run(rotate(access_for(shown, [key_holder], OPERATOR), key_holder))
    typer.echo(f"Replaced key {done.old} by {done.new}")
    if done.heads is None:
        typer.echo("Heads wait to be encrypted anew by their owner (`rhe head renew`); until then none is decided on.")
    else:
        typer.echo(f"Heads encrypted and installed anew: {done.heads}")
    typer.echo(_OLD_COPIES)


@keys.command("show")
def show_command(
    vault: VaultFolder,
    check: Annotated[
        bool, typer.Option("--check", help="Open it, too: does the key belong to what is published of it?")
    ] = False,
    passphrase_file: PassphraseFile = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show plan and fingerprint of the key, and the vault's files; needs no passphrase, unless it shall check."""
    from rhe_parties.service.vault import KEY, look_into

    if check:
        with open_vault(vault, passphrase_file) as opened:
            opened.public()
            opened.state()
    files, public = look_into(vault)
    if json:
        typer.echo(json_module.dumps(_as_json(files, public, check), indent=1))
        return
    console = Console(highlight=False)
    if public is None:
        console.print("This vault holds no key, or it is being replaced." if not check else "This vault holds no key.")
    else:
        made = next(_time(file) for file in files if file.name == KEY)
        checked = "it opens what is encrypted for it" if check else "not checked, see --check"
        console.print(f"Key {public.fingerprint}\nmade {made}; {checked}", soft_wrap=True)
    console.print(_file_table(files))
    if public is not None:
        console.print(_plan_table(public))


def _as_json(files: list[VaultFile], public: PublicMaterial | None, checked: bool) -> dict[str, object]:
    return {
        "fingerprint": "" if public is None else public.fingerprint,
        "checked": checked,
        "plan": None if public is None else public.plan.to_dict(),
        "files": [
            {"name": file.name, "bytes": file.size, "mode": f"{file.mode:04o}", "written": _time(file)}
            for file in files
        ],
    }


def _file_table(files: list[VaultFile]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("File", "Bytes", "Mode", "Written"):
        table.add_column(name, justify="right" if name == "Bytes" else "left")
    for file in files:
        table.add_row(file.name, str(file.size), f"{file.mode:04o}", _time(file))
    return table


def _plan_table(public: PublicMaterial) -> Table:
    table = Table("", "Planned", box=box.SIMPLE_HEAD)
    for what, value, _ in public.plan.describe():
        table.add_row(what, value)
    return table


def _time(file: VaultFile) -> str:
    return datetime.fromtimestamp(file.written, UTC).isoformat(timespec="seconds")


@keys.command("export-public")
def export_command(
    vault: VaultFolder,
    out: Annotated[Path, typer.Option("--out", help="File for plan and public keys.")],
    passphrase_file: PassphraseFile = None,
) -> None:
    """Write the public material, which anybody may have."""
    from rhe_parties.messages.public import export_public

    with open_vault(vault, passphrase_file) as opened:
        public = _public(opened)
    try:
        out.write_bytes(export_public(public))
    except OSError as error:
        raise DataError(f"cannot write {str(out)!r}: {error.strerror}") from error
    typer.echo(f"Public material of key {public.fingerprint} is in {out}")


@keys.command("backup")
def backup_command(
    file: Annotated[Path, typer.Argument(help="New file for the backup.")],
    vault: VaultFolder,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Put the vault's files, as encrypted as they are, into one file."""
    with open_vault(vault, passphrase_file) as opened:
        opened.backup(file)
    typer.echo(f"The backup is in {file}; it opens by the passphrase of today, whatever becomes of the vault.")


@keys.command("restore")
def restore_command(
    file: Annotated[Path, typer.Argument(help="What `rhe keys backup` wrote.")],
    vault: VaultFolder,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Unpack a backup into a new vault and open it once."""
    from rhe_parties.service.vault import Vault

    Vault.restore(file, vault)
    with open_vault(vault, passphrase_file) as opened:
        public = opened.public()
    typer.echo(f"Restored {vault}: " + ("no key" if public is None else f"key {public.fingerprint}"))


@keys.command("passphrase")
def passphrase_command(
    vault: VaultFolder,
    passphrase_file: PassphraseFile = None,
    new_passphrase_file: Annotated[
        Path | None, typer.Option("--new-passphrase-file", help="File with the new one (default: the terminal).")
    ] = None,
) -> None:
    """Change the passphrase; backups made before keep theirs."""
    with open_vault(vault, passphrase_file) as opened:
        opened.change_passphrase(find_passphrase(f"vault {str(vault)!r}", new_passphrase_file, True, variable=""))
    typer.echo(f"The passphrase of {vault} is changed; backups and older copies still open by the old one.")


def _public(vault: Vault) -> PublicMaterial:
    public = vault.public()
    if public is None:
        raise VaultError(f"{str(vault.folder)!r} holds no key; `rhe keys new` makes one")
    return public
