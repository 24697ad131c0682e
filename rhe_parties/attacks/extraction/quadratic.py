"""Heads with one hidden layer of squares: linear in products of features, so linear extraction does the work.

logit_k = Σ_h v_kh (w_h·φ + a_h)² + c_k = φ̃ᵀ Q_k φ̃ with φ̃ = (φ, 1) and rank(Q_k) ≤ H + 1. With D features that are
(D+1)(D+2)/2 unknowns per class; products of all features are out of reach for D = 256, but not those of the leading
principal coordinates, next to all coordinates themselves. `extract_head` and `solve_logits` then take the lifted
features for features; with logits, the whole form follows from a descent on its low-rank factors.

Weights of the hidden layer are identified up to rotations that keep Q only; `canonical_factors` gives every Q one form.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.extraction.gauge import Float64Array
from rhe_parties.attacks.extraction.prior import FeatureAxes
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.model.mlp import DeepHead
from rhe_parties.threads import limited_threads
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["SquareFit", "SquareLift", "canonical_factors", "fit_square_head"]

_RIDGE = 1e-7
_STEPS = 500


@dataclass(frozen=True, eq=False)
class SquareLift:
    """Features [n, D] as r principal coordinates of unit variance, and all products of the first `products` of them."""

    axes: FeatureAxes
    products: int

    def __post_init__(self) -> None:
        if not 0 <= self.products <= self.axes.rank:
            raise ParameterError(f"products = {self.products} is not allowed: 0 to {self.axes.rank} coordinates")

    @property
    def width(self) -> int:
        """Numbers per image."""
        return self.axes.rank + self.products * (self.products + 1) // 2

    def lift(self, features: AnyArray) -> FloatArray:
        """Lifted features float32 [n, width] of features [n, D]."""
        x = self.axes.reduce(features)[0][:, :-1] / np.sqrt(self.axes.spread)
        rows, columns = np.triu_indices(self.products)
        return np.concatenate([x, x[:, rows] * x[:, columns]], axis=1).astype(np.float32)

    def head(self, head: DeepHead) -> tuple[FloatArray, FloatArray]:
        """A square head as a linear one on lifted features: weight [K, width] and bias [K].

        Products beyond the first `products` coordinates are dropped, and so is what lies outside the axes.

        Raises:
            ParameterError: a head of another activation or depth.
        """
        if head.activation != "square" or len(head.layers) != 2:
            raise ParameterError(f"a {head.activation} head of {len(head.layers)} layers is no quadratic form")
        (first, offset), (second, bias) = (
            (w.astype(np.float64)[None], b.astype(np.float64)[None]) for w, b in head.layers
        )
        weight, constant = self.heads(first, offset, second, bias)
        return weight[0].astype(np.float32), constant[0].astype(np.float32)

    def heads(
        self, hidden: Float64Array, offset: Float64Array, mixing: Float64Array, bias: Float64Array
    ) -> tuple[Float64Array, Float64Array]:
        """`head` for V square heads at once: hidden [V, H, D], offset [V, H], mixing [V, K, H], bias [V, K].

        Returns:
            Weight [V, K, width] and bias [V, K] on lifted features.
        """
        scaled = (hidden @ self.axes.basis) * np.sqrt(self.axes.spread)
        moved = offset + hidden @ self.axes.mean
        rows, columns = np.triu_indices(self.products)
        twice = np.where(rows == columns, 1.0, 2.0)
        kept = scaled[:, None, :, : self.products]  # [V, 1, H, r]
        forms = (kept * mixing[..., None]).swapaxes(2, 3) @ kept
        lines = 2.0 * (mixing * moved[:, None]) @ scaled
        weight = np.concatenate([lines, forms[..., rows, columns] * twice], axis=2)
        return weight, (mixing @ np.square(moved)[..., None])[..., 0] + bias

    def forms(self, weight: AnyArray, bias: AnyArray) -> Float64Array:
        """Quadratic forms [K, D+1, D+1] on (φ, 1) of linear heads on lifted features (weight [K, width], bias [K])."""
        rank, count = self.axes.rank, len(weight)
        inner = np.zeros((count, rank + 1, rank + 1))
        rows, columns = np.triu_indices(self.products)
        inner[:, rows, columns] = weight[:, rank:] / 2
        inner[:, columns, rows] += weight[:, rank:] / 2
        inner[:, :rank, rank] = inner[:, rank, :rank] = weight[:, :rank] / 2
        inner[:, rank, rank] = bias
        width = len(self.axes.mean)
        turn = np.zeros((rank + 1, width + 1))
        turn[:rank, :width] = (self.axes.basis / np.sqrt(self.axes.spread)).T
        turn[:rank, width] = -turn[:rank, :width] @ self.axes.mean
        turn[rank, width] = 1.0
        forms: Float64Array = turn.T @ inner @ turn
        return forms


def canonical_factors(form: AnyArray, rank: int) -> tuple[Float64Array, Float64Array]:
    """The `rank` leading eigenvalues [rank] by magnitude and eigenvectors as rows [rank, D+1] of a symmetric form.

    Signs are fixed by the largest entry, so that equal forms have equal factors whatever weights they came from.

    Raises:
        NumericError: a form that is not square or not finite.
        ParameterError: a rank below 1 or above D + 1.
    """
    matrix = np.asarray(form, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not np.isfinite(matrix).all():
        raise NumericError(f"a quadratic form must be a finite square matrix, got {matrix.shape}")
    if not 1 <= rank <= len(matrix):
        raise ParameterError(f"rank = {rank} is not allowed: 1 to {len(matrix)}")
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    order = np.argsort(-np.abs(values), kind="stable")[:rank]
    values, rows = values[order], vectors[:, order].T
    signs = np.sign(rows[np.arange(rank), np.abs(rows).argmax(axis=1)])
    return values, rows * signs[:, None]


@dataclass(frozen=True, eq=False)
class SquareFit:
    """A square head in factors: logits = ((φ̃ U)²) Vᵀ + φ̃ Lᵀ with φ̃ = (standardised φ, 1).

    Attributes:
        axes: standardisation.
        factors: U [r+1, H].
        mixing: V [K, H].
        linear: L [K, r+1].
        loss: what the descent ended at.
    """

    axes: FeatureAxes
    factors: Float64Array
    mixing: Float64Array
    linear: Float64Array
    loss: float

    def logits(self, features: AnyArray) -> Float64Array:
        """Logits [n, K] of features [n, D]."""
        x = _standard(self.axes, features)
        out: Float64Array = np.square(x @ self.factors) @ self.mixing.T + x @ self.linear.T
        return out


def fit_square_head(
    axes: FeatureAxes,
    features: AnyArray,
    logits: AnyArray,
    hidden: int,
    start: tuple[SquareLift, AnyArray, AnyArray] | None = None,
    seed: int = 0,
) -> SquareFit:
    """Fit a low-rank quadratic head to logits [n, K] by descent on its factors (L-BFGS, squared error).

    O(H·D) images are enough where solving for every product takes (D+1)(D+2)/2. There is no such fit to classes alone:
    a logistic loss on answers that the lifted posterior explains completely only drifts away from it.

    Args:
        axes: coordinates of the fit; rank limits the unknowns.
        features: [n, D] of the images that were asked about.
        logits: [n, K], as released.
        hidden: width H of the hidden layer.
        start: lift and linear head on lifted features from `solve_logits`; None: near zero.
        seed: of the start where there is none.

    Raises:
        NumericError: arrays that do not fit together, or values that are not finite.
        ParameterError: a width below 1.
    """
    values = np.asarray(logits)
    if hidden < 1:
        raise ParameterError(f"hidden = {hidden} is not allowed: at least 1")
    if values.ndim != 2 or len(values) != len(features) or len(values) == 0 or not np.isfinite(values).all():
        raise NumericError(f"{len(features)} images do not fit logits of shape {values.shape}, or these hold NaN")
    x = torch.from_numpy(_standard(axes, features))
    want = torch.from_numpy(values.astype(np.float64))
    scale = want.square().mean().clamp_min(1e-300)
    rng = np.random.default_rng(seed)
    factors = rng.normal(scale=0.3 / np.sqrt(axes.rank), size=(axes.rank + 1, hidden))
    mixing, linear = rng.normal(scale=0.3, size=(values.shape[1], hidden)), np.zeros((values.shape[1], axes.rank + 1))
    if start is not None:
        factors, mixing, linear = _from_lift(axes, start, hidden)
    begin = [torch.from_numpy(np.ascontiguousarray(part)) for part in (factors, mixing, linear)]
    tensors = [part.clone().requires_grad_() for part in begin]
    optimiser = torch.optim.LBFGS(tensors, max_iter=_STEPS, history_size=20, line_search_fn="strong_wolfe")
    last = [float("nan")]

    def closure() -> Tensor:
        optimiser.zero_grad()
        u, v, w = tensors
        drift = sum((t - b).square().sum() for t, b in zip(tensors, begin, strict=True))
        value = ((x @ u).square() @ v.T + x @ w.T - want).square().mean() / scale + _RIDGE * drift
        value.backward()  # type: ignore[no-untyped-call]
        last[0] = float(value.detach())
        return value

    with limited_threads(1), torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    u, v, w = (t.detach().numpy() for t in tensors)
    if not all(np.isfinite(part).all() for part in (u, v, w)):
        raise NumericError("the fit of a square head diverged")
    return SquareFit(axes, u, v, w, last[0])


def _standard(axes: FeatureAxes, features: AnyArray) -> Float64Array:
    rows = axes.reduce(features)[0]
    rows[:, :-1] /= np.sqrt(axes.spread)
    return rows


def _from_lift(
    axes: FeatureAxes, start: tuple[SquareLift, AnyArray, AnyArray], hidden: int
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Factors whose forms come closest to a lifted head's: leading directions of all classes' products together."""
    lift, weight, bias = start
    forms = lift.forms(weight, bias)
    # From (φ, 1) to (standardised φ, 1): φ = mean + basis·√spread·x.
    back = np.zeros((axes.rank + 1, forms.shape[1]))
    back[:-1, :-1] = (axes.basis * np.sqrt(axes.spread)).T
    back[-1, :-1], back[-1, -1] = axes.mean, 1.0
    inner = back @ forms @ back.T
    square = inner.copy()
    square[:, -1, :] = square[:, :, -1] = 0
    _, vectors = np.linalg.eigh((square @ square).sum(axis=0))
    factors = np.zeros((axes.rank + 1, hidden))
    count = min(hidden, axes.rank)
    factors[:, :count] = vectors[:, ::-1][:, :count]
    mixing = np.einsum("rh,krs,sh->kh", factors, square, factors, optimize=True)
    linear = 2 * inner[:, -1, :]
    linear[:, -1] = inner[:, -1, -1]
    return factors, mixing, linear
