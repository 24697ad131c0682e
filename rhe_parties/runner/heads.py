"""Which heads a scenario trains: linear ones, or binary ones with a hidden layer; what goes with which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from rhe_parties.defences.base import Defence
from rhe_parties.errors import ParameterError
from rhe_parties.metrics.truth import GroundTruth
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.binary_head import BinaryHead, binary_recipe
from rhe_parties.model.head import LinearHead, Recipe
from rhe_parties.model.last_block import adapted_backbone, last_layer, train_adapted, trunk_of
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.rng import stream_seed
from rhe_parties.runner.parameters import Parameters
from rhe_parties.runner.world import World
from rhe_parties.types import UInt8Array

__all__ = ["TrueHead", "check_classes", "check_hidden", "head_recipe", "true_heads"]

# Those that parties carry such heads in, as linear heads on products of two features. Levelled `ckks` is in the library
# and the benchmark alone: it takes 27 MB of keys, and no attack can read its ciphertexts' numbers yet.
_SCHEMES = ("bfv", "plain")

R = TypeVar("R", Recipe, BatchRecipe)


@dataclass(frozen=True, eq=False)
class TrueHead:
    """A float head as the owner trains it, and the backbone that it runs behind."""

    head: LinearHead | BinaryHead
    backbone: Backbone


def check_hidden(parameters: Parameters, worlds: Sequence[World]) -> None:
    """Refuse what heads with a hidden layer cannot be combined with.

    Raises:
        ParameterError: names the value, and what is allowed.
    """
    p = parameters
    if p.hidden == 0:
        if p.activation != "relu":
            raise ParameterError(f"activation={p.activation!r} needs a hidden layer: hidden above 0")
        return
    for world in worlds:
        name, scheme = world.name, world.scheme
        if scheme and p.activation != "square":
            raise ParameterError(
                f"world {name!r} is not allowed with hidden={p.hidden} and activation={p.activation!r}: what is "
                "computed on ciphertexts is x² (activation=square; or worlds without encryption, such as "
                "none,none+client)"
            )
        if scheme and scheme not in _SCHEMES:
            raise ParameterError(
                f"scheme {scheme!r} of world {name!r} is not allowed with hidden={p.hidden}: {', '.join(_SCHEMES)}"
            )
        if not all(applied.cls.takes_two_layers() for applied in world.defences):
            raise ParameterError(
                f"world {name!r} is not allowed with hidden={p.hidden}: its defence trains linear heads alone, hidden=0"
            )
    if p.initial_weights:
        raise ParameterError(f"initial_weights=True is not allowed with hidden={p.hidden}: with linear heads, hidden=0")


def check_classes(parameters: Parameters, classes: int) -> None:
    """Refuse a hidden layer where there are not two classes.

    Raises:
        ParameterError: names the value, and what is allowed.
    """
    if parameters.hidden and classes != 2:
        raise ParameterError(
            f"hidden={parameters.hidden} is not allowed with {classes} classes: such heads are binary "
            "(labels=parity makes odd and even of any dataset)"
        )


def head_recipe(parameters: Parameters) -> Recipe | BatchRecipe:
    """The recipe of the heads, with what the parameters say otherwise."""
    p = parameters
    if p.hidden:
        return _changed(binary_recipe(p.backbone, p.images_per_class, p.hidden, p.activation), p)
    return _changed(Recipe.paper(p.backbone, p.images_per_class), p)


def _changed(recipe: R, p: Parameters) -> R:
    return replace(
        recipe,
        learning_rate=recipe.learning_rate if p.learning_rate is None else p.learning_rate,
        weight_decay=recipe.weight_decay if p.weight_decay is None else p.weight_decay,
        init_std=recipe.init_std if p.init_std is None else p.init_std,
        epochs=recipe.epochs if p.epochs is None else p.epochs,
    )


def true_heads(
    truth: GroundTruth,
    images: UInt8Array,
    backbone: Backbone,
    recipe: Recipe | BatchRecipe,
    trainer: Defence,
    seed: int,
) -> list[TrueHead]:
    """The float heads as the owner trains them on `images` uint8 [n, C, H, W], each behind its own backbone."""
    seeds = [stream_seed(seed, "victim-head", index) for index in range(len(truth.sets))]
    pairs = list(zip(truth.sets, seeds, strict=True))
    features, labels = truth.features, truth.labels
    heads: list[LinearHead | BinaryHead]
    if isinstance(recipe, BatchRecipe):
        heads = [trainer.train_two_layer(features[rows], labels[rows], recipe, own) for rows, own in pairs]
    elif recipe.adaptation is None:
        heads = [trainer.train(features[rows], labels[rows], truth.classes, recipe, own) for rows, own in pairs]
    else:
        used, place = np.unique(truth.sets, return_inverse=True)
        inputs = trunk_of(backbone).extract(images[used])[place.reshape(truth.sets.shape)]
        adapted = train_adapted(last_layer(backbone), inputs, labels[truth.sets], truth.classes, recipe, seeds)
        return [TrueHead(each.head, adapted_backbone(backbone, each.block)) for each in adapted]
    return [TrueHead(head, backbone) for head in heads]
