"""Two-layer heads extracted as quadratic forms: what decisions on lifted features tell, claimed and reconstructed from.

A square head is a form, linear in products of features. A ReLU head is none, but the form that comes closest to it on
real images decides nearly as it does: a surrogate, whose numbers say as much of the training images as its fit allows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.extraction.gauge import Float64Array
from rhe_parties.attacks.extraction.prior import FeatureAxes
from rhe_parties.attacks.extraction.quadratic import SquareLift, canonical_factors
from rhe_parties.attacks.two_layer_span import claim_from_numbers, recipe_of, two_layer_tools
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.two_layer import BatchRecipe, split_parameters
from rhe_parties.types import FloatArray, UInt8Array

__all__ = ["LiftedHeads", "claim_from_forms", "lifted_heads"]

# Unknowns of a form: 100 coordinates and 300 products. The time of a solution grows with their third power.
_AXES, _PRODUCTS = 100, 24
_RIDGE = 1e-3  # of the lifted features' variance, in the fit of a surrogate
_BLOCK = 256


@dataclass(frozen=True, eq=False)
class LiftedHeads:
    """How heads of a recipe look on lifted features: exactly where they are forms, by least squares where they are not.

    Attributes:
        backbone: the public network.
        recipe: of the heads.
        lift: from features to lifted ones.
        features: backbone features [n, D] on which surrogates are fitted.
    """

    backbone: Backbone
    recipe: BatchRecipe
    lift: SquareLift
    features: FloatArray

    @property
    def surrogate(self) -> bool:
        """Whether the heads are no forms themselves."""
        return self.recipe.activation != "square"

    def extract(self, images: UInt8Array) -> FloatArray:
        """Lifted features [B, width] of images uint8 [B, C, H, W]."""
        return self.lift.lift(self.backbone.extract(images))

    def linear(self, flat: FloatArray) -> FloatArray:
        """Weight on lifted features and bias, [V, width + 1], of the logits of heads with flat parameters [V, P]."""
        make = self._fitted if self.surrogate else self._exact
        parts = (flat[i : i + _BLOCK] for i in range(0, len(flat), _BLOCK))
        split = (split_parameters(part, self.recipe, self.features.shape[1], 2) for part in parts)
        return np.concatenate([make(*(a.astype(np.float64) for a in part)) for part in split]).astype(np.float32)

    def pairs(self, flat: FloatArray) -> tuple[FloatArray, FloatArray]:
        """The same as heads of two classes: weights [V, 2, width] and biases [V, 2], zero for class 0."""
        found = self.linear(flat)
        both = np.stack([np.zeros_like(found), found], axis=1)
        return both[..., :-1], both[..., -1]

    def error(self, flat: FloatArray) -> float:
        """Root mean square of what the logits of heads [V, P] and of their lifted twins differ by on real images."""
        found = self.linear(flat).astype(np.float64)
        lifted: Float64Array = self._rows() @ found.T
        parts = split_parameters(flat, self.recipe, self.features.shape[1], 2)
        return float(np.sqrt(np.square(self._logits(*(a.astype(np.float64) for a in parts)).T - lifted).mean()))

    def _rows(self) -> Float64Array:
        return np.concatenate([self.lift.lift(self.features), np.ones((len(self.features), 1))], axis=1)

    def _logits(
        self, weight: Float64Array, bias: Float64Array, out: Float64Array, offset: Float64Array
    ) -> Float64Array:
        """[V, n]"""
        hidden = self.features @ weight.transpose(0, 2, 1) + bias[:, None]
        values = np.maximum(hidden, 0) if self.surrogate else np.square(hidden)
        logits: Float64Array = (values @ out[:, 0, :, None])[..., 0] + offset
        return logits

    def _exact(self, weight: Float64Array, bias: Float64Array, out: Float64Array, offset: Float64Array) -> Float64Array:
        lines, constant = self.lift.heads(weight, bias, out, offset)
        return np.concatenate([lines[:, 0], constant], axis=1)

    def _fitted(
        self, weight: Float64Array, bias: Float64Array, out: Float64Array, offset: Float64Array
    ) -> Float64Array:
        rows = self._rows()
        gram = rows.T @ rows + _RIDGE * len(rows) * np.eye(rows.shape[1])
        fitted = np.linalg.solve(gram, rows.T @ self._logits(weight, bias, out, offset).T)
        return fitted.T.astype(np.float64)


def lifted_heads(prior: PriorKnowledge, context: AttackContext) -> LiftedHeads:
    """Lift for the auxiliary features, made once."""
    key = "lifted heads"
    if key not in context.memory:
        recipe, rank, products = recipe_of(prior), _AXES, _PRODUCTS
        if recipe.activation != "square":  # least squares: twice as many images as unknowns at least
            room = len(prior.auxiliary_features) // 2
            rank = max(1, min(rank, room // 2))
            products = min(products, int(np.sqrt(8 * (room - rank) + 1) - 1) // 2)
        axes = FeatureAxes.fit(prior.auxiliary_features, rank)
        lift = SquareLift(axes, min(products, axes.rank))
        some = prior.auxiliary_features[:2000]
        context.memory[key] = LiftedHeads(prior.backbone, recipe, lift, some)
    found: LiftedHeads = context.memory[key]
    return found


def claim_from_forms(
    lifted: LiftedHeads,
    weight: FloatArray,
    bias: FloatArray,
    reconstruct: bool,
    prior: PriorKnowledge,
    context: AttackContext,
    notes: dict[str, str],
) -> Claim:
    """The claim of an extraction: square heads with the eigenvectors of their forms as units, and images if wanted.

    Args:
        lifted: what the heads are linear in.
        weight, bias: extracted heads of two classes on lifted features, [V, 2, width] and [V, 2].
        reconstruct: whether to go on to images.
        prior, context: as the strategy got them.
        notes: for the claim.
    """
    lines = np.concatenate([weight[:, 1] - weight[:, 0], (bias[:, 1] - bias[:, 0])[:, None]], axis=1)
    rank = min(lifted.lift.products + 2, lifted.features.shape[1] + 1)
    factors = [canonical_factors(lifted.lift.forms(line[None, :-1], line[None, -1])[0], rank) for line in lines]
    values, units = (np.stack(part).astype(np.float32) for part in zip(*factors, strict=True))
    if lifted.surrogate:
        notes = notes | {"extracted heads": "quadratic forms in the place of ReLU heads (surrogates)"}
    claim = Claim(
        head_ids=context.victims,
        weights=np.stack([np.zeros_like(values), values], axis=1),
        biases=np.zeros((len(values), 2), np.float32),
        hidden_weights=np.ascontiguousarray(units[..., :-1]),
        hidden_biases=np.ascontiguousarray(units[..., -1]),
        activation="square",
        notes=notes,
    )
    if not reconstruct:
        return claim
    tools = two_layer_tools(prior, context, lifted.linear)
    drawn = claim_from_numbers(tools, lines, context.victims, context)
    return replace(
        claim,
        images=drawn.images,
        features=drawn.features,
        whitener=drawn.whitener,
        null=drawn.null,
        notes=drawn.notes | notes,
    )
