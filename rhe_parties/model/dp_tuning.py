"""Choosing DP-SGD's parameters on public data, so that the baseline is as strong as its ε allows.

Candidates are compared by the accuracy of heads trained on public images of one half and tested on the other, with
noise solved anew for each sampling rate and number of steps. Nothing private is touched, so tuning costs no ε.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rhe_parties.data.splits import random_sets
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.model.dp import DpMechanism, epsilon
from rhe_parties.model.dual import train_many
from rhe_parties.model.head import Recipe
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.types import FloatArray, IntArray

__all__ = ["DpBudget", "DpChoice", "noise_for", "tune", "usual_delta"]

# Clipping norms as shares of the mean length of [features, 1], travel of the weights in units of 1 / length², steps.
_CLIPS = (0.1, 0.3, 1.0)
_TRAVELS = (3.0, 10.0, 30.0, 100.0, 300.0)
_STEPS = (1, 4, 16, 64)
_SAMPLED = ((0.5, 64),)  # sampling rates below 1, each with its number of steps: the accountant takes long for them
_FIRST, _FINAL, _KEPT = 16, 192, 8  # heads of a first look, of the decision, and candidates that reach it
_WORK = 2e9  # multiply-adds of one look at a candidate, so that large sets are looked at through fewer heads
_TEST_IMAGES = 1000
_NOISE_STEP = 1.005


@dataclass(frozen=True)
class DpBudget:
    """The guarantee: ε at δ, add/remove adjacency."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.epsilon) and self.epsilon > 0):
            raise ParameterError(f"epsilon = {self.epsilon} is not allowed (allowed: finite, above 0)")
        if not 0 < self.delta < 1:
            raise ParameterError(f"delta = {self.delta} is not allowed (allowed: above 0, below 1)")


class DpChoice(NamedTuple):
    """A recipe under DP-SGD, its accuracy on public data, and how many candidates it was chosen from."""

    recipe: Recipe
    accuracy: float
    candidates: int


@functools.lru_cache(maxsize=256)
def noise_for(budget: DpBudget, sampling_rate: float, steps: int) -> float:
    """The least noise multiplier σ, to half a per cent, that spends at most ε in so many steps (PRV accountant).

    Without sampling T steps of noise σ are one step of noise σ/√T, as compositions of Gaussian mechanisms are.
    """
    if sampling_rate == 1 and steps > 1:
        return noise_for(budget, 1.0, 1) * math.sqrt(steps)

    def spent(noise: float) -> float:
        return epsilon(DpMechanism(1.0, noise, sampling_rate), steps, budget.delta)

    # Sampling spares at most a factor q of the noise, and never costs any.
    high = noise_for(budget, 1.0, steps) if sampling_rate < 1 else 1.0
    low = high * sampling_rate if sampling_rate < 1 else 1.0
    while spent(high) > budget.epsilon:
        high *= 2
    while spent(low) <= budget.epsilon:
        low /= 2
    while high / low > _NOISE_STEP:
        middle = math.sqrt(high * low)
        low, high = (low, middle) if spent(middle) <= budget.epsilon else (middle, high)
    return high


def tune(
    features: FloatArray, labels: IntArray, classes: int, per_class: int, plain: Recipe, budget: DpBudget,
    fixed: dict[str, float], centred: bool, seed: int,
) -> DpChoice:  # fmt: skip
    """The most accurate DP-SGD recipe within a budget.

    Args:
        features: public [n, D].
        labels: int64 [n].
        classes: number of classes K.
        per_class: images of each class in a training set.
        plain: the recipe without DP; its weight decay is kept, and heads start from zero.
        budget: ε and δ.
        fixed: any of `clip`, `learning_rate`, `steps`, `sampling_rate` that are not to be chosen.
        centred: whether features are measured from their public mean.
        seed: root of sets and noise.

    Raises:
        DataError: too few public images of a class.
    """
    bench = _Bench.of(features, labels, classes, per_class, seed)
    centre = features.mean(axis=0, dtype=np.float64) if centred else np.zeros(features.shape[1])
    length = float(np.sqrt(np.square(features - centre, dtype=np.float64).sum(1) + 1).mean())
    found = _candidates(plain, budget, fixed, tuple(centre.tolist()) if centred else (), length)
    heads = max(2, min(_FIRST, int(_WORK / bench.cost(max(recipe.steps for recipe in found)))))
    ranked = sorted(found, key=lambda recipe: -bench.accuracy(recipe, heads, 0))
    best = ranked[:_KEPT]
    scores = [bench.accuracy(recipe, heads * _FINAL // _FIRST, 1) for recipe in best]
    winner = int(np.argmax(scores))
    return DpChoice(best[winner], scores[winner], len(found))


def _candidates(
    plain: Recipe, budget: DpBudget, fixed: dict[str, float], centre: tuple[float, ...], length: float
) -> list[Recipe]:
    """Every combination of what is not fixed, each once."""
    clips = (fixed["clip"],) if "clip" in fixed else tuple(share * length for share in _CLIPS)
    schedules = [(1.0, count) for count in _STEPS] + list(_SAMPLED)
    if "steps" in fixed:
        schedules = sorted({(rate, int(fixed["steps"])) for rate, _ in schedules})
    if "sampling_rate" in fixed:
        schedules = sorted({(fixed["sampling_rate"], count) for _, count in schedules})
    found: dict[Recipe, None] = {}
    for clip, (rate, count), travel in itertools.product(clips, schedules, _TRAVELS):
        mechanism = DpMechanism(clip, noise_for(budget, rate, count), rate, count, centre)
        pace = travel / (count * min(1.0, clip / length) * length**2)
        pace = fixed.get("learning_rate", pace)
        found[replace(plain, learning_rate=pace, init_std=0.0, mechanism=mechanism)] = None
    return list(found)


@dataclass(frozen=True, eq=False)
class _Bench:
    """Public images to train on and to test with; both are the same for every candidate."""

    features: FloatArray
    labels: IntArray
    test: FloatArray
    test_labels: IntArray
    classes: int
    per_class: int
    seed: int

    @classmethod
    def of(cls, features: FloatArray, labels: IntArray, classes: int, per_class: int, seed: int) -> _Bench:
        train, test = [], []
        for label in range(classes):
            rows = numpy_stream(seed, "dp-tuning-split", label).permutation(np.flatnonzero(labels == label))
            half = max(per_class, len(rows) // 2)
            if len(rows) <= half:
                raise DataError(
                    f"class {label} has {len(rows)} public images: DP-SGD is tuned on more than {per_class} of each"
                )
            train.append(rows[:half])
            test.append(rows[half:][: _TEST_IMAGES // classes])
        kept, held = np.concatenate(train), np.concatenate(test)
        return cls(features[kept], labels[kept], features[held], labels[held], classes, per_class, seed)

    def cost(self, steps: int) -> float:
        """Multiply-adds of training one head."""
        size = self.classes * self.per_class
        return float(size * size * (self.features.shape[1] + 2 * steps * self.classes))

    def accuracy(self, recipe: Recipe, heads: int, round_: int) -> float:
        """Mean accuracy over heads and classes."""
        sets = self._sets(heads, round_)
        seed = stream_seed(self.seed, "dp-tuning-noise", round_)
        weight, bias = train_many(self.features, self.labels, sets, self.classes, recipe, seed)
        right = np.zeros(self.classes)
        for w, b in zip(weight, bias, strict=True):
            hit = (self.test @ w.T + b).argmax(axis=1) == self.test_labels
            right += np.bincount(self.test_labels[hit], minlength=self.classes)
        seen = np.bincount(self.test_labels, minlength=self.classes)
        return float((right / (seen * heads)).mean())

    def _sets(self, heads: int, round_: int) -> IntArray:
        stream = numpy_stream(self.seed, "dp-tuning-sets", round_)
        return random_sets(self.labels, self.classes, self.per_class, heads, stream)


def usual_delta(images: int) -> float:
    """δ = N^-1.1, the convention of arXiv 2505.14323; weak by usual standards, where δ is far below 1/N."""
    return math.pow(images, -1.1)
