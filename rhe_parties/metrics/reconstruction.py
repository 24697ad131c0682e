"""How close a claim about training images is to the truth.

A claim's images and features are ordered by class with S per class, as the truth is. Every number has an interval and
the value that chance, or knowing the class alone, would give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.metrics.intervals import bootstrap_means, cluster_interval, rate_interval
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["GroundTruth", "Measured", "identification", "mean_squared_error", "tpr_at_fpr"]

# Below 30 / α negatives the empirical α-quantile rests on too few points to be called a threshold.
MIN_NEGATIVES_TIMES_FPR = 30


@dataclass(frozen=True)
class Measured:
    """A statistic: value, 95 % interval, trials, victim heads, and its value under chance (None: there is none)."""

    statistic: str
    value: float
    low: float
    high: float
    n: int
    chance: float | None
    heads: int


@dataclass(frozen=True)
class GroundTruth:
    """What the laboratory alone knows.

    Attributes:
        images: [n, C, H, W] in [-1, 1]: the private pool, which is also the set of candidates.
        features: [n, D] of the pool.
        labels: [n].
        sets: [V, N] indices into the pool, ordered by class, S per class.
        classes: K.
    """

    images: FloatArray
    features: FloatArray
    labels: IntArray
    sets: IntArray
    classes: int

    @property
    def images_per_class(self) -> int:
        """S, training images per class and head."""
        return int(self.sets.shape[1]) // self.classes


def _distances(claimed: AnyArray, candidates: AnyArray) -> AnyArray:
    """Squared Euclidean distances [a, b] between rows, in float64."""
    a, b = claimed.astype(np.float64), candidates.astype(np.float64)
    table: AnyArray = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)[None, :]
    return table


def identification(
    truth: GroundTruth, claimed: FloatArray, candidates: FloatArray, generator: np.random.Generator
) -> Measured:
    """Share of training images that are the nearest candidate of their class to one of the claims of that class.

    The candidates are *all* private images of the class, so chance is about S / candidates. An image counts once,
    however many claims point at it.

    Args:
        claimed: [V, N, F], in any space in which the candidates [n, F] are given too.
    """
    s = truth.images_per_class
    hits = np.zeros(truth.sets.shape, dtype=np.float64)
    chances = []
    for k in range(truth.classes):
        pool = np.flatnonzero(truth.labels == k)
        block = slice(k * s, (k + 1) * s)
        flat = claimed[:, block].reshape(-1, claimed.shape[-1])
        nearest = pool[np.argmin(_distances(flat, candidates[pool]), axis=1)].reshape(-1, s)
        for v, found in enumerate(nearest):
            hits[v, block] = np.isin(truth.sets[v, block], found)
        chances.append(s / len(pool))
    low, high = rate_interval(hits, generator)
    return Measured("identification_rate", float(hits.mean()), low, high, hits.size, float(np.mean(chances)), len(hits))


def _set_errors(truth: GroundTruth, claimed: FloatArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Pixel errors of each claim against its own head's images of the class, and against every other head's.

    Returns:
        own [V, N], other [V, V, N] (claim of head v against the set of head u), and mask of u != v.
        The error against a set is the smallest over its S images.
    """
    s, heads = truth.images_per_class, len(truth.sets)
    pixels = int(np.prod(claimed.shape[2:]))
    errors = np.empty((heads, heads, truth.sets.shape[1]))
    for k in range(truth.classes):
        block = slice(k * s, (k + 1) * s)
        real = truth.images[truth.sets[:, block].reshape(-1)].reshape(heads * s, -1)
        flat = claimed[:, block].reshape(heads * s, -1)
        table = _distances(flat, real).reshape(heads, s, heads, s).min(axis=3) / pixels
        errors[:, :, block] = table.transpose(0, 2, 1)
    own = errors[np.arange(heads), np.arange(heads)]
    return own, errors, ~np.eye(heads, dtype=bool)


def mean_squared_error(truth: GroundTruth, claimed: FloatArray, generator: np.random.Generator) -> Measured:
    """Mean pixel error of a claim against the nearest training image of its class and head; images in [-1, 1].

    Its "chance" is the error of the same claims against the images of *other* heads: what knowing the class gives.
    """
    own, errors, others = _set_errors(truth, claimed)
    low, high = bootstrap_means(own.mean(axis=1), generator)
    baseline = float(errors[others].mean()) if len(own) > 1 else None
    return Measured("mse", float(own.mean()), low, high, own.size, baseline, len(own))


def tpr_at_fpr(
    truth: GroundTruth, claimed: FloatArray, fpr: float, generator: np.random.Generator, by_class: bool = False
) -> Measured | None:
    """True-positive rate of "this image was reconstructed" at a false-positive rate.

    Positives: a claim against the images of its own head. Negatives: the same claims against the images of every
    other real head of the same task, which is harder than a random head. The threshold is conservative: strictly
    below the ⌊fpr·M⌋-th smallest of the M negatives, ties excluded. The interval is a bootstrap over heads of
    threshold and rate together, joined with the exact binomial one.

    Args:
        by_class: a threshold for each class instead of one for all. The images of some classes (the digit one) are
            so alike that their negatives alone set the common threshold.

    Returns:
        None where the M negatives cannot resolve the rate (M < 30 / fpr).
    """
    own, errors, others = _set_errors(truth, claimed)
    heads, per_head = own.shape
    width = truth.images_per_class if by_class else per_head
    if others.sum() * width * fpr < MIN_NEGATIVES_TIMES_FPR:
        return None
    groups = [
        _Negatives(own[:, start : start + width], errors[:, :, start : start + width][others], others)
        for start in range(0, per_head, width)
    ]

    def rate(weights: AnyArray) -> float:
        return float(np.mean([group.rate(weights, fpr) for group in groups]))

    value = rate(np.ones(heads))
    low, high = cluster_interval(rate, heads, generator, resamples=500)
    exact = rate_interval(_hits(own, value), generator)
    name = f"tpr_at_fpr_{fpr * 100:g}pct" + ("_by_class" if by_class else "")
    return Measured(name, value, min(low, exact[0]), max(high, exact[1]), own.size, fpr, heads)


class _Negatives:
    """Sorted negatives of one group of claims, so that a resampling of heads costs one running sum."""

    def __init__(self, own: AnyArray, negatives: AnyArray, others: AnyArray) -> None:
        self._own = own
        order = np.argsort(negatives, axis=None, kind="stable")
        self._ordered = negatives.reshape(-1)[order]
        claimant, victim = (np.broadcast_to(i[:, None], negatives.shape).reshape(-1) for i in np.nonzero(others))
        self._claimant, self._victim = claimant[order], victim[order]

    def rate(self, weights: AnyArray, fpr: float) -> float:
        """TPR when head v is counted `weights[v]` times."""
        mass = np.cumsum(weights[self._claimant] * weights[self._victim])
        if mass[-1] == 0:
            return 0.0
        place = int(np.searchsorted(mass, np.floor(fpr * mass[-1]), side="left"))
        threshold = self._ordered[min(place, self._ordered.size - 1)]
        return float(weights @ (self._own < threshold).sum(axis=1) / (weights.sum() * self._own.shape[1]))


def _hits(own: AnyArray, rate: float) -> AnyArray:
    """The `rate` share of smallest own errors as hits [V, N] of 0 and 1."""
    count = round(rate * own.size)
    hits = np.zeros(own.size)
    hits[np.argsort(own, axis=None, kind="stable")[:count]] = 1
    return hits.reshape(own.shape)
