"""How close a claim about training images is to the truth.

A claim's images and features are in the order of the truth's aims: `sets`, ordered by class with S per class, or
`targets` of any class. Every number has an interval and the value that chance, or knowing the class alone, would give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rhe_parties.metrics.intervals import bootstrap_means, rate_interval
from rhe_parties.metrics.separation import MIN_NEGATIVES_TIMES_FPR, Separation, rate_at_fpr
from rhe_parties.metrics.similarity import psnr_of, ssim
from rhe_parties.metrics.truth import GroundTruth, Measured, measured, squared_distances
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = [
    "MIN_NEGATIVES_TIMES_FPR",
    "Errors",
    "GroundTruth",
    "Measured",
    "backbone_distance",
    "identification",
    "mean_squared_error",
    "pixel_errors",
    "structural_similarity",
    "tpr_at_fpr",
]

#: Errors against other heads that one claim array is compared with in all; beyond it each head meets fewer others.
MOST_NEGATIVES = 5_000_000
_MOST_OTHERS = 500
_BLOCK = 4_000_000


def identification(
    truth: GroundTruth,
    claimed: FloatArray,
    candidates: FloatArray,
    generator: np.random.Generator,
    statistic: str = "identification_rate",
) -> Measured:
    """Share of target images that are the nearest candidate of their class to one of the head's claims of that class.

    The candidates are *all* private images of the class, so chance is about S / candidates. An image counts once,
    however many claims point at it.

    Args:
        claimed: [V, T, F], in any space in which the candidates [n, F] are given too.
    """
    aims = truth.aims
    hits, chances = np.zeros(aims.shape), np.zeros(aims.shape)
    labels = truth.labels[aims]
    for k in np.unique(labels):
        pool = np.flatnonzero(truth.labels == k)
        heads, places = np.nonzero(labels == k)
        step = max(1, _BLOCK // len(pool))
        found = np.concatenate(
            [
                np.argmin(
                    squared_distances(claimed[heads[i : i + step], places[i : i + step]], candidates[pool]), axis=1
                )
                for i in range(0, len(heads), step)
            ]
        )
        # A head and a candidate as one number: which pairs some claim of that head points at.
        pointed = np.unique(heads * len(truth.labels) + pool[found])
        hits[heads, places] = np.isin(heads * len(truth.labels) + aims[heads, places], pointed)
        own = np.bincount(heads, minlength=len(aims))
        chances[heads, places] = own[heads] / len(pool)
    interval = rate_interval(hits, generator)
    return measured(statistic, float(hits.mean()), interval, hits.size, len(hits), float(chances.mean()))


@dataclass(frozen=True)
class Errors:
    """Errors of claims against images of the same class: of their own head, and of other heads.

    Attributes:
        own: [V, T], the smallest over the head's targets of the claim's class, and `nearest` [V, T], which target.
        labels: [V, T].
        other: [M] against other heads; `other_labels`, `claimants` and `victims` [M] say whose claim it was and
            whose images it met.
    """

    own: AnyArray
    nearest: IntArray
    labels: IntArray
    other: AnyArray
    other_labels: IntArray
    claimants: IntArray
    victims: IntArray

    @property
    def heads(self) -> int:
        """V."""
        return len(self.own)

    @property
    def owners(self) -> IntArray:
        """[V, T]: the head of each own error."""
        return np.broadcast_to(np.arange(self.heads)[:, None], self.own.shape)

    @cached_property
    def together(self) -> Separation:
        """Own against other errors of all classes."""
        return self.separation()

    def separation(self, label: int | None = None) -> Separation:
        """Own against other errors, of one class or of all."""
        mine = np.ones(self.own.shape, bool) if label is None else self.labels == label
        theirs = slice(None) if label is None else self.other_labels == label
        return Separation(
            self.own[mine],
            self.owners[mine],
            self.other[theirs],
            self.claimants[theirs],
            self.heads,
            self.victims[theirs],
        )


def others_met(heads: int, per_head: int) -> int:
    """With how many other heads each claim is compared: all of them, as long as that stays within memory."""
    return max(1, min(heads - 1, _MOST_OTHERS, MOST_NEGATIVES // (per_head * heads)))


def claim_errors(truth: GroundTruth, claimed: AnyArray, real: AnyArray) -> Errors:
    """Mean squared differences between claims [V, T, F] and images [n, F] of the pool, in any space.

    The error against a head is the smallest over its targets of the claim's class. Where there are more than 501
    heads or 5 million negatives, head v meets the next heads v+1, v+2, … only (heads are in random order).
    """
    aims = truth.aims
    heads, per_head = aims.shape
    met = others_met(heads, per_head)
    labels = truth.labels[aims]
    own, nearest = np.empty(aims.shape), np.empty(aims.shape, dtype=np.int64)
    parts: list[tuple[AnyArray, ...]] = []
    for k in np.unique(labels):
        owner, place = np.nonzero(labels == k)
        images = real[aims[owner, place]]
        present, starts = np.unique(owner, return_index=True)
        step = max(1, _BLOCK // len(owner))
        for i in range(0, len(owner), step):
            rows = slice(i, i + step)
            table = squared_distances(claimed[owner[rows], place[rows]], images) / images.shape[1]
            per = np.minimum.reduceat(table, starts, axis=1)
            ahead = (present[None, :] - owner[rows, None]) % heads
            row, column = np.nonzero((ahead > 0) & (ahead <= met))
            parts.append(
                (
                    per[row, column],
                    np.full(len(row), k, dtype=np.int16),
                    owner[rows][row].astype(np.int32),
                    present[column].astype(np.int32),
                )
            )
            masked = np.where(owner[None, :] == owner[rows, None], table, np.inf)
            own[owner[rows], place[rows]] = masked.min(axis=1)
            nearest[owner[rows], place[rows]] = place[np.argmin(masked, axis=1)]
    return Errors(own, nearest, labels, *map(np.concatenate, zip(*parts, strict=True)))


def pixel_errors(truth: GroundTruth, claimed: FloatArray) -> Errors:
    """Mean squared error per pixel of claimed images [V, T, C, H, W] in [-1, 1], own and against other heads."""
    flat = claimed.reshape(*claimed.shape[:2], -1)
    return claim_errors(truth, flat, truth.images.reshape(len(truth.images), -1))


def mean_squared_error(
    truth: GroundTruth,
    claimed: FloatArray,
    generator: np.random.Generator,
    statistic: str = "mse",
    errors: Errors | None = None,
) -> Measured:
    """Mean pixel error of a claim against the nearest target of its class and head; images in [-1, 1].

    Its "chance" is the error of the same claims against the images of *other* heads: what knowing the class gives.
    """
    errors = errors or pixel_errors(truth, claimed)
    return mean_error(statistic, errors, generator)


def mean_error(
    statistic: str,
    errors: Errors,
    generator: np.random.Generator,
    transform: Callable[[AnyArray], AnyArray] = lambda values: values,
) -> Measured:
    """Mean over claims of a function of the own error, with the same over other heads' images beside it."""
    own = transform(errors.own)
    baseline = float(transform(errors.other).mean()) if errors.other.size else None
    interval = bootstrap_means(own.mean(axis=1), generator)
    return measured(statistic, float(own.mean()), interval, own.size, len(own), baseline)


def tpr_at_fpr(
    truth: GroundTruth,
    claimed: FloatArray,
    fpr: float,
    generator: np.random.Generator,
    by_class: bool = False,
    errors: Errors | None = None,
) -> Measured | None:
    """True-positive rate of "this image was reconstructed" at a false-positive rate.

    Positives: a claim against the images of its own head. Negatives: the same claims against the images of every
    other real head of the same task, which is harder than a random head. The threshold is conservative: strictly
    below the ⌊fpr·M⌋-th smallest of the M negatives, ties excluded. The interval is a bootstrap over heads of
    threshold and rate together, joined with the exact binomial one.

    Args:
        by_class: a threshold for each class instead of one for all. The images of some classes (the digit one) are
            so alike that their negatives alone set the common threshold.
        errors: of the same claim, where they are at hand.

    Returns:
        None where the M negatives cannot resolve the rate (M < 30 / fpr).
    """
    errors = errors or pixel_errors(truth, claimed)
    name = f"tpr_at_fpr_{fpr * 100:g}pct" + ("_by_class" if by_class else "")
    labels = [int(k) for k in np.unique(errors.labels)]
    counts = [int((errors.other_labels == k).sum()) for k in labels] if by_class else [errors.other.size]
    if min(counts) * fpr < MIN_NEGATIVES_TIMES_FPR:
        return None
    groups = [errors.separation(label) for label in labels] if by_class else [errors.together]
    return rate_at_fpr(name, groups, fpr, generator)


def structural_similarity(
    truth: GroundTruth, claimed: FloatArray, errors: Errors, generator: np.random.Generator
) -> Measured:
    """SSIM of each claim with the target nearest to it; its baseline is the next head's target of the class."""
    rows = np.take_along_axis(truth.aims, errors.nearest, axis=1)
    flat = claimed.reshape(-1, *claimed.shape[2:])
    own = ssim(flat, truth.images[rows].reshape(flat.shape)).reshape(rows.shape)
    other = _next_of_class(truth, rows)
    there = other >= 0
    baseline = float(ssim(claimed[there], truth.images[other[there]]).mean()) if there.any() else None
    interval = bootstrap_means(own.mean(axis=1), generator)
    return measured("ssim", float(own.mean()), interval, own.size, len(own), baseline)


def _next_of_class(truth: GroundTruth, rows: IntArray) -> IntArray:
    """[V, T]: for each row of the pool the one that the next head with a target of its class has; -1: no other head."""
    found = np.full(rows.shape, -1, dtype=np.int64)
    labels = truth.labels[rows]
    for k in np.unique(labels):
        owner, place = np.nonzero(labels == k)
        present, starts, counts = np.unique(owner, return_index=True, return_counts=True)
        if len(present) > 1:
            following = (np.searchsorted(present, owner) + 1) % len(present)
            rank = np.arange(len(owner)) - starts[np.searchsorted(present, owner)]
            chosen = starts[following] + rank % counts[following]
            found[owner, place] = rows[owner[chosen], place[chosen]]
    return found


def peak_ratio(errors: Errors, generator: np.random.Generator) -> Measured:
    """PSNR in dB, averaged over claims, for pixels in [-1, 1]."""
    return mean_error("psnr", errors, generator, psnr_of)


def backbone_distance(
    truth: GroundTruth,
    claimed: FloatArray,
    features_of: Callable[[FloatArray], FloatArray],
    generator: np.random.Generator,
) -> Measured:
    """Distance of the claimed images' features to the true ones in the public backbone, as a share of their length.

    The root of the mean squared distance over the root of the mean squared length of the pool's features: 0 is the
    same picture to the backbone. It stands in for LPIPS, whose network cannot be shipped, under its own name.
    """
    features = features_of(claimed.reshape(-1, *claimed.shape[2:])).reshape(*claimed.shape[:2], -1)
    errors = claim_errors(truth, features, truth.features)
    scale = float(np.sqrt((truth.features.astype(np.float64) ** 2).mean())) or 1.0
    return mean_error("backbone_distance", errors, generator, lambda values: np.sqrt(values) / scale)
