"""Span inversion where heads have a hidden layer: from heads in the clear, from ciphertexts, from extracted forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.reconstructor.standardise import flatten_heads
from rhe_parties.attacks.span.invariants import Invariants
from rhe_parties.attacks.span.two_layer import Material, Shadows, TwoLayerSpan, prepare_two_layer, train_shadows
from rhe_parties.attacks.white_box import gaussian_like, known_victims, read_ciphertexts
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.messages.payloads import TwoLayerHead
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import FloatArray

__all__ = [
    "Reading",
    "attack_encrypted",
    "attack_plain",
    "claim_from_numbers",
    "flat_heads",
    "recipe_of",
    "two_layer_tools",
]


class Reading(Protocol):
    """Numbers [n, p] of flat parameters [n, P]."""

    __name__: str

    def __call__(self, flat: FloatArray, /) -> FloatArray: ...


_SHADOWS = 8000
_MANY_IMAGES = 5000  # auxiliary images that need no variants of themselves
_COPIES = 4


def recipe_of(prior: PriorKnowledge) -> BatchRecipe:
    """The recipe of two-layer heads.

    Raises:
        ParameterError: heads are linear.
    """
    if prior.two_layer is None:
        raise ParameterError("heads have no hidden layer here")
    return prior.two_layer


def flat_heads(
    view: AdversaryView, prior: PriorKnowledge, context: AttackContext
) -> tuple[tuple[str, ...], FloatArray]:
    """Ids of the victims and their parameters [V, P], as they are in the clear.

    Raises:
        NumericError: a victim was not seen, or its head has another activation or width than the recipe says.
    """
    recipe, width = recipe_of(prior), prior.backbone.features
    seen = view.two_layer_heads()
    ids = known_victims(context.victims, seen)
    for name in ids:
        _check(seen[name], recipe, width)
    layers = [(h.hidden_weight, h.hidden_bias, h.weight, h.bias) for h in (seen[name] for name in ids)]
    return ids, flatten_heads(*(np.stack(parts) for parts in zip(*layers, strict=True)))


def _check(head: TwoLayerHead, recipe: BatchRecipe, width: int) -> None:
    found = (head.activation, *head.hidden_weight.shape)
    if found != (recipe.activation, recipe.hidden, width):
        raise NumericError(
            f"head {head.head_id!r} is a {found[0]} head [{found[1]}, {found[2]}], the recipe says {recipe.activation} "
            f"[{recipe.hidden}, {width}]"
        )


def attack_plain(view: AdversaryView, prior: PriorKnowledge, context: AttackContext, shadows: int = 0) -> Claim:
    """Claim features and images of heads in the clear, with random numbers in their place as the null control."""
    ids, flat = flat_heads(view, prior, context)
    invariants = _invariants(prior)
    tools = two_layer_tools(prior, context, invariants.numbers, shadows)
    return claim_from_numbers(tools, invariants.numbers(flat), ids, context)


def attack_encrypted(
    view: AdversaryView, prior: PriorKnowledge, context: AttackContext, shadows: int, encrypted: int
) -> Claim:
    """The same from what a regressor reads in ciphertexts; the null is what it reads in random bytes.

    Args:
        view: holds encrypted heads and public key material.
        prior: prior knowledge.
        context: the context.
        shadows: heads that the estimate is fitted to; 0: the default.
        encrypted: shadow heads that are encrypted under the same key for the regressor.
    """
    recipe, invariants = recipe_of(prior), _invariants(prior)
    tools = two_layer_tools(prior, context, invariants.readable, shadows)
    flat = tools.flat[:encrypted]
    heads = [BinaryHead.of(row, recipe, prior.backbone.features) for row in flat]
    read = read_ciphertexts(view, heads, invariants.readable(flat), context)
    claim = claim_from_numbers(tools, read.flat, read.head_ids, context, read.nothing)
    return replace(claim, notes=claim.notes | read.notes)


def claim_from_numbers(
    tools: TwoLayerSpan,
    numbers: FloatArray,
    head_ids: tuple[str, ...],
    context: AttackContext,
    nothing: FloatArray | None = None,
) -> Claim:
    """The claim about heads with these numbers [V, p]; its null starts from `nothing`, or from Gaussian numbers with
    mean and covariance of the shadows'."""
    context.progress(0.8, "estimating features, decoding")
    claim = _claimed(tools, numbers, head_ids)
    context.progress(0.9, "null control")
    if nothing is None:
        nothing = gaussian_like(tools.numbers, len(head_ids), context.seed)
    notes = {
        "shadow heads": f"{tools.shadows:,}",
        "share of the features' variance explained on unseen images": f"{tools.skill:.3f}",
    }
    if tools.per_class > 1:
        notes["images"] = "one per class, claimed for each of the class' places in the training set"
    return replace(claim, null=_claimed(tools, nothing, head_ids), notes=notes)


def _claimed(tools: TwoLayerSpan, numbers: FloatArray, head_ids: tuple[str, ...]) -> Claim:
    features = tools.features(numbers)
    images, points = tools.pictures(features), tools.points(features)
    return Claim(head_ids=head_ids, images=images, features=points, whitener=tools.sighting.whitener)


def two_layer_tools(prior: PriorKnowledge, context: AttackContext, read: Reading, shadows: int = 0) -> TwoLayerSpan:
    """Estimate and decoder, functions of prior knowledge, made once for all worlds and strategies.

    Args:
        prior: prior knowledge.
        context: its memory keeps the tools.
        read: what is going to be known of victims' heads, as numbers of flat parameters; its name tells tools apart.
        shadows: heads that the estimate is fitted to; 0: the default.
    """
    key = f"two-layer span {shadows} {read.__name__}"
    if key not in context.memory:
        seed = stream_seed(context.seed, "two-layer-span")
        trained = _trained(prior, context, shadows or _SHADOWS, seed)
        context.progress(0.3, "estimate of features")
        context.memory[key] = prepare_two_layer(
            trained,
            read(trained.flat),
            seed,
            context.pool,
            lambda share, text: context.progress(0.3 + 0.5 * share, text),
        )
    tools: TwoLayerSpan = context.memory[key]
    return tools


def some_heads(prior: PriorKnowledge, context: AttackContext, count: int) -> FloatArray:
    """Flat parameters [count, P] of shadow heads on auxiliary images as they are, none of them with variants.

    Raises:
        DataError: a class with too few auxiliary images.
    """
    seed = stream_seed(context.seed, "two-layer-heads")
    return train_shadows(_material(prior), count, 0, seed, context.pool, lambda _share, _text: None).flat[:count]


def _trained(prior: PriorKnowledge, context: AttackContext, count: int, seed: int) -> Shadows:
    context.progress(0.0, "features of auxiliary images")
    material = _material(prior)
    copies = _COPIES if len(material.balance) < _MANY_IMAGES else 0
    return train_shadows(
        material, count, copies, seed, context.pool, lambda share, text: context.progress(0.3 * share, text)
    )


def _material(prior: PriorKnowledge) -> Material:
    return Material(
        prior.backbone, recipe_of(prior), prior.auxiliary_images, prior.auxiliary_features, prior.auxiliary_labels,
        *prior.balance,
    )  # fmt: skip


def _invariants(prior: PriorKnowledge) -> Invariants:
    return Invariants.of(recipe_of(prior), prior.auxiliary_features)
