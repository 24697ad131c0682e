"""How well one number separates two groups: conservative rates at a false-positive rate, ROC curves, AUC, advantage.

Smaller is more positive here, as with errors; pass scores with their sign changed. Every interval is a bootstrap over
victim heads: a head that is drawn twice brings its positives and negatives twice, and a negative that belongs to a
pair of heads as often as both are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rhe_parties.errors import NumericError
from rhe_parties.metrics.intervals import (
    Interval,
    cluster_draws,
    exact_interval,
    matrix_interval,
    percentiles,
    wider,
)
from rhe_parties.metrics.truth import Curve, Histogram, Measured, measured
from rhe_parties.types import AnyArray, IntArray

__all__ = ["MIN_NEGATIVES_TIMES_FPR", "Separation", "advantage", "auc", "histogram", "rate_at_fpr", "roc_curve"]

# Below 30 / α negatives the empirical α-quantile rests on too few points to be called a threshold.
MIN_NEGATIVES_TIMES_FPR = 30
_TPR_RESAMPLES = 1000
_BAND_RESAMPLES = 200
# Every kth negative beyond this number is left out of a curve's band, never of its points.
_BAND_NEGATIVES = 300_000


class Separation:
    """Positives and negatives of one group of claims, sorted.

    Args:
        positives: [P], of head `positive_heads` [P].
        negatives: [M], of head `negative_heads` [M] and, where each is a pair of heads, of `other_heads` [M] too.
        heads: V; a head without positives or negatives counts as a cluster as well.

    Raises:
        NumericError: nothing on one side.
    """

    def __init__(
        self,
        positives: AnyArray,
        positive_heads: IntArray,
        negatives: AnyArray,
        negative_heads: IntArray,
        heads: int,
        other_heads: IntArray | None = None,
    ) -> None:
        if positives.size == 0 or negatives.size == 0:
            raise NumericError(f"{positives.size} positives and {negatives.size} negatives: there must be some of both")
        self.heads = heads
        order = np.argsort(positives)
        self.positives, self.positive_heads = positives[order], positive_heads[order].astype(np.intp)
        order = np.argsort(negatives)
        self.negatives, self.negative_heads = negatives[order], negative_heads[order].astype(np.intp)
        self.other_heads = None if other_heads is None else other_heads[order].astype(np.intp)
        self._positives_of = np.bincount(positive_heads, minlength=heads).astype(np.float64)
        self._pairs: AnyArray
        if other_heads is None:
            self._pairs = np.bincount(negative_heads, minlength=heads).astype(np.float64)
        else:
            pairs = np.bincount(negative_heads.astype(np.int64) * heads + other_heads, minlength=heads * heads)
            self._pairs = pairs.reshape(heads, heads).astype(np.float64)

    def resolves(self, fpr: float) -> bool:
        """Whether there are enough negatives for a threshold at this false-positive rate."""
        return bool(self.negatives.size * fpr >= MIN_NEGATIVES_TIMES_FPR)

    def mass(self, weights: AnyArray, count: int) -> AnyArray:
        """How many of the `count` smallest negatives there are up to each, heads weighted."""
        mass = np.take(weights, self.negative_heads[:count])
        if self.other_heads is not None:
            mass *= np.take(weights, self.other_heads[:count])
        return np.cumsum(mass, out=mass)

    def totals(self, draws: AnyArray) -> AnyArray:
        """[R]: all negatives together, heads weighted by each row of draws [R, V]."""
        return (draws @ self._pairs * draws).sum(axis=1) if self._pairs.ndim == 2 else draws @ self._pairs

    def threshold(self, weights: AnyArray, fpr: float, total: float) -> float:
        """The ⌊fpr·M⌋-th smallest of the M negatives when head v is counted `weights[v]` times; -inf without any.

        Only values strictly below it are declared positive, so that ties never help.

        Args:
            total: M, from `totals`.
        """
        if total == 0:
            return -math.inf
        wanted = math.floor(fpr * total)
        count = min(self.negatives.size, int(1.5 * fpr * self.negatives.size) + 1000)
        mass = self.mass(weights, count)
        while mass[-1] < wanted and count < self.negatives.size:
            count = min(self.negatives.size, 4 * count)
            mass = self.mass(weights, count)
        place = int(np.searchsorted(mass, wanted, side="left"))
        return float(self.negatives[min(place, self.negatives.size - 1)])

    def hits(self, weights: AnyArray, fpr: float, total: float) -> tuple[float, float]:
        """(true positives, positives) at a false-positive rate, heads weighted."""
        found = int(np.searchsorted(self.positives, self.threshold(weights, fpr, total), side="left"))
        return float(np.take(weights, self.positive_heads[:found]).sum()), float(weights @ self._positives_of)


def rate_at_fpr(
    statistic: str, groups: Sequence[Separation], fpr: float, generator: np.random.Generator
) -> Measured | None:
    """True-positive rate at a false-positive rate, each group of claims with a threshold of its own.

    The interval is a bootstrap over heads of threshold and rate together, joined with the exact binomial one.

    Returns:
        None where the negatives of some group cannot resolve the rate (M < 30 / fpr).
    """
    if not all(group.resolves(fpr) for group in groups):
        return None

    heads = groups[0].heads
    draws = np.vstack([np.ones(heads), cluster_draws(heads, generator, _TPR_RESAMPLES)])
    hits, positives = np.zeros(len(draws)), np.zeros(len(draws))
    for group in groups:
        for row, (weights, total) in enumerate(zip(draws, group.totals(draws), strict=True)):
            found, count = group.hits(weights, fpr, total)
            hits[row] += found
            positives[row] += count
    rates = np.divide(hits, positives, out=np.full(len(draws), np.nan), where=positives > 0)
    value, n = float(rates[0]), sum(group.positives.size for group in groups)
    return measured(statistic, value, wider(percentiles(rates[1:]), exact_interval(round(hits[0]), n)), n, heads, fpr)


def _rank_tables(data: Separation) -> tuple[AnyArray, AnyArray]:
    """[V, V]: pairs of a positive of head i and a negative of head j, and how many of them are in order (ties ½)."""
    above = np.zeros((data.heads, data.heads))
    order = np.lexsort((data.negatives, data.negative_heads))
    ends = np.cumsum(np.bincount(data.negative_heads, minlength=data.heads))
    negatives = data.negatives[order]
    for head, (start, end) in enumerate(zip(np.r_[0, ends[:-1]], ends, strict=True)):
        if end > start:
            own = negatives[start:end]
            later = (end - start) - np.searchsorted(own, data.positives, side="right")
            equal = (end - start) - np.searchsorted(own, data.positives, side="left") - later
            above[:, head] = np.bincount(data.positive_heads, later + equal / 2, minlength=data.heads)
    sizes = np.diff(np.r_[0, ends]).astype(np.float64)
    return above, np.outer(np.bincount(data.positive_heads, minlength=data.heads), sizes)


def auc(statistic: str, data: Separation, generator: np.random.Generator) -> Measured:
    """Probability that a positive ranks before a negative, ties counted half.

    Only for negatives of single heads. The bootstrap over heads is joined with the exact binomial interval of as many
    disjoint pairs as there are, which is wider than need be but not empty where the groups do not overlap.
    """
    above, pairs = _rank_tables(data)
    value = float(above.sum() / pairs.sum())
    disjoint = min(data.positives.size, data.negatives.size)
    interval = wider(matrix_interval(above, pairs, generator), exact_interval(round(value * disjoint), disjoint))
    return measured(statistic, value, interval, data.positives.size + data.negatives.size, data.heads, 0.5)


def _half(data: Separation, heads: AnyArray, positives: bool) -> AnyArray:
    chosen, values = (data.positive_heads, data.positives) if positives else (data.negative_heads, data.negatives)
    return values[heads[chosen]]


def _best_threshold(data: Separation, heads: AnyArray) -> float:
    """The value up to which declaring "positive" gives the largest TPR − FPR on the chosen heads (bool [V])."""
    positives, negatives = _half(data, heads, True), _half(data, heads, False)
    if positives.size == 0 or negatives.size == 0:
        return -math.inf
    places = np.unique(positives)
    gains = (
        np.searchsorted(positives, places, side="right") / positives.size
        - np.searchsorted(negatives, places, side="right") / negatives.size
    )
    return float(places[int(np.argmax(gains))])


def advantage(statistic: str, data: Separation, generator: np.random.Generator) -> Measured:
    """TPR − FPR at the best threshold, chosen on one half of the heads and counted on the other, both ways.

    Chosen and counted on the same heads its value under chance would not be 0. Only for negatives of single heads.
    """
    first = np.arange(data.heads) % 2 == 0
    thresholds = np.where(first, _best_threshold(data, ~first), _best_threshold(data, first))
    sums = [
        np.bincount(heads, values <= thresholds[heads], minlength=data.heads)
        for heads, values in ((data.positive_heads, data.positives), (data.negative_heads, data.negatives))
    ]
    counts = [np.bincount(heads, minlength=data.heads) for heads in (data.positive_heads, data.negative_heads)]
    draws = np.vstack([np.ones(data.heads), cluster_draws(data.heads, generator)])
    rates = []
    for found, count in zip(sums, counts, strict=True):
        total = draws @ count
        rates.append(np.divide(draws @ found, total, out=np.full(len(draws), np.nan), where=total > 0))
    value = float(rates[0][0] - rates[1][0])
    a, b = (exact_interval(round(float(f.sum())), int(c.sum())) for f, c in zip(sums, counts, strict=True))
    # Newcombe's interval of a difference from the exact ones of both rates.
    p, q = float(rates[0][0]), float(rates[1][0])
    exact = Interval(
        value - math.hypot(p - a.low, b.high - q),
        value + math.hypot(a.high - p, q - b.low),
        value - math.hypot(p - a.strict_low, b.high - q),
    )
    n = data.positives.size + data.negatives.size
    return measured(statistic, value, wider(percentiles((rates[0] - rates[1])[1:]), exact), n, data.heads, 0.0)


def roc_curve(name: str, data: Separation, generator: np.random.Generator, points: int = 80) -> Curve:
    """Conservative ROC curve, from the smallest rate that the negatives resolve up to 1, evenly in the logarithm.

    The band is the bootstrap over heads of threshold and rate together.
    """
    lowest = min(max(1e-4, 3 / data.negatives.size), 0.5)
    # The rates that are also given as numbers are on the curve exactly.
    named = [rate for rate in (0.001, 0.01, 0.1) if rate > lowest]
    grid = np.unique(np.concatenate([np.geomspace(lowest, 1.0, points)[:-1], named, [1.0]]))
    value = _rates_by_mass(data, np.ones(data.heads), grid)
    thinned = _thinned(data)
    draws = cluster_draws(data.heads, generator, _BAND_RESAMPLES)
    band = np.array([_rates_by_mass(thinned, row, grid) for row in draws])
    low, high = np.nanquantile(band, 0.025, axis=0), np.nanquantile(band, 0.975, axis=0)
    return Curve(name, grid, value, np.minimum(low, value), np.maximum(high, value))


def _thinned(data: Separation) -> Separation:
    """The same separation with every kth negative where there are more than a band needs."""
    step = -(-data.negatives.size // _BAND_NEGATIVES)
    if step == 1:
        return data
    other = None if data.other_heads is None else data.other_heads[::step]
    return Separation(
        data.positives, data.positive_heads, data.negatives[::step], data.negative_heads[::step], data.heads, other
    )


def _rates_by_mass(data: Separation, weights: AnyArray, grid: AnyArray) -> AnyArray:
    """TPR at every rate of the grid from one running sum over the negatives."""
    mass = data.mass(weights, data.negatives.size)
    total = weights[data.positive_heads].sum()
    if mass[-1] == 0 or total == 0:
        return np.full(len(grid), np.nan)
    places = np.searchsorted(mass, np.floor(grid * mass[-1]), side="left")
    thresholds = data.negatives[np.minimum(places, data.negatives.size - 1)]
    found = np.r_[0.0, np.cumsum(weights[data.positive_heads])][
        np.searchsorted(data.positives, thresholds, side="left")
    ]
    rates: AnyArray = found / total
    rates[-1] = 1.0
    return rates


def histogram(name: str, data: Separation, bins: int = 40) -> Histogram:
    """Shares of positives and negatives per bin between the 0.5th and 99.5th percentile of both together.

    The values beyond lie in the outermost bins; the sign is turned back, so that larger is more positive.
    """
    both = -np.concatenate([data.positives, data.negatives])
    low, high = np.quantile(both, [0.005, 0.995])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    shares = [
        np.histogram(np.clip(-values, low, high), edges)[0] / values.size for values in (data.positives, data.negatives)
    ]
    return Histogram(name, edges, *shares)
