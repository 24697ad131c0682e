"""Heads of two and three layers, with ReLU or square activation, and their training on a few images.

Under encryption a ReLU is out of reach and a square is one product (arXiv 2505.14323 takes x² for its heads). A
square head that starts from small random weights sits on the flat point of x² and learns quadratic noise;
here it starts where the square is nearly straight. With a hidden value u and an offset β,
    ((u + β)² − β²) / 2β  =  u + u²/2β,
which is the identity with a gentle curvature: the offset becomes the layer's bias, the factor and the constant
go into the next layer, and what is left is a plain head with the activation x². ReLU heads start on their
straight side in the same way (a bias of 1). Further:

- features are centred and scaled by the mean and the root mean square norm of the head's own training images,
  both folded into the first layer afterwards, so the head takes raw features;
- the first layer starts at zero, the others as partial isometries (the last one orthogonal to the constant vector,
  which softmax ignores), so nothing random lies outside the span of the training features;
- full-batch gradient descent with heavy-ball momentum (Polyak 1964), weight decay on the weights alone, and each
  layer's gradient clipped to a norm of `clip`, which keeps the square from running away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.errors import NumericError, ParameterError, unknown_name
from rhe_parties.model.activations import ACTIVATIONS
from rhe_parties.model.head import check_training_sets, weights_digest
from rhe_parties.rng import torch_stream
from rhe_parties.threads import limited_threads
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["ACTIVATIONS", "DeepHead", "DeepRecipe", "train_deep_head", "train_deep_heads"]

_CHUNK_BYTES = 64 << 20  # of float64 work space; heads are independent

Layer = tuple[FloatArray, FloatArray]
_Parameters = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class DeepRecipe:
    """How a head with hidden layers is trained.

    Attributes:
        learning_rate: step size for standardised features.
        momentum: share of the last step that is kept.
        weight_decay: L2 decay of the weights (not of the biases).
        steps: full-batch steps.
        clip: largest Frobenius norm of one layer's gradient.
        offset: β for the square, the initial bias of hidden units for ReLU.
    """

    learning_rate: float = 0.2
    momentum: float = 0.9
    weight_decay: float = 0.004
    steps: int = 300
    clip: float = 1.0
    offset: float = 16.0

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("learning_rate", self.learning_rate, self.learning_rate > 0),
            ("momentum", self.momentum, 0 <= self.momentum < 1),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0),
            ("steps", self.steps, self.steps >= 1),
            ("clip", self.clip, self.clip > 0),
            ("offset", self.offset, self.offset > 0),
        ):
            if not (allowed and np.isfinite(value)):
                limits = "momentum in [0, 1), weight_decay at least 0, everything else above 0"
                raise ParameterError(f"recipe of a deep head: {name} = {value} is not allowed ({limits})")

    @classmethod
    def default(cls, activation: str) -> DeepRecipe:
        """The recipe chosen on digits and on MNIST's training images, for each activation on its own.

        Raises:
            ParameterError: an unknown activation.
        """
        _check_activation(activation)
        return cls() if activation == "square" else cls(weight_decay=0.01, steps=500, offset=1.0)


@dataclass(frozen=True, eq=False)
class DeepHead:
    """A trained head of two or more layers with an activation between them.

    Attributes:
        layers: (weight float32 [out, in], bias float32 [out]) from the features to the logits.
        activation: `relu` or `square`.

    Raises:
        NumericError: shapes that do not fit together, or numbers that are not finite.
        ParameterError: an unknown activation.
    """

    layers: tuple[Layer, ...]
    activation: str

    def __post_init__(self) -> None:
        _check_activation(self.activation)
        kept: list[Layer] = []
        for weight, bias in self.layers:
            weight = np.ascontiguousarray(weight, np.float32)
            bias = np.ascontiguousarray(bias, np.float32)
            if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.size == 0:
                raise NumericError(f"deep head: weight {weight.shape} and bias {bias.shape} must be [out, in], [out]")
            if kept and kept[-1][0].shape[0] != weight.shape[1]:
                raise NumericError(f"deep head: a layer of {len(kept[-1][1])} values feeds one of {weight.shape[1]}")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise NumericError("deep head: weights hold NaN or infinity")
            kept.append((weight, bias))
        if len(kept) < 2:
            raise NumericError(f"deep head: {len(kept)} layers are not allowed (allowed: 2 or more)")
        object.__setattr__(self, "layers", tuple(kept))

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.layers[-1][0].shape[0])

    @property
    def features(self) -> int:
        """Number of features D."""
        return int(self.layers[0][0].shape[1])

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return tuple(len(bias) for _, bias in self.layers[:-1])

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the activation, and shapes and little-endian bytes of all weights and biases."""
        return weights_digest(self.activation.encode(), (array for layer in self.layers for array in layer))

    def logits(self, features: FloatArray) -> FloatArray:
        """Float32 logits [B, K] of features [B, D], computed in float64.

        Raises:
            NumericError: features of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.features:
            raise NumericError(f"head of {self.features} features got features of shape {features.shape}")
        values: npt.NDArray[np.float64] = features.astype(np.float64)
        for index, (weight, bias) in enumerate(self.layers):
            if index:
                values = np.square(values) if self.activation == "square" else np.maximum(values, 0)
            values = values @ weight.astype(np.float64).T + bias
        return values.astype(np.float32)


def train_deep_heads(
    features: FloatArray,
    labels: IntArray,
    classes: int,
    hidden: Sequence[int],
    activation: str,
    seeds: Sequence[int],
    recipe: DeepRecipe | None = None,
) -> list[DeepHead]:
    """Train V independent heads at once.

    Args:
        features: training features float32 [V, N, D], as the backbone gives them.
        labels: int64 [V, N] in 0..classes-1, every class present in every head.
        classes: number of classes K.
        hidden: one or two widths.
        activation: `relu` or `square`.
        seeds: one seed per head for its initial weights.
        recipe: the training recipe; None: `DeepRecipe.default`.

    Returns:
        V heads. The work is done in float64.

    Raises:
        NumericError: features not finite, all alike, or of the wrong shape; training that diverged.
        DataError: no image, a class without image, or a label out of range.
        ParameterError: other widths or an unknown activation.
    """
    recipe = DeepRecipe.default(activation) if recipe is None else recipe
    _check_activation(activation)
    if not 1 <= len(hidden) <= 2 or min(hidden) < 1:
        raise ParameterError(f"hidden = {tuple(hidden)} is not allowed: one or two widths of at least 1")
    check_training_sets(features, labels, classes, len(seeds))
    count, width = features.shape[1:]
    numbers = 3 * count * width + 4 * (hidden[0] * width + classes * max(hidden)) + 12 * count * max(*hidden, classes)
    step = max(1, _CHUNK_BYTES // (8 * numbers))
    heads: list[DeepHead] = []
    for start in range(0, len(features), step):
        part = slice(start, start + step)
        x = torch.from_numpy(np.ascontiguousarray(features[part], np.float32)).double()
        y = torch.from_numpy(np.ascontiguousarray(labels[part]))
        with limited_threads(1):
            heads += _train(x, y, (width, *hidden, classes), activation, seeds[part], recipe)
    return heads


def train_deep_head(
    features: FloatArray,
    labels: IntArray,
    classes: int,
    hidden: Sequence[int],
    activation: str,
    seed: int,
    recipe: DeepRecipe | None = None,
) -> DeepHead:
    """Train one head on features [N, D] and labels [N]; errors as in `train_deep_heads`."""
    return train_deep_heads(features[None], labels[None], classes, hidden, activation, [seed], recipe)[0]


def _check_activation(activation: str) -> None:
    if activation not in ACTIVATIONS:
        raise unknown_name("activation", activation, ACTIVATIONS)


def _train(
    x: Tensor, y: Tensor, widths: tuple[int, ...], activation: str, seeds: Sequence[int], recipe: DeepRecipe
) -> list[DeepHead]:
    mean = x.mean(1, keepdim=True)
    centred = x - mean
    radius = centred.square().sum(-1).mean(1).sqrt()
    offset = 0.0 if activation == "square" else recipe.offset
    layers = _initial_layers(widths, seeds, offset)
    with torch.enable_grad():
        _descend(centred / radius[:, None, None], y, layers, _bend(activation, recipe), recipe)
    return _folded(layers, activation, mean[:, 0], radius, recipe)


def _bend(activation: str, recipe: DeepRecipe) -> Callable[[Tensor], Tensor]:
    if activation == "relu":
        return torch.relu
    return lambda u: u + u.square() / (2 * recipe.offset)


def _initial_layers(widths: tuple[int, ...], seeds: Sequence[int], offset: float) -> _Parameters:
    """Weights [V, out, in] and biases [V, out]; each head's depend on its own seed alone."""
    layers: _Parameters = []
    for index in range(len(widths) - 1):
        fan_in, fan_out = widths[index : index + 2]
        last = index == len(widths) - 2
        if index == 0:
            weight = torch.zeros(len(seeds), fan_out, fan_in, dtype=torch.float64)
        else:
            drawn = [
                torch.randn((fan_out, fan_in), generator=torch_stream(seed, "deep-head-init", index)) for seed in seeds
            ]
            weight = _isometry(torch.stack(drawn).double(), centred=last)
        bias = torch.full((len(seeds), fan_out), 0.0 if last else offset, dtype=torch.float64)
        layers.append((weight, bias))
    return layers


def _isometry(weight: Tensor, centred: bool) -> Tensor:
    """The nearest matrices [V, out, in] with singular values 1; `centred`: with columns that add up to 0."""
    rank = min(weight.shape[1:])
    if centred:
        weight = weight - weight.mean(1, keepdim=True)
        rank = min(rank, weight.shape[1] - 1)
    left, _, right = torch.linalg.svd(weight, full_matrices=False)
    out: Tensor = left[..., :rank] @ right[:, :rank]
    return out


def _descend(x: Tensor, y: Tensor, layers: _Parameters, bend: Callable[[Tensor], Tensor], recipe: DeepRecipe) -> None:
    """Full-batch descent in place; each head sees its own mean loss only."""
    flat = [tensor.requires_grad_() for layer in layers for tensor in layer]
    speed = [torch.zeros_like(tensor) for tensor in flat]
    for _ in range(recipe.steps):
        values = x
        for index, (weight, bias) in enumerate(layers):
            values = (bend(values) if index else values) @ weight.mT + bias[:, None]
        loss = F.cross_entropy(values.flatten(0, 1), y.flatten(), reduction="sum") / x.shape[1]
        slopes = torch.autograd.grad(loss, flat)
        with torch.no_grad():
            for tensor, slope, move in zip(flat, slopes, speed, strict=True):
                if tensor.ndim == 3:
                    slope = slope + recipe.weight_decay * tensor
                norm = slope.flatten(1).norm(dim=1).clamp(min=1e-300)
                factor = (recipe.clip / norm).clamp(max=1).view(-1, *[1] * (tensor.ndim - 1))
                move.mul_(recipe.momentum).add_(slope * factor)
                tensor.sub_(recipe.learning_rate * move)
    for tensor in flat:
        tensor.requires_grad_(False)


def _folded(layers: _Parameters, activation: str, mean: Tensor, radius: Tensor, recipe: DeepRecipe) -> list[DeepHead]:
    """Heads on raw features: standardisation and, for the square, offset and factor put into the layers."""
    arrays: list[tuple[AnyArray, AnyArray]] = []
    for index, (weight, bias) in enumerate(layers):
        if index == 0:
            weight = weight / radius[:, None, None]
            bias = bias - (weight @ mean[..., None])[..., 0]
        elif activation == "square":
            bias = bias - weight.sum(-1) * (recipe.offset / 2)
            weight = weight / (2 * recipe.offset)
        if activation == "square" and index < len(layers) - 1:
            bias = bias + recipe.offset
        arrays.append((weight.float().numpy(), bias.float().numpy()))
    if not all(np.isfinite(array).all() for layer in arrays for array in layer):
        raise NumericError(f"training of {activation} heads diverged with learning_rate = {recipe.learning_rate}")
    count = len(radius)
    return [DeepHead(tuple((w[head], b[head]) for w, b in arrays), activation) for head in range(count)]
