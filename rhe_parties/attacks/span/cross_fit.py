"""Linear Bayes estimates of training features from numbers of heads, each checked on images that it never saw.

Ridge regression on shadow heads is the estimate of least squared error among the linear ones. Shadow heads come in
groups, each on auxiliary images of its own: what is estimated of a group's heads by the fit to the other groups is as
far from the truth as what is estimated of a victim, although every image also serves to fit the final estimate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import DataError, NumericError
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["CrossFit", "LinearEstimate", "Sighting", "cross_fit"]

Float64Array = npt.NDArray[np.float64]

_RIDGES = (1e-3, 0.01, 0.03, 0.1, 0.3)  # numbers have unit variance
_SLACK = 1.05
_TRIED = 256  # targets on which the ridge is chosen
_ALL = slice(None)
_FLOOR = 1e-3  # of the mean variance: directions of the features that hardly vary
_BELIEF = 1e-3  # of the prior's precision
_FEWEST = 16  # heads of a group


@dataclass(frozen=True, eq=False)
class LinearEstimate:
    """From numbers [V, p] to targets [V, q]: `mean` [q] + ((numbers - centre) · scale) `slope` [p, q]."""

    centre: Float64Array
    scale: Float64Array
    slope: FloatArray
    mean: FloatArray

    def predict(self, numbers: AnyArray) -> FloatArray:
        """Targets float32 [V, q] of numbers [V, p]; equal rows have equal estimates.

        Raises:
            NumericError: another number of columns than in training, or not finite.
        """
        if numbers.ndim != 2 or numbers.shape[1] != len(self.centre) or not np.isfinite(numbers).all():
            raise NumericError(f"the estimate takes finite numbers [V, {len(self.centre)}], got {numbers.shape}")
        # A row's bits in a product may depend on its place.
        rows, place = np.unique(numbers, axis=0, return_inverse=True)
        moved = ((rows - self.centre) * self.scale).astype(np.float32)
        return (self.mean + moved @ self.slope)[place.reshape(-1)]


@dataclass(frozen=True, eq=False)
class CrossFit:
    """A fitted estimate, and how it does where it cannot have learnt by heart.

    Attributes:
        estimate: fitted to all shadows.
        unseen: [n, q], what the fit to the other groups says of each shadow.
        skill: R² of `unseen`, over all groups but the first, on which the ridge was chosen.
    """

    estimate: LinearEstimate
    unseen: FloatArray
    skill: float


@dataclass(frozen=True, eq=False)
class Sighting:
    """What an estimate says of an image, told apart from what was believed of it beforehand.

    Estimates are drawn towards the mean of their class, so that the image next to an estimate is too often an average
    one. An estimate e of an image x of class k is a noisy view of it, e - e_k = R (x - x_k) + noise of covariance N,
    with class means e_k, x_k; the likelihood of x is a distance |whitener (point - x)|, whitenerᵀ whitener = Rᵀ N⁻¹ R.
    On ten digits and ReLU heads that identifies 70 % where the distance from the estimate itself identifies 49 %.

    Attributes:
        seen, true: class means [K, D] of estimates and of features.
        back: [D, D], from estimate to point.
        whitener: [D, D].
    """

    seen: Float64Array
    true: Float64Array
    back: Float64Array
    whitener: FloatArray

    @classmethod
    def fit(cls, estimates: FloatArray, features: FloatArray) -> Sighting:
        """Fit to estimates [n, K, D] and features [n, K, S, D] of shadows whose images did not fit the estimate.

        Raises:
            NumericError: features or estimates without variation.
        """
        seen = estimates.mean(axis=0, dtype=np.float64)
        true = features.mean(axis=(0, 2), dtype=np.float64)
        width = features.shape[3]
        x = (features - true[:, None]).reshape(-1, width)
        e = np.repeat(estimates - seen, features.shape[2], axis=1).reshape(-1, width)
        prior = _floored(x.T @ x / len(x))
        view = np.linalg.solve(prior, x.T @ e / len(x)).T
        noise = e - x @ view.T
        inner = np.linalg.solve(_floored(noise.T @ noise / len(x)), view).T
        metric = inner @ view
        values, vectors = np.linalg.eigh((metric + metric.T) / 2)
        whitener = np.sqrt(np.maximum(values, 0))[:, None] * vectors.T
        # Directions that nothing is seen of stay at the mean; the prior's little weight decides nothing else.
        back = np.linalg.solve(metric + _BELIEF * np.linalg.inv(prior), inner)
        return cls(seen, true, back, whitener.astype(np.float32))

    def points(self, estimates: FloatArray) -> FloatArray:
        """Points float32 [V, K, D] of estimates [V, K, D]."""
        found: FloatArray = (self.true + (estimates - self.seen) @ self.back.T).astype(np.float32)
        return found


def _floored(covariance: Float64Array) -> Float64Array:
    level = float(np.trace(covariance)) / len(covariance)
    if not level > 0:
        raise NumericError("features or estimates without variation: there is nothing to see")
    out: Float64Array = covariance + _FLOOR * level * np.eye(len(covariance))
    return out


def cross_fit(numbers: FloatArray, targets: FloatArray, groups: IntArray) -> CrossFit:
    """Fit to shadow heads, with the least ridge whose squared error on the first group is within 5 % of the best one's.

    The best itself blurs the directions of little variance, in which images differ.

    Args:
        numbers: [n, p].
        targets: [n, q].
        groups: [n], numbered from 0; groups share no training image.

    Raises:
        NumericError: arrays that do not fit together or are not finite.
        DataError: fewer than two groups, or fewer than 16 heads in one.
    """
    _check(numbers, targets, groups)
    spread = numbers.std(axis=0, dtype=np.float64)
    centre, scale = numbers.mean(axis=0, dtype=np.float64), np.zeros(len(spread))
    live = spread > 1e-9 * max(float(spread.max()), 1e-300)
    scale[live] = 1 / spread[live]
    mean = targets.mean(axis=0)
    x, y = ((numbers - centre) * scale).astype(np.float32), targets - mean
    rows = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    grams = [(x[own].T @ x[own]).astype(np.float64) for own in rows]
    products = [(x[own].T @ y[own]).astype(np.float64) for own in rows]
    gram, product = np.sum(grams, axis=0), np.sum(products, axis=0)

    def slope(without: int | None, ridge: float, columns: slice = _ALL) -> FloatArray:
        left = gram if without is None else gram - grams[without]
        right = product if without is None else product - products[without]
        count = len(x) - (0 if without is None else len(rows[without]))
        found: FloatArray = np.linalg.solve(left + ridge * count * np.eye(len(left)), right[:, columns]).astype(
            np.float32
        )
        return found

    some = slice(None, None, max(1, y.shape[1] // _TRIED))
    first = x[rows[0]], y[rows[0]][:, some]
    errors = np.asarray([np.square(first[0] @ slope(0, ridge, some) - first[1]).sum() for ridge in _RIDGES])
    ridge = _RIDGES[int(np.argmax(errors <= _SLACK * errors.min()))]
    unseen = np.empty_like(y)
    for group, own in enumerate(rows):
        unseen[own] = x[own] @ slope(group, ridge)
    measured = groups > 0
    residual = np.square(unseen[measured] - y[measured]).sum(dtype=np.float64)
    skill = 1 - float(residual / max(np.square(y[measured]).sum(dtype=np.float64), 1e-300))
    return CrossFit(LinearEstimate(centre, scale, slope(None, ridge), mean), unseen + mean, skill)


def _check(numbers: FloatArray, targets: FloatArray, groups: IntArray) -> None:
    count = len(numbers)
    if numbers.ndim != 2 or targets.ndim != 2 or len(targets) != count or groups.shape != (count,):
        raise NumericError(
            f"shadows: numbers {numbers.shape}, targets {targets.shape} and groups {groups.shape} do not fit together"
        )
    if not (np.isfinite(numbers).all() and np.isfinite(targets).all()):
        raise NumericError("shadows: numbers or targets hold NaN or infinity")
    sizes = np.bincount(groups) if count else np.zeros(0, np.int64)
    if len(sizes) < 2 or sizes.min() < _FEWEST:
        raise DataError(
            f"{count} shadow heads in groups of {sizes.tolist()} are too few: 2 groups of {_FEWEST} at least"
        )
