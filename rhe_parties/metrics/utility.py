"""What the classifier is still worth: accuracy and agreement of decisions, with intervals over heads."""

from __future__ import annotations

import numpy as np

from rhe_parties.metrics.intervals import rate_interval
from rhe_parties.metrics.truth import Measured, measured
from rhe_parties.types import AnyArray, IntArray

__all__ = ["accuracy", "agreement"]


def accuracy(decisions: IntArray, labels: IntArray, classes: int, generator: np.random.Generator) -> Measured:
    """Share of correct decisions [V, B] against labels [V, B]; chance is 1 / K."""
    return _rate("accuracy", decisions == labels, 1 / classes, generator)


def agreement(statistic: str, decisions: IntArray, reference: IntArray, generator: np.random.Generator) -> Measured:
    """Share of decisions [V, B] equal to the reference's."""
    return _rate(statistic, decisions == reference, None, generator)


def _rate(statistic: str, equal: AnyArray, chance: float | None, generator: np.random.Generator) -> Measured:
    hits = equal.astype(np.float64)
    return measured(statistic, float(hits.mean()), rate_interval(hits, generator), hits.size, len(hits), chance)
