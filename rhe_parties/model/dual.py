"""Thousands of linear heads a second: training in the dual space, plain and private, on one thread or on a GPU.

Exact for the paper's recipe (full-batch SGD with weight decay on weights and biases) and exact in distribution for
DP-SGD; the algebra is in `rhe_parties.model.dual_kernels`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.head import Recipe, descend_dual, initial_weights
from rhe_parties.rng import stream_seed
from rhe_parties.types import FloatArray, IntArray

__all__ = ["check_pool", "check_sets", "train_many", "train_tensors"]

_RELAXED = 64  # heads at a time that RelaxLoss trains


class _Work(NamedTuple):
    """Scratch of one call: features, start, Gram, products, logits, coefficients, biases and labels of sixteen heads.

    `places` and `starts` say where the rows of one head's features and of its weights lie.
    """

    x: FloatArray
    z: FloatArray
    gram: FloatArray
    first: FloatArray
    logits: FloatArray
    factors: FloatArray
    offset: FloatArray
    marks: IntArray
    places: IntArray
    starts: IntArray


def train_many(
    features: FloatArray,
    labels: IntArray,
    sets: IntArray,
    classes: int,
    recipe: Recipe,
    seed: int,
    initial: FloatArray | None = None,
) -> tuple[FloatArray, FloatArray]:
    """Train one head on each of B sets, on one thread and without the interpreter's lock.

    Args:
        features: the pool's features float32 [n, D].
        labels: int64 [n] in 0..K-1.
        sets: int64 [B, N] indices into the pool; a set may repeat an image and may lack a class.
        classes: number of classes K.
        recipe: the training recipe.
        seed: of all randomness; head i's start depends on (seed, i) alone, the noise of DP-SGD on (seed, i, B >= i).
        initial: weights before training, float32 [B, K, D], instead of N(0, init_std²); biases start at 0.

    Returns:
        Weights float32 [B, K, D] and biases float32 [B, K]: those of ordinary training to about 1e-6, or, with DP-SGD,
        draws from the distribution of Opacus'.

    Raises:
        DataError: no set, no image in a set, an index outside the pool, or a label out of range.
        NumericError: wrong shapes, features that are not finite, or training that diverged.
        ParameterError: fewer than two classes.
    """
    from rhe_parties.model.dual_kernels import train_noisy, train_plain  # compiles on first use

    check_pool(features, labels, classes)
    check_sets(sets, len(labels))
    if recipe.mechanism is not None:
        features = recipe.mechanism.centred(features)
    features, labels = np.ascontiguousarray(features, np.float32), np.ascontiguousarray(labels, np.int64)
    sets = np.ascontiguousarray(sets, np.int64)
    heads, count = sets.shape
    width = features.shape[1]
    if initial is None:
        given = np.empty((0, classes, width), np.float32)
    elif initial.shape == (heads, classes, width):
        given = np.ascontiguousarray(initial, np.float32)
    else:
        raise NumericError(f"initial weights {initial.shape} must be [B, K, D] = {(heads, classes, width)}")
    weight, bias = np.empty((heads, classes, width), np.float32), np.empty((heads, classes), np.float32)
    flat = weight.reshape(heads, classes * width)
    key, keep = np.uint64(stream_seed(seed, "dual")), 1 - recipe.learning_rate * recipe.weight_decay
    work, mechanism = _work(count, classes, width), recipe.mechanism
    if recipe.relax:
        _train_relaxed(features, labels, sets, recipe, seed, given, weight, bias)
    elif mechanism is None:
        numbers = (recipe.init_std, keep, recipe.learning_rate / count, recipe.epochs)
        train_plain(features, labels, sets, key, given, numbers, tuple(work), flat, bias)
    else:
        share = float(mechanism.sampling_rate)
        private = (recipe.init_std, keep, recipe.learning_rate / (share * count), recipe.steps)
        loudness = (float(mechanism.clip), float(mechanism.clip * mechanism.noise_multiplier), share)
        more = _noise_work(count, classes, work.z.shape[1])
        train_noisy(features, labels, sets, key, given, private, loudness, tuple(work), more, flat, bias)
    if not (np.isfinite(weight.sum()) or np.isfinite(weight).all()):  # the sum alone costs a third
        raise _explanation(features, sets, recipe)
    return weight, bias if mechanism is None else mechanism.bias(weight, bias)


def _train_relaxed(
    features: FloatArray,
    labels: IntArray,
    sets: IntArray,
    recipe: Recipe,
    seed: int,
    given: FloatArray,
    weight: FloatArray,
    bias: FloatArray,
) -> None:
    """RelaxLoss, in torch: into `weight` [B, K, D] and `bias` [B, K]."""
    classes, width = weight.shape[1:]
    for begin in range(0, len(sets), _RELAXED):
        part = slice(begin, begin + _RELAXED)
        seeds = [stream_seed(seed, "dual-relaxed", begin + row) for row in range(len(sets[part]))]
        start = given[part] if len(given) else initial_weights(seeds, classes, width, recipe.init_std)
        x, marks = torch.from_numpy(features[sets[part]]), torch.from_numpy(labels[sets[part]])
        trained = train_tensors(x.double(), marks, torch.from_numpy(start).double(), recipe)
        weight[part], bias[part] = (value.float().numpy() for value in trained)


def check_pool(features: FloatArray, labels: IntArray, classes: int) -> None:
    """Refuse a pool of features [n, D] and labels [n] that no head can be trained on; see `train_many`."""
    if features.ndim != 2 or labels.shape != features.shape[:1] or features.shape[1] == 0:
        raise NumericError(f"a pool is features [n, D] and labels [n], got {features.shape} and {labels.shape}")
    if len(labels) == 0:
        raise DataError("the pool holds zero images: at least one is needed")
    if classes < 2:
        raise ParameterError(f"classes = {classes} is not allowed: at least 2")
    if labels.min() < 0 or labels.max() >= classes:
        worst = int(labels.min() if labels.min() < 0 else labels.max())
        raise DataError(f"label {worst} is out of range: {classes} classes are numbered 0 to {classes - 1}")


def check_sets(sets: IntArray, pool: int) -> None:
    """Refuse training sets [B, N] that are no indices into a pool of so many images; see `train_many`."""
    if sets.ndim != 2:
        raise NumericError(f"sets {sets.shape} must be [B, N]")
    if sets.size == 0:
        raise DataError(f"sets {sets.shape} hold zero images: at least one head and one image are needed")
    if sets.min() < 0 or sets.max() >= pool:
        worst = int(sets.min() if sets.min() < 0 else sets.max())
        raise DataError(f"index {worst} is outside the pool of {pool} images")


def _explanation(features: FloatArray, sets: IntArray, recipe: Recipe) -> NumericError:
    if not np.isfinite(features[sets]).all():
        return NumericError("features of a training set hold NaN or infinity")
    return NumericError(f"head training diverged with learning_rate = {recipe.learning_rate}")


def _aligned(*shape: int) -> FloatArray:
    """Zeros that begin on a cache line: vectors that straddle two lines take twice the time."""
    size = int(np.prod(shape))
    raw: Any = np.zeros(4 * size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    aligned: FloatArray = raw[start : start + 4 * size].view(np.float32).reshape(shape)
    return aligned


def _work(count: int, classes: int, features: int) -> _Work:
    from rhe_parties.model.vectors import LANES

    width = -(-features // LANES) * LANES
    numbers = count * classes * LANES
    return _Work(
        _aligned(LANES, count * width), _aligned(LANES, classes * width), _aligned(count * count * LANES),
        _aligned(numbers), _aligned(numbers), _aligned(numbers), _aligned(classes * LANES),
        np.zeros(count * LANES, np.int64), np.zeros(count, np.int64), np.arange(classes, dtype=np.int64) * width,
    )  # fmt: skip


def _noise_work(count: int, classes: int, size: int) -> tuple[Any, ...]:
    """Cholesky factor, its diagonal's inverse, float64 rows, noise, sampling, coefficients of `z`, a second draw."""
    from rhe_parties.model.vectors import LANES

    return (
        _aligned(count * count * LANES), _aligned(count * LANES), np.zeros((count, count)),
        _aligned((count + 1) * classes * LANES), _aligned(count * LANES), _aligned(count * classes * LANES),
        _aligned(size),
    )  # fmt: skip


def train_tensors(features: Tensor, labels: Tensor, start: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """The same plain training in torch, on the device of its arguments, for a GPU.

    Args:
        features: [B, N, D], floating.
        labels: int64 [B, N].
        start: weights before training [B, K, D].
        recipe: the training recipe, without DP-SGD.

    Returns:
        Weights [B, K, D] and biases [B, K] in the precision of the arguments.
    """
    return descend_dual(features, F.one_hot(labels, start.shape[1]).to(features.dtype), start, recipe)
