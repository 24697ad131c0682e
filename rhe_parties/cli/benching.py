"""`rhe bench`: what heads are worth and what they cost, measured."""

from __future__ import annotations

import dataclasses
import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhe_parties.errors import ParameterError

if TYPE_CHECKING:
    from rhe_parties.runner.square_table import Mean, SquareRow

__all__ = ["bench"]

bench = typer.Typer(name="bench", help="Measure heads: accuracy, time, bytes.", no_args_is_help=True)


@bench.callback()
def _group() -> None:
    """Measure heads: accuracy, time, bytes."""


@bench.command("square-heads")
def square_heads_command(
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Folder with the datasets (default: $RHE_DATA_ROOT).")
    ] = None,
    datasets: Annotated[str, typer.Option("--datasets", help="NAME or NAME=strokenet|patches, by commas.")] = (
        "mnist=strokenet,cifar10=patches"
    ),
    draws: Annotated[int, typer.Option("--draws", help="Training sets per row.")] = 50,
    hidden: Annotated[str, typer.Option("--hidden", help="Widths of one or two hidden layers, by commas.")] = "8",
    images: Annotated[str, typer.Option("--images", help="Numbers of training images, by commas.")] = "10,40",
    seed: Annotated[int, typer.Option("--seed", help="Root seed.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON instead of the table.")] = False,
) -> None:
    """Accuracy of linear, ReLU and square heads on the same few training images, with 95 % intervals."""
    from rhe_parties.runner.progress import Reporter
    from rhe_parties.runner.square_table import square_rows, square_task

    widths, sizes = _integers("hidden", hidden), _integers("images", images)
    rows: list[SquareRow] = []
    with Reporter() as reporter:
        for entry in datasets.split(","):
            name, extractor = _dataset(entry.strip())
            with reporter.stage(f"{name}: features ({extractor})", 1.0) as update:
                task = square_task(name, extractor, data_root, seed, update)
            with reporter.stage(f"{name}: heads", 1.0) as update:
                rows += square_rows(task, sizes, widths, draws, seed, update)
    if json:
        typer.echo(json_module.dumps({"rows": [dataclasses.asdict(row) for row in rows]}, indent=1))
    else:
        _print(rows)


def _dataset(entry: str) -> tuple[str, str]:
    from rhe_parties.runner.square_table import EXTRACTORS

    name, _, extractor = entry.rpartition("=")
    if name and extractor in EXTRACTORS:
        return name, extractor
    return entry, "strokenet"


def _integers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{name} = {text!r} is not allowed: whole numbers, separated by commas") from None


def _print(rows: list[SquareRow]) -> None:
    from rich.console import Console
    from rich.table import Table

    first = rows[0]
    widths = ", ".join(map(str, first.hidden))
    table = Table(
        title=f"accuracy on test images in %: mean of {first.draws} draws, 95 % interval; {widths} hidden units",
        title_justify="left",
        show_edge=False,
    )
    for column in ("dataset", "features", "N", "linear", "ReLU", "square", "square − ReLU, paired"):
        table.add_column(column)
    for row in rows:
        cells = [_cell(row.accuracy[kind]) for kind in ("linear", "relu", "square")]
        difference = _cell(row.difference, "+")
        table.add_row(row.dataset, f"{row.extractor}, {row.features}", str(row.images), *cells, difference)
    console = Console()
    if not console.is_terminal:
        console = Console(width=150)  # a file or a log has no width of its own
    console.print(table)
    console.print(
        "linear: the paper's recipe; ReLU and square: the best recipe found for each on other images. "
        "Features `patches` need no weights: ImageNet's are not shipped.",
        style="dim",
    )


def _cell(mean: Mean, sign: str = "") -> str:
    low, high = 100 * mean.low, 100 * mean.high
    return f"{100 * mean.value:{sign}.2f} ({low:{sign}.2f} to {high:{sign}.2f})"
