"""The distribution of every single feature in every class: what a Gaussian prior cannot say.

Features behind a ReLU are exactly zero most of the time. The weights of a head leave one combination of its training
features out of sight, their common offset; that none may be negative and most are zero pins this offset down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["LogDensity", "Marginals"]

_MOST_BINS, _FEWEST_BINS, _MOST_NUMBERS = 1024, 64, 16 << 20
_BORROWED = 20.0  # images' worth of the other classes' histogram in each class's own
_PER_NOISE = 3.0  # bins per standard deviation of the noise
_REACH = 5.0  # standard deviations of noise beyond the smallest and the largest feature
_FLOOR = 1e-6  # least probability of a bin: an outlier counts, but not for ever


@dataclass(frozen=True, eq=False)
class LogDensity:
    """Log probability float32 [K, L, B] of noisy class averages falling into bin i, centred at low + i·step."""

    values: FloatArray
    low: float
    step: float


@dataclass(frozen=True, eq=False)
class Marginals:
    """Histograms float32 [K, L, B] over classes and the L features that vary; bin i is centred at low + i·step."""

    live: IntArray
    probability: FloatArray
    low: float
    step: float

    @classmethod
    def fit(cls, features: FloatArray, labels: IntArray, classes: int) -> Marginals:
        """Histograms of auxiliary features [n, D] with labels [n]; both are checked by `FeaturePrior.fit`.

        A value that many features share exactly at the low end (the zero of a ReLU) stays sharp; the others are
        smoothed by Silverman's bandwidth. A class borrows from all classes what 20 more images would add.
        """
        live = np.flatnonzero(np.ptp(features, axis=0) > 0)
        bins = int(np.clip(_MOST_NUMBERS // max(1, classes * len(live)), _FEWEST_BINS, _MOST_BINS))
        values = features[:, live].astype(np.float64)
        low, high = float(values.min()), float(values.max())
        step = (high - low) / (bins - 1)
        place = np.rint((values - low) / step).astype(np.int64) + bins * np.arange(len(live))
        counts = np.stack([_smooth(place[labels == k], values[labels == k], bins, step) for k in range(classes)])
        pooled = counts.sum(axis=0) / len(labels)
        size = np.bincount(labels, minlength=classes)[:, None, None]
        mixed = (counts + _BORROWED * pooled) / (size + _BORROWED)
        return cls(live, mixed.astype(np.float32), low, step)

    def averages(self, count: int, deviation: float) -> LogDensity:
        """Log density of the average of `count` images of a class plus Gaussian noise of the given deviation."""
        exact = self.probability.astype(np.float64)
        if count > 1:
            exact = _averaged(exact, count)
        # An odd number, so that the lowest value, where the zeros are, stays at the centre of a bin.
        merge = max(1, int(deviation / _PER_NOISE / self.step) - 1) // 2 * 2 + 1
        bins = -(-(exact.shape[-1] + merge // 2) // merge)
        exact = np.pad(exact, ((0, 0), (0, 0), (merge // 2, bins * merge - merge // 2 - exact.shape[-1])))
        exact = exact.reshape(*exact.shape[:2], bins, merge).sum(axis=-1)
        step = self.step * merge
        margin = int(np.ceil(_REACH * deviation / step)) + 1
        exact = _blurred(np.pad(exact, ((0, 0), (0, 0), (margin, margin))), np.asarray(deviation / step))
        return LogDensity(np.log(exact + _FLOOR).astype(np.float32), self.low - margin * step, step)


def _smooth(place: IntArray, values: AnyArray, bins: int, step: float) -> AnyArray:
    """Counts [L, bins] of one class's values [n, L]; all but the lowest bin blurred."""
    count, width = values.shape
    found = np.bincount(place.ravel(), minlength=bins * width).reshape(width, bins).astype(np.float64)
    atom = found[:, 0].copy()
    found[:, 0] = 0
    bandwidth = 0.9 * values.std(axis=0) * max(count, 1) ** -0.2 / step
    margin = bins // 2
    wide = _blurred(np.pad(found, ((0, 0), (margin, margin))), bandwidth)
    # No feature lies beyond the ends: what was blurred past them is folded back.
    blurred = wide[:, margin : margin + bins]
    blurred[:, :margin] += wide[:, :margin][:, ::-1]
    blurred[:, bins - margin :] += wide[:, margin + bins :][:, ::-1]
    blurred[:, 0] += atom
    return blurred


def _blurred(histogram: AnyArray, deviation: AnyArray) -> AnyArray:
    """Histograms [..., B] convolved (circularly: leave a margin) with Gaussians of a deviation [...] in bins."""
    size = histogram.shape[-1]
    kernel = np.exp(-2 * np.square(np.pi * deviation[..., None] * np.fft.rfftfreq(size)))
    out: AnyArray = np.maximum(np.fft.irfft(np.fft.rfft(histogram) * kernel, n=size), 0)
    return out


def _averaged(probability: AnyArray, count: int) -> AnyArray:
    """Distribution of the average of `count` independent draws, on the same bins [K, L, B]."""
    bins = probability.shape[-1]
    total = np.fft.irfft(np.fft.rfft(probability, n=count * bins) ** count, n=count * bins)
    nearest = np.minimum(np.rint(np.arange(count * bins) / count).astype(np.int64), bins - 1)
    start = np.searchsorted(nearest, np.arange(bins))
    return np.maximum(np.add.reduceat(total, start, axis=-1), 0)
