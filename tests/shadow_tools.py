"""Small shadow factories that several tests share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from rhe_parties.attacks.shadows.factory import ShadowFactory
from rhe_parties.model.head import Recipe
from rhe_parties.rng import numpy_stream
from rhe_parties.types import FloatArray, IntArray

__all__ = ["PAPER", "STRONG", "factory", "pool", "same", "two_of_one_class"]

PAPER = Recipe.paper("strokenet", 1)
STRONG = Recipe(0.05, 0.02, 0.3, 20)


def pool(width: int = 20, classes: int = 4, images: int = 60) -> tuple[FloatArray, IntArray]:
    features = np.maximum(numpy_stream(1, "pool", width).normal(size=(images, width)), 0).astype(np.float32) * 3
    return features, (np.arange(images) % classes).astype(np.int64)


def factory(seed: int = 3, recipe: Recipe = PAPER, **more: Any) -> ShadowFactory:
    features, labels = pool()
    return ShadowFactory(features, labels, 4, 2, recipe, seed, **({"block": 32} | more))


def same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def two_of_one_class(index: int) -> IntArray:
    return numpy_stream(index, "sets").integers(0, 60, (32, 5))
