"""Who owns which image: the private, auxiliary and evaluation parts, and each victim's training set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.data.datasets import Dataset
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import IntArray

__all__ = ["Splits", "random_sets", "split_dataset", "victim_sets"]

_EVALUATION_LIMIT = 5000
_EVALUATION_SHARE = 0.22


@dataclass(frozen=True, eq=False)
class Splits:
    """Disjoint sorted indices (int64): the victims' images, the adversary's, those that measure utility."""

    private: IntArray
    auxiliary: IntArray
    evaluation: IntArray


def split_dataset(dataset: Dataset, seed: int) -> Splits:
    """Split class by class, by the finer classes where there are any.

    With an official test part: private is that part (as in arXiv 2505.14323), auxiliary the official training
    part without an evaluation part of at most 5,000 images. Without one: private a third, evaluation about
    22 %, auxiliary the rest.

    Args:
        dataset: the dataset.
        seed: root seed.

    Returns:
        Three disjoint parts that cover the dataset.

    Raises:
        DataError: a class with too few images to appear in all three parts.
    """
    dataset = dataset.finer or dataset
    private, auxiliary, evaluation = [], [], []
    official = dataset.official_test
    outside = official if official is not None else np.zeros(len(dataset.labels), np.bool_)
    share = min(_EVALUATION_SHARE, _EVALUATION_LIMIT / max(int((~outside).sum()), 1))
    for label in range(dataset.classes):
        here = dataset.labels == label
        pool = numpy_stream(seed, "split-dataset", label).permutation(np.flatnonzero(here & ~outside))
        own = np.flatnonzero(here & outside)
        needed = 2 if official is not None else 3
        if len(pool) < needed or (needed == 2 and len(own) == 0):
            raise DataError(
                f"dataset {dataset.name}: class {dataset.class_names[label]!r} has {int(here.sum())} images, "
                "too few for the private, auxiliary and evaluation parts (at least 1 each)"
            )
        if needed == 3:
            own, pool = pool[: len(pool) // 3], pool[len(pool) // 3 :]
            held = max(1, int(_EVALUATION_SHARE * (len(own) + len(pool))))
        else:
            held = max(1, int(share * len(pool)))
        private.append(own)
        evaluation.append(pool[:held])
        auxiliary.append(pool[held:])
    return Splits(*(np.sort(np.concatenate(part)).astype(np.int64) for part in (private, auxiliary, evaluation)))


def victim_sets(labels: IntArray, private: IntArray, images_per_class: int, victims: int | None, seed: int) -> IntArray:
    """Disjoint balanced training sets, one per victim head.

    The private part is permuted by the seed and cut class by class into consecutive blocks (as the authors of
    arXiv 2505.14323 do), so no image belongs to two victims.

    Args:
        labels: int64 labels of the whole dataset [n].
        private: indices of the private part.
        images_per_class: S.
        victims: how many sets; None: as many as there are.
        seed: root seed.

    Returns:
        Indices int64 [V, K·S] into the dataset, ordered by class.

    Raises:
        ParameterError: fewer than one image per class or victim, or more victims than are possible.
        DataError: a class with too few private images for a single victim.
    """
    if images_per_class < 1:
        raise ParameterError(f"images_per_class = {images_per_class} is not allowed: at least 1")
    if len(private) == 0:
        raise DataError("the private part holds zero images")
    shuffled = numpy_stream(seed, "victim-sets").permutation(private)
    classes = int(labels.max()) + 1
    pools = [shuffled[labels[shuffled] == label] for label in range(classes)]
    scarce = min(range(classes), key=lambda label: len(pools[label]))
    possible = len(pools[scarce]) // images_per_class
    if possible == 0:
        raise DataError(
            f"images_per_class = {images_per_class} is too many: "
            f"class {scarce} has only {len(pools[scarce])} private images"
        )
    if victims is not None and not 1 <= victims <= possible:
        raise ParameterError(
            f"victims = {victims} is not allowed: 1 to {possible} are possible with {images_per_class} images per class"
        )
    count = possible if victims is None else victims
    blocks = [pool[: count * images_per_class].reshape(count, images_per_class) for pool in pools]
    return np.concatenate(blocks, axis=1).astype(np.int64)


def random_sets(labels: IntArray, classes: int, per_class: int, heads: int, stream: np.random.Generator) -> IntArray:
    """Random class-balanced sets [heads, K·S] of indices, ordered by class, each drawn anew from all images."""
    columns = []
    for label in range(classes):
        pool = np.flatnonzero(labels == label)
        ranks = stream.random((heads, len(pool))).argsort(axis=1)
        columns.append(pool[ranks[:, :per_class]])
    return np.concatenate(columns, axis=1).astype(np.int64)
