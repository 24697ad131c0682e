"""Intervals: exact binomial, bootstrap over victim heads, and the wider of both."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import beta

from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray

__all__ = ["LEVEL", "bootstrap_means", "clopper_pearson", "cluster_interval", "rate_interval"]

LEVEL = 0.95
RESAMPLES = 2000


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


def cluster_interval(
    statistic: Callable[[AnyArray], float],
    clusters: int,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
) -> tuple[float, float]:
    """Percentile bootstrap over victim heads: the classes of one head are not independent, heads are.

    Args:
        statistic: from weights [clusters] (how often each head was drawn) to a number.
    """
    draws = generator.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    values = np.array([statistic(row) for row in draws])
    tail = (1 - LEVEL) / 2
    return float(np.quantile(values, tail)), float(np.quantile(values, 1 - tail))


def bootstrap_means(values: AnyArray, generator: np.random.Generator) -> tuple[float, float]:
    """Bootstrap interval of the mean of one value per head."""
    return cluster_interval(lambda w: float(w @ values / w.sum()), len(values), generator)


def rate_interval(hits: AnyArray, generator: np.random.Generator) -> tuple[float, float]:
    """Interval of a rate from hits [V, n] of 0 and 1: the wider of the exact binomial and the bootstrap over heads.

    The bootstrap alone has no width where every head gives the same rate, the binomial alone takes the images of one
    head for independent; each covers for the other.
    """
    exact = clopper_pearson(round(float(hits.sum())), hits.size)
    clustered = bootstrap_means(hits.mean(axis=1), generator)
    return min(exact[0], clustered[0]), max(exact[1], clustered[1])
