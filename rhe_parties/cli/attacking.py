"""`rhe attack`: a recorded run attacked again."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from rhe_parties.errors import RheError

__all__ = ["attack_command"]


def attack_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a run.")],
    adversary: Annotated[str, typer.Option("--adversary", help="Strategies by name, or FILE.py:CLASS.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="KEY=VALUE", help="Set a parameter or option.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the results (default: in FOLDER).")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the record instead of the table.")] = False,
) -> None:
    """Run other strategies on the recorded views of a run, offline; its own record stays as it is."""
    from rhe_parties.cli.running import fail_on_errors, show_record
    from rhe_parties.runner.again import attack_again
    from rhe_parties.runner.parameters import parse_assignments

    given: dict[str, Any] = dict(parse_assignments(parameter or []))
    command = ["rhe", "attack", str(folder), "--adversary", adversary]
    for key, value in given.items():
        command += ["-p", f"{key}={value}"]
    try:
        record = attack_again(folder, adversary, given, out, shlex.join(command))
    except KeyboardInterrupt:
        raise RheError("interrupted; what was done until then is kept") from None
    show_record(record, out if out is not None else folder / "attacks", json)
    fail_on_errors(record)
