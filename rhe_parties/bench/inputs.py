"""What the encrypted head is measured on: features of real images and a head trained on a few of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rhe_parties.data.datasets import Dataset, load_dataset
from rhe_parties.errors import ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, train_head
from rhe_parties.model.mlp import train_deep_head
from rhe_parties.rng import numpy_stream
from rhe_parties.types import FloatArray, IntArray

__all__ = ["BenchInputs", "load_inputs", "make_inputs"]

_IMAGES_PER_CLASS = 4
_CALIBRATION = 512
_NORM_ROOM = 1.25


@dataclass(frozen=True, eq=False)
class BenchInputs:
    """Layers of one head, hidden ones first, test features float32 [n, D], and the public norm bound."""

    layers: tuple[tuple[FloatArray, FloatArray], ...]
    features: FloatArray
    feature_norm: float
    source: str

    def save(self, path: Path) -> None:
        """Write to one npz file."""
        arrays = {f"weight{i}": w for i, (w, _) in enumerate(self.layers)}
        arrays |= {f"bias{i}": b for i, (_, b) in enumerate(self.layers)}
        np.savez(path, features=self.features, norm=np.array(self.feature_norm), **arrays)  # type: ignore[arg-type]

    def logits(self, features: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        """Logits of the float head, float64 [n, K]."""
        values = features.astype(np.float64)
        for index, (weight, bias) in enumerate(self.layers):
            values = values @ weight.T.astype(np.float64) + bias
            if index + 1 < len(self.layers):
                values = np.square(values)
        return values


def load_inputs(path: Path) -> BenchInputs:
    """Read what `BenchInputs.save` wrote."""
    with np.load(path, allow_pickle=False) as data:
        count = sum(name.startswith("weight") for name in data.files)
        layers = tuple((data[f"weight{i}"], data[f"bias{i}"]) for i in range(count))
        return BenchInputs(layers, data["features"], float(data["norm"]), "")


def make_inputs(
    features: int, classes: int, hidden: tuple[int, ...], data_root: Path | None, count: int, seed: int = 0
) -> BenchInputs:
    """Real images through `strokenet`, and a head trained on 40 of them (one of each class, where K is above 10).

    With a data root the inputs are MNIST's test images, in their order; without, scikit-learn's digits. Where D is
    not 256, a fixed random layer with ReLU carries the features to D dimensions. With K=10 the classes are the ten
    digits; with two or one (the difference of two logits) low and high digits; with any other K each training image
    is a class of its own. Heads with hidden layers have square activation.

    Raises:
        ParameterError: more classes than there are images to be classes.
        DataError: no MNIST at the data root.
    """
    if data_root is None:
        dataset, name = load_dataset("digits"), "digits"
    else:
        dataset, name = load_dataset("mnist", data_root), "MNIST"
    train, test = _parts(dataset, count, seed)
    backbone = load_backbone("strokenet")
    stream = numpy_stream(seed, "bench-layer")
    layer = stream.normal(size=(backbone.features, features)) / np.sqrt(backbone.features) if features != 256 else None
    x = _carried(backbone.extract(dataset.images[test]), layer)
    pool = _carried(backbone.extract(dataset.images[train]), layer)
    if classes > len(pool):
        raise ParameterError(f"classes {classes} is not allowed here (allowed: up to {len(pool)}, one image each)")
    longest = float(np.linalg.norm(pool[:_CALIBRATION].astype(np.float64), axis=1).max())
    layers = _head(pool, dataset.labels[train], classes, hidden, seed)
    return BenchInputs(layers, x, _NORM_ROOM * longest, f"{len(x):,} {name} images")


def _parts(dataset: Dataset, count: int, seed: int) -> tuple[IntArray, IntArray]:
    """Indices of training and test images: MNIST's official parts, or halves of digits."""
    if dataset.official_test is None:
        order = numpy_stream(seed, "bench-split").permutation(len(dataset.labels))
        train, test = order[: len(order) // 3], order[len(order) // 3 :]
    else:
        test = np.flatnonzero(dataset.official_test)
        train = numpy_stream(seed, "bench-split").permutation(np.flatnonzero(~dataset.official_test))[:2000]
    return train.astype(np.int64), test[:count].astype(np.int64)


def _carried(features: FloatArray, layer: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None) -> FloatArray:
    if layer is None:
        return features
    return np.maximum(features @ layer, 0).astype(np.float32)


def _head(
    pool: FloatArray, labels: IntArray, classes: int, hidden: tuple[int, ...], seed: int
) -> tuple[tuple[FloatArray, FloatArray], ...]:
    outputs = max(classes, 2)
    rows, marks = _training_rows(labels, outputs)
    layers: tuple[tuple[FloatArray, FloatArray], ...]
    if hidden:
        layers = train_deep_head(pool[rows], marks, outputs, hidden, "square", seed).layers
    else:
        head = train_head(pool[rows], marks, outputs, Recipe.paper("strokenet", _IMAGES_PER_CLASS), seed)
        layers = ((head.weight, head.bias),)
    if classes == 1:
        weight, bias = layers[-1]
        layers = (*layers[:-1], (weight[1:] - weight[:1], bias[1:] - bias[:1]))
    return layers


def _training_rows(labels: IntArray, classes: int) -> tuple[IntArray, IntArray]:
    """Rows and marks of the training images: four of each label for ten classes, one image per class otherwise."""
    if classes == 10:
        rows = np.concatenate([np.flatnonzero(labels == k)[:_IMAGES_PER_CLASS] for k in range(10)])
        return rows.astype(np.int64), labels[rows]
    if classes == 2:
        rows = np.arange(min(40, len(labels)), dtype=np.int64)
        return rows, (labels[rows] >= 5).astype(np.int64)
    return np.arange(classes, dtype=np.int64), np.arange(classes, dtype=np.int64)
