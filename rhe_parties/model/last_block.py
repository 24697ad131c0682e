"""The backbone's last block, trained along with the head and put back into the backbone.

The block is the dense layer before the last ReLU of `strokenet`: φ = gain · relu(W a + b), a [P] what the frozen layers
below, the trunk, make of an image. Full-batch gradient descent with weight decay keeps W_t = s_t·W_0 + C_tᵀ·X (X: the
trunk's outputs of the N training images), so like a head's training (`rhe_parties.model.head`) it runs on N×D numbers,
many heads at a time. LoRA adds up·down to W_0 instead; down_t = s_t·down_0 + E_tᵀ·X has the same form.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.errors import FailureCode, NumericError, ParameterError
from rhe_parties.model.adaptation import ADAPTABLE, FACTORS, WHOLE, Adaptation
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import LinearHead, Recipe, check_training_sets, initial_weights
from rhe_parties.model.loss import loss_errors
from rhe_parties.model.strokenet import StrokeNet
from rhe_parties.rng import torch_stream
from rhe_parties.types import FloatArray, IntArray

__all__ = [
    "Adapted",
    "Descent",
    "Layer",
    "adapted_backbone",
    "descend_adapted",
    "initial_factors",
    "last_layer",
    "train_adapted",
    "trunk_of",
]

_CHUNK = 64  # heads at a time


class Layer(NamedTuple):
    """The last block before it is adapted: weight [D, P] and bias [D] in float64, and the factor on its ReLU."""

    weight: Tensor
    bias: Tensor
    gain: float


class Descent(NamedTuple):
    """Where training ended, for V heads of N images.

    `weight` [V, K, D] and `bias` [V, K] are the heads'. Of a whole layer `moved` is C [V, N, D], and `up` None; of
    factors `moved` is E [V, N, r], and `up` [V, D, r]. `shrink` is s, what is left of the start.
    """

    weight: Tensor
    bias: Tensor
    moved: Tensor
    up: Tensor | None
    shrink: float


@dataclass(frozen=True, eq=False)
class Adapted:
    """A head and the block that belongs to it, as tensors by name (`WHOLE` or `FACTORS`)."""

    head: LinearHead
    block: dict[str, FloatArray]


def _network(backbone: Backbone) -> StrokeNet:
    network = backbone.network
    if not isinstance(network, StrokeNet):
        raise ParameterError(
            f"backbone {backbone.name!r} is not allowed with an adapted last block (allowed: {', '.join(ADAPTABLE)})"
        )
    return network


def last_layer(backbone: Backbone) -> Layer:
    """The backbone's last block, on the CPU.

    Raises:
        ParameterError: a backbone whose last block cannot be adapted.
    """
    dense = _network(backbone).output_layer
    return Layer(dense.weight.detach().cpu().double(), dense.bias.detach().cpu().double(), backbone.gain)


def trunk_of(backbone: Backbone) -> Backbone:
    """The frozen part below the last block as a backbone of its own, whose features are the block's inputs [n, P].

    Raises:
        ParameterError: a backbone whose last block cannot be adapted.
    """
    return backbone.over(_network(backbone).without_output(), 1.0)


def adapted_backbone(backbone: Backbone, block: Mapping[str, FloatArray]) -> Backbone:
    """The backbone with its last block replaced; it shares the trunk with the given one.

    Args:
        backbone: the public network.
        block: tensors by name, `WHOLE` or `FACTORS`.

    Raises:
        ParameterError: a backbone whose last block cannot be adapted.
        NumericError: tensors of other names or shapes than the block's, or a product that is not finite.
    """
    network, layer = _network(backbone), last_layer(backbone)
    wide, tall = layer.weight.shape[1], layer.weight.shape[0]
    shapes = {name: array.shape for name, array in block.items()}
    if shapes == dict(zip(WHOLE, (tuple(layer.weight.shape), tuple(layer.bias.shape)), strict=True)):
        weight, bias = (torch.from_numpy(np.array(block[name], np.float32)) for name in WHOLE)
    elif set(shapes) == set(FACTORS) and shapes["down"][1:] == (wide,) and shapes["up"] == (tall, len(block["down"])):
        down, up = (torch.from_numpy(np.array(block[name], np.float64)) for name in FACTORS)
        weight, bias = (layer.weight + up @ down).float(), layer.bias.float()
    else:
        raise NumericError(
            f"adapted block of shapes {shapes}: the last block of {backbone.name} is [{tall}, {wide}] with a bias "
            f"[{tall}], or factors down [r, {wide}] and up [{tall}, r]",
            FailureCode.BAD_TENSOR,
        )
    if not (bool(torch.isfinite(weight).all()) and bool(torch.isfinite(bias).all())):
        raise NumericError("adapted block: the layer with its factors is not finite")
    return backbone.over(network.with_output(weight, bias), backbone.gain)


def initial_factors(seeds: Sequence[int], rank: int, width: int) -> Tensor:
    """Fresh `down` factors float64 [V, r, P], N(0, 1/P), each by its own seed alone; `up` starts at 0."""
    drawn = [torch.randn((rank, width), generator=torch_stream(seed, "factor-init")) for seed in seeds]
    scaled: Tensor = torch.stack(drawn).double() / width**0.5
    return scaled


def descend_adapted(
    x: Tensor,
    onehot: Tensor,
    start: Tensor,
    layer: Layer,
    recipe: Recipe,
    down: Tensor | None = None,
    softness: float = 0.0,
) -> Descent:
    """Train heads and last block together; differentiable in every tensor.

    Args:
        x: the trunk's outputs of the training images [V, N, P].
        onehot: their labels [V, N, K], floating.
        start: head weights before training [V, K, D]; biases start at 0.
        layer: the block before training.
        recipe: with an adaptation, without DP-SGD or RelaxLoss.
        down: LoRA's `down` factors before training [V, r, P]; None: the whole layer is trained.
        softness: width of a smooth step in place of the ReLU's, for who looks for `x` by its gradient; 0: the ReLU.
    """
    adaptation = _adaptation(recipe)
    rate, keep = recipe.learning_rate, 1 - recipe.learning_rate * recipe.weight_decay
    pace, hold = adaptation.learning_rate, 1 - adaptation.learning_rate * recipe.weight_decay
    gram, base = x @ x.mT, x @ layer.weight.mT
    weight, bias, shrink = start, torch.zeros_like(start[..., 0]), 1.0
    low = x if down is None else x @ down.mT
    moved = torch.zeros_like(base if down is None else low)
    up = None if down is None else torch.zeros_like(base[:, :1].mT.expand(-1, -1, down.shape[1]))
    for step in range(recipe.epochs):
        if up is None:
            before = shrink * (base + layer.bias) + gram @ moved + moved.sum(1, keepdim=True)
            seen = None
        else:
            seen = shrink * low + gram @ moved
            before = base + layer.bias + seen @ up.mT
        gate = torch.sigmoid(before / softness) if softness else (before > 0).to(before.dtype)
        features = layer.gain * before * gate
        error = loss_errors(features @ weight.mT + bias[:, None], onehot, 0.0, step) / x.shape[1]
        slope = layer.gain * (error @ weight) * gate
        weight = keep * weight - rate * (error.mT @ features)
        bias = keep * bias - rate * error.sum(1)
        if up is None or seen is None:
            moved = hold * moved - pace * slope
        else:
            moved, up = hold * moved - pace * (slope @ up), hold * up - pace * (slope.mT @ seen)
        shrink *= hold
    return Descent(weight, bias, moved, up, shrink)


def _adaptation(recipe: Recipe) -> Adaptation:
    if recipe.adaptation is None:
        raise ParameterError("this recipe trains the head alone (needed: one with an adaptation of the last block)")
    return recipe.adaptation


def train_adapted(
    layer: Layer, inputs: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seeds: Sequence[int]
) -> list[Adapted]:
    """Train V heads, each with a last block of its own.

    Args:
        layer: the block before training.
        inputs: the trunk's outputs of the training images, [V, N, P].
        labels: int64 [V, N] in 0..K-1.
        classes: number of classes K.
        recipe: with an adaptation.
        seeds: V seeds of the initial head weights and LoRA factors.

    Raises:
        NumericError: inputs not finite, wrong shapes, or training that diverged.
        ParameterError, DataError: training sets that no head can be trained on.
    """
    adaptation = _adaptation(recipe)
    check_training_sets(inputs, labels, classes, len(seeds))
    found: list[Adapted] = []
    for begin in range(0, len(seeds), _CHUNK):
        part, own = slice(begin, begin + _CHUNK), seeds[begin : begin + _CHUNK]
        x = torch.from_numpy(np.ascontiguousarray(inputs[part], np.float32)).double()
        onehot = F.one_hot(torch.from_numpy(np.ascontiguousarray(labels[part])), classes).double()
        start = torch.from_numpy(initial_weights(own, classes, layer.weight.shape[0], recipe.init_std)).double()
        down = initial_factors(own, adaptation.rank, x.shape[2]) if adaptation.rank else None
        end = descend_adapted(x, onehot, start, layer, recipe, down)
        if not all(bool(torch.isfinite(value).all()) for value in (end.weight, end.moved)):
            raise NumericError(
                f"training of head and last block diverged with learning rates {recipe.learning_rate} and "
                f"{adaptation.learning_rate}"
            )
        blocks = _block(end, x, layer, down)
        weights, biases = end.weight.float().numpy(), end.bias.float().numpy()
        found += [
            Adapted(LinearHead(weights[row], biases[row]), {name: array[row] for name, array in blocks.items()})
            for row in range(len(own))
        ]
    return found


def _block(end: Descent, x: Tensor, layer: Layer, down: Tensor | None) -> dict[str, FloatArray]:
    """The trained blocks' tensors by name, float32 [V, ...]."""
    spanned = end.moved.mT @ x
    if down is None or end.up is None:
        pair = (end.shrink * layer.weight + spanned, end.shrink * layer.bias + end.moved.sum(1))
        return dict(zip(WHOLE, (value.float().numpy() for value in pair), strict=True))
    return dict(zip(FACTORS, ((end.shrink * down + spanned).float().numpy(), end.up.float().numpy()), strict=True))
