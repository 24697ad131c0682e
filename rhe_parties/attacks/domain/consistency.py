"""How consistently the target answers on a part of the pool, and which parts stand out.

Several answers to one image, from several heads of the same task or to slight variants of it, agree where the target
knows what it sees. The source (arXiv 2312.15088) reads this from confidences; classes are enough.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import special

from rhe_parties.attacks.domain.hierarchy import Hierarchy
from rhe_parties.errors import NumericError
from rhe_parties.types import IntArray

__all__ = ["LeafScores", "agreement", "likely_leaves", "score_leaves"]

Float64Array = npt.NDArray[np.float64]

_LEAST_ERROR = 0.02


def agreement(votes: IntArray, classes: int) -> Float64Array:
    """Share of pairs of answers to one image that agree: float64 [m] of votes [m, r].

    It estimates Σ_k p_k² without bias, p being the law of the answers.

    Raises:
        NumericError: fewer than two answers per image, or a class out of range.
    """
    if votes.ndim != 2 or votes.shape[1] < 2:
        raise NumericError(f"agreement takes at least two answers per image [m, r], got {votes.shape}")
    if votes.size and (votes.min() < 0 or votes.max() >= classes):
        raise NumericError(f"answers must lie in 0..{classes - 1}, got {votes.min()}..{votes.max()}")
    answers = votes.shape[1]
    counts = (votes[:, :, None] == np.arange(classes)).sum(axis=1)
    same: Float64Array = (np.square(counts).sum(axis=1) - answers) / (answers * (answers - 1))
    return same


class LeafScores(NamedTuple):
    """Per leaf: `mean` of the chance-corrected agreement after shrinkage, and its standard error (float64 [L])."""

    mean: Float64Array
    error: Float64Array


def score_leaves(hierarchy: Hierarchy, asked: IntArray, votes: IntArray, classes: int) -> LeafScores:
    """Score every leaf from the images asked so far.

    An image's agreement A is corrected for the agreement E of answers to different images of its group, as
    (A - E)/(1 - E): a group that always gets the same class is not understood, however well the answers agree. Leaves
    borrow strength from their group: a leaf's mean is pulled towards the group's by what its own images leave
    uncertain.

    Args:
        hierarchy: of the pool.
        asked: int64 [m], distinct images.
        votes: int64 [m, r], the answers.
        classes: number of classes K.

    Raises:
        NumericError: nothing asked, or arrays that do not fit together.
    """
    if len(asked) == 0 or len(asked) != len(votes):
        raise NumericError(f"domain scores: {len(asked)} images asked and votes {votes.shape} must fit, at least 1")
    groups = int(hierarchy.group.max()) + 1
    leaf = hierarchy.leaf[asked]
    group = hierarchy.group[leaf]
    raw = agreement(votes, classes)
    corrected = np.zeros(len(asked))
    for number in range(groups):
        rows = group == number
        if rows.any():
            corrected[rows] = _corrected(raw[rows], votes[rows], classes)
    count = np.bincount(leaf, minlength=hierarchy.leaves)
    sums = np.bincount(leaf, weights=corrected, minlength=hierarchy.leaves)
    own = sums / np.maximum(count, 1)
    within = float(np.square(corrected - own[leaf]).sum() / max(1, len(asked) - int((count > 0).sum())))
    within = max(within, 1e-4)
    mean, error = np.empty(hierarchy.leaves), np.empty(hierarchy.leaves)
    overall = float(corrected.mean())
    for number in range(groups):
        rows = hierarchy.group == number
        seen = rows & (count > 0)
        centre = float(sums[seen].sum() / count[seen].sum()) if seen.any() else overall
        noise = within / np.maximum(count, 1)
        between = float(np.var(own[seen]) - noise[seen].mean()) if seen.sum() > 1 else 0.0
        between = max(between, 0.01)  # a group is never trusted to be all alike
        gain = np.where(count[rows] > 0, between / (between + noise[rows]), 0.0)
        mean[rows] = centre + gain * (own[rows] - centre)
        error[rows] = np.sqrt(between * (1 - gain))
    return LeafScores(mean, error)


def _corrected(raw: Float64Array, votes: IntArray, classes: int) -> Float64Array:
    """Agreement of one group's images, corrected for that of answers to different ones."""
    shares = np.bincount(votes.ravel(), minlength=classes) / votes.size
    chance = float(np.square(shares).sum())
    if chance > 1 - 1e-9:
        return np.zeros(len(raw))
    result: Float64Array = (raw - chance) / (1 - chance)
    return result


def likely_leaves(scores: LeafScores, sizes: IntArray, ceiling: float = math.inf, cuts: int = 1) -> Float64Array:
    """Probability that each leaf is of the target's kind: float64 [L].

    The border is where it parts the leaves' scores, weighed by size, into two sets with the largest variance between
    them (Otsu's threshold), but not above `ceiling`: in a pool that is all of the target's kind the threshold would
    else part the easy images from the hard ones. A leaf's probability is that of its true score being above the border.

    Args:
        scores: of the leaves.
        sizes: images in each leaf, int64 [L].
        ceiling: of the border.
        cuts: how many times the upper set is parted again; one outlying domain takes a cut for itself.

    Raises:
        NumericError: no leaf, or sizes that do not fit.
    """
    if len(scores.mean) == 0 or len(sizes) != len(scores.mean) or sizes.sum() <= 0:
        raise NumericError(f"likely leaves: {len(scores.mean)} scores and sizes {sizes.shape} must fit, at least 1")
    upper, border = np.ones(len(sizes), np.bool_), None
    for _ in range(cuts):
        found = _best_split(scores.mean[upper], sizes[upper] / sizes[upper].sum())
        if found is None:
            break
        border = found
        upper = scores.mean > border
    if border is None:
        return np.ones(len(sizes))
    away = (scores.mean - min(border, ceiling)) / np.maximum(scores.error, _LEAST_ERROR)
    likely: Float64Array = special.ndtr(away)
    return likely


def _best_split(value: Float64Array, weight: Float64Array) -> float | None:
    """Threshold with the largest variance between both sides; None where all values are equal."""
    order = np.argsort(value, kind="stable")
    sorted_value, sorted_weight = value[order], weight[order]
    below = np.cumsum(sorted_weight)[:-1]
    partial = np.cumsum(sorted_weight * sorted_value)[:-1]
    total = float(sorted_weight @ sorted_value)
    apart = np.diff(sorted_value) > 1e-12
    if not apart.any():
        return None
    between = np.square(total * below - partial) / np.maximum(below * (1 - below), 1e-12)
    best = int(np.argmax(np.where(apart, between, -1.0)))
    return float((sorted_value[best] + sorted_value[best + 1]) / 2)
