"""The factory's twin for two-layer heads and for linear heads under Adam: blocks of flat parameters."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.shadows.factory import CODE_VERSION
from rhe_parties.attacks.shadows.sets import GivenSets, SetsRule, array_digest, make_rule, rule_provenance
from rhe_parties.attacks.shadows.stream import BlockSource
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.model.dual import check_pool
from rhe_parties.model.two_layer import BatchRecipe, train_batch
from rhe_parties.rng import stream_seed
from rhe_parties.types import FloatArray, IntArray

__all__ = ["FlatBlock", "TwoLayerFactory"]


class FlatBlock(NamedTuple):
    """B shadow heads: sets int64 [B, N], and parameters float32 [B, P] in the order of torch's `parameters()`."""

    sets: IntArray
    parameters: FloatArray


class TwoLayerFactory(BlockSource[FlatBlock]):
    """Trains small heads on random class-balanced sets of a pool, or on sets that are given."""

    def __init__(
        self,
        features: FloatArray,
        labels: IntArray,
        classes: int,
        images_per_class: int,
        recipe: BatchRecipe,
        seed: int,
        purpose: str = "shadow",
        block: int = 256,
        sets: IntArray | SetsRule | None = None,
        targets: IntArray | None = None,
        device: str = "cpu",
    ) -> None:
        """A factory; nothing is trained yet.

        Args:
            features: of the auxiliary images, float32 [n, D].
            labels: int64 [n] in 0..K-1; the sets are balanced over them.
            classes: number of classes K.
            images_per_class: S of the balanced sets; does not count where sets are given.
            recipe: shape and training of the heads.
            seed: root seed.
            purpose: name of the random streams.
            block: heads per block; another value gives other heads.
            sets: int64 [V, N], or a picklable pure function from a block's number to int64 [B, N].
            targets: int64 [n], what the heads learn, where that is not the label (odd or even, for the paper's
                binary heads on digits); the binary loss wants 0 and 1.
            device: where the heads are trained.

        Raises:
            NumericError, DataError, ParameterError: as `ShadowFactory`; and targets that do not fit the loss.
        """
        check_pool(features, labels, classes)
        if not np.isfinite(features).all():
            raise NumericError("auxiliary features hold NaN or infinity")
        if block < 1:
            raise ParameterError(f"block = {block} is not allowed: at least 1 head")
        self.features = np.ascontiguousarray(features, np.float32)
        self.labels = np.ascontiguousarray(labels, np.int64)
        self.targets = self.labels if targets is None else np.ascontiguousarray(targets, np.int64)
        self.target_classes = 2 if recipe.loss == "binary" else int(max(classes, self.targets.max() + 1))
        check_pool(self.features, self.targets, self.target_classes)
        self.recipe, self.seed, self.purpose, self.device = recipe, seed, purpose, device
        self.heads_per_block = block
        self._rule = make_rule(sets, self.labels, classes, images_per_class, seed, purpose, block)
        if isinstance(self._rule, GivenSets):
            self.limit = len(self._rule.sets)

    def block(self, index: int) -> FlatBlock:
        """Train block `index`; errors as in `rhe_parties.model.two_layer.train_batch`."""
        sets = self._rule(index)
        seed = stream_seed(self.seed, self.purpose, index)
        trained = train_batch(
            self.features, self.targets, sets, self.target_classes, self.recipe, seed, device=self.device
        )
        return FlatBlock(sets, trained)

    def provenance(self) -> dict[str, str]:
        """See `BlockSource.provenance`; errors as `ShadowFactory.provenance`."""
        return {
            "kind": "small",
            "code_version": CODE_VERSION,
            "features": array_digest(self.features),
            "labels": array_digest(self.labels),
            "targets": array_digest(self.targets),
            "sets": rule_provenance(self._rule),
            "recipe": str(dataclasses.asdict(self.recipe)),
            "device": self.device.partition(":")[0],
            "seed": str(self.seed),
            "purpose": self.purpose,
            "block": str(self.heads_per_block),
        }
