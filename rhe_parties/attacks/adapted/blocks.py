"""What the adversary sees of adapted blocks, and what it knows of how they came about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.base import PriorKnowledge
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.errors import DataError, NumericError
from rhe_parties.messages.payloads import AdaptedBlock
from rhe_parties.model.adaptation import FACTORS, WHOLE, Adaptation
from rhe_parties.model.head import Recipe
from rhe_parties.model.last_block import Layer, last_layer, train_adapted, trunk_of
from rhe_parties.rng import stream_seed
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray

__all__ = ["Blocks", "Workshop"]


@dataclass(frozen=True, eq=False)
class Blocks:
    """V adapted blocks of one form: float64 [V, D, P] and [V, D] (`WHOLE`), or [V, r, P] and [V, D, r] (`FACTORS`)."""

    names: tuple[str, ...]
    first: Tensor
    second: Tensor

    @classmethod
    def of(cls, seen: Sequence[AdaptedBlock]) -> Blocks:
        """Blocks of one form and shape.

        Raises:
            NumericError: blocks of several forms or shapes.
        """
        shapes = {(block.names, *(tensor.shape for tensor in block.tensors)) for block in seen}
        if len(shapes) != 1:
            raise NumericError(f"the adapted blocks of {len(seen)} heads have {len(shapes)} forms, expected 1")
        first, second = (torch.from_numpy(np.stack([b.tensors[i] for b in seen])).double() for i in range(2))
        return cls(seen[0].names, first, second)

    def part(self, rows: slice) -> Blocks:
        """Some of them."""
        return Blocks(self.names, self.first[rows], self.second[rows])

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, eq=False)
class Workshop:
    """Prior knowledge in the terms of the last block; everything of auxiliary images alone.

    Attributes:
        layer: the block before it was adapted.
        recipe: of heads and blocks.
        inputs: the trunk's outputs of the auxiliary images [n, P], labels [n] that training sets are balanced over.
        belief: of the trunk's outputs; feature_belief: of the backbone's features.
        order: what each place of a training set is balanced over [N], and its class [N].
        features: of the auxiliary images [n, D].
    """

    layer: Layer
    recipe: Recipe
    classes: int
    inputs: FloatArray
    features: FloatArray
    labels: IntArray
    kinds: int
    per_kind: int
    belief: FeaturePrior
    feature_belief: FeaturePrior
    targets: IntArray

    @classmethod
    def build(cls, prior: PriorKnowledge) -> Workshop:
        """From prior knowledge.

        Raises:
            DataError: the recipe trains the head alone, or a class without auxiliary images.
            ParameterError: a backbone whose last block cannot be adapted.
        """
        if prior.recipe.adaptation is None:
            raise DataError("a block was adapted, but the recipe that the adversary knows trains the head alone")
        labels, kinds, per_kind = prior.balance
        inputs = trunk_of(prior.backbone).extract(prior.auxiliary_images)
        features = prior.auxiliary_features
        belief, feature_belief = (FeaturePrior.fit(known, labels, kinds) for known in (inputs, features))
        classes = np.array([prior.auxiliary_labels[labels == kind][0] for kind in range(kinds)], np.int64)
        return cls(
            last_layer(prior.backbone), prior.recipe, prior.classes, inputs, features, labels, kinds, per_kind, belief,
            feature_belief, np.repeat(classes, per_kind),
        )  # fmt: skip

    @property
    def adaptation(self) -> Adaptation:
        """The block's part of the recipe."""
        if self.recipe.adaptation is None:
            raise DataError("the recipe trains the head alone")
        return self.recipe.adaptation

    @property
    def order(self) -> IntArray:
        """The kind of each place of a training set [N]."""
        return np.repeat(np.arange(self.kinds), self.per_kind)

    def shadows(self, count: int, seed: int) -> tuple[Blocks, IntArray]:
        """Blocks adapted to auxiliary images as the owner does it to private ones, and these images' indices [V, N]."""
        sets = balanced_sets(self.labels, self.kinds, self.per_kind, count, seed)
        seeds = [stream_seed(seed, "adapted-shadow", index) for index in range(count)]
        targets = np.tile(self.targets, (count, 1))
        with limited_threads(1):
            trained = train_adapted(self.layer, self.inputs[sets], targets, self.classes, self.recipe, seeds)
        return Blocks.of([AdaptedBlock.of(each.block) for each in trained]), sets

    def check(self, blocks: Blocks) -> None:
        """Refuse blocks of another form than the recipe's.

        Raises:
            NumericError: another form, rank or shape.
        """
        tall, wide, rank = *self.layer.weight.shape, self.adaptation.rank
        shapes = ((rank, wide), (tall, rank)) if rank else ((tall, wide), (tall,))
        names = FACTORS if rank else WHOLE
        if blocks.names != names or (blocks.first.shape[1:], blocks.second.shape[1:]) != shapes:
            raise NumericError(
                f"adapted blocks {blocks.names} of shapes {list(blocks.first.shape[1:])} and "
                f"{list(blocks.second.shape[1:])}; the recipe makes {names} of {shapes}"
            )

    def features_of(self, inputs: FloatArray) -> FloatArray:
        """What the public backbone makes of the trunk's outputs [..., P]: its features [..., D]."""
        before = inputs @ self.layer.weight.numpy().T + self.layer.bias.numpy()
        features: FloatArray = (self.layer.gain * np.maximum(before, 0)).astype(np.float32)
        return features
