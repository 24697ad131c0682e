"""Features to pixels by kernel ridge regression, one for each class: closed form, nothing to tune by hand.

k(a, b) = (1 + r) exp(-r), r = |M(a - b)| / ℓ (Matérn 3/2). The metric M is learned from the data as in recursive
feature machines (Radhakrishnan et al. 2024, Science 383:1461): fit once with the plain distance, average the outer
products of the fit's gradients over the training points, and measure distances by the root of that matrix. Directions
of the features that say nothing about the pixels, noise among them, fade from the distance.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.pools import Pool, SerialPool
from rhe_parties.attacks.span.principal import principal_directions
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.rng import stream_seed, torch_stream
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray

__all__ = ["KernelDecoder", "fit_kernel_decoder"]

_LENGTHS = (0.4, 0.7, 1.2)  # ℓ over the median distance
_RIDGES = (0.03, 0.1, 0.3, 1.0, 4.0)
_SUBSET = 1500  # points of a class on which the metric and both of these are chosen
_GRADIENTS = 200  # points at which gradients are averaged
_GRADIENT_RANK = 64  # principal images whose gradients count
_METRIC_FLOOR = 1e-4  # of the metric's largest eigenvalue
_RANK = 400  # principal images that are predicted
# Some processors round products of fewer columns differently from row to row, so that an image's bits would depend on
# its place in a block.
_FEWEST = 16
_DECODE_BLOCK = 16  # images per product: fixed, so that an image's bits do not depend on what is decoded beside it


@dataclass(frozen=True, eq=False)
class _Class:
    metric: Tensor  # [D, D]
    points: Tensor  # [n, D], through the metric and divided by ℓ
    dual: Tensor  # [n, R]
    mean: Tensor  # [R]


@dataclass(frozen=True, eq=False)
class KernelDecoder:
    """A fitted decoder.

    Attributes:
        shape: (C, H, W) of the images.
        length, ridge: what was chosen, the same for all classes; length in median distances of a class.
        held_out_error: mean squared pixel error on held-out pairs of the subsets on which these were chosen.
    """

    shape: tuple[int, int, int]
    length: float
    ridge: float
    held_out_error: float
    _principal: Tensor
    _centre: Tensor
    _classes: tuple[_Class, ...]

    def decode(self, features: FloatArray, labels: IntArray) -> FloatArray:
        """Images float32 [n, C, H, W] in [-1, 1] of features [n, D] of known classes [n].

        Raises:
            NumericError: features of another width or not finite, or labels that do not fit.
        """
        width = self._classes[0].metric.shape[0]
        if features.ndim != 2 or features.shape[1] != width or not np.isfinite(features).all():
            raise NumericError(f"kernel decoder takes finite features [n, {width}], got {features.shape}")
        classes = len(self._classes)
        if labels.shape != features.shape[:1] or (len(labels) and not 0 <= labels.min() <= labels.max() < classes):
            raise NumericError(f"kernel decoder takes labels [{len(features)}] in 0..{classes - 1}, got {labels.shape}")
        out = np.empty((len(features), *self.shape), np.float32)
        with torch.no_grad(), limited_threads(1):
            for label, own in enumerate(self._classes):
                rows = np.flatnonzero(labels == label)
                for start in range(0, len(rows), _DECODE_BLOCK):
                    part = rows[start : start + _DECODE_BLOCK]
                    block = torch.zeros((_DECODE_BLOCK, width))
                    block[: len(part)] = torch.from_numpy(features[part].astype(np.float32))
                    scores = _kernel(block @ own.metric, own.points) @ own.dual + own.mean
                    images = (scores @ self._principal + self._centre).clamp_(-1, 1)
                    out[part] = images[: len(part)].view(-1, *self.shape).numpy()
        return out


def fit_kernel_decoder(
    features: FloatArray,
    images: FloatArray,
    labels: IntArray,
    classes: int,
    seed: int,
    most_points: int = 6000,
    progress: Callable[[float], None] | None = None,
    pool: Pool | None = None,
) -> KernelDecoder:
    """Fit a decoder to pairs of inverted features and images.

    Args:
        features: [n, D].
        images: float32 [n, C, H, W] in [-1, 1].
        labels: int64 [n].
        classes: number of classes K.
        seed: root of the choice of subsets.
        most_points: pairs of a class that are used at most (the first ones); time grows with their third power.
        progress: called with the done share in [0, 1].
        pool: where the metric and the trials of each class are computed; None: here, one after the other.

    Raises:
        NumericError: arrays that do not fit together or are not finite.
        DataError: a class with fewer than 2 pairs.
        ParameterError: most_points below 2.
    """
    _check(features, images, labels, classes, most_points)
    flat = torch.from_numpy(images.reshape(len(images), -1))
    rows = [torch.from_numpy(np.flatnonzero(labels == label)[:most_points]) for label in range(classes)]
    used = torch.cat([own[:_SUBSET] for own in rows])
    centre = flat[used].mean(dim=0)
    principal = _principal_images(flat[used] - centre, _RANK)
    x = torch.from_numpy(np.ascontiguousarray(features, np.float32))
    pairs = [(x[own], (flat[own] - centre) @ principal.T) for own in rows]
    subsets = [
        _Subset(points[:_SUBSET], scores[:_SUBSET], stream_seed(seed, "span-kernel", label))
        for label, (points, scores) in enumerate(pairs)
    ]
    found = []
    for metric, trial in (pool or SerialPool()).stream(_try_out, subsets):
        found.append((metric, trial))
        if progress is not None:
            progress(0.7 * len(found) / classes)
    errors = torch.stack([trial for _, trial in found]).mean(dim=0)
    length, ridge = list(itertools.product(_LENGTHS, _RIDGES))[int(errors.argmin())]
    # All threads of the caller for one class after the other: two systems of thousands of points at a time are much
    # memory. The number of threads changes roundings at most.
    fitted = []
    with torch.no_grad():
        for (points, scores), (metric, _) in zip(pairs, found, strict=True):
            fitted.append(_fit(points, scores, metric, length, ridge))
            if progress is not None:
                progress(0.7 + 0.3 * len(fitted) / classes)
    outside = float(
        (flat[used] - centre).square().sum(1).mean() - ((flat[used] - centre) @ principal.T).square().sum(1).mean()
    )
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    error = (float(errors.min()) + max(outside, 0.0)) / flat.shape[1]
    return KernelDecoder(shape, length, ridge, error, principal, centre, tuple(fitted))


class _Subset(NamedTuple):
    """The pairs of one class that choose its metric, and the seed of the points where gradients are taken."""

    points: Tensor
    scores: Tensor
    seed: int


def _try_out(subset: _Subset) -> tuple[Tensor, Tensor]:
    """The metric [D, D] of a class, and its errors for each length and ridge."""
    with torch.no_grad():
        metric = _metric(subset.points, subset.scores, torch_stream(subset.seed, "span-kernel-gradients"))
        return metric, _trial_errors(subset.points @ metric, subset.scores)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    squared = a.square().sum(1)[:, None] + b.square().sum(1)[None] - 2 * a @ b.T
    distance = squared.clamp_min_(0).sqrt_()
    values: Tensor = (1 + distance) * torch.exp(-distance)
    return values


def _solve(kernel: Tensor, ridge: float, targets: Tensor) -> Tensor:
    factor = torch.linalg.cholesky(kernel + ridge * torch.eye(len(kernel)))
    dual: Tensor = torch.cholesky_solve(targets, factor)
    return dual


def _median_distance(points: Tensor) -> float:
    some = points[:500]
    distances = torch.pdist(some)
    return max(float(distances.median()), 1e-6) if len(distances) else 1.0


def _metric(points: Tensor, scores: Tensor, stream: torch.Generator) -> Tensor:
    """Root [D, D] of the average gradient outer product of a first fit, scaled to leave the points' spread alone."""
    length = _median_distance(points)
    scaled = points / length
    dual = _solve(_kernel(scaled, scaled), 0.1, (scores - scores.mean(0)))
    leading = scores.std(0).argsort(descending=True)[:_GRADIENT_RANK] if len(scores) > 1 else slice(0)
    dual = dual[:, leading]
    product = torch.zeros((points.shape[1], points.shape[1]))
    for i in torch.randperm(len(points), generator=stream)[:_GRADIENTS]:
        slope = torch.exp(-(scaled - scaled[i]).norm(dim=1))[:, None] * dual
        gradient = torch.outer(scaled[i], slope.sum(0)) - scaled.T @ slope
        product += gradient @ gradient.T
    values, vectors = torch.linalg.eigh(product.double())
    top = float(values[-1])
    if not top > 0:
        return torch.eye(points.shape[1])
    root = ((vectors * (values.clamp_min(0) / top + _METRIC_FLOOR).sqrt().sqrt()) @ vectors.T).float()
    seen = float((points @ root).std(0).norm())
    scaled_root: Tensor = root * (float(points.std(0).norm()) / seen if seen > 0 else 1.0)
    return scaled_root


def _trial_errors(points: Tensor, scores: Tensor) -> Tensor:
    """Summed squared error per image for each length and ridge, on a fifth of the points that is left out."""
    held = max(1, len(points) // 5)
    train, trial, mean = slice(held, None), slice(0, held), scores[held:].mean(0)
    median = _median_distance(points)
    errors = []
    for length in _LENGTHS:
        scaled = points / (length * median)
        inside, across = _kernel(scaled[train], scaled[train]), _kernel(scaled[trial], scaled[train])
        for ridge in _RIDGES:
            found = across @ _solve(inside, ridge, scores[train] - mean) + mean
            errors.append((found - scores[trial]).square().sum(1).mean())
    return torch.stack(errors)


def _fit(points: Tensor, scores: Tensor, metric: Tensor, length: float, ridge: float) -> _Class:
    own = metric / (length * _median_distance(points[:_SUBSET] @ metric))
    scaled, mean = points @ own, scores.mean(0)
    return _Class(own, scaled, _solve(_kernel(scaled, scaled), ridge, scores - mean), mean)


def _principal_images(centred: Tensor, rank: int) -> Tensor:
    """Orthonormal leading directions [r, P] of centred images, strongest last; zeros in front where there are few."""
    scaled = torch.from_numpy(principal_directions(centred.numpy(), rank))
    directions = scaled / scaled.norm(dim=1, keepdim=True)
    return torch.nn.functional.pad(directions, (0, 0, max(0, _FEWEST - len(directions)), 0))


def _check(features: FloatArray, images: FloatArray, labels: IntArray, classes: int, most: int) -> None:
    count = len(features)
    if features.ndim != 2 or images.ndim != 4 or len(images) != count or labels.shape != (count,):
        raise NumericError(
            f"kernel decoder takes features [n, D], images [n, C, H, W] and labels [n], "
            f"got {features.shape}, {images.shape} and {labels.shape}"
        )
    if not (np.isfinite(features).all() and np.isfinite(images).all()):
        raise NumericError("kernel decoder: features or images hold NaN or infinity")
    if most < 2:
        raise ParameterError(f"kernel decoder: most_points = {most} is not allowed: at least 2")
    sizes = np.bincount(labels, minlength=classes)
    if len(sizes) != classes or sizes.min() < 2:
        raise DataError(f"kernel decoder: class {int(sizes.argmin())} has {int(sizes.min())} pairs, at least 2 needed")
