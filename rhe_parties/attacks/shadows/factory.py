"""The shadow factory: linear heads by the million, each block a pure function of the seed and its number."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.shadows.sets import GivenSets, SetsRule, array_digest, make_rule, rule_provenance
from rhe_parties.attacks.shadows.stream import BlockSource
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.model.dual import check_pool, train_many
from rhe_parties.model.head import Recipe
from rhe_parties.rng import stream_seed
from rhe_parties.types import FloatArray, IntArray

__all__ = ["CODE_VERSION", "ShadowBlock", "ShadowFactory"]

CODE_VERSION = "1"
"""Changes whenever the same arguments would give other heads, so that caches of older code are refused."""


class ShadowBlock(NamedTuple):
    """B shadow heads: sets int64 [B, N] of pool indices, weight float32 [B, K, D], bias float32 [B, K]."""

    sets: IntArray
    weight: FloatArray
    bias: FloatArray


class ShadowFactory(BlockSource[ShadowBlock]):
    """Trains shadow heads on random class-balanced sets of a pool, or on sets that are given."""

    def __init__(
        self,
        features: FloatArray,
        labels: IntArray,
        classes: int,
        images_per_class: int,
        recipe: Recipe,
        seed: int,
        purpose: str = "shadow",
        block: int = 256,
        sets: IntArray | SetsRule | None = None,
        initial: FloatArray | None = None,
    ) -> None:
        """A factory; nothing is trained yet.

        Args:
            features: of the auxiliary images, float32 [n, D].
            labels: int64 [n] in 0..K-1.
            classes: number of classes K.
            images_per_class: S of the balanced sets; does not count where sets are given.
            recipe: the victims' recipe.
            seed: root seed.
            purpose: name of the random streams; factories of other names share no randomness.
            block: heads per block B; another B gives other heads.
            sets: int64 [V, N], or a picklable pure function from a block's number to int64 [B, N]; such sets
                need not be balanced and may lack a class.
            initial: float32 [K, D], the same weights before training for every head, instead of random ones.

        Raises:
            NumericError: features that are not finite, or wrong shapes.
            DataError: an empty pool, a class with too few images, a label out of range, or no given set.
            ParameterError: fewer than two classes, or a block or S below 1.
        """
        check_pool(features, labels, classes)
        if not np.isfinite(features).all():
            raise NumericError("auxiliary features hold NaN or infinity")
        if block < 1:
            raise ParameterError(f"block = {block} is not allowed: at least 1 head")
        if initial is not None and initial.shape != (classes, features.shape[1]):
            raise NumericError(f"initial weights {initial.shape} must be [K, D] = {(classes, features.shape[1])}")
        self.features = np.ascontiguousarray(features, np.float32)
        self.labels = np.ascontiguousarray(labels, np.int64)
        self.classes, self.images_per_class, self.recipe = classes, images_per_class, recipe
        self.seed, self.purpose, self.initial = seed, purpose, initial
        self.heads_per_block = block
        self._rule = make_rule(sets, self.labels, classes, images_per_class, seed, purpose, block)
        if isinstance(self._rule, GivenSets):
            self.limit = len(self._rule.sets)

    def block(self, index: int) -> ShadowBlock:
        """Train block `index`; errors as in `rhe_parties.model.dual.train_many`."""
        sets = self._rule(index)
        seed = stream_seed(self.seed, self.purpose, index)
        initial = None if self.initial is None else np.broadcast_to(self.initial, (len(sets), *self.initial.shape))
        trained = train_many(self.features, self.labels, sets, self.classes, self.recipe, seed, initial)
        return ShadowBlock(sets, *trained)

    def provenance(self) -> dict[str, str]:
        """See `BlockSource.provenance`.

        Raises:
            ParameterError: the sets come from a function, of which nobody can tell whether it is the same one.
        """
        return {
            "kind": "linear",
            "code_version": CODE_VERSION,
            "features": array_digest(self.features),
            "labels": array_digest(self.labels),
            "classes": str(self.classes),
            "sets": rule_provenance(self._rule),
            "recipe": str(dataclasses.asdict(self.recipe)),
            "initial": "random" if self.initial is None else array_digest(self.initial),
            "seed": str(self.seed),
            "purpose": self.purpose,
            "block": str(self.heads_per_block),
        }
