"""From a claim report to the numbers of one cell: outcome, statistics, and the reason when there are none."""

from __future__ import annotations

import numpy as np

from rhe_parties.messages.payloads import ClaimReport
from rhe_parties.metrics.intervals import bootstrap_means
from rhe_parties.metrics.reconstruction import (
    GroundTruth,
    Measured,
    identification,
    mean_squared_error,
    tpr_at_fpr,
)
from rhe_parties.model.head import LinearHead
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["measure_claim", "verdict"]

# Statistics that decide "leaked": their value under chance is known exactly, larger means more leakage.
_DECIDING = ("identification_rate", "tpr_at_fpr_1pct", "tpr_at_fpr_1pct_by_class", "tpr_at_fpr_0.1pct", "head_cosine")


def measure_claim(
    report: ClaimReport, truth: GroundTruth, heads: list[LinearHead], generator: np.random.Generator
) -> list[Measured]:
    """Every statistic that the claim's content allows.

    Args:
        heads: the true heads, in the order of `truth.sets` and of the report's `head_ids`.
    """
    results: list[Measured] = []
    if report.features.size:
        results.append(_identify_by_features(report, truth, generator))
    if report.images.size:
        images = report.images
        if not report.features.size:
            flat = images.reshape(*images.shape[:2], -1)
            results.append(identification(truth, flat, truth.images.reshape(len(truth.images), -1), generator))
        for fpr, by_class in ((0.01, False), (0.01, True), (0.001, False)):
            rate = tpr_at_fpr(truth, images, fpr, generator, by_class)
            if rate is not None:
                results.append(rate)
        results.append(mean_squared_error(truth, images, generator))
    if report.weights.size:
        results.append(_head_cosine(report.weights, heads, generator))
    return results


def _identify_by_features(report: ClaimReport, truth: GroundTruth, generator: np.random.Generator) -> Measured:
    claimed: AnyArray = report.features.astype(np.float64)
    candidates: AnyArray = truth.features.astype(np.float64)
    if report.whitener.size:
        whitener = report.whitener.astype(np.float64)
        claimed, candidates = claimed @ whitener.T, candidates @ whitener.T
    return identification(truth, claimed, candidates, generator)


def _head_cosine(weights: FloatArray, heads: list[LinearHead], generator: np.random.Generator) -> Measured:
    """Mean cosine between claimed and true weights, both centred over the classes (the shift decides nothing)."""
    true = np.stack([head.weight for head in heads]).astype(np.float64)
    claimed = weights.astype(np.float64)
    a, b = claimed - claimed.mean(axis=1, keepdims=True), true - true.mean(axis=1, keepdims=True)
    norms = np.sqrt((a * a).sum((1, 2)) * (b * b).sum((1, 2)))
    cosine = np.divide((a * b).sum((1, 2)), norms, out=np.zeros(len(a)), where=norms > 0)
    # What any other head of the task would give: the cosine with the next victim's head.
    other = np.roll(b, 1, axis=0)
    other_norms = np.sqrt((a * a).sum((1, 2)) * (other * other).sum((1, 2)))
    chance = np.divide((a * other).sum((1, 2)), other_norms, out=np.zeros(len(a)), where=other_norms > 0)
    low, high = bootstrap_means(cosine, generator)
    return Measured("head_cosine", float(cosine.mean()), low, high, len(a), float(chance.mean()), len(a))


def verdict(results: list[Measured]) -> str:
    """`leaked` when a deciding statistic's whole interval lies above chance, else `not-leaked`."""
    for result in results:
        if result.statistic in _DECIDING and result.chance is not None and result.low > result.chance:
            return "leaked"
    return "not-leaked"
