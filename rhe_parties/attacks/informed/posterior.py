"""Unknown training features from a head, given the others, the initial weights, or both.

As in `rhe_parties.attacks.span.inversion` W = s·W_0 + AᵀX, with X the features, A the dual coefficients that training
on X gives, and s the decay of W_0. What is known of X and W_0 is taken out of W; what is left is linear and Gaussian in
the unknown rows of X, per eigenvector of the prior's covariance. A follows from X by simulation, so the two steps
alternate.

With all but one row known (the informed adversary of Balle et al. 2022, arXiv 2201.04845) nothing of the last one is
hidden: W - AᵀX is a multiple a·φᵀ of it, disturbed by W_0 alone. With W_0 known and no row (the difference attack of
Loo et al. 2023, arXiv 2302.01428, exact for a linear head) K - 1 combinations of the N rows are known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.span.anchor import Anchor, Sight
from rhe_parties.attacks.span.inversion import class_order, dual_coefficients, uncentred
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.head import Recipe
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray

__all__ = ["Knowledge", "Posterior", "infer_features"]

_CHUNK = 64  # heads at a time
# What simulated coefficients leave unexplained, over the root mean square weight: in the first round, from one round
# to the next, and at last, where float32 weights and the order of sums set the bound.
_MODEL_ERROR, _BETTER, _ROUNDING = 1e-2, 0.4, 1e-5
_ANCHORED = 2  # last rounds that place the offset, as in span inversion
_REACH = 20.0  # most rounds that one secant jumps over


@dataclass(frozen=True, eq=False)
class Knowledge:
    """What is known about the training of V heads.

    Attributes:
        features: of the known training images [V, P, D]; P may be 0.
        labels: their classes int64 [V, P].
        unknown: classes of the unknown training images int64 [V, U], U at least 1.
        initial: weights before training [V, K, D]; None: unknown.
    """

    features: FloatArray
    labels: IntArray
    unknown: IntArray
    initial: FloatArray | None = None


@dataclass(frozen=True, eq=False)
class Posterior:
    """Estimates of the unknown rows.

    Attributes:
        features: posterior mean [V, U, D], float32.
        points: peak of the likelihood [V, U, D], float32: the mean with the prior's pull taken out.
        whitener: [D, D], float32: |whitener (points - φ)| ranks candidates φ by likelihood.
        variance: error variance of `features` per eigenvector of the prior's covariance, averaged over heads and
            rows, float32 [D].
        noise_std: deviation of what the rows of X do not explain, per weight.
        coefficients: dual coefficients of the unknown rows [V, U, K], float32.
    """

    features: FloatArray
    points: FloatArray
    whitener: FloatArray
    variance: FloatArray
    noise_std: float
    coefficients: FloatArray


def infer_features(
    weight: FloatArray,
    bias: FloatArray,
    knowledge: Knowledge,
    recipe: Recipe,
    prior: FeaturePrior,
    iterations: int = 8,
    noise_variance: float = 0.0,
) -> Posterior:
    """Estimate the unknown training features of V heads.

    Args:
        weight: [V, K, D], as trained or as estimated.
        bias: [V, K], the same.
        knowledge: rows and initial weights that are known, and the classes of the others.
        recipe: how the heads were trained.
        prior: the adversary's prior of features.
        iterations: rounds of "simulate A, estimate X".
        noise_variance: variance of independent errors of the given weights.

    Returns:
        Estimates with their error model. Equal heads and equal knowledge give equal estimates.

    Raises:
        NumericError: arrays that do not fit together, or are not finite.
        DataError: no unknown image, or a label out of range.
        ParameterError: no iteration, or a negative noise variance.
    """
    _check(weight, bias, knowledge, prior, iterations, noise_variance)
    if recipe.mechanism is not None:
        prior = prior.seen_from(recipe.mechanism)
        knowledge = replace(knowledge, features=recipe.mechanism.centred(knowledge.features))
    images = knowledge.labels.shape[1] + knowledge.unknown.shape[1]
    extra = noise_variance + recipe.noise_variance(images)
    solver = _Solver(weight, recipe, prior, knowledge.initial is not None, extra)
    with limited_threads(1):
        parts = [solver.solve(weight[i : i + _CHUNK], bias[i : i + _CHUNK], _rows(knowledge, i), iterations)
                 for i in range(0, len(weight), _CHUNK)]  # fmt: skip
    features, points, coefficients, error = (torch.cat([part[i] for part in parts]).numpy() for i in range(4))
    share = prior.eigenvalues
    error = np.clip(error.mean(axis=(0, 1)), 1e-9 * share, (1 - 1e-9) * share)
    scale = np.sqrt(1 / error - 1 / share)
    return Posterior(
        features=uncentred(recipe.mechanism, features.astype(np.float32)),
        points=uncentred(recipe.mechanism, points.astype(np.float32)),
        whitener=(scale[:, None] * prior.eigenvectors.T).astype(np.float32),
        variance=error.astype(np.float32),
        noise_std=float(np.sqrt(solver.noise)),
        coefficients=coefficients.astype(np.float32),
    )


def _rows(knowledge: Knowledge, start: int) -> Knowledge:
    part = slice(start, start + _CHUNK)
    initial = None if knowledge.initial is None else knowledge.initial[part]
    return Knowledge(knowledge.features[part], knowledge.labels[part], knowledge.unknown[part], initial)


class _Solver:
    """The alternation for one chunk of heads, in the eigenbasis of the prior's covariance and in float64."""

    def __init__(self, weight: FloatArray, recipe: Recipe, prior: FeaturePrior, started: bool, extra: float) -> None:
        """`extra`: variance of errors of the weights beyond the initial ones' share."""
        self.recipe, self.prior = recipe, prior
        self.basis = torch.from_numpy(prior.eigenvectors)
        self.spread = torch.from_numpy(prior.eigenvalues)
        self.means = torch.from_numpy(prior.means) @ self.basis
        self.shrink = recipe.shrink
        start = 0.0 if started else (self.shrink * recipe.init_std) ** 2
        self.size = float(np.square(weight, dtype=np.float64).mean())
        self.given = max(start + extra, 1e-16)
        self.noise = self.given
        self.start_share = start / self.given

    def solve(
        self, weight: FloatArray, bias: FloatArray, known: Knowledge, iterations: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features, points [V, U, D], coefficients [V, U, K] and error variances [V, U, D] in the eigenbasis."""
        seen = self._turn(weight)
        fixed, labels = self._turn(known.features), torch.tensor(known.labels)
        unknown = torch.tensor(known.unknown)
        middle, count = self.means[unknown], fixed.shape[1]
        begun = None if known.initial is None else self._turn(known.initial)
        moved, error = torch.zeros_like(middle), self.spread.expand_as(middle)
        every, rest = torch.cat([labels, unknown], dim=1), torch.zeros_like(seen)
        path = _Path()
        sums = torch.from_numpy(np.ascontiguousarray(bias)).double()
        anchor = self._anchor(known)
        left_over = torch.from_numpy(np.ascontiguousarray(weight)).double()
        if begun is not None:
            left_over = left_over - self.shrink * begun @ self.basis.T
        for turn in range(iterations):
            self.noise = max(self.given, max(_MODEL_ERROR * _BETTER**turn, _ROUNDING) ** 2 * self.size)
            rows = torch.cat([fixed, middle + moved], dim=1)
            # The expected Gram matrix holds the guess's uncertainty too.
            doubt = torch.cat([torch.zeros_like(labels, dtype=seen.dtype), error.sum(-1)], dim=1).diag_embed()
            start = rest if begun is None else begun
            coefficients, _ = dual_coefficients(rows @ rows.mT + doubt, every, rows @ start.mT, self.recipe)
            mine = coefficients[:, count:]
            if self.recipe.mechanism is None:  # then the biases are the column sums of A, without any noise
                mine = mine + (sums - coefficients.sum(1))[:, None] / unknown.shape[1]
            left = seen - coefficients[:, :count].mT @ fixed - mine.mT @ middle
            if begun is not None:
                left = left - self.shrink * begun
            found, share = self._estimate(left, mine)
            last = turn == iterations - 1
            if anchor is not None and turn >= iterations - _ANCHORED:
                sight = Sight.of(mine)
                offset = anchor.locate(left_over, sight) @ self.basis
                found = found + sight.unseen[..., None] * offset[:, None]
                share = share + sight.unseen.square()[..., None] * anchor.expected_share(self.basis)
            moved = found if last or anchor is not None else path.next(moved, found)
            error = self.spread * (1 - share)
            if begun is None:
                # What the features do not explain is, in part, the initial weights: they shape the first steps.
                rest = (left - mine.mT @ moved) * (self.start_share / self.shrink)
        points = middle + moved / share.clamp_min(1e-6)
        return (middle + moved) @ self.basis.T, points @ self.basis.T, mine, error

    def _anchor(self, known: Knowledge) -> Anchor | None:
        """What places the common offset of the features, where no row is known and nothing else shows it."""
        labels = torch.tensor(known.unknown[0])
        per_class = len(labels) // len(self.means)
        ordered = class_order(len(self.means), per_class)
        if known.features.shape[1] or self.prior.marginals is None or not (known.unknown == ordered.numpy()).all():
            return None
        rows = self.means[labels]
        doubt = self.spread.sum() * torch.eye(len(labels), dtype=rows.dtype)
        first = torch.zeros((1, len(labels), len(self.means)), dtype=rows.dtype)
        expected, _ = dual_coefficients((rows @ rows.mT + doubt)[None], labels, first, self.recipe)
        anchor = Anchor(
            self.prior, self.prior.marginals, expected, max(self.given, _MODEL_ERROR**2 * self.size), per_class
        )
        return anchor if anchor.useful else None

    def _turn(self, rows: FloatArray) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64) @ self.basis

    def _estimate(self, left: Tensor, mine: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean of the unknown rows less their class means, and the share of their variance seen."""
        strength, vectors = torch.linalg.eigh(mine.mT @ mine)
        gain = mine @ vectors
        trust = 1 / (self.spread * strength.clamp_min(0)[..., None] + self.noise)
        share = (gain.square() @ trust) * self.spread
        return (gain @ (vectors.mT @ left * trust)) * self.spread, share


class _Path:
    """Anderson's acceleration (1965) of depth one, head by head, of x → F(x).

    Too long features give too large steps of training, those too small coefficients, and these longer features still:
    along this one direction plain iteration crawls, or runs away. The secant through the last two rounds does neither.
    """

    def __init__(self) -> None:
        self.last: tuple[Tensor, Tensor] | None = None

    def next(self, before: Tensor, after: Tensor) -> Tensor:
        """Where to go on from, after F(before) = after; both [V, U, D]."""
        step = after - before
        if self.last is None:
            found = after
        else:
            change = step - self.last[1]
            size = change.square().sum((1, 2), keepdim=True).clamp_min(1e-300)
            share = ((step * change).sum((1, 2), keepdim=True) / size).clamp(-_REACH, _REACH)
            found = after - share * (after - self.last[0])
        self.last = after, step
        return found


def _check(
    weight: FloatArray, bias: FloatArray, knowledge: Knowledge, prior: FeaturePrior, iterations: int, extra: float
) -> None:
    heads, width = len(weight), prior.width
    if weight.ndim != 3 or weight.shape[1:] != (prior.classes, width) or bias.shape != weight.shape[:2] or heads == 0:
        raise NumericError(
            f"weights must be [V, {prior.classes}, {width}] with biases [V, {prior.classes}], "
            f"got {weight.shape} and {bias.shape}"
        )
    shapes = (knowledge.labels.shape, knowledge.unknown.shape[:1])
    if knowledge.features.shape != (*shapes[0], width) or shapes[0][:1] != (heads,) or shapes[1] != (heads,):
        raise NumericError(
            f"known features {knowledge.features.shape} and labels {knowledge.labels.shape}, and unknown labels "
            f"{knowledge.unknown.shape} do not fit {heads} heads of {width} features"
        )
    if knowledge.unknown.ndim != 2 or knowledge.unknown.shape[1] == 0:
        raise DataError(f"unknown labels {knowledge.unknown.shape} name no unknown image: [V, U] with U at least 1")
    every = np.concatenate([knowledge.labels, knowledge.unknown], axis=1)
    if every.min() < 0 or every.max() >= prior.classes:
        worst = int(every.min() if every.min() < 0 else every.max())
        raise DataError(f"label {worst} is out of range: 0 to {prior.classes - 1}")
    if knowledge.initial is not None and knowledge.initial.shape != weight.shape:
        raise NumericError(f"initial weights {knowledge.initial.shape} do not fit weights {weight.shape}")
    given = {
        "weights": weight,
        "biases": bias,
        "known features": knowledge.features,
        "initial weights": knowledge.initial,
    }
    for name, array in given.items():
        if array is not None and not np.isfinite(array).all():
            raise NumericError(f"{name} hold NaN or infinity")
    if iterations < 1 or not (np.isfinite(extra) and extra >= 0):
        raise ParameterError(
            f"iterations = {iterations} (at least 1) or noise_variance = {extra} (at least 0) is not allowed"
        )
