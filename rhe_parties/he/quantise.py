"""Real features and weights to integers, so that no private extreme reaches the host.

Features are scaled by a public constant: a vector at the plan's public norm bound R has the norm 2^f. Weights
are scaled so that by the Cauchy-Schwarz inequality no input within the bound can make a logit leave ±t/2. The
scale that undoes this is rounded up to a coarse grid and goes to the key holder alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import FailureCode, NumericError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.precision import input_norms
from rhe_parties.types import AnyArray, IntArray

__all__ = [
    "Float64Array",
    "IntegerHead",
    "Layer",
    "checked_features",
    "checked_layers",
    "coarse_scale",
    "lift_columns",
    "normed_features",
    "quadratic_form",
    "quantise_features",
    "quantise_head",
]

Float64Array = npt.NDArray[np.float64]
Layer = tuple[AnyArray, AnyArray]
"""Weights [out, in] and bias [out]."""

_GRID = 8
"""Steps per octave of the scale that the key holder learns: it shows the head's size to 9 percent only."""


@dataclass(frozen=True, slots=True)
class IntegerHead:
    """Integer `weights` int64 [K, columns] (last column: constant); `unit` is the real logit that 1 stands for."""

    weights: IntArray
    unit: float


def checked_features(plan: HeadPlan, features: AnyArray) -> npt.NDArray[Any]:
    """Features [B, D], float32 or float64, contiguous.

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
    values = np.ascontiguousarray(values, np.float32 if values.dtype == np.float32 else np.float64)
    # A finite sum has finite terms only; a sum that is not finite may just have overflowed.
    if not math.isfinite(float(values.sum())) and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise NumericError(f"{bad} of {values.size} features are NaN or infinite")
    return values


def quantise_features(plan: HeadPlan, features: AnyArray) -> tuple[IntArray, int]:
    """Features [B, D] as integers [B, D] of norm 2^f at most, and how many inputs were scaled down to it.

    Every step is one correctly rounded operation, so each evaluator gets the same integers.

    Raises:
        NumericError: BAD_TENSOR for another shape or type, BAD_VALUE for NaN or infinite values.
    """
    limit = float(1 << plan.feature_bits)
    values = checked_features(plan, features).astype(np.float64)
    with np.errstate(over="ignore"):
        # Cut at twice the limit, so that squares stay in range and a single long feature is still seen to be long.
        integers = np.clip(np.rint(values * (limit / plan.feature_norm)), -2 * limit, 2 * limit)
    squares = np.square(integers.astype(np.int64)).sum(axis=1)
    long = squares > int(limit) ** 2
    factors = limit / np.sqrt(squares[long].astype(np.float64))
    integers[long] = np.trunc(integers[long] * factors[:, None])
    return integers.astype(np.int64), int(long.sum())


def normed_features(plan: HeadPlan, features: AnyArray) -> tuple[Float64Array, int]:
    """Features [B, D] divided by the norm bound, with a norm of 1 at most, and how many inputs were scaled down.

    Raises:
        NumericError: BAD_TENSOR for another shape or type, BAD_VALUE for NaN or infinite values.
    """
    values = checked_features(plan, features).astype(np.float64) / plan.feature_norm
    peaks = np.maximum(np.abs(values).max(axis=1, initial=0.0), 1.0)[:, None]
    norms = np.linalg.norm(values / peaks, axis=1)[:, None] * peaks
    return values / np.maximum(norms, 1.0), int((norms > 1.0).sum())


def coarse_scale(reach: float) -> float:
    """The scale for logits of magnitude `reach`, rounded up to an eighth of an octave.

    Raises:
        NumericError: not a finite number.
    """
    if not math.isfinite(reach):
        raise NumericError("the head's weights are too large: its logits are not finite numbers")
    if reach < 1e-280:  # every logit is zero, and the reciprocal would overflow
        return 1.0
    return float(2.0 ** (math.ceil(_GRID * math.log2(reach)) / _GRID))


def lift_columns(plan: HeadPlan, integers: IntArray) -> IntArray:
    """Columns [B, C] of integer features u [B, D]: u and 1, or u_i·u_j / 2^f for i ≤ j (row by row), u and 1."""
    parts = [integers, np.ones((len(integers), 1), dtype=np.int64)]
    if plan.hidden:
        half = 1 << (plan.feature_bits - 1)
        rows, columns = np.triu_indices(plan.features)
        parts.insert(0, (integers[:, rows] * integers[:, columns] + half) >> plan.feature_bits)
    return np.concatenate(parts, axis=1)


def checked_layers(
    plan: HeadPlan, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer]
) -> list[tuple[Float64Array, Float64Array]]:
    """All layers of a head as float64, hidden ones first.

    Raises:
        NumericError: BAD_TENSOR for other shapes than planned, BAD_VALUE for NaN or infinite weights.
    """
    widths = (plan.features, *plan.hidden, plan.classes)
    layers = [*hidden, (weight, bias)]
    if len(layers) != len(widths) - 1:
        text = f"a head with {len(hidden)} hidden layers is not allowed (allowed: {len(plan.hidden)})"
        raise NumericError(text, FailureCode.BAD_TENSOR)
    checked = []
    for (matrix, offset), inputs, outputs in zip(layers, widths, widths[1:], strict=False):
        weights, biases = np.asarray(matrix), np.asarray(offset)
        if weights.shape != (outputs, inputs) or biases.shape != (outputs,):
            text = (
                f"a head with weights {list(weights.shape)} and bias {list(biases.shape)} is not allowed "
                f"(allowed: [{outputs}, {inputs}] and [{outputs}])"
            )
            raise NumericError(text, FailureCode.BAD_TENSOR)
        if weights.dtype.kind not in "fiu" or biases.dtype.kind not in "fiu":
            raise NumericError("a head is made of real numbers", FailureCode.BAD_TENSOR)
        weights, biases = weights.astype(np.float64), biases.astype(np.float64)
        if not (np.isfinite(weights).all() and np.isfinite(biases).all()):
            raise NumericError("the head holds NaN or infinite weights")
        checked.append((weights, biases))
    return checked


def quadratic_form(
    layers: Sequence[tuple[Float64Array, Float64Array]],
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """(products [K, D(D+1)/2], linear [K, D], constant [K]) of a head with one hidden square layer.

    logit_k = Σ_i V[k,i]·(w_i·x + a_i)² + c_k, written as Σ_{i≤j} p_ij·x_i·x_j + Σ_i l_i·x_i + constant.
    """
    (first, offset), (second, bias) = layers
    rows, columns = np.triu_indices(first.shape[1])
    doubled = np.where(rows == columns, 1.0, 2.0)
    products = np.stack([((first.T * v) @ first)[rows, columns] * doubled for v in second])
    linear = 2.0 * (second * offset) @ first
    return products, linear, second @ np.square(offset) + bias


def quantise_head(plan: HeadPlan, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer] = ()) -> IntegerHead:
    """The head in integers with the largest scale at which no logit can reach t/2.

    Raises:
        NumericError: BAD_TENSOR for other shapes, BAD_VALUE for NaN, infinite or unusably large weights.
    """
    layers = checked_layers(plan, weight, bias, hidden)
    # Per layer, so that no product of huge weights overflows before it is scaled.
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        if plan.hidden:
            products, linear, constant = quadratic_form(layers)
            norm = plan.feature_norm
            varying = np.concatenate([products * (norm * norm), linear * norm], axis=1)
        else:
            (weights, constant) = layers[0]
            varying = weights * plan.feature_norm
        peak = max(float(np.abs(varying).max(initial=0.0)), float(np.abs(constant).max(initial=0.0)))
    coarse_scale(peak)  # refuses what is not finite
    if peak < 1e-280:
        return IntegerHead(np.zeros((plan.classes, plan.columns), dtype=np.int64), 1.0)
    return _fill(plan, varying / peak, constant / peak, peak)


def _fill(plan: HeadPlan, varying: Float64Array, constant: Float64Array, peak: float) -> IntegerHead:
    """Integers from weights per unit of normed input [K, C-1] and constants [K], both divided by `peak`."""
    norm2, norm1 = input_norms(plan.features, plan.hidden, plan.feature_bits)
    length = math.sqrt(norm2) / 2.0**plan.feature_bits
    reach = float((np.linalg.norm(varying, axis=1) * length + np.abs(constant)).max())
    # Rounding moves each weight by at most 1/2; that much room is kept free.
    room = plan.plain_modulus / 2 - 2 - norm1 / 2
    # Returned as it is: a factor of `peak` in its last bits would give the exact size away.
    unit = coarse_scale(reach * peak / room)
    steps = peak / unit
    integers = np.concatenate(
        [np.rint(varying * (steps / 2.0**plan.feature_bits)), np.rint(constant * steps)[:, None]], axis=1
    )
    return IntegerHead(integers.astype(np.int64), unit)
