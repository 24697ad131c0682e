"""Do heads with a square activation reach the accuracy of ReLU heads? A table with intervals.

Every draw is one small training set; linear, ReLU and square heads are trained on the same sets, so the
difference of two of them is paired. Recipes were chosen on digits and on the *auxiliary* part of MNIST's training
images. Here the sets come from the part of the training images that was held back then (`Splits.evaluation`),
and accuracy is measured on the official test images.

MNIST goes through `strokenet`. CIFAR-10 goes through `PatchFeatures`: ImageNet weights are not at hand everywhere,
strokenet was made for pen strokes (13 % at N = 10, hardly above chance) and torchvision's networks with random weights
are little better (14 %), which would hide any difference between heads.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from rhe_parties.data.datasets import Dataset, default_root, load_dataset
from rhe_parties.data.splits import Splits, split_dataset
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.metrics.intervals import LEVEL
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.model.mlp import train_deep_heads
from rhe_parties.model.patches import PatchFeatures
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["EXTRACTORS", "HEADS", "Mean", "SquareRow", "Task", "load_photographs", "square_rows", "square_task"]

HEADS = ("linear", "relu", "square")
EXTRACTORS = ("strokenet", "patches")
_PUBLIC_IMAGES = 4000
_BLOCK = 2048
_JPEG_FOLDER = "cifar10-jpeg"

Step = Callable[[float], None]


@dataclass(frozen=True)
class Mean:
    """A mean over draws with its 95 % interval (Student's t)."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, values: npt.NDArray[np.float64]) -> Mean:
        """The mean of one value per draw (at least 2)."""
        middle, error = float(values.mean()), float(values.std(ddof=1)) / len(values) ** 0.5
        reach = float(student.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
        return cls(middle, middle - reach, middle + reach)


@dataclass(frozen=True)
class SquareRow:
    """Accuracies (0..1) of one dataset at one number of training images; `lowest`: the worst draw of each head."""

    dataset: str
    extractor: str
    features: int
    images: int
    hidden: tuple[int, ...]
    draws: int
    accuracy: dict[str, Mean]
    lowest: dict[str, float]
    difference: Mean
    """Square minus ReLU, paired by draw."""


@dataclass(frozen=True, eq=False)
class Task:
    """Features of the images that training sets are drawn from, and of those that accuracy is measured on."""

    dataset: str
    extractor: str
    known: FloatArray
    labels: IntArray
    asked: FloatArray
    truth: IntArray

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(max(self.labels.max(), self.truth.max())) + 1


def load_photographs(name: str, root: Path | None) -> Dataset:
    """A dataset by name; `cifar10` also as JPEGs: `cifar10-jpeg/` or `cifar10-jpeg.zip` (train/CLASS/*, test/CLASS/*).

    Raises:
        DataError: it is nowhere.
    """
    place = root if root is not None else default_root()
    try:
        return load_dataset(name, place)
    except DataError:
        if name != "cifar10":
            raise
        if (place / _JPEG_FOLDER).is_dir():
            return load_dataset(f"imagefolder:{place / _JPEG_FOLDER}")
        archive = place / f"{_JPEG_FOLDER}.zip"
        if not archive.is_file():
            raise
    with tempfile.TemporaryDirectory(prefix="cifar10-") as folder:
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(folder)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{archive} cannot be unpacked: {error}") from error
        return load_dataset(f"imagefolder:{folder}")


def square_task(name: str, extractor: str, root: Path | None, seed: int, step: Step = lambda _: None) -> Task:
    """Load a dataset and extract what the table needs.

    Args:
        name: dataset.
        extractor: `strokenet` or `patches`.
        root: folder with the datasets.
        seed: root seed of the splits.
        step: called with the share that is done.

    Raises:
        ParameterError: an unknown name.
        DataError: missing or unreadable data.
    """
    if extractor not in EXTRACTORS:
        raise ParameterError(f"extractor = {extractor!r} is not allowed (allowed: {', '.join(EXTRACTORS)})")
    dataset = load_photographs(name, root)
    splits = split_dataset(dataset, seed)
    if dataset.official_test is None:
        known, asked = splits.private, splits.evaluation
    else:
        known, asked = splits.evaluation, np.flatnonzero(dataset.official_test)
    features = _extract(
        _extractor(extractor, dataset, splits, seed), dataset.images, np.concatenate([known, asked]), step
    )
    label = name if ":" not in name else dataset.name
    return Task(
        label, extractor, features[: len(known)], dataset.labels[known], features[len(known) :], dataset.labels[asked]
    )


def _extractor(name: str, dataset: Dataset, splits: Splits, seed: int) -> Callable[[UInt8Array], FloatArray]:
    if name == "strokenet":
        return load_backbone("strokenet").extract
    public = numpy_stream(seed, "patch-images").permutation(splits.auxiliary)[:_PUBLIC_IMAGES]
    return PatchFeatures(dataset.images[public], seed=seed).extract


def _extract(
    extract: Callable[[UInt8Array], FloatArray], images: UInt8Array, chosen: IntArray, step: Step
) -> FloatArray:
    parts = []
    for start in range(0, len(chosen), _BLOCK):
        parts.append(extract(images[chosen[start : start + _BLOCK]]))
        step(min(1.0, (start + _BLOCK) / len(chosen)))
    return np.concatenate(parts)


def square_rows(
    task: Task,
    sizes: Sequence[int] = (10, 40),
    hidden: Sequence[int] = (8,),
    draws: int = 50,
    seed: int = 0,
    step: Step = lambda _: None,
) -> list[SquareRow]:
    """One row for each number of training images.

    Args:
        task: from `square_task`.
        sizes: numbers of training images N, multiples of the number of classes.
        hidden: widths of the hidden layers of ReLU and square heads.
        draws: training sets (they may share images); at least 2.
        seed: root seed of draws and heads.
        step: called with the share that is done.

    Raises:
        ParameterError: fewer than two draws, or a size that is no multiple of the number of classes.
        DataError: a class with too few images.
    """
    if draws < 2:
        raise ParameterError(f"draws = {draws} is not allowed: at least 2")
    rows = []
    for index, size in enumerate(sizes):
        if size < task.classes or size % task.classes:
            raise ParameterError(f"{size} training images are not allowed: a multiple of the {task.classes} classes")
        chosen = _draws(task, size // task.classes, draws, seed)
        seeds = [stream_seed(seed, "square-table-heads", size, draw) for draw in range(draws)]
        rates: dict[str, npt.NDArray[np.float64]] = {}
        for done, kind in enumerate(HEADS):
            rates[kind] = _rates(task, chosen, kind, hidden, seeds)
            step((index + (done + 1) / len(HEADS)) / len(sizes))
        rows.append(
            SquareRow(
                task.dataset, task.extractor, task.known.shape[1], size, tuple(hidden), draws,
                {kind: Mean.of(rates[kind]) for kind in HEADS},
                {kind: float(rates[kind].min()) for kind in HEADS},
                Mean.of(rates["square"] - rates["relu"]),
            )
        )  # fmt: skip
    return rows


def _draws(task: Task, shots: int, draws: int, seed: int) -> IntArray:
    """Balanced training sets int64 [draws, N], ordered by class."""
    members = [np.flatnonzero(task.labels == label) for label in range(task.classes)]
    scarce = min(range(task.classes), key=lambda label: len(members[label]))
    if len(members[scarce]) < shots:
        raise DataError(f"class {scarce} of {task.dataset} has {len(members[scarce])} images, {shots} are needed")
    generator = numpy_stream(seed, "square-table-draws", shots)
    picks = [np.concatenate([generator.choice(m, shots, replace=False) for m in members]) for _ in range(draws)]
    return np.stack(picks).astype(np.int64)


def _rates(
    task: Task, chosen: IntArray, kind: str, hidden: Sequence[int], seeds: Sequence[int]
) -> npt.NDArray[np.float64]:
    """Accuracy of each draw's head, float64 [draws]."""
    features, labels = task.known[chosen], task.labels[chosen]
    if kind == "linear":
        name = task.extractor if task.extractor == "strokenet" else "efficientnet_b0"  # the paper's CIFAR recipe
        recipe = Recipe.paper(name, chosen.shape[1] // task.classes)
        weights, biases = train_heads(features, labels, task.classes, recipe, seeds)
        scores = (task.asked @ weight.T + bias for weight, bias in zip(weights, biases, strict=True))
    else:
        heads = train_deep_heads(features, labels, task.classes, hidden, kind, seeds)
        scores = (head.logits(task.asked) for head in heads)
    return np.array([(score.argmax(axis=1) == task.truth).mean() for score in scores])
