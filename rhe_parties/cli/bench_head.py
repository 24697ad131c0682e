"""`rhe bench head`: the encrypted head beside its peers."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhe_parties.cli.planning import Classes, Features, Hidden, parse_hidden
from rhe_parties.errors import DataError, ParameterError

__all__ = ["head_command"]


def head_command(
    features: Features = 1280,
    classes: Classes = 10,
    hidden: Hidden = "",
    batch: Annotated[int, typer.Option("--batch", help="Inputs asked for at once in throughput.")] = 256,
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Where MNIST lies; without it the inputs are digits.")
    ] = None,
    decisions: Annotated[int, typer.Option("--decisions", help="Real inputs compared with the float head.")] = 10_000,
    peer_decisions: Annotated[int, typer.Option("--peer-decisions", help="The same for the slow peers.")] = 20,
    rounds: Annotated[int, typer.Option("--rounds", help="How often every case is measured; medians count.")] = 5,
    backbones: Annotated[bool, typer.Option("--backbones", help="Also the share next to real backbones.")] = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw cost against D, K and batch into a file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Compare the encrypted head with its peers: latency, throughput, bytes, precision, and who learns what."""
    widths = parse_hidden(hidden)
    for name, value in (("decisions", decisions), ("peer-decisions", peer_decisions), ("rounds", rounds)):
        if value < 1:
            raise ParameterError(f"{name} {value} is not allowed (allowed: 1 or more)")
    if plot is not None and not plot.absolute().parent.is_dir():
        raise DataError(f"cannot write {str(plot)!r}: there is no folder {str(plot.parent)!r}")
    from rhe_parties.bench.backbones import bench_backbones
    from rhe_parties.bench.head import bench_head
    from rhe_parties.bench.plot import draw_costs, measure_costs
    from rhe_parties.bench.tables import show_head_bench

    with Console(stderr=True, highlight=False).status("starting") as status:
        result = bench_head(
            features, classes, widths, batch, data_root, decisions, peer_decisions, rounds, status.update
        )
        if backbones:
            for threads in sorted({1, result.cores}):
                result.backbones += bench_backbones(threads, status.update)
        if plot is not None:
            draw_costs(measure_costs(status.update), plot)
    if json:
        typer.echo(json_module.dumps(result.to_json(), indent=1))
        return
    show_head_bench(result, Console(highlight=False))
    if plot is not None:
        typer.echo(f"Picture: {plot}")
