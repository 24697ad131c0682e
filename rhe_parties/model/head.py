"""The few-shot head: a linear softmax classifier on frozen features, trained as in arXiv 2505.14323.

Full-batch gradient descent, one step per epoch, no momentum, weights N(0, init_std²), biases 0 (the authors'
v1 code). Many heads are trained at once. Such training never leaves W_t = s_t·W_0 + A_tᵀX (X: the N training
features), so it may run on the N×K numbers A and one Gram matrix X·Xᵀ; the cheaper form is taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.adaptation import Adaptation
from rhe_parties.model.dp import DpMechanism
from rhe_parties.model.loss import loss_errors
from rhe_parties.rng import torch_stream
from rhe_parties.types import FloatArray, IntArray

__all__ = [
    "LinearHead",
    "Recipe",
    "check_training_sets",
    "descend_coefficients",
    "descend_dual",
    "initial_weights",
    "train_head",
    "train_heads",
    "weights_digest",
]

_CHUNK_BYTES = 16 << 20  # of float64 work space, to stay near the caches; heads are independent


@dataclass(frozen=True)
class Recipe:
    """How a head is trained; with a defence at training also what that changes, which is no secret.

    Attributes:
        learning_rate, weight_decay: of the steps; the decay is of weights and biases.
        init_std: deviation of the initial weights; biases start at 0.
        epochs: steps over all images.
        mechanism: DP-SGD; None trains without noise.
        relax: the loss α at which RelaxLoss (arXiv 2207.05801) holds the training; 0 trains without it.
        adaptation: of the backbone's last block along with the head (`rhe_parties.model.last_block`); what trains on
            features, which are frozen, does not look at it.
    """

    learning_rate: float
    weight_decay: float
    init_std: float
    epochs: int
    mechanism: DpMechanism | None = None
    relax: float = 0.0
    adaptation: Adaptation | None = None

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("learning_rate", self.learning_rate, self.learning_rate > 0),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0),
            ("init_std", self.init_std, self.init_std >= 0),
            ("epochs", self.epochs, self.epochs >= 1),
            ("relax", self.relax, self.relax >= 0),
        ):
            if not (allowed and np.isfinite(value)):
                raise ParameterError(f"recipe: {name} = {value} is not allowed (at least 0; rate and epochs above)")
        if self.mechanism is not None and self.relax:
            raise ParameterError("recipe: DP-SGD and RelaxLoss cannot train the same head (allowed: one of them)")
        if self.adaptation is not None and (self.mechanism is not None or self.relax):
            raise ParameterError("recipe: DP-SGD and RelaxLoss train heads alone (not allowed: with an adapted block)")

    @property
    def steps(self) -> int:
        """Steps of the training."""
        return self.epochs if self.mechanism is None else self.mechanism.steps_of(self.epochs)

    @property
    def shrink(self) -> float:
        """What is left of the initial weights after all steps, as a factor."""
        return float((1 - self.learning_rate * self.weight_decay) ** self.steps)

    def noise_variance(self, images: int) -> float:
        """Variance of a weight due to the noise of DP-SGD on so many images; 0 without."""
        if self.mechanism is None:
            return 0.0
        m, keep = self.mechanism, (1 - self.learning_rate * self.weight_decay) ** 2
        one = (self.learning_rate * m.noise_multiplier * m.clip / (m.sampling_rate * images)) ** 2
        return float(one * (self.steps if keep == 1 else (1 - keep**self.steps) / (1 - keep)))

    @classmethod
    def paper(cls, backbone_name: str, images_per_class: int) -> Recipe:
        """The authors' multiclass recipe: MNIST's for `strokenet`, CIFAR's for every other backbone.

        Raises:
            ParameterError: fewer than one image per class.
        """
        if images_per_class < 1:
            raise ParameterError(f"images_per_class = {images_per_class} is not allowed: at least 1")
        if backbone_name == "strokenet":
            return cls(0.01, 1e-5, 2e-3, 26 + 6 * images_per_class)
        return cls(0.01, 1e-4, 2e-4, 38 + 10 * images_per_class)


@dataclass(frozen=True, eq=False)
class LinearHead:
    """A trained head: weight float32 [K, D], bias float32 [K].

    Raises:
        NumericError: shapes that do not fit together, or numbers that are not finite.
    """

    weight: FloatArray
    bias: FloatArray

    def __post_init__(self) -> None:
        weight, bias = (
            np.ascontiguousarray(self.weight, np.float32),
            np.ascontiguousarray(self.bias, np.float32),
        )
        if weight.ndim != 2 or bias.shape != weight.shape[:1] or weight.size == 0:
            raise NumericError(f"head: weight {weight.shape} and bias {bias.shape} must be [K, D] and [K]")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise NumericError("head: weights hold NaN or infinity")
        object.__setattr__(self, "weight", weight)
        object.__setattr__(self, "bias", bias)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.weight.shape[0])

    @property
    def features(self) -> int:
        """Number of features D."""
        return int(self.weight.shape[1])

    @property
    def encryptable(self) -> tuple[FloatArray, FloatArray, tuple[()]]:
        """What a `HeadEncryptor` takes: weight [K, D], bias [K], no hidden layer."""
        return self.weight, self.bias, ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over shapes and little-endian bytes of weight and bias."""
        return weights_digest(b"", (self.weight, self.bias))

    def logits(self, features: FloatArray) -> FloatArray:
        """Float32 logits [B, K] of features [B, D], added up in float64.

        Raises:
            NumericError: features of another width.
        """
        if features.ndim != 2 or features.shape[1] != self.features:
            raise NumericError(f"head of {self.features} features got features of shape {features.shape}")
        exact = features.astype(np.float64) @ self.weight.astype(np.float64).T + self.bias
        return exact.astype(np.float32)


def weights_digest(purpose: bytes, arrays: Iterable[FloatArray]) -> str:
    """SHA-256 (hex) over a purpose, and shapes and little-endian bytes of float32 arrays."""
    digest = hashlib.sha256(purpose)
    for array in arrays:
        digest.update(np.asarray(array.shape, dtype="<i8").tobytes())
        digest.update(array.astype("<f4").tobytes())
    return digest.hexdigest()


def initial_weights(seeds: Sequence[int], classes: int, features: int, init_std: float) -> FloatArray:
    """Fresh weights float32 [V, K, D], N(0, init_std²); each head's depend on its own seed alone."""
    drawn = [torch.randn((classes, features), generator=torch_stream(seed, "head-init")) for seed in seeds]
    return (torch.stack(drawn) * init_std).numpy()


def train_heads(
    features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seeds: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    """Train V independent heads.

    Args:
        features: training features float32 [V, N, D].
        labels: int64 [V, N] in 0..classes-1, at least two classes in every head.
        classes: number of classes K.
        recipe: the training recipe; DP-SGD is drawn from its distribution, see `rhe_parties.model.dual.train_many`.
        seeds: one seed per head for its initial weights and noise.

    Returns:
        Weights float32 [V, K, D] and biases float32 [V, K]. The work is done in float64, so that the rounded
        result does not depend on which heads are trained together.

    Raises:
        NumericError: features not finite, all alike, or of the wrong shape.
        DataError: no image, images of one class alone, or a label out of range.
    """
    check_training_sets(features, labels, classes, len(seeds))
    if recipe.mechanism is not None:
        return _train_privately(features, labels, classes, recipe, seeds)
    heads, count, width = features.shape
    weights = np.empty((heads, classes, width), np.float32)
    biases = np.empty((heads, classes), np.float32)
    dual = _dual_is_cheaper(count, width, classes, recipe.epochs)
    numbers = count * (width + count + 4 * classes) + 2 * classes * width
    for part in _chunks(heads, max(1, _CHUNK_BYTES // (8 * numbers))):
        x = torch.from_numpy(np.ascontiguousarray(features[part], np.float32)).double()
        onehot = F.one_hot(torch.from_numpy(np.ascontiguousarray(labels[part])), classes).double()
        start = torch.from_numpy(initial_weights(seeds[part], classes, width, recipe.init_std)).double()
        weight, bias = (descend_dual if dual else _descend)(x, onehot, start, recipe)
        weights[part], biases[part] = weight.float().numpy(), bias.float().numpy()
    if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
        raise NumericError(f"head training diverged with learning_rate = {recipe.learning_rate}")
    return weights, biases


def _train_privately(
    features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seeds: Sequence[int]
) -> tuple[FloatArray, FloatArray]:
    from rhe_parties.model.dual import train_many  # which imports this module

    every = np.arange(features.shape[1])[None]
    trained = [
        train_many(rows, marks, every, classes, recipe, seed)
        for rows, marks, seed in zip(features, labels, seeds, strict=True)
    ]
    return np.concatenate([weight for weight, _ in trained]), np.concatenate([bias for _, bias in trained])


def train_head(features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seed: int) -> LinearHead:
    """Train one head on features [N, D] and labels [N]; errors as in `train_heads`."""
    weights, biases = train_heads(features[None], labels[None], classes, recipe, [seed])
    return LinearHead(weights[0], biases[0])


def _chunks(total: int, size: int) -> Iterator[slice]:
    for start in range(0, total, size):
        yield slice(start, min(start + size, total))


def _dual_is_cheaper(count: int, width: int, classes: int, epochs: int) -> bool:
    primal = 2 * epochs * count * width * classes
    return count * count * (width + epochs * classes) + 2 * count * width * classes < primal


def _descend(x: Tensor, onehot: Tensor, weight: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Plain iteration on weights [V, K, D] and biases [V, K]."""
    bias = torch.zeros_like(weight[..., 0])
    keep = 1 - recipe.learning_rate * recipe.weight_decay
    for step in range(recipe.epochs):
        error = loss_errors(x @ weight.mT + bias[:, None], onehot, recipe.relax, step)
        error *= recipe.learning_rate / x.shape[1]
        weight = keep * weight - error.mT @ x
        bias = keep * bias - error.sum(1)
    return weight, bias


def descend_dual(x: Tensor, onehot: Tensor, start: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The same training on the coefficients A [V, N, K] of W = shrink·W_0 + AᵀX.

    Args:
        x: training features [V, N, D].
        onehot: their labels [V, N, K], floating.
        start: weights before training [V, K, D]; biases start at 0.
        recipe: the training recipe, without DP-SGD.

    Returns:
        Weights [V, K, D] and biases [V, K] in the arguments' precision, on their device.
    """
    coefficients, bias, shrink = descend_coefficients(x @ x.mT, x @ start.mT, onehot, recipe)
    return shrink * start + coefficients.mT @ x, bias


def descend_coefficients(gram: Tensor, first: Tensor, onehot: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor, float]:
    """What `descend_dual` finds of a head without looking at its features.

    Args:
        gram: inner products X·Xᵀ [V, N, N] of the training features.
        first: X·W_0ᵀ [V, N, K] of the weights before training.
        onehot: labels [V, N, K], floating.
        recipe: the training recipe, without DP-SGD.

    Returns:
        Coefficients A [V, N, K], biases [V, K], and the share of W_0 that is left.
    """
    coefficients, bias = torch.zeros_like(onehot), torch.zeros_like(first[:, 0])
    keep, shrink = 1 - recipe.learning_rate * recipe.weight_decay, 1.0
    for step in range(recipe.epochs):
        logits = torch.baddbmm(first, gram, coefficients, beta=shrink) + bias[:, None]
        error = loss_errors(logits, onehot, recipe.relax, step)
        error *= recipe.learning_rate / gram.shape[1]
        coefficients = keep * coefficients - error
        bias = keep * bias - error.sum(1)
        shrink *= keep
    return coefficients, bias, shrink


def check_training_sets(features: FloatArray, labels: IntArray, classes: int, seeds: int) -> None:
    """Refuse training sets (features [V, N, D], labels [V, N]) that no head can be trained on; see `train_heads`."""
    if features.ndim != 3 or labels.shape != features.shape[:2] or seeds != features.shape[0]:
        raise NumericError(
            f"head training takes features [V, N, D], labels [V, N] and V seeds, "
            f"got {features.shape}, {labels.shape} and {seeds}"
        )
    if classes < 2:
        raise ParameterError(f"head training takes at least 2 classes, got {classes}")
    if features.shape[0] == 0:
        raise DataError("head training got no head to train: at least 1 victim is needed")
    if features.shape[1] == 0:
        raise DataError(f"head training got zero images: each of the {classes} classes needs at least 1")
    if not np.isfinite(features).all():
        head = int(np.flatnonzero(~np.isfinite(features).all(axis=(1, 2)))[0])
        raise NumericError(f"features of head {head} hold NaN or infinity")
    alike = (features == features[:, :1]).all(axis=(1, 2))
    if alike.any():
        raise NumericError(f"features of head {int(alike.argmax())} are the same for every image: nothing to learn")
    if labels.min() < 0 or labels.max() >= classes:
        worst = int(labels.min() if labels.min() < 0 else labels.max())
        raise DataError(f"label {worst} is out of range: {classes} classes are numbered 0 to {classes - 1}")
    single = (labels == labels[:, :1]).all(axis=1)
    if single.any():
        head = int(single.argmax())
        raise DataError(
            f"all {labels.shape[1]} images of head {head} are of class {int(labels[head, 0])}: at least 2 classes"
        )
