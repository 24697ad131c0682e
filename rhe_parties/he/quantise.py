"""Real features and weights to integers, so that no private extreme reaches the host.

Features are scaled by a power of two that follows from the plan's public bound. Weights are scaled by what
makes the largest possible logit fill the plain modulus: with x the integer features, |x_j| ≤ L, the head's
scale is chosen so that max_k (L·Σ_j |W[k,j]| + |b_k|) < t/2, hence no logit can wrap. That scale depends on
the private head and goes to the key holder alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import FailureCode, NumericError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.types import AnyArray, IntArray

__all__ = ["IntegerHead", "checked_features", "checked_head", "quantise_features", "quantise_head"]


@dataclass(frozen=True, slots=True)
class IntegerHead:
    """Integer `weights` int64 [K, D+1] (last column: bias); `unit` is the real logit that 1 stands for."""

    weights: IntArray
    unit: float


def checked_features(plan: HeadPlan, features: AnyArray) -> npt.NDArray[np.float64]:
    """Features [B, D] as float64.

    Raises:
        NumericError: BAD_TENSOR for another shape or type, BAD_VALUE for NaN or infinite values.
    """
    values = np.asarray(features)
    if values.ndim != 2 or values.shape[1] != plan.features:
        text = f"features of shape {list(values.shape)} are not allowed (allowed: [B, {plan.features}])"
        raise NumericError(text, FailureCode.BAD_TENSOR)
    if values.dtype.kind not in "fiu":
        text = f"features of type {values.dtype} are not allowed (allowed: real numbers)"
        raise NumericError(text, FailureCode.BAD_TENSOR)
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise NumericError(f"{bad} of {values.size} features are NaN or infinite")
    return values


def quantise_features(plan: HeadPlan, features: AnyArray) -> tuple[IntArray, int]:
    """Features [B, D] as integers [B, D] within ±L, and how many were saturated to that range.

    Raises:
        NumericError: BAD_TENSOR for another shape or type, BAD_VALUE for NaN or infinite values.
    """
    limit = plan.feature_limit
    rounded = np.rint(checked_features(plan, features) * (limit / plan.feature_bound))
    saturated = int((np.abs(rounded) > limit).sum())
    return np.clip(rounded, -limit, limit).astype(np.int64), saturated


def checked_head(
    plan: HeadPlan, weight: AnyArray, bias: AnyArray
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]:
    """Weights [K, D] and bias [K] as float64, and the largest logit that features within the bound can give.

    Raises:
        NumericError: BAD_TENSOR for other shapes, BAD_VALUE for NaN, infinite or unusably large values.
    """
    weights, biases = np.asarray(weight), np.asarray(bias)
    if weights.shape != (plan.classes, plan.features) or biases.shape != (plan.classes,):
        text = (
            f"a head with weights {list(weights.shape)} and bias {list(biases.shape)} is not allowed "
            f"(allowed: [{plan.classes}, {plan.features}] and [{plan.classes}])"
        )
        raise NumericError(text, FailureCode.BAD_TENSOR)
    if weights.dtype.kind not in "fiu" or biases.dtype.kind not in "fiu":
        raise NumericError("a head is made of real numbers", FailureCode.BAD_TENSOR)
    weights, biases = weights.astype(np.float64), biases.astype(np.float64)
    if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
        raise NumericError("the head holds NaN or infinite weights")
    with np.errstate(over="ignore"):
        reach = float((np.abs(weights).sum(axis=1) * plan.feature_bound + np.abs(biases)).max())
    if not np.isfinite(reach):
        raise NumericError("the head's weights are too large: their sum is not a finite number")
    return weights, biases, reach


def quantise_head(plan: HeadPlan, weight: AnyArray, bias: AnyArray) -> IntegerHead:
    """The head in integers with the largest scale at which no logit can reach t/2.

    Raises:
        NumericError: BAD_TENSOR for other shapes, BAD_VALUE for NaN, infinite or unusably large values.
    """
    weights, biases, reach = checked_head(plan, weight, bias)
    limit = plan.feature_limit
    # Rounding moves each weight by at most 1/2; that much room is kept free.
    room = plan.plain_modulus // 2 - 1 - (plan.features * limit + 1) // 2 - 1
    if reach < 1e-280:  # every logit is zero, and the reciprocal would overflow
        return IntegerHead(np.zeros((plan.classes, plan.features + 1), dtype=np.int64), 1.0)
    integers = np.rint((weights / reach) * (plan.feature_bound * room / limit))
    offsets = np.rint((biases / reach) * room)
    combined = np.concatenate([integers, offsets[:, None]], axis=1).astype(np.int64)
    return IntegerHead(combined, reach / room)
