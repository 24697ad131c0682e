"""A linear head from released scores: one linear equation per image and class.

Source: equation solving, Tramèr et al. 2016 (arXiv 1609.02943). Logits are linear in weight and bias, and so are
differences of the logarithms of softmax confidences. The equations are solved as a Gaussian posterior: rounded scores
are uniform around the truth, errors of unknown size are read off the residuals, and the prior of heads decides what
the images leave open, so that fewer images than unknowns give an estimate too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.extraction.gauge import Float64Array, contrasts
from rhe_parties.attacks.extraction.prior import HeadPrior
from rhe_parties.errors import NumericError
from rhe_parties.threads import limited_threads
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["SolvedHead", "fit_confidences", "fit_top_confidence", "log_confidences", "solve_logits"]

_LEAST_NOISE = 1e-7  # of the scores' root mean square: float32 arithmetic
_RIDGE = 1e-8


class SolvedHead(NamedTuple):
    """Weight [K, D], bias [K], expected squared error of one weight along the feature axes (mean), and the deviation
    of the scores' errors that the residuals show."""

    weight: FloatArray
    bias: FloatArray
    error_variance: float
    noise: float


def solve_logits(
    prior: HeadPrior, rows: Float64Array, rest: Float64Array, logits: AnyArray, noise: float = 0.0
) -> SolvedHead:
    """Solve for a head from logits.

    Args:
        prior: of heads; its axes made `rows` and `rest` from features (`FeatureAxes.reduce`).
        rows: feature coordinates [n, r+1].
        rest: squared lengths [n] outside the axes.
        logits: [n, K], not shifted.
        noise: known deviation of a logit's error; errors beyond it are found in the residuals.

    Raises:
        NumericError: arrays that do not fit together, values that are not finite, or no image.
    """
    scores = np.asarray(logits, np.float64)
    if rows.ndim != 2 or scores.shape != (len(rows), prior.classes) or len(rows) == 0:
        raise NumericError(
            f"{len(rows)} images and scores {scores.shape} do not fit: scores must be [n, {prior.classes}]"
        )
    if not (np.isfinite(scores).all() and np.isfinite(rows).all()):
        raise NumericError("equation solving: scores or features hold NaN or infinity")
    size = float(np.sqrt(np.square(scores).mean()))
    outside = prior.outside_variance * float(rest.mean())
    deviation = float(np.sqrt(noise**2 + outside + (_LEAST_NOISE * max(size, 1e-12)) ** 2))
    with limited_threads(1):
        solution = _Equations(prior, rows, scores)
        for _ in range(3):
            # Residuals say how large errors really are once there are clearly more equations than unknowns.
            found = solution.solve(deviation)
            free = len(rows) - found.used
            if free < 0.2 * len(rows):
                break
            seen = float(np.sqrt(np.square(found.residual).sum() / (free * scores.shape[1])))
            if seen <= 1.1 * deviation:
                break
            deviation = seen
    weight, bias = prior.head(found.flat)
    shift = prior.axes.unfold(found.common[None, None])[0, 0]
    return SolvedHead(
        (weight + shift[:-1]).astype(np.float32), (bias + shift[-1]).astype(np.float32), found.variance, deviation
    )


class _Solution(NamedTuple):
    flat: Float64Array
    common: Float64Array
    residual: Float64Array
    used: float
    variance: float


class _Equations:
    """Posterior of contrasts and common part given n equations per class with one error variance."""

    def __init__(self, prior: HeadPrior, rows: Float64Array, scores: Float64Array) -> None:
        self.prior, self.rows = prior, rows
        self.table = contrasts(prior.classes)
        self.parts = scores @ self.table
        self.common = scores.mean(axis=1)
        self.gram = rows.T @ rows
        self.precision = torch.linalg.inv(torch.from_numpy(prior.covariance))

    def solve(self, deviation: float) -> _Solution:
        """Everything at an error deviation of one logit."""
        prior, trust = self.prior, 1 / deviation**2
        parts, width = self.parts.shape[1], self.rows.shape[1]
        precision = self.precision + torch.kron(
            torch.eye(parts, dtype=torch.float64), torch.from_numpy(self.gram) * trust
        )
        pull = (self.parts.T @ self.rows * trust).reshape(-1)
        factor, failed = torch.linalg.cholesky_ex(precision)
        if int(failed):
            raise NumericError("the shadow heads are too few for a prior of heads: raise the option shadows")
        start = torch.from_numpy(prior.mean)
        # As a step from the prior's mean: exact where nothing is known, and better conditioned.
        gap = torch.from_numpy(pull) - (precision - self.precision) @ start
        flat = (start + torch.cholesky_solve(gap[:, None], factor)[:, 0]).numpy()
        inverse = torch.cholesky_inverse(factor)
        diagonal = inverse.diagonal().reshape(parts, width)[:, :-1]
        # The common part is what is left of the initial weights: small, independent of the images, mean zero.
        ridge = np.diag(np.append(np.full(width - 1, 1 / max(prior.outside_variance, 1e-12)), 1e-6))
        common = np.linalg.solve(self.gram * trust + ridge, self.rows.T @ self.common * trust)
        fitted = self.rows @ (self.table @ flat.reshape(parts, width) + common).T
        residual = self.parts @ self.table.T + self.common[:, None] - fitted
        used = float(np.trace(np.linalg.solve(self.gram * trust + ridge, self.gram * trust)))
        return _Solution(flat, common, residual, min(used, float(len(self.rows))), float(diagonal.mean()))


def log_confidences(confidences: AnyArray, step: float = 0.0) -> Float64Array:
    """Logits [n, K] up to a common shift, centred, from softmax confidences [n, K] or, as two classes, from a sigmoid's
    confidence [n] of class 1.

    Args:
        confidences: in [0, 1].
        step: rounding step of the confidences; values below half of it are taken as half of it.

    Raises:
        NumericError: values outside [0, 1] or not finite.
    """
    p = np.asarray(confidences, np.float64)
    if not np.isfinite(p).all() or p.size == 0 or p.min() < 0 or p.max() > 1 or p.ndim not in (1, 2):
        raise NumericError(f"confidences of shape {p.shape} must be numbers in [0, 1]")
    if p.ndim == 1:
        p = np.stack([1 - p, p], axis=1)
    logs = np.log(np.maximum(p, max(step / 2, 1e-300)))
    out: Float64Array = logs - logs.mean(axis=1, keepdims=True)
    return out


def fit_confidences(rows: Float64Array, confidences: AnyArray, ridge: float = _RIDGE) -> Float64Array:
    """Heads [K, r+1], centred over the classes, whose softmax comes closest (cross-entropy) to confidences [n, K].

    For rounded or noisy confidences, where logarithms of small ones are worth little.

    Raises:
        NumericError: arrays that do not fit together, or values that are not finite.
    """
    target = np.asarray(confidences, np.float64)
    if target.ndim != 2 or len(target) != len(rows) or target.shape[1] < 2:
        raise NumericError(f"confidences must be [{len(rows)}, K], got {target.shape}")
    target = target / np.maximum(target.sum(axis=1, keepdims=True), 1e-300)
    want = torch.from_numpy(target)
    return _descend(rows, target.shape[1], lambda logits: -(want * logits.log_softmax(1)).sum(1).mean(), ridge)


def fit_top_confidence(
    rows: Float64Array, classes: int, winners: IntArray, confidences: AnyArray, ridge: float = _RIDGE
) -> Float64Array:
    """Heads [K, r+1] from the winning class [n] and its softmax confidence [n] alone, by binary cross-entropy.

    Raises:
        NumericError: arrays that do not fit together, classes out of range, or values outside [0, 1].
    """
    p = np.asarray(confidences, np.float64)
    if p.shape != (len(rows),) or winners.shape != p.shape or not np.isfinite(p).all() or p.min() < 0 or p.max() > 1:
        raise NumericError(f"top confidences must be numbers in [0, 1] of shape [{len(rows)}], got {p.shape}")
    if winners.min() < 0 or winners.max() >= classes:
        raise NumericError(f"winners must be classes 0..{classes - 1}, got {winners.min()}..{winners.max()}")
    want, index = torch.from_numpy(p), torch.from_numpy(winners.astype(np.int64))[:, None]

    def loss(logits: Tensor) -> Tensor:
        logs = logits.log_softmax(1)
        own = logs.gather(1, index)[:, 0]
        others = torch.logsumexp(logs.scatter(1, index, -torch.inf), dim=1)
        return -(want * own + (1 - want) * others).mean()

    return _descend(rows, classes, loss, ridge)


def _descend(rows: Float64Array, classes: int, loss: Callable[[Tensor], Tensor], ridge: float) -> Float64Array:
    """L-BFGS from zero on coordinates of unit size; centred result [K, r+1]."""
    if not np.isfinite(rows).all():
        raise NumericError("features hold NaN or infinity")
    scale = np.maximum(np.sqrt(np.square(rows).mean(axis=0)), 1e-12)
    x = torch.from_numpy(rows / scale)
    head = torch.zeros((classes, rows.shape[1]), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [head], max_iter=2000, history_size=30, tolerance_grad=1e-12, tolerance_change=1e-16,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = loss(x @ head.T) + ridge * head.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with limited_threads(1), torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    found = head.detach().numpy() / scale
    out: Float64Array = found - found.mean(axis=0)
    return out
