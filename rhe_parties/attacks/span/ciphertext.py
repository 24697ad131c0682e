"""Can a head be read from the bytes of its encryption? A regressor trained on shadow heads, with its measured skill.

From the numbers parsed out of (cipher)text bytes the head is predicted by the better of two estimators: every head
coordinate from the one number that goes with it best, or kernel ridge regression on all numbers at once. Half of the
shadows never train it; on them its skill R² = 1 - error / variance is measured, and `predict` returns

    mean + max(0, R²) · (prediction - mean),

the linear Bayes estimate by measured skill: without skill the estimate *is* the prior mean, whatever the regressor
says. Run on readable numbers the same code must recover heads; that is its positive control.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import DataError, NumericError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["HeadRegressor", "fit_head_regressor"]

Float64Array = npt.NDArray[np.float64]

_RIDGES = (1e-4, 1e-2, 1.0, 100.0)  # times the kernel's mean diagonal
_SIGMAS = 4.0  # one chance in 30,000 to believe a regressor without skill
_BLOCK = 2048  # numbers per block of the correlation search


@dataclass(frozen=True, eq=False)
class HeadRegressor:
    """Predicts flat heads [K·(D+1)] from parsed numbers [p].

    Attributes:
        skill: held-out R² of `predict` before shrinkage, over all coordinates; may be negative.
        method: "elementwise" or "ridge", whichever had the smaller held-out error.
        error_variance: held-out mean squared error per coordinate after shrinkage.
        mean: mean head of the training shadows, float64 [q].
    """

    skill: float
    method: str
    error_variance: float
    mean: Float64Array
    _centre: Float64Array
    _scale: Float64Array
    _index: npt.NDArray[np.int64]
    _slope: Float64Array
    _train: Float64Array
    _dual: Float64Array

    def predict(self, numeric: AnyArray) -> FloatArray:
        """Flat heads float32 [V, q] of parsed numbers [V, p], shrunk towards the mean by the measured skill.

        Raises:
            NumericError: another number of columns than in training.
        """
        if numeric.ndim != 2 or numeric.shape[1] != len(self._centre):
            raise NumericError(f"head regressor takes numbers [V, {len(self._centre)}], got {numeric.shape}")
        x = (numeric.astype(np.float64) - self._centre) * self._scale
        moved = x[:, self._index] * self._slope if self.method == "elementwise" else (x @ self._train.T) @ self._dual
        return (self.mean + max(0.0, self.skill) * moved).astype(np.float32)


def fit_head_regressor(numeric: AnyArray, heads: FloatArray, seed: int, held_out: float = 0.5) -> HeadRegressor:
    """Train on shadow heads and measure the skill on shadows kept apart.

    The method and the ridge are chosen on a quarter of the other shadows, never on those that measure the skill.

    Args:
        numeric: numbers parsed from the shadows' bytes, [n, p]; p may be far above n.
        heads: the shadows' flat heads [n, q], same order (weights then biases, as the caller likes).
        seed: root seed of the split.
        held_out: share of the shadows that only measure the skill.

    Raises:
        DataError: fewer than 12 shadows.
        NumericError: arrays that do not fit together or are not finite.
    """
    _check(numeric, heads)
    order = numpy_stream(seed, "ciphertext-split").permutation(len(heads))
    apart = int(held_out * len(heads))
    choosing = max(2, (len(heads) - apart) // 4)
    measure, choose, train = order[:apart], order[apart : apart + choosing], order[apart + choosing :]
    y = heads.astype(np.float64)
    candidates = _candidates(numeric[train].astype(np.float64), y[train])
    errors = [np.square(candidate.predict(numeric[choose]) - y[choose]).sum() for candidate in candidates]
    best = candidates[int(np.argmin(errors))]
    # Measured against the training shadows' mean: the estimate that a regressor without skill falls back to.
    residual = np.square(best.predict(numeric[measure]) - y[measure])
    spread = np.square(best.mean - y[measure])
    skill = _credible_skill(residual.sum(axis=1), spread.sum(axis=1))
    final = _with_skill(best, skill, 0.0)
    return _with_skill(best, skill, float(np.square(final.predict(numeric[measure]) - y[measure]).mean()))


def _credible_skill(residual: Float64Array, spread: Float64Array) -> float:
    """R² from errors per held-out head [n], cut to at most 0 unless the gain is `_SIGMAS` standard errors above zero.

    A strongly shrunk prediction of pure noise has an R² of a few millionths of either sign; taking a positive one
    at its word would move the estimate by nothing but chance.
    """
    skill = 1.0 - float(residual.sum() / max(float(spread.sum()), 1e-300))
    gain = spread - residual
    error = float(gain.std(ddof=1)) / np.sqrt(len(gain))
    return skill if float(gain.mean()) > _SIGMAS * error else min(skill, 0.0)


def _with_skill(regressor: HeadRegressor, skill: float, error: float) -> HeadRegressor:
    r = regressor
    return HeadRegressor(skill, r.method, error, r.mean, r._centre, r._scale, r._index, r._slope, r._train, r._dual)


def _candidates(x: Float64Array, y: Float64Array) -> list[HeadRegressor]:
    """Elementwise regression, and ridge regression at several strengths, fitted to numbers [n, p] and heads [n, q]."""
    centre, spread = x.mean(axis=0), x.std(axis=0)
    scale = np.where(spread > 0, 1 / np.where(spread > 0, spread, 1.0), 0.0)
    x = (x - centre) * scale
    mean = y.mean(axis=0)
    y = y - mean
    index, slope = _best_matches(x, y)
    none: Float64Array = np.zeros((0, 0))
    found = [HeadRegressor(1.0, "elementwise", 0.0, mean, centre, scale, index, slope, none, none)]
    kernel = x @ x.T
    level = max(float(kernel.trace()) / len(x), 1e-300)
    values, vectors = np.linalg.eigh(kernel)
    turned = vectors.T @ y
    for ridge in _RIDGES:
        dual = vectors @ (turned / (np.maximum(values, 0) + ridge * level)[:, None])
        found.append(HeadRegressor(1.0, "ridge", 0.0, mean, centre, scale, index, slope, x, dual))
    return found


def _best_matches(x: Float64Array, y: Float64Array) -> tuple[npt.NDArray[np.int64], Float64Array]:
    """For each head coordinate the standardised number with the largest covariance in magnitude, and its slope."""
    best, slope = np.zeros(y.shape[1], np.int64), np.zeros(y.shape[1])
    for start in range(0, x.shape[1], _BLOCK):
        covariance = x[:, start : start + _BLOCK].T @ y / len(x)
        top = np.abs(covariance).argmax(axis=0)
        value = covariance[top, np.arange(y.shape[1])]
        better = np.abs(value) > np.abs(slope)
        best[better], slope[better] = top[better] + start, value[better]
    return best, slope


def _check(numeric: AnyArray, heads: FloatArray) -> None:
    if numeric.ndim != 2 or heads.ndim != 2 or len(numeric) != len(heads) or numeric.shape[1] == 0:
        raise NumericError(
            f"head regressor takes numbers [n, p] and heads [n, q], got {numeric.shape} and {heads.shape}"
        )
    if len(heads) < 12:
        raise DataError(f"head regressor got {len(heads)} shadow heads: at least 12 are needed to train and to measure")
    if not np.isfinite(heads).all() or not np.isfinite(np.asarray(numeric, np.float64)).all():
        raise NumericError("head regressor: numbers or heads hold NaN or infinity")
