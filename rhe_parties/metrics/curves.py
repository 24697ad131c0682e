"""Curves and histograms of one cell, for the report: how the rates trade off, and how far the groups lie apart."""

from __future__ import annotations

import numpy as np

from rhe_parties.metrics.inputs import input_errors
from rhe_parties.metrics.membership import membership_separation
from rhe_parties.metrics.neyman_pearson import analytic_curve, separations
from rhe_parties.metrics.properties import property_separation
from rhe_parties.metrics.reconstruction import Errors, pixel_errors
from rhe_parties.metrics.separation import Separation, histogram, roc_curve
from rhe_parties.metrics.truth import Curve, GroundTruth, Histogram, MeasuredClaim

__all__ = ["claim_curves", "claim_histograms"]

# A class has about as many claims as there are heads; more points than this would only draw its steps.
_CLASS_POINTS = 30


def claim_curves(claim: MeasuredClaim, truth: GroundTruth, generator: np.random.Generator) -> list[Curve]:
    """ROC curves of whatever the claim holds; x is the false-positive rate, y the true-positive rate.

    Names: `roc` (reconstruction: own head against other heads), `membership_roc`, `property_roc`, `input_roc`, the
    same with the prefix `null_` for what the strategy made of nothing, and the paper's `np_roc`, `np_roc_by_class`,
    `np_roc_class_K` and `np_roc_analytic` (own head against random heads).
    """
    curves = [roc_curve(name, data, generator) for name, data in _groups(claim, truth).items()]
    null = claim.null
    curves += [roc_curve(f"null_{name}", data, generator) for name, data in _groups(null, truth).items()]
    errors, null_errors = _errors(claim, truth), _errors(null, truth)
    if errors is not None and null_errors is not None:
        for name, data in separations(errors, null_errors).items():
            points = _CLASS_POINTS if name.startswith("np_roc_class") else 80
            curves.append(roc_curve(name, data, generator, points))
        curves.append(analytic_curve(errors, null_errors, generator))
    return curves


def claim_histograms(claim: MeasuredClaim, truth: GroundTruth) -> list[Histogram]:
    """How the scores of members and non-members (and the like) are spread; names as the curves' without `_roc`."""
    return [
        histogram(name.removesuffix("_roc"), data)
        for name, data in _groups(claim, truth).items()
        if name in ("membership_roc", "property_roc")
    ]


def _errors(claim: MeasuredClaim, truth: GroundTruth) -> Errors | None:
    images = claim.get("images")
    return None if images is None else pixel_errors(truth, images)


def _groups(claim: MeasuredClaim, truth: GroundTruth) -> dict[str, Separation]:
    found: dict[str, Separation | None] = {}
    errors = _errors(claim, truth)
    if errors is not None and errors.other.size:
        found["roc"] = errors.together
    scores, property_scores, inputs = (claim.get(name) for name in ("scores", "property_scores", "inputs"))
    if scores is not None:
        found["membership_roc"] = membership_separation(truth, scores)
    if property_scores is not None:
        found["property_roc"] = property_separation(truth, property_scores)
    if inputs is not None:
        found["input_roc"] = input_errors(truth, inputs).separation()
    return {name: data for name, data in found.items() if data is not None}
