"""`rhe pictures`: a dataset's images as files, to try out what takes a folder of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rhe_parties.errors import DataError, ParameterError

__all__ = ["pictures_command"]


def pictures_command(
    dataset: Annotated[str, typer.Argument(help="digits, mnist or cifar10.")],
    out: Annotated[Path, typer.Option("--out", help="New folder; train/CLASS/… and test/CLASS/… come into it.")],
    train: Annotated[int, typer.Option("--train", help="Images of each class to train on.")] = 10,
    test: Annotated[int, typer.Option("--test", help="Images of each class to try the head on.")] = 10,
    data_root: Annotated[Path | None, typer.Option("--data-root", help="Where MNIST or CIFAR-10 lies.")] = None,
) -> None:
    """Write images of a dataset as PNG files, one folder per class, as `rhe head train` takes them."""
    from rhe_parties.data.datasets import load_dataset
    from rhe_parties.data.pictures import write_pictures

    if min(train, test) < 1:
        raise ParameterError(f"train = {train} and test = {test}: at least 1 image of each class is needed")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{str(out)!r} is not empty; give a new folder")
    loaded = load_dataset(dataset, data_root)
    write_pictures(loaded, out / "train", loaded.classes, 0, train)
    write_pictures(loaded, out / "test", loaded.classes, train, test)
    typer.echo(f"{loaded.classes} classes in {out}: {train} images of each to train on, {test} to try")
