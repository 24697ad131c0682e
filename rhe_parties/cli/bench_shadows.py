"""`rhe bench shadows`: how fast shadow heads are made."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rhe_parties.errors import ParameterError

if TYPE_CHECKING:
    from rhe_parties.bench.shadows import ShadowBench

__all__ = ["shadows_command"]


def shadows_command(
    features: Annotated[str, typer.Option("--features", help="Widths D, by commas.")] = "256,1280,2048",
    images: Annotated[str, typer.Option("--images", help="Sizes N of a training set, by commas.")] = "10,40",
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Where MNIST lies; without it the images are digits.")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", help="How often every case is measured; medians count.")] = 5,
    seconds: Annotated[float, typer.Option("--seconds", help="Time of the factory, and of the loop, each time.")] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Shadow heads per second, plain and DP-SGD, against the loop of one torch training per head in the same run."""
    widths, sizes = _integers("features", features), _integers("images", images)
    from rich.console import Console

    from rhe_parties.bench.shadows import bench_shadows

    with Console(stderr=True, highlight=False).status("starting") as status:
        result = bench_shadows(widths, sizes, data_root, repeats, seconds, status.update)
    if json:
        typer.echo(json_module.dumps(result.to_json(), indent=1))
    else:
        _show(result)


def _integers(name: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{name} = {text!r} is not allowed: whole numbers, separated by commas") from None


def _show(result: ShadowBench) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=112)
    title = f"Shadow heads per second: factory on {result.cores} cores, and one torch training after the other"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    table.add_column("Case", style="bold", no_wrap=True)
    for column in ("d", "N", "Steps", "Factory", "Lowest to highest", "Loop", "Ratio", "Ratio per core"):
        table.add_column(column, justify="right", no_wrap=True)
    for case in result.cases:
        table.add_row(
            case.name, str(case.features), str(case.images), str(case.epochs), f"{case.heads_per_s:,.0f}",
            f"{case.low_heads_per_s:,.0f} – {case.high_heads_per_s:,.0f}", f"{case.loop_heads_per_s:,.1f}",
            f"{case.ratio:,.0f}", f"{case.ratio_per_core:,.0f}",
        )  # fmt: skip
    console.print(table)
    sources = dict.fromkeys(f"d={case.features}: {case.source}" for case in result.cases)
    console.print(
        f"{'; '.join(sources)}. Medians of {result.cases[0].repeats}; load of the machine {result.load:.1f}.",
        style="dim",
    )
