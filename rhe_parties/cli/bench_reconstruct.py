"""`rhe bench reconstruct`: span inversion against the paper's reconstructor at equal time."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rhe_parties.errors import DataError

__all__ = ["reconstruct_command"]


def reconstruct_command(
    data_root: Annotated[
        Path | None, typer.Option("--data-root", help="Where MNIST lies; without it the images are digits.")
    ] = None,
    minutes: Annotated[float, typer.Option("--minutes", help="Time of each method.")] = 5.0,
    victims: Annotated[
        int | None, typer.Option("--victims", help="Victim heads (default: 500, or as many as there are images for).")
    ] = None,
    images_per_class: Annotated[int, typer.Option("--images-per-class", help="Private images per class.")] = 1,
    width: Annotated[
        int | None, typer.Option("--width", help="Channels of the reconstructor; the paper has 256, on a GPU.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="The reconstructor's.")] = None,
    batch: Annotated[int | None, typer.Option("--batch", help="Shadow heads per step of the reconstructor.")] = None,
    unconditional: Annotated[
        bool, typer.Option("--unconditional", help="The reconstructor that draws one image per head.")
    ] = False,
    threads: Annotated[int, typer.Option("--threads", help="Of each method; 0: one for each core.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Root seed.")] = 0,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the curves into a file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Curve of TPR at 1 % FPR against minutes of compute, both methods in one run on the same victims."""
    if plot is not None and not plot.absolute().parent.is_dir():
        raise DataError(f"cannot write {str(plot)!r}: there is no folder {str(plot.parent)!r}")
    from rhe_parties.attacks.reconstructor.training import ReconstructorSettings
    from rhe_parties.bench.reconstruct import bench_reconstruct
    from rhe_parties.bench.reconstruct_figures import draw_curves, show_reconstruct_bench

    given = {"width": width, "learning_rate": learning_rate, "batch": batch}
    chosen = {name: value for name, value in given.items() if value is not None}
    settings = ReconstructorSettings(conditional=not unconditional, **chosen)  # type: ignore[arg-type]
    with Console(stderr=True, highlight=False).status("starting") as status:
        result = bench_reconstruct(
            data_root, minutes, victims, images_per_class, settings, seed, status.update, threads
        )
    if plot is not None:
        draw_curves(result, plot)
    if json:
        typer.echo(json_module.dumps(result.to_json(), indent=1))
        return
    show_reconstruct_bench(result, Console(highlight=False))
    if plot is not None:
        typer.echo(f"Picture: {plot}")
