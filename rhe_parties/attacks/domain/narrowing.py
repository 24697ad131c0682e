"""Narrowing a pool to the target's kind of images with few queries, and naming what is left."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from rhe_parties.attacks.domain.consistency import likely_leaves, score_leaves
from rhe_parties.attacks.domain.hierarchy import Hierarchy, build_hierarchy
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["AskVotes", "Narrowing", "NarrowingSettings", "narrow_pool"]

Float64Array = npt.NDArray[np.float64]

#: Images uint8 [m, C, H, W] to the target's answers int64 [m, r], r at least 2.
AskVotes: TypeAlias = Callable[[UInt8Array], IntArray]


@dataclass(frozen=True)
class NarrowingSettings:
    """Effort of the narrowing.

    Attributes:
        images: images to ask about, all in all; the pool's size where that is less.
        first: of each leaf, before anything is known.
        more: of a leaf that is chosen again.
        groups, leaves, leaf_size: of the hierarchy, see `build_hierarchy`.
        ceiling: of the border between likely and unlikely leaves, see `likely_leaves`; answers of several heads that
            agree half-way beyond chance are good enough in any pool, answers of one head to variants always agree.
        cuts: see `likely_leaves`.
        least: images of every class (as the target sees them) that the selection keeps, where there are as many.
    """

    images: int = 600
    first: int = 4
    more: int = 3
    groups: int = 8
    leaves: int = 64
    leaf_size: int = 16
    ceiling: float = math.inf
    cuts: int = 1
    least: int = 5

    def __post_init__(self) -> None:
        for name, low in (("images", 1), ("first", 1), ("more", 1), ("cuts", 1), ("least", 1)):
            if getattr(self, name) < low:
                raise ParameterError(f"narrowing: {name} = {getattr(self, name)} is not allowed: at least {low}")


@dataclass(frozen=True, eq=False)
class Narrowing:
    """What became of a pool of n images.

    Attributes:
        weights: float32 [n], the probability that an image is of the target's kind.
        selected: int64 [m], indices of the images kept, ascending.
        labels: int64 [m], their classes: the target's most frequent answer, or, where it was not asked, that of a
            Gaussian classifier on features fitted to its answers.
        asked: int64 [q], indices of the images asked about, ascending.
        votes: int64 [q, r], the answers.
        classes: number of classes K.
    """

    weights: FloatArray
    selected: IntArray
    labels: IntArray
    asked: IntArray
    votes: IntArray
    classes: int

    def everything(self, features: FloatArray) -> Narrowing:
        """The same answers without the narrowing: all n images, named from all answers (features [n, D])."""
        found = np.full(len(self.weights), -1, np.int64)
        found[self.asked] = _majority(self.votes, self.classes)
        named = np.where(found >= 0, found, _classify(features, found, found >= 0))
        return replace(self, selected=np.arange(len(found), dtype=np.int64), labels=named)


def narrow_pool(
    images: UInt8Array,
    features: FloatArray,
    classes: int,
    ask: AskVotes,
    settings: NarrowingSettings,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Narrowing:
    """Find the images on which the target is at home.

    A few images of every leaf are asked about; then, round by round, more of those leaves whose membership is least
    certain for their size, until the images are spent (the source adapts the leaves' likelihoods in the same way).

    Args:
        images: the pool uint8 [n, C, H, W].
        features: its backbone features float32 [n, D].
        classes: number of classes K, at least 2.
        ask: the target.
        settings: effort.
        seed: root seed.
        progress: called with the done share in [0, 1].

    Raises:
        NumericError: arrays that do not fit together, or answers of the wrong shape or range.
        ParameterError: fewer than two classes.
        DataError: an empty pool, or a target that gave one and the same class to everything that was kept.
    """
    if len(images) == 0:
        raise DataError("domain inference got an empty pool of images")
    if classes < 2:
        raise ParameterError(f"classes = {classes} is not allowed: at least 2")
    hierarchy = build_hierarchy(images, features, seed, settings.groups, settings.leaves, settings.leaf_size)
    walk = _Walk(images, hierarchy, ask, classes, settings, seed)
    walk.run(progress)
    order = np.argsort(walk.asked, kind="stable")
    asked, votes = walk.asked[order], walk.votes[order]
    weights = walk.likelihood[hierarchy.leaf]
    found = np.full(len(images), -1, np.int64)
    found[asked] = _majority(votes, classes)
    kept = weights >= 0.5
    if len(set(found[asked[kept[asked]]].tolist())) < 2:
        raise DataError(
            "domain inference: the target gives one class to every image that was kept; nothing to tell apart"
        )
    named = _classify(features, found, kept & (found >= 0))
    found = np.where(found >= 0, found, named)
    for label in range(classes):
        rest = np.flatnonzero((found == label) & ~kept)
        short = settings.least - int((kept & (found == label)).sum())
        if short > 0:
            kept[rest[np.argsort(-weights[rest], kind="stable")[:short]]] = True
    selected = np.flatnonzero(kept).astype(np.int64)
    return Narrowing(weights.astype(np.float32), selected, found[selected], asked, votes, classes)


class _Walk:
    """The questions: which leaves, which images, and what they add up to."""

    def __init__(
        self,
        images: UInt8Array,
        hierarchy: Hierarchy,
        ask: AskVotes,
        classes: int,
        settings: NarrowingSettings,
        seed: int,
    ) -> None:
        self.images, self.hierarchy, self.ask = images, hierarchy, ask
        self.classes, self.settings = classes, settings
        self.queues = [
            numpy_stream(seed, "domain-order", leaf).permutation(hierarchy.members(leaf))
            for leaf in range(hierarchy.leaves)
        ]
        self.taken = np.zeros(hierarchy.leaves, np.int64)
        self.sizes = np.bincount(hierarchy.leaf, minlength=hierarchy.leaves).astype(np.int64)
        self.asked: IntArray = np.empty(0, np.int64)
        self.votes: IntArray = np.empty((0, 0), np.int64)
        self.likelihood: Float64Array = np.ones(hierarchy.leaves)
        self.budget = min(settings.images, len(images))

    def run(self, progress: Callable[[float], None] | None) -> None:
        """Ask until the images are spent."""
        self._question(np.argsort(-self.sizes, kind="stable"), self.settings.first)
        while len(self.asked) < self.budget:
            if progress is not None:
                progress(len(self.asked) / self.budget)
            open_leaves = self.taken < self.sizes
            doubt = np.where(open_leaves, self.likelihood * (1 - self.likelihood) + 0.01, -1.0) * self.sizes
            # What is already well known need not be asked again.
            worth = doubt / np.maximum(self.taken, 1)
            chosen = np.argsort(-worth, kind="stable")[: max(1, self.hierarchy.leaves // 8)]
            self._question(chosen[open_leaves[chosen]], self.settings.more)

    def _question(self, leaves: npt.NDArray[np.intp], count: int) -> None:
        """Ask about the next `count` images of each leaf, within the budget, and judge all leaves anew."""
        rows = [self.queues[leaf][self.taken[leaf] : self.taken[leaf] + count] for leaf in leaves]
        chosen = np.concatenate(rows)[: self.budget - len(self.asked)].astype(np.int64)
        answers = self.ask(self.images[chosen])
        if answers.ndim != 2 or len(answers) != len(chosen) or answers.shape[1] < 2:
            raise NumericError(
                f"target answered {len(chosen)} images with an array {answers.shape}; expected [m, r > 1]"
            )
        self.votes = answers if not len(self.votes) else np.concatenate([self.votes, answers])
        self.asked = np.concatenate([self.asked, chosen])
        self.taken += np.bincount(self.hierarchy.leaf[chosen], minlength=len(self.taken))
        scores = score_leaves(self.hierarchy, self.asked, self.votes, self.classes)
        self.likelihood = likely_leaves(scores, self.sizes, self.settings.ceiling, self.settings.cuts)


def _majority(votes: IntArray, classes: int) -> IntArray:
    """Most frequent answer [m]; the lowest class among equals."""
    counts = (votes[:, :, None] == np.arange(classes)).sum(axis=1)
    winner: IntArray = counts.argmax(axis=1).astype(np.int64)
    return winner


def _classify(features: FloatArray, found: IntArray, known: npt.NDArray[np.bool_]) -> IntArray:
    """Nearest class mean under the pooled covariance, both from the images that the target named."""
    present, labels = np.unique(found[known], return_inverse=True)
    prior = FeaturePrior.fit(features[known], labels.reshape(-1).astype(np.int64), len(present))
    turned = features @ prior.whitener.T
    means = prior.means.astype(np.float32) @ prior.whitener.T
    away = np.stack([np.square(turned - mean).sum(axis=1) for mean in means], axis=1)
    nearest: IntArray = present[away.argmin(axis=1)].astype(np.int64)
    return nearest
