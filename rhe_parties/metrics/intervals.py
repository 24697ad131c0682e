"""Intervals: exact binomial, bootstrap over victim heads, and the wider of both."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.stats import beta

from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray

__all__ = [
    "LEVEL",
    "STRICT_LEVEL",
    "Interval",
    "bootstrap_means",
    "clopper_pearson",
    "cluster_draws",
    "cluster_interval",
    "exact_ends",
    "exact_interval",
    "matrix_interval",
    "percentiles",
    "rate_interval",
    "wider",
]

LEVEL = 0.95
SECONDARY_TESTS = 10
#: Bonferroni: as many statistics beside the primary one may decide "leaked" together at one error of 5 %.
STRICT_LEVEL = 1 - (1 - LEVEL) / SECONDARY_TESTS
RESAMPLES = 2000


class Interval(NamedTuple):
    """A 95 % interval, and the lower end of the wider one that a secondary statistic has to hold against chance."""

    low: float
    high: float
    strict_low: float


def clopper_pearson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Exact two-sided interval of a binomial rate (Clopper & Pearson 1934, through the Beta distribution).

    Raises:
        ParameterError: no trials, or more successes than trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ParameterError(f"{successes} successes in {trials} trials: need 0 <= successes <= trials, trials >= 1")
    alpha = 1 - level
    low = 0.0 if successes == 0 else float(beta.ppf(alpha / 2, successes, trials - successes + 1))
    high = 1.0 if successes == trials else float(beta.ppf(1 - alpha / 2, successes + 1, trials - successes))
    return low, high


def exact_ends(successes: AnyArray, trials: int) -> tuple[AnyArray, AnyArray]:
    """Lower and upper ends of Clopper and Pearson's interval for many counts [n] of the same number of trials."""
    tail = (1 - LEVEL) / 2
    low = np.where(successes == 0, 0.0, beta.ppf(tail, np.maximum(successes, 1), trials - successes + 1))
    high = np.where(successes == trials, 1.0, beta.ppf(1 - tail, successes + 1, np.maximum(trials - successes, 1)))
    return low, high


def exact_interval(successes: int, trials: int) -> Interval:
    """Clopper and Pearson's interval at both levels."""
    return Interval(*clopper_pearson(successes, trials), clopper_pearson(successes, trials, STRICT_LEVEL)[0])


def wider(a: Interval, b: Interval) -> Interval:
    """The interval that holds both: each covers where the other is too narrow."""
    return Interval(min(a.low, b.low), max(a.high, b.high), min(a.strict_low, b.strict_low))


def cluster_draws(clusters: int, generator: np.random.Generator, resamples: int = RESAMPLES) -> AnyArray:
    """How often each of the heads is drawn, [resamples, clusters]."""
    drawn = generator.integers(0, clusters, size=(resamples, clusters))
    drawn += np.arange(resamples)[:, None] * clusters
    counted = np.bincount(drawn.reshape(-1), minlength=resamples * clusters)
    return counted.reshape(resamples, clusters).astype(np.float64)


def percentiles(values: AnyArray) -> Interval:
    """Percentile interval from bootstrap values; resamples without a value (NaN) are left out."""
    kept = values[~np.isnan(values)]
    tail, strict = (1 - LEVEL) / 2, (1 - STRICT_LEVEL) / 2
    return Interval(*(float(np.quantile(kept, q)) for q in (tail, 1 - tail, strict)))


def cluster_interval(
    statistic: Callable[[AnyArray], float],
    clusters: int,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> Interval:
    """Percentile bootstrap over victim heads: the classes of one head are not independent, heads are.

    Args:
        statistic: from weights [clusters] (how often each head was drawn) to a number.
    """
    return percentiles(np.array([statistic(row) for row in cluster_draws(clusters, generator, resamples)]))


def bootstrap_means(values: AnyArray, generator: np.random.Generator, counts: AnyArray | None = None) -> Interval:
    """Bootstrap interval of the mean of one value per head; `counts` [V] weigh the heads (0: the head has no value)."""
    counts = np.ones(len(values)) if counts is None else counts
    draws = cluster_draws(len(values), generator)
    total = draws @ counts
    sums = draws @ np.where(counts > 0, values * counts, 0.0)
    return percentiles(np.divide(sums, total, out=np.full(len(draws), np.nan), where=total > 0))


def matrix_interval(above: AnyArray, pairs: AnyArray, generator: np.random.Generator) -> Interval:
    """Bootstrap over heads of Σ w_i w_j above_ij / Σ w_i w_j pairs_ij; matrices [V, V] of sums over pairs of heads."""
    draws = cluster_draws(len(above), generator)
    hits, total = ((draws @ table * draws).sum(axis=1) for table in (above, pairs))
    return percentiles(np.divide(hits, total, out=np.full(len(draws), np.nan), where=total > 0))


def rate_interval(hits: AnyArray, generator: np.random.Generator) -> Interval:
    """Interval of a rate from hits [V, n] of 0 and 1: the wider of the exact binomial and the bootstrap over heads.

    The bootstrap alone has no width where every head gives the same rate, the binomial alone takes the images of one
    head for independent; each covers for the other.
    """
    return wider(exact_interval(round(float(hits.sum())), hits.size), bootstrap_means(hits.mean(axis=1), generator))
