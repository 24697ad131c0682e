"""`rhe pretrain`: make the default backbone anew, and measure it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from rhe_parties.data.datasets import load_dataset
from rhe_parties.errors import DataError, unknown_name
from rhe_parties.model.backbone import Backbone, load_backbone, shipped_weights
from rhe_parties.model.fewshot import FewShotAccuracy, fewshot_table
from rhe_parties.model.pretrain import (
    DEFAULT_SEED,
    DEFAULT_STEPS,
    Progress,
    pretrain_strokenet,
    save_pretrained,
)
from rhe_parties.runner.progress import Reporter

__all__ = ["pretrain"]


def pretrain(
    backbone: str, out: Path, seed: int | None, steps: int | None, data_root: Path | None, evaluate_only: bool
) -> None:
    """Pretrain, save, and print few-shot accuracy on digits (and MNIST where it is found).

    Raises:
        ParameterError: a backbone that is not pretrained here.
        DataError: the weights cannot be written.
    """
    if backbone != "strokenet":
        raise unknown_name("backbone to pretrain", backbone, ["strokenet"])
    if not evaluate_only:
        _train(out, DEFAULT_SEED if seed is None else seed, DEFAULT_STEPS if steps is None else steps)
    path = shipped_weights() if evaluate_only else out
    _show(load_backbone(backbone, path), data_root)


def _train(out: Path, seed: int, steps: int) -> None:
    with Reporter() as reporter, reporter.stage("pretraining strokenet", steps) as update:

        def note(progress: Progress) -> None:
            update(progress.step, f"loss {progress.loss:.3f}")

        result = pretrain_strokenet(seed, steps, progress=note)
    save_pretrained(result, out)


def _show(backbone: Backbone, data_root: Path | None) -> None:
    console = Console()
    table = Table(title="few-shot accuracy, mean of 50 draws", title_justify="left", show_edge=False)
    for column in ("dataset", "images per class", "accuracy", "95 % interval"):
        table.add_column(column)
    for name in ("digits", "mnist"):
        try:
            dataset = load_dataset(name, data_root)
        except DataError as error:
            console.print(f"{name} is not measured: {error}", style="dim")
            continue
        for row in fewshot_table(backbone, dataset):
            table.add_row(*_cells(row))
    console.print(table)


def _cells(row: FewShotAccuracy) -> tuple[str, str, str, str]:
    return (
        row.dataset,
        str(row.images_per_class),
        f"{row.mean * 100:.1f} %",
        f"{row.low * 100:.1f} to {row.high * 100:.1f} %",
    )
