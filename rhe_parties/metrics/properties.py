"""A property of the private training set, inferred from what the adversary saw: which of P values does it have?"""

from __future__ import annotations

import numpy as np

from rhe_parties.errors import NumericError
from rhe_parties.metrics.intervals import bootstrap_means, rate_interval
from rhe_parties.metrics.separation import Separation, auc
from rhe_parties.metrics.truth import GroundTruth, Measured, check_shape, measured
from rhe_parties.types import FloatArray

__all__ = ["measure_property", "property_separation"]


def property_separation(truth: GroundTruth, scores: FloatArray) -> Separation | None:
    """Heads with the second of two values against those with the first; None where there are not two of each.

    Scores have their sign changed: smaller is rather the second value.
    """
    index = truth.property_index
    if index is None or scores.shape[1] != 2 or len(np.unique(index)) != 2:
        return None
    values = scores[:, 0].astype(np.float64) - scores[:, 1]
    heads = np.arange(len(index))
    second = index == 1
    return Separation(values[second], heads[second], values[~second], heads[~second], len(index))


def measure_property(truth: GroundTruth, scores: FloatArray, generator: np.random.Generator) -> list[Measured]:
    """Accuracy of the likeliest value, AUC for two values, mean absolute error for more.

    Chance is the best constant guess: the most frequent value for the accuracy, the value with the smallest mean
    error for the error. Each head is one trial, so the interval of the accuracy is the exact binomial one at least.

    Raises:
        NumericError: scores of another shape or not finite, or a task without a property.
    """
    if truth.property_index is None or truth.property_values is None:
        raise NumericError("the claim holds property scores, but this task asked about no property")
    heads, values = len(truth.property_index), truth.property_values.astype(np.float64)
    check_shape("property scores", scores, (heads, len(values)))
    guess, index = np.argmax(scores, axis=1), truth.property_index
    hits = (guess == index).astype(np.float64)[:, None]
    chance = float(np.bincount(index, minlength=len(values)).max() / heads)
    found = [measured("property_accuracy", float(hits.mean()), rate_interval(hits, generator), heads, heads, chance)]
    data = property_separation(truth, scores)
    if data is not None:
        found.append(auc("property_auc", data, generator))
    if len(values) > 2:
        errors = np.abs(values[guess] - values[index])
        constant = float(np.abs(values[:, None] - values[index][None, :]).mean(axis=1).min())
        interval = bootstrap_means(errors, generator)
        found.append(measured("property_mae", float(errors.mean()), interval, heads, heads, constant))
    return found
