"""A dataset's images as files, one folder per class: what `imagefolder:PATH` reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from rhe_parties.data.datasets import Dataset
from rhe_parties.errors import DataError

__all__ = ["write_pictures"]


def write_pictures(dataset: Dataset, folder: Path, classes: int, first: int, count: int) -> None:
    """Write images as PNG files `folder/CLASS/NUMBER.png`.

    Args:
        dataset: whose.
        folder: made where it is not there.
        classes: the first so many.
        first: number within its class of the first image that is written.
        count: of each class.

    Raises:
        DataError: a class has fewer images, or the folder cannot be written.
    """
    for label in range(classes):
        name = dataset.class_names[label]
        chosen = np.flatnonzero(dataset.labels == label)[first : first + count]
        if len(chosen) < count:
            raise DataError(f"{dataset.name}: class {name!r} has {len(chosen)} images from {first} on, not {count}")
        place = folder / name
        try:
            place.mkdir(parents=True, exist_ok=True)
            for number, index in enumerate(chosen):
                image = dataset.images[index]
                pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
                Image.fromarray(pixels).save(place / f"{number:04d}.png")
        except OSError as error:
            raise DataError(f"cannot write pictures to {str(place)!r}: {error.strerror or error}") from error
