"""The paper's own test: log-normal fits of the pixel error under "the true head" and "a random head".

methods: section 2, curves b and c. For each claim m is the smallest pixel error over its head's targets of the class,
t = ln(m/4) − ln(1 − m/4). H0: the claim was made from the true head of the set; H1: from a random head, compared with
the same set. Both are fitted by normals on one half of the heads and counted on the other, both ways.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from rhe_parties.metrics.intervals import cluster_draws, percentiles
from rhe_parties.metrics.reconstruction import Errors
from rhe_parties.metrics.separation import Separation, rate_at_fpr
from rhe_parties.metrics.truth import Curve, Measured, measured
from rhe_parties.types import AnyArray

__all__ = ["analytic_curve", "measure_neyman_pearson", "separations"]

_LARGEST = 4.0  # the largest squared difference of two pixels in [-1, 1]
_CLIP = 1e-9
_SMALLEST_DEVIATION = 1e-3


@dataclass(frozen=True)
class _Normal:
    mean: AnyArray
    deviation: AnyArray

    def log_density(self, values: AnyArray) -> AnyArray:
        scaled = (values - self.mean) / self.deviation
        density: AnyArray = -0.5 * scaled * scaled - np.log(self.deviation)
        return density


def _transformed(errors: AnyArray) -> AnyArray:
    share = np.clip(errors / _LARGEST, _CLIP, 1 - _CLIP)
    t: AnyArray = np.log(share) - np.log1p(-share)
    return t


def _fit(values: AnyArray) -> _Normal:
    """Maximum likelihood: mean and population deviation."""
    return _Normal(np.asarray(values.mean()), np.asarray(max(float(values.std()), _SMALLEST_DEVIATION)))


def _evidence(own: AnyArray, null: AnyArray, groups: AnyArray) -> tuple[AnyArray, AnyArray]:
    """−Λ of own and null errors [V, T], each head's by the fits on the other half of the heads, per group of claims."""
    t0, t1 = _transformed(own), _transformed(null)
    first = np.broadcast_to((np.arange(len(own)) % 2 == 0)[:, None], own.shape)
    results = np.zeros(own.shape), np.zeros(own.shape)
    for group in np.unique(groups):
        for half in (first, ~first):
            counted, fitted = half & (groups == group), ~half & (groups == group)
            if not (counted.any() and fitted.any()):
                continue
            h0, h1 = _fit(t0[fitted]), _fit(t1[fitted])
            for t, result in zip((t0, t1), results, strict=True):
                result[counted] = h1.log_density(t[counted]) - h0.log_density(t[counted])
    return results


def separations(errors: Errors, null: Errors) -> dict[str, Separation]:
    """Claims of true heads against claims of random heads by likelihood ratio.

    Keys: `np_roc` (one fit for all claims), `np_roc_by_class` (fits per class, one threshold on the ratio), and
    `np_roc_class_K` for each class K alone.
    """

    def pair(evidence: tuple[AnyArray, AnyArray], chosen: AnyArray) -> Separation:
        owners = errors.owners[chosen]
        return Separation(evidence[0][chosen], owners, evidence[1][chosen], owners, errors.heads)

    everything = np.ones(errors.own.shape, bool)
    by_class = _evidence(errors.own, null.own, errors.labels)
    found = {
        "np_roc": pair(_evidence(errors.own, null.own, np.zeros_like(errors.labels)), everything),
        "np_roc_by_class": pair(by_class, everything),
    }
    classes = np.unique(errors.labels)
    if len(classes) > 1:
        found |= {f"np_roc_class_{k}": pair(by_class, errors.labels == k) for k in classes}
    return found


def measure_neyman_pearson(errors: Errors, null: Errors, generator: np.random.Generator) -> list[Measured]:
    """TPR at 1 % FPR by the likelihood ratio, pooled and with fits per class (curve b), and analytic (curve c)."""
    data = separations(errors, null)
    found = []
    for name, key in (("np_tpr_at_fpr_1pct", "np_roc"), ("np_tpr_at_fpr_1pct_by_class", "np_roc_by_class")):
        rate = rate_at_fpr(name, [data[key]], 0.01, generator)
        found += [rate] if rate is not None else []
    draws = np.vstack([np.ones(errors.heads), cluster_draws(errors.heads, generator)])
    values = _analytic(errors, null, draws, np.array([0.01]))[:, 0]
    interval = percentiles(values[1:])
    return [
        *found,
        measured("np_tpr_at_fpr_1pct_analytic", float(values[0]), interval, errors.own.size, errors.heads, 0.01),
    ]


def _moments(values: AnyArray, draws: AnyArray) -> _Normal:
    """Normals [R, 1] fitted to heads counted as in draws [R, V]."""
    total = draws.sum(axis=1, keepdims=True) * values.shape[1]
    mean = (draws @ values.sum(axis=1))[:, None] / total
    square = (draws @ (values * values).sum(axis=1))[:, None] / total
    deviation = np.sqrt(np.maximum(square - mean * mean, _SMALLEST_DEVIATION**2))
    return _Normal(mean, deviation)


def _analytic(errors: Errors, null: Errors, draws: AnyArray, grid: AnyArray) -> AnyArray:
    """[R, P]: TPR = Φ((μ1 + σ1 Φ⁻¹(FPR) − μ0) / σ0), which takes "t below a threshold" for the test."""
    h0, h1 = _moments(_transformed(errors.own), draws), _moments(_transformed(null.own), draws)
    rates: AnyArray = norm.cdf((h1.mean + h1.deviation * norm.ppf(grid)[None, :] - h0.mean) / h0.deviation)
    return rates


def analytic_curve(errors: Errors, null: Errors, generator: np.random.Generator, points: int = 60) -> Curve:
    """The paper's analytic ROC curve, with the bootstrap over heads of both fits as its band."""
    grid = np.unique(np.concatenate([np.geomspace(1e-4, 1 - 1e-6, points), [0.001, 0.01, 0.1]]))
    draws = np.vstack([np.ones(errors.heads), cluster_draws(errors.heads, generator, 200)])
    values = _analytic(errors, null, draws, grid)
    low, high = np.quantile(values[1:], [0.025, 0.975], axis=0)
    return Curve("np_roc_analytic", grid, values[0], np.minimum(low, values[0]), np.maximum(high, values[0]))
