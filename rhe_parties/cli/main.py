"""Entry point of `rhe`: commands, and the one place where errors become exit codes.

Exit codes: 0 done, 2 the user's mistake (one line on standard error, no traceback), 1 anything else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rhe_parties.cli.attacking import attack_command
from rhe_parties.cli.auditing import audit_command
from rhe_parties.cli.bench_head import head_command
from rhe_parties.cli.bench_reconstruct import reconstruct_command
from rhe_parties.cli.bench_serve import serve_command
from rhe_parties.cli.bench_shadows import shadows_command
from rhe_parties.cli.benching import bench
from rhe_parties.cli.certificates import certificates
from rhe_parties.cli.classifying import classify_command
from rhe_parties.cli.fuzzing import fuzz_command
from rhe_parties.cli.heads import heads
from rhe_parties.cli.keys import keys
from rhe_parties.cli.listing import list_command
from rhe_parties.cli.picturing import pictures_command
from rhe_parties.cli.planning import plan_command
from rhe_parties.cli.serving import serve
from rhe_parties.cli.sweeping import sweep_command
from rhe_parties.errors import RheError, UserError

__all__ = ["app", "main", "run_as_program"]

app = typer.Typer(
    name="rhe",
    help="Who can learn what about the private training data of a transfer-learned classifier?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("attack")(attack_command)
app.command("audit")(audit_command)
app.command("classify")(classify_command)
app.command("fuzz")(fuzz_command)
app.command("list")(list_command)
bench.command("head")(head_command)
bench.command("reconstruct")(reconstruct_command)
bench.command("serve")(serve_command)
bench.command("shadows")(shadows_command)
app.add_typer(bench)
app.add_typer(certificates)
app.add_typer(heads)
app.add_typer(keys)
app.command("pictures")(pictures_command)
app.command("plan")(plan_command)
app.add_typer(serve)
app.command("sweep")(sweep_command)

Assignments = Annotated[
    list[str] | None, typer.Option("-p", "--parameter", metavar="KEY=VALUE", help="Set a parameter.")
]
ParameterFile = Annotated[
    Path | None,
    typer.Option("--parameters", help="JSON or TOML file of parameters, or an earlier record.json."),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder for the results (default: a new one below runs/).")
]
Address = Annotated[str | None, typer.Option("--address", help="A running Ray cluster to join.")]
TransportName = Annotated[
    str | None, typer.Option("--transport", help="What carries the messages: ray, grpc or local; as -p transport=.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the record instead of the table.")]


@app.command("run")
def run_command(
    scenario: Annotated[Path, typer.Argument(help="Scenario file, such as scenarios/quickstart.py.")],
    parameter: Assignments = None,
    parameters: ParameterFile = None,
    out: OutFolder = None,
    transport: TransportName = None,
    address: Address = None,
    json: AsJson = False,
) -> None:
    """Run a scenario: table here; record.json, report.html and transcript.binpb in the folder."""
    from rhe_parties.cli.running import run_scenario

    flags = {"transport": transport, "address": address}
    run_scenario(scenario, parameter or [], parameters, out, flags, json)


@app.command("report")
def report_command(
    folder: Annotated[str, typer.Argument(help="Folder of a run or of a sweep, or URL of a sweep.")],
    export: Annotated[
        Path | None,
        typer.Option("--export", help="Folder for the matrix as CSV and LaTeX and all figures as SVG and PNG."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Show the table of a run or sweep again and write its report.html anew, from its records alone."""
    from rhe_parties.cli.reporting import show_report

    show_report(folder, json, export)


@app.command("pretrain")
def pretrain_command(
    backbone: Annotated[str, typer.Argument(help="Backbone to pretrain; `strokenet`.")],
    out: Annotated[Path, typer.Option("--out", help="Where to put the weights.")] = Path("strokenet.safetensors"),
    seed: Annotated[
        int | None, typer.Option("--seed", help="Root seed (default: that of the shipped weights).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Training steps (default: as the shipped weights).")
    ] = None,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Where MNIST lies, to measure on it too.")
    ] = None,
    evaluate_only: Annotated[bool, typer.Option("--evaluate-only", help="Measure the shipped weights.")] = False,
) -> None:
    """Pretrain the default backbone on procedural handwriting and print its few-shot accuracy."""
    from rhe_parties.cli.pretraining import pretrain

    pretrain(backbone, out, seed, steps, data_root, evaluate_only)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code."""
    sys.exit(guarded(lambda: app(args=arguments, standalone_mode=True)))


def run_as_program(file: str) -> None:
    """What a scenario file calls when it is run as a program: `rhe run` on itself with the given arguments."""
    main(["run", file, *sys.argv[1:]])


def guarded(action: Callable[[], object]) -> int:
    """Call `action` and turn what it raises into an exit code; a user's mistake is one line."""
    try:
        action()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(bool(stop.code))
        return code if code in (0, 2) else 1  # an interrupt anywhere else leaves typer with 130
    except UserError as error:
        typer.echo(f"rhe: {_one_line(error)}", err=True)
        return 2
    except RheError as error:
        typer.echo(f"rhe: {_one_line(error)}", err=True)
        return 1
    return 0


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
