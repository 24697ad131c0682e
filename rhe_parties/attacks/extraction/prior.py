"""What the adversary believes about a head before the first answer: a Gaussian fitted to heads that it trained itself.

Heads live here in contrasts over the classes (no common shift, see `gauge`) and in the leading principal axes of the
features that queries can reach: what no image excites changes no answer and cannot be learnt from answers either.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.attacks.extraction.gauge import centred, contrasts
from rhe_parties.errors import DataError, NumericError
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["FeatureAxes", "HeadPrior", "LengthModel"]

Float64Array = npt.NDArray[np.float64]

_LENGTH_AXES = 200
_FLOOR = 1e-12  # of the largest eigenvalue: below lie dead features


@dataclass(frozen=True, eq=False)
class FeatureAxes:
    """Principal axes of features: `mean` [D], orthonormal `basis` [D, r], and `spread` [r], the variance along each."""

    mean: Float64Array
    basis: Float64Array
    spread: Float64Array

    @classmethod
    def fit(cls, features: AnyArray, rank: int = 0, share: float = 1e-6) -> FeatureAxes:
        """Axes of features [n, D], largest variance first.

        Args:
            features: of the images that will be asked about.
            rank: at most so many axes; 0: no limit.
            share: axes are kept while their variance is at least this share of the largest.

        Raises:
            NumericError: fewer than two features vectors, values not finite, or no variation at all.
        """
        if features.ndim != 2 or len(features) < 2:
            raise NumericError(f"feature axes take features [n, D] with n of at least 2, got {features.shape}")
        x = features.astype(np.float64)
        if not np.isfinite(x).all():
            raise NumericError("feature axes: features hold NaN or infinity")
        mean = x.mean(axis=0)
        x -= mean
        values, vectors = np.linalg.eigh(x.T @ x / len(x))
        values, vectors = values[::-1], vectors[:, ::-1]
        if values[0] <= 1e-300:
            raise NumericError("feature axes: the features are the same for every image")
        kept = int((values >= max(share, _FLOOR) * values[0]).sum())
        kept = min(kept, rank) if rank > 0 else kept
        return cls(mean, np.ascontiguousarray(vectors[:, :kept]), values[:kept].copy())

    @property
    def rank(self) -> int:
        """Number of axes r."""
        return int(self.basis.shape[1])

    def reduce(self, features: AnyArray) -> tuple[Float64Array, Float64Array]:
        """Coordinates [n, r+1] with a constant 1 at the end, and the squared length [n] outside the axes."""
        moved = features.astype(np.float64) - self.mean
        inside = moved @ self.basis
        rest = np.maximum(np.square(moved).sum(1) - np.square(inside).sum(1), 0.0)
        return np.concatenate([inside, np.ones((len(inside), 1))], axis=1), rest

    def fold(self, heads: AnyArray) -> Float64Array:
        """Heads [V, K, D+1] on features as heads [V, K, r+1] on coordinates; parts outside the axes are dropped."""
        weight, bias = heads[..., :-1], heads[..., -1:]
        return np.concatenate([weight @ self.basis, bias + (weight @ self.mean)[..., None]], axis=-1)

    def unfold(self, heads: AnyArray) -> Float64Array:
        """The way back: heads [V, K, r+1] on coordinates as heads [V, K, D+1] on features, nothing outside the axes."""
        weight = heads[..., :-1] @ self.basis.T
        return np.concatenate([weight, heads[..., -1:] - (weight @ self.mean)[..., None]], axis=-1)


@dataclass(frozen=True, eq=False)
class LengthModel:
    """Predicts a head's length, which no decision shows, from its shape.

    Length is the root mean square of the centred logits on average features. It varies little between heads of one
    recipe, and a ridge regression on the leading principal coordinates of the head at length 1, and on their squares,
    explains a part of that.

    Attributes:
        metric: [q], the weight of each coordinate of a flat head in its length.
        typical: mean length.
        directions: [q, p], principal directions of heads in that metric.
        slope: [2·p + 1], of the logarithm of length over principal coordinates, squares and a constant; empty: none.
    """

    metric: Float64Array
    typical: float
    directions: Float64Array
    slope: Float64Array

    @classmethod
    def fit(cls, flat: Float64Array, metric: Float64Array, shapes: bool = True) -> LengthModel:
        """Fit to flat heads [n, q]; `shapes` False: the mean length only."""
        scaled = flat * metric
        typical = float(np.exp(np.log(np.linalg.norm(scaled, axis=1)).mean()))
        count = min(_LENGTH_AXES, len(flat) // 10, flat.shape[1])
        if not shapes or count < 1:
            return cls(metric, typical, np.zeros((len(metric), 0)), np.zeros(0))
        moved = scaled - scaled.mean(0)
        _, vectors = np.linalg.eigh(moved.T @ moved)
        directions = np.ascontiguousarray(vectors[:, -count:])
        table, lengths = _shape_terms(scaled @ directions)
        # How long the part in the principal directions is, is what can be told from a shape and then carried over.
        spread = table[:, :-1].var(0)
        ridge = 1e-3 * len(table) * np.diag(np.append(spread + 1e-3 * spread.max() + 1e-12, 0.0))
        slope = np.linalg.solve(table.T @ table + ridge, table.T @ np.log(lengths))
        return cls(metric, typical, directions, slope.astype(np.float64))

    def length(self, flat: AnyArray) -> float:
        """Length of one flat head [q]."""
        return float(np.linalg.norm(flat * self.metric))

    def predict(self, flat: AnyArray) -> float:
        """Expected length of a head of this shape, whatever the length that `flat` [q] itself has."""
        if len(self.slope) == 0:
            return self.typical
        table, inner = _shape_terms((flat * self.metric)[None] @ self.directions)
        return float(np.exp((table @ self.slope)[0]) / inner[0] * self.length(flat))


def _shape_terms(coordinates: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Terms [n, 2·p+1] of the regression and lengths [n] of principal coordinates [n, p]."""
    lengths = np.maximum(np.linalg.norm(coordinates, axis=1), 1e-300)
    shape = coordinates / lengths[:, None]
    return np.concatenate([shape, np.square(shape), np.ones((len(shape), 1))], axis=1), lengths


@dataclass(frozen=True, eq=False)
class HeadPrior:
    """A Gaussian over heads in contrasts and feature coordinates.

    Attributes:
        axes: the coordinates.
        classes: K.
        mean: [(K-1)·(r+1)].
        covariance: of the same, positive definite.
        lengths: how long heads of this recipe are, given their shape.
        outside: mean head [K, D] outside the axes, which no answer can correct.
        outside_variance: variance of one weight outside the axes: what is neglected there blurs the answers.
        informed: whether mean and covariance come from heads; else only the scale does.
    """

    axes: FeatureAxes
    classes: int
    mean: Float64Array
    covariance: Float64Array
    lengths: LengthModel
    outside: Float64Array
    outside_variance: float
    informed: bool

    @classmethod
    def fit(cls, axes: FeatureAxes, weight: FloatArray, bias: FloatArray, informed: bool = True) -> HeadPrior:
        """Fit to shadow heads [n, K, D] and [n, K].

        The sample covariance of n heads is noisy in so many dimensions; it is drawn towards (covariance over classes)
        ⊗ (covariance over axes) by the share (dimensions / n), at most one half.

        Args:
            informed: False keeps only the heads' scale: mean zero and equal variance everywhere.

        Raises:
            DataError: fewer than eight heads.
        """
        if len(weight) < 8:
            raise DataError(f"a prior of heads needs at least 8 shadow heads, got {len(weight)}")
        whole = centred(weight, bias)
        classes = whole.shape[1]
        inner = whole[..., :-1] @ axes.basis
        outside = whole[..., :-1].mean(0) - (inner.mean(0) @ axes.basis.T)
        free = max(1, whole.shape[2] - 1 - axes.rank)
        left = np.square(whole[..., :-1]).sum(2) - np.square(inner).sum(2)
        outside_variance = float(max(left.mean(), 0.0)) / free
        folded = np.einsum("kc,vkr->vcr", contrasts(classes), axes.fold(whole), optimize=True)
        size = folded.shape[1] * folded.shape[2]
        flat = folded.reshape(len(folded), size)
        lengths = LengthModel.fit(flat, np.tile(np.sqrt(np.append(axes.spread, 1.0)), classes - 1), informed)
        if not informed:
            # One variance for weights; the bias on centred features moves with all weights at once.
            scale = float(np.square(folded[..., :-1]).mean())
            spread = np.full(folded.shape[1:], scale)
            spread[:, -1] = scale * max(1.0, float(axes.spread.sum()))
            covariance = np.diag(spread.reshape(-1))
            return cls(axes, classes, np.zeros(size), covariance, lengths, 0 * outside, outside_variance, False)
        mean = flat.mean(0)
        return cls(axes, classes, mean, _covariance(folded - folded.mean(0)), lengths, outside, outside_variance, True)

    def head(self, flat: AnyArray) -> tuple[FloatArray, FloatArray]:
        """Weight [K, D] and bias [K] of a point [(K-1)·(r+1)], centred over the classes."""
        table = contrasts(self.classes) @ flat.reshape(self.classes - 1, -1)
        whole = self.axes.unfold(table)
        weight = whole[:, :-1] + self.outside
        bias = whole[:, -1] - self.outside @ self.axes.mean if self.informed else whole[:, -1]
        return weight.astype(np.float32), (bias - bias.mean()).astype(np.float32)


def _covariance(moved: Float64Array) -> Float64Array:
    """Shrunk covariance of centred samples [n, a, b], as [a·b, a·b]."""
    count, rows, columns = moved.shape
    flat = moved.reshape(count, -1)
    sample = flat.T @ flat / count
    over_rows = np.einsum("vab,vcb->ac", moved, moved, optimize=True) / count
    over_columns = np.einsum("vab,vac->bc", moved, moved, optimize=True) / count
    product = np.kron(over_rows, over_columns) / max(float(np.trace(over_rows)), 1e-300)
    share = min(0.5, rows * columns / count)
    out: Float64Array = (1 - share) * sample + share * product
    out[np.diag_indices_from(out)] += 1e-9 * float(np.trace(out)) / len(out)
    return out
