"""Few-shot accuracy of a backbone: the figure that says whether its features are worth anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rhe_parties.data.datasets import Dataset
from rhe_parties.data.splits import split_dataset
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.rng import numpy_stream, stream_seed

__all__ = ["FewShotAccuracy", "fewshot_accuracy", "fewshot_table"]


@dataclass(frozen=True)
class FewShotAccuracy:
    """Mean accuracy (0..1) over `draws` heads with its 95 % interval (normal approximation)."""

    dataset: str
    images_per_class: int
    draws: int
    mean: float
    low: float
    high: float


def fewshot_accuracy(
    backbone: Backbone, dataset: Dataset, images_per_class: int, draws: int = 50, seed: int = 0
) -> FewShotAccuracy:
    """Accuracy of heads trained with the paper's recipe on random balanced sets.

    Args:
        backbone: where the features come from.
        dataset: training images are drawn from its private part, accuracy is measured on its evaluation part.
        images_per_class: S.
        draws: independent training sets (they may share images) and heads; at least 2.
        seed: root seed of splits, draws and heads.

    Returns:
        The mean over the draws and its interval.

    Raises:
        ParameterError: fewer than one image per class or two draws.
        DataError: a class with fewer than S private images.
    """
    return fewshot_table(backbone, dataset, [images_per_class], draws, seed)[0]


def fewshot_table(
    backbone: Backbone,
    dataset: Dataset,
    images_per_class: Sequence[int] = (1, 4),
    draws: int = 50,
    seed: int = 0,
) -> list[FewShotAccuracy]:
    """`fewshot_accuracy` at several sizes, with one pass of the backbone."""
    if draws < 2 or min(images_per_class) < 1:
        raise ParameterError(f"few-shot accuracy takes at least 2 draws and 1 image per class, got {draws} draws")
    splits = split_dataset(dataset, seed)
    pool, held = splits.private, splits.evaluation
    features = backbone.extract(dataset.images[np.concatenate([pool, held])])
    known, asked = features[: len(pool)], features[len(pool) :].astype(np.float64)
    labels, truth = dataset.labels[pool], dataset.labels[held]
    members = [np.flatnonzero(labels == label) for label in range(dataset.classes)]
    if min(map(len, members)) < max(images_per_class):
        scarce = min(range(dataset.classes), key=lambda label: len(members[label]))
        raise DataError(f"class {scarce} has {len(members[scarce])} private images, fewer than {max(images_per_class)}")
    results = []
    for shots in images_per_class:
        generator = numpy_stream(seed, "fewshot-draws", shots)
        picks = [np.concatenate([generator.choice(m, shots, replace=False) for m in members]) for _ in range(draws)]
        chosen = np.stack(picks)
        seeds = [stream_seed(seed, "fewshot-heads", shots, draw) for draw in range(draws)]
        recipe = Recipe.paper(backbone.name, shots)
        weights, biases = train_heads(known[chosen], labels[chosen], dataset.classes, recipe, seeds)
        scores = [asked @ w.T.astype(np.float64) + b for w, b in zip(weights, biases, strict=True)]
        rates = np.array([(score.argmax(axis=1) == truth).mean() for score in scores])
        mean, error = float(rates.mean()), 1.96 * float(rates.std(ddof=1)) / draws**0.5
        results.append(
            FewShotAccuracy(dataset.name, shots, draws, mean, max(0.0, mean - error), min(1.0, mean + error))
        )
    return results
