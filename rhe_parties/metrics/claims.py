"""From a claim to the numbers of one cell: statistics, their baselines, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rhe_parties.metrics.baselines import pixel_baselines
from rhe_parties.metrics.extraction import Head, measure_head, queries_used
from rhe_parties.metrics.inputs import input_errors, measure_inputs
from rhe_parties.metrics.intervals import rate_interval
from rhe_parties.metrics.membership import measure_membership
from rhe_parties.metrics.neyman_pearson import measure_neyman_pearson
from rhe_parties.metrics.properties import measure_property
from rhe_parties.metrics.reconstruction import (
    Errors,
    backbone_distance,
    identification,
    mean_squared_error,
    peak_ratio,
    pixel_errors,
    structural_similarity,
    tpr_at_fpr,
)
from rhe_parties.metrics.truth import GroundTruth, Measured, MeasuredClaim, check_shape, measured
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["DECIDING", "PRIMARY", "deciding", "measure_claim", "verdict"]

FeaturesOf = Callable[[FloatArray], FloatArray]

#: The statistic that decides a task, whichever of these a claim gives first.
PRIMARY = (
    "identification_rate",
    "auc",
    "property_accuracy",
    "input_identification_rate",
    "extraction_agreement",
    "head_cosine",
)
#: What may decide beside it, at the stricter level. The pixel error alone never decides: whoever draws the average
#: image of a class has a small one.
DECIDING = (
    *PRIMARY,
    "tpr_at_fpr_1pct",
    "tpr_at_fpr_1pct_by_class",
    "tpr_at_fpr_0.1pct",
    "tpr_at_fpr_10pct",
    "property_auc",
    "input_tpr_at_fpr_1pct",
    "extraction_agreement_mixes",
)


def measure_claim(
    claim: MeasuredClaim,
    truth: GroundTruth,
    heads: Sequence[Head],
    generator: np.random.Generator,
    features_of: FeaturesOf | None = None,
) -> list[Measured]:
    """Every statistic that the claim's content and the truth allow, and the same on what the strategy made of nothing.

    Statistics of the `null.` arrays have the prefix `null_`; `class_mean_` and `nearest_public_` are the baselines of
    whoever has public images only.

    Args:
        heads: the true heads, in the order of `truth.sets` and of the claim's arrays.
        features_of: the public backbone, from images [n, C, H, W] in [-1, 1] to features [n, D]; None leaves the
            distance in its features out.

    Raises:
        NumericError: arrays of a shape that cannot be compared with the truth, or not finite.
    """
    errors = _checked_errors(claim, truth)
    results = _reconstruction(claim, truth, errors, generator)
    if errors is not None:
        results += _pictures(claim, truth, errors, generator, features_of)
    results += _others(claim, truth, heads, generator)
    if claim.queries.size:
        results.append(queries_used(claim.queries, generator))
    null = claim.null
    null_errors = _checked_errors(null, truth)
    if errors is not None and null_errors is not None:
        results += measure_neyman_pearson(errors, null_errors, generator)
    controls = _reconstruction(null, truth, null_errors, generator) + _others(null, truth, heads, generator, False)
    return results + [replace(result, statistic=f"null_{result.statistic}") for result in controls]


def _checked_errors(claim: MeasuredClaim, truth: GroundTruth) -> Errors | None:
    images = claim.get("images")
    if images is None:
        return None
    check_shape("images", images, (*truth.aims.shape, *truth.images.shape[1:]))
    return pixel_errors(truth, images)


def _reconstruction(
    claim: MeasuredClaim, truth: GroundTruth, errors: Errors | None, generator: np.random.Generator
) -> list[Measured]:
    """Identification, TPR and pixel error of claimed training images or features."""
    results: list[Measured] = []
    features, images = claim.get("features"), claim.get("images")
    if features is not None:
        check_shape("features", features, (*truth.aims.shape, truth.features.shape[1]))
        results.append(_identify_by_features(features, claim.get("whitener"), truth, generator))
    if images is None or errors is None:
        return results
    flat = images.reshape(*images.shape[:2], -1)
    name = "identification_rate" if features is None else "identification_rate_pixels"
    results.append(identification(truth, flat, truth.images.reshape(len(truth.images), -1), generator, name))
    for fpr, by_class in ((0.01, False), (0.01, True), (0.001, False)):
        rate = tpr_at_fpr(truth, images, fpr, generator, by_class, errors)
        if rate is not None:
            results.append(rate)
    results.append(mean_squared_error(truth, images, generator, errors=errors))
    return results


def _identify_by_features(
    features: FloatArray, whitener: FloatArray | None, truth: GroundTruth, generator: np.random.Generator
) -> Measured:
    claimed: AnyArray = features.astype(np.float64)
    candidates: AnyArray = truth.features.astype(np.float64)
    if whitener is not None:
        check_shape("whitener", whitener, (claimed.shape[2], claimed.shape[2]))
        claimed, candidates = claimed @ whitener.T.astype(np.float64), candidates @ whitener.T.astype(np.float64)
    return identification(truth, claimed, candidates, generator)


def _pictures(
    claim: MeasuredClaim,
    truth: GroundTruth,
    errors: Errors,
    generator: np.random.Generator,
    features_of: FeaturesOf | None,
) -> list[Measured]:
    """How alike claimed and true images are, and what public images alone would have given."""
    images = claim.arrays["images"]
    results = [peak_ratio(errors, generator), structural_similarity(truth, images, errors, generator)]
    if features_of is not None:
        results.append(backbone_distance(truth, images, features_of, generator))
    threshold = truth.nearest_neighbour_threshold
    if threshold is not None:
        hits = (errors.own <= threshold).astype(np.float64)
        matching = float((errors.other <= threshold).mean()) if errors.other.size else None
        interval = rate_interval(hits, generator)
        results.append(measured("nn_threshold_rate", float(hits.mean()), interval, hits.size, len(hits), matching))
    return results + pixel_baselines(images, truth, generator)


def _others(
    claim: MeasuredClaim,
    truth: GroundTruth,
    heads: Sequence[Head],
    generator: np.random.Generator,
    whole: bool = True,
) -> list[Measured]:
    """Heads, membership, property and inputs."""
    results = measure_head(claim, truth, heads, generator)
    scores, property_scores, inputs = (claim.get(name) for name in ("scores", "property_scores", "inputs"))
    if scores is not None:
        results += _apart(measure_membership(truth, scores, generator), claim)
    if property_scores is not None:
        results += measure_property(truth, property_scores, generator)
    if inputs is not None:
        results += measure_inputs(truth, inputs, input_errors(truth, inputs), generator, whole)
    return results


def _apart(results: list[Measured], claim: MeasuredClaim) -> list[Measured]:
    """Membership's rates under names of their own where the claim holds images too, whose rates are called the same."""
    if claim.get("images") is None:
        return results
    return [
        replace(r, statistic=f"membership_{r.statistic}") if r.statistic.startswith("tpr_at_fpr") else r
        for r in results
    ]


def deciding(results: Sequence[Measured]) -> list[tuple[Measured, float]]:
    """The statistics that decide a cell, the primary one first, each with the lower end that chance is held against.

    The primary statistic, the first of `PRIMARY` that is there, decides with its 95 % interval. The others together
    have the same chance of a false alarm: each is held to a level of 99.5 % (Bonferroni for ten of them).
    """
    known = {r.statistic: r for r in results if r.statistic in DECIDING and r.chance is not None}
    names = [name for name in DECIDING if name in known]
    found = []
    for place, name in enumerate(names):
        result = known[name]
        strict = result.low if result.strict_low is None else result.strict_low
        found.append((result, result.low if place == 0 else strict))
    return found


def verdict(results: Sequence[Measured]) -> str:
    """`leaked` when a deciding statistic's interval lies above chance, else `not-leaked`."""
    above = any(result.chance is not None and low > result.chance for result, low in deciding(results))
    return "leaked" if above else "not-leaked"
