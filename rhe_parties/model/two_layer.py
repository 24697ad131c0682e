"""Thousands of small heads trained at once: two layers (ReLU or square), or one layer with Adam; on CPU or GPU.

The authors' binary heads are Linear(D, 8)-ReLU-Linear(8, 1) on the binary cross entropy with full-batch plain SGD
(arXiv 2505.14323 and its code); `rhe_parties.model.mlp` holds heads of our own recipe instead. Gradients are written
out, because autograd over a batch of heads keeps what nobody needs. Under plain SGD the first layer never leaves
s_t·W_0 + A_tᵀX, so it is trained on the N×h numbers A and the Gram matrix X·Xᵀ; Adam's steps leave that space and
work on the weights. The last layer is small and always works on its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.errors import NumericError, ParameterError, unknown_name
from rhe_parties.model.activations import ACTIVATIONS
from rhe_parties.model.dual import check_pool, check_sets
from rhe_parties.rng import stream_seed
from rhe_parties.types import FloatArray, IntArray

__all__ = ["ACTIVATIONS", "LOSSES", "OPTIMISERS", "BatchRecipe", "parameter_count", "split_parameters", "train_batch"]

LOSSES = ("binary", "classes")
OPTIMISERS = ("sgd", "adam")
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # torch's defaults

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class BatchRecipe:
    """Shape and training of a small head; weights start as N(0, init_std²), biases at 0; full batch, no momentum.

    Attributes:
        learning_rate, weight_decay, init_std, epochs: as in `rhe_parties.model.head.Recipe`; the decay is L2 and
            acts on weights and biases, under Adam too (torch.optim.Adam).
        hidden: width h of the hidden layer; 0 is a linear head.
        activation: `relu` or `square`.
        loss: `binary` (one output, sigmoid, labels 0 and 1) or `classes` (K outputs, softmax).
        optimiser: `sgd` or `adam`.
        positive_weight: of examples of label 1 in the binary loss.

    Raises:
        ParameterError: a value that is not allowed.
    """

    learning_rate: float
    weight_decay: float
    init_std: float
    epochs: int
    hidden: int = 8
    activation: str = "relu"
    loss: str = "binary"
    optimiser: str = "sgd"
    positive_weight: float = 1.0

    def __post_init__(self) -> None:
        for kind, value, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("loss", self.loss, LOSSES),
            ("optimiser", self.optimiser, OPTIMISERS),
        ):
            if value not in known:
                raise unknown_name(kind, value, known)
        for name, number, allowed in (
            ("learning_rate", self.learning_rate, self.learning_rate > 0),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0),
            ("init_std", self.init_std, self.init_std >= 0),
            ("epochs", self.epochs, self.epochs >= 1),
            ("hidden", self.hidden, self.hidden >= 0),
            ("positive_weight", self.positive_weight, self.positive_weight > 0),
        ):
            if not (allowed and np.isfinite(number)):
                raise ParameterError(
                    f"recipe of small heads: {name} = {number} is not allowed (at least 0; rate, epochs, weight above)"
                )

    @classmethod
    def paper(cls, backbone_name: str, images_per_class: int) -> BatchRecipe:
        """The authors' binary recipe: MNIST's for `strokenet`, CIFAR's for every other backbone.

        Raises:
            ParameterError: fewer than one image per class.
        """
        if images_per_class < 1:
            raise ParameterError(f"images_per_class = {images_per_class} is not allowed: at least 1")
        if backbone_name == "strokenet":
            return cls(0.1, 1e-4, 2e-3, 26 + 6 * images_per_class)
        return cls(0.05, 1e-4, 2e-4, 38 + 10 * images_per_class)

    def shapes(self, features: int, classes: int) -> Shapes:
        """Shapes of the parameters in the order of `torch.nn.Sequential(...).parameters()`."""
        outputs = 1 if self.loss == "binary" else classes
        if self.hidden == 0:
            return (outputs, features), (outputs,)
        return (self.hidden, features), (self.hidden,), (outputs, self.hidden), (outputs,)


def parameter_count(recipe: BatchRecipe, features: int, classes: int) -> int:
    """Number of parameters P of one head."""
    return sum(int(np.prod(shape)) for shape in recipe.shapes(features, classes))


def split_parameters(flat: FloatArray, recipe: BatchRecipe, features: int, classes: int) -> tuple[FloatArray, ...]:
    """Parameters [B, P] as weights [B, out, in] and biases [B, out], layer by layer.

    Raises:
        NumericError: another number of parameters than the recipe has.
    """
    shapes = recipe.shapes(features, classes)
    if flat.ndim != 2 or flat.shape[1] != parameter_count(recipe, features, classes):
        raise NumericError(f"parameters {flat.shape} must be [B, {parameter_count(recipe, features, classes)}]")
    cuts = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    parts = np.split(flat, cuts, axis=1)
    return tuple(part.reshape(len(flat), *shape) for part, shape in zip(parts, shapes, strict=True))


def train_batch(
    features: FloatArray,
    labels: IntArray,
    sets: IntArray,
    classes: int,
    recipe: BatchRecipe,
    seed: int,
    initial: FloatArray | None = None,
    device: str = "cpu",
) -> FloatArray:
    """Train one head on each of B sets.

    Args:
        features: the pool's features float32 [n, D].
        labels: int64 [n] in 0..K-1; for the binary loss 0 and 1.
        sets: int64 [B, N] indices into the pool; a set may lack a class.
        classes: number of classes K; 2 for the binary loss.
        recipe: shape and training.
        seed: of the initial weights; head i's depend on (seed, i) alone, on any device.
        initial: parameters before training, float32 [B, P], instead of random ones.
        device: of the computation, `cpu` or `cuda`.

    Returns:
        Parameters float32 [B, P], each row in the order of `parameters()` of the same head in torch.

    Raises:
        DataError, NumericError, ParameterError: as `rhe_parties.model.dual.train_many`; and the binary loss with
            another number of classes than 2.
    """
    if recipe.loss == "binary" and classes != 2:
        raise ParameterError(f"classes = {classes} is not allowed with the binary loss: 2")
    check_pool(features, labels, classes)
    check_sets(sets, len(labels))
    width = features.shape[1]
    if initial is None:
        start = _initial(len(sets), recipe, width, classes, seed)
    elif initial.shape == (len(sets), parameter_count(recipe, width, classes)):
        start = initial
    else:
        raise NumericError(f"initial parameters {initial.shape} must be [B, P] for {len(sets)} sets")
    x = torch.from_numpy(np.ascontiguousarray(features[sets], np.float32)).to(device)
    y = torch.from_numpy(np.ascontiguousarray(labels[sets], np.int64)).to(device)
    arrays = split_parameters(np.ascontiguousarray(start, np.float32), recipe, width, classes)
    parameters = [torch.from_numpy(array.copy()).to(device) for array in arrays]
    keep = abs(1 - recipe.learning_rate * recipe.weight_decay)
    if recipe.optimiser == "sgd" and recipe.epochs * np.log(max(keep, 1.0)) > 80:  # beyond float32 whatever the data
        raise _diverged(recipe)
    with torch.no_grad():
        trained = (_sgd if recipe.optimiser == "sgd" else _adam)(x, _targets(y, classes, recipe), parameters, recipe)
    flat: FloatArray = torch.cat([tensor.flatten(1) for tensor in trained], dim=1).cpu().numpy()
    if not np.isfinite(flat).all():
        if not np.isfinite(features[sets]).all():
            raise NumericError("features of a training set hold NaN or infinity")
        raise _diverged(recipe)
    return flat


def _diverged(recipe: BatchRecipe) -> NumericError:
    return NumericError(f"head training diverged with learning_rate = {recipe.learning_rate}")


def _initial(heads: int, recipe: BatchRecipe, features: int, classes: int, seed: int) -> FloatArray:
    from rhe_parties.model.philox import normals  # compiles on first use

    count = parameter_count(recipe, features, classes)
    drawn = np.empty((heads, -(-count // 4) * 4), np.float32)
    key = np.uint64(stream_seed(seed, "small-heads"))
    for head in range(heads):
        normals(drawn[head], key, 0, head, 0)
    flat = drawn[:, :count] * np.float32(recipe.init_std)
    for bias in split_parameters(flat, recipe, features, classes)[1::2]:
        assert bias.base is not None  # a view: split and reshape copied nothing
        bias[:] = 0
    return flat


def _targets(labels: Tensor, classes: int, recipe: BatchRecipe) -> Tensor:
    """What outputs [B, N, O] are compared with."""
    if recipe.loss == "binary":
        return labels[..., None].float()
    return F.one_hot(labels, classes).float()


def _slopes(outputs: Tensor, targets: Tensor, recipe: BatchRecipe) -> Tensor:
    """Gradient of the mean loss with respect to the outputs [B, N, O]."""
    if recipe.loss == "binary":
        weight = 1 + (recipe.positive_weight - 1) * targets
        error = weight * (torch.sigmoid(outputs) - targets)
    else:
        error = torch.softmax(outputs, dim=-1) - targets
    return error / outputs.shape[1]


def _bent(values: Tensor, recipe: BatchRecipe) -> tuple[Tensor, Tensor]:
    """Activation of the hidden layer, and its slope."""
    if recipe.activation == "square":
        return values.square(), 2 * values
    return values.clamp(min=0), (values > 0).float()


def _layer(values: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], values, weight.mT)


def _behind(hidden: Tensor, targets: Tensor, tail: list[Tensor], recipe: BatchRecipe) -> Iterator[Tensor]:
    """Gradients with respect to the first layer's outputs `hidden` [B, N, ·], then to what comes after it."""
    if not tail:
        yield _slopes(hidden, targets, recipe)
        return
    values, slope = _bent(hidden, recipe)
    error = _slopes(_layer(values, *tail), targets, recipe)
    yield torch.bmm(error, tail[0]).mul_(slope)
    yield torch.bmm(error.mT, values)
    yield error.sum(1)


def _sgd(x: Tensor, targets: Tensor, parameters: list[Tensor], recipe: BatchRecipe) -> list[Tensor]:
    """Plain descent: W = shrink·W_0 + AᵀX in the first layer, weights in the second."""
    start, bias, *tail = parameters
    gram, first = torch.bmm(x, x.mT), torch.bmm(x, start.mT)
    factors = torch.zeros_like(first)
    keep, shrink = 1 - recipe.learning_rate * recipe.weight_decay, 1.0
    for _ in range(recipe.epochs):
        hidden = torch.baddbmm(first, gram, factors, beta=shrink).add_(bias[:, None])
        error, *slopes = _behind(hidden, targets, tail, recipe)
        factors.mul_(keep).sub_(error, alpha=recipe.learning_rate)
        for tensor, slope in zip([bias, *tail], [error.sum(1), *slopes], strict=True):
            tensor.mul_(keep).sub_(slope, alpha=recipe.learning_rate)
        shrink *= keep
    return [torch.baddbmm(start, factors.mT, x, beta=shrink), bias, *tail]


def _adam(x: Tensor, targets: Tensor, parameters: list[Tensor], recipe: BatchRecipe) -> list[Tensor]:
    """Adam (Kingma and Ba, ICLR 2015) as torch.optim.Adam does it, on the weights."""
    means = [torch.zeros_like(tensor) for tensor in parameters]
    squares = [torch.zeros_like(tensor) for tensor in parameters]
    for step in range(1, recipe.epochs + 1):
        weight, bias, *tail = parameters
        error, *slopes = _behind(_layer(x, weight, bias), targets, tail, recipe)
        gradients = [torch.bmm(error.mT, x), error.sum(1), *slopes]
        scale = recipe.learning_rate / (1 - _BETAS[0] ** step)
        correction = (1 - _BETAS[1] ** step) ** 0.5
        for tensor, slope, mean, square in zip(parameters, gradients, means, squares, strict=True):
            slope.add_(tensor, alpha=recipe.weight_decay)
            mean.lerp_(slope, 1 - _BETAS[0])
            square.mul_(_BETAS[1]).addcmul_(slope, slope, value=1 - _BETAS[1])
            tensor.addcdiv_(mean, square.sqrt().div_(correction).add_(_EPSILON), value=-scale)
    return parameters
