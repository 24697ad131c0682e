"""Image datasets by name, as uint8 arrays of one size: nothing is downloaded unless asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from rhe_parties.data.imagefolder import read_folder
from rhe_parties.errors import DataError, ParameterError, unknown_name
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = [
    "ROOT_VARIABLE",
    "Dataset",
    "dataset_catalogue",
    "default_root",
    "load_dataset",
    "resize",
    "to_unit",
    "with_parity",
]

ROOT_VARIABLE = "RHE_DATA_ROOT"
"""Environment variable that names the folder with the datasets, in torchvision's layout."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images uint8 [n, C, H, W], labels int64 [n] in 0..K-1, and the official test part (bool [n]) or None.

    `finer` are the same images under the classes that training sets are balanced over; None: under these.

    Raises:
        DataError: arrays that do not fit together, or no images.
    """

    name: str
    images: UInt8Array
    labels: IntArray
    class_names: tuple[str, ...]
    official_test: npt.NDArray[np.bool_] | None = None
    finer: Dataset | None = None

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or count == 0:
            raise DataError(f"dataset {self.name}: images must be uint8 [n, C, H, W], n > 0, not {self.images.shape}")
        if self.labels.shape != (count,) or (self.official_test is not None and self.official_test.shape != (count,)):
            raise DataError(f"dataset {self.name}: {count} images, but labels of shape {self.labels.shape}")
        if self.labels.min() < 0 or self.labels.max() >= len(self.class_names):
            raise DataError(f"dataset {self.name}: labels must lie in 0..{len(self.class_names) - 1}")

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)


def with_parity(dataset: Dataset) -> Dataset:
    """The dataset with two classes, `even` and `odd`: the index of its own class modulo 2.

    Its own classes, the even ones first, stay in `finer`. Of an odd number of classes the last one is left out, so
    that a set with as many images of each of them also has as many odd as even ones.

    Raises:
        DataError: fewer than two classes.
    """
    pairs = dataset.classes // 2
    if pairs == 0:
        raise DataError(f"dataset {dataset.name}: {dataset.classes} class is too few for odd and even (at least 2)")
    kept = np.flatnonzero(dataset.labels < 2 * pairs)
    own, test = dataset.labels[kept], dataset.official_test
    order = [*range(0, 2 * pairs, 2), *range(1, 2 * pairs, 2)]
    finer = Dataset(
        dataset.name,
        dataset.images[kept],
        own % 2 * pairs + own // 2,
        tuple(dataset.class_names[label] for label in order),
        None if test is None else test[kept],
    )
    return replace(finer, labels=own % 2, class_names=("even", "odd"), finer=finer)


def default_root() -> Path:
    """`$RHE_DATA_ROOT` where it is set, else ~/.cache/rhe_parties/data."""
    named = os.environ.get(ROOT_VARIABLE)
    return Path(named).expanduser() if named else Path.home() / ".cache" / "rhe_parties" / "data"


def to_unit(images: UInt8Array) -> FloatArray:
    """uint8 0..255 -> float32 in [-1, 1], same shape."""
    unit: FloatArray = images.astype(np.float32) / np.float32(127.5) - np.float32(1)
    return unit


def resize(images: UInt8Array, size: int) -> UInt8Array:
    """Bilinear resize of uint8 [n, C, H, W] to size × size (antialiased when it shrinks)."""
    if images.shape[2:] == (size, size):
        return images
    shrink = size < max(images.shape[2:])
    parts = []
    for start in range(0, len(images), 4096):
        block = torch.from_numpy(images[start : start + 4096]).float()
        block = F.interpolate(block, size=(size, size), mode="bilinear", align_corners=False, antialias=shrink)
        parts.append(block.round_().clamp_(0, 255).to(torch.uint8).numpy())
    return np.concatenate(parts)


def load_dataset(name: str, root: Path | None = None, image_size: int = 32, *, download: bool = False) -> Dataset:
    """Load a dataset.

    Args:
        name: `digits`, `mnist`, `cifar10` or `imagefolder:PATH` (one folder per class).
        root: folder with torchvision's datasets; None: see `default_root`.
        image_size: side of the images in pixels.
        download: let torchvision fetch what is missing; never done otherwise.

    Returns:
        The dataset at the wanted size.

    Raises:
        ParameterError: unknown name, or an image size below 8.
        DataError: missing or unreadable data; the text says where it was sought and how to get it.
    """
    if image_size < 8:
        raise ParameterError(f"image_size = {image_size} is not allowed: at least 8 pixels")
    if name.startswith("imagefolder:"):
        folder = Path(name.partition(":")[2]).expanduser()
        images, labels, names, test = read_folder(folder, image_size)
        return Dataset(name, images, labels, names, test)
    if name not in _LOADERS:
        raise unknown_name("dataset", name, [*_LOADERS, "imagefolder:PATH"])
    return _LOADERS[name](root if root is not None else default_root(), image_size, download)


def dataset_catalogue() -> list[tuple[str, str, str]]:
    """(name, summary, source) of every dataset that `load_dataset` knows."""
    return [
        ("digits", "1,797 handwritten digits, 8×8 enlarged; works offline", "scikit-learn, load_digits"),
        ("mnist", "70,000 handwritten digits, 28×28", "torchvision.datasets.MNIST"),
        ("cifar10", "60,000 colour photographs of 10 kinds, 32×32", "torchvision.datasets.CIFAR10"),
        (
            "imagefolder:PATH",
            "your own images: one folder per class (or train/ and test/ with such folders)",
            "local folder",
        ),
    ]


def _digits(_root: Path, size: int, _download: bool) -> Dataset:
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(data.images).float()[:, None] * (255 / 16)
    large = F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    images = large.round().clamp(0, 255).to(torch.uint8).numpy()
    return Dataset("digits", images, data.target.astype(np.int64), tuple(map(str, range(10))))


def _mnist(root: Path, size: int, download: bool) -> Dataset:
    parts = [_torchvision("MNIST", root, train, download) for train in (True, False)]
    images = np.concatenate([part.data.numpy() for part in parts])[:, None]
    labels = np.concatenate([part.targets.numpy() for part in parts])
    return _with_test("mnist", resize(images, size), labels, tuple(map(str, range(10))), len(parts[1].data))


def _cifar10(root: Path, size: int, download: bool) -> Dataset:
    parts = [_torchvision("CIFAR10", root, train, download) for train in (True, False)]
    images = np.concatenate([part.data for part in parts]).transpose(0, 3, 1, 2)
    labels = np.concatenate([np.asarray(part.targets) for part in parts])
    images = np.ascontiguousarray(images)
    return _with_test("cifar10", resize(images, size), labels, tuple(parts[0].classes), len(parts[1].data))


_LOADERS: dict[str, Callable[[Path, int, bool], Dataset]] = {
    "digits": _digits,
    "mnist": _mnist,
    "cifar10": _cifar10,
}


def _with_test(name: str, images: UInt8Array, labels: Any, class_names: tuple[str, ...], tests: int) -> Dataset:
    """A dataset whose last `tests` images are the official test part."""
    official = np.arange(len(images)) >= len(images) - tests
    return Dataset(name, images, np.asarray(labels, np.int64), class_names, official)


def _torchvision(kind: str, root: Path, train: bool, download: bool) -> Any:
    import torchvision

    try:
        return getattr(torchvision.datasets, kind)(str(root), train=train, download=download)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        fetch = f"python -c \"import torchvision as t; t.datasets.{kind}(r'{root}', download=True)\""
        # torchvision's own text for absent files tells the reader to edit code; other causes are shown.
        missing = "not found" in str(error)
        why = "is not there" if missing else f"cannot be read ({type(error).__name__}: {error})"
        raise DataError(
            f"dataset {kind.lower()} {why}: sought in {root} (choose another folder with {ROOT_VARIABLE}); "
            f"fetch it with: {fetch}"
        ) from error
