"""What decisions and softmax leave open in a head, and how it is fixed.

Classes stay the same under (w_k, b_k) → s·(w_k + a, b_k + a0) with s > 0. The common shift (a, a0) is fixed by centred
rows: softmax gradients add up to zero over the classes and biases start at 0, so Σ b_k = 0 holds exactly and
Σ w_k is what is left of the initial weights. The scale s follows from heads of the same recipe (`prior.LengthModel`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.types import AnyArray

__all__ = ["HeadError", "centred", "contrasts", "head_error"]

Float64Array = npt.NDArray[np.float64]


class HeadError(NamedTuple):
    """Per head [V]: cosine of centred heads, and |difference| / |true head| after the best common scale (`shape`)
    and as they are (`relative`)."""

    cosine: Float64Array
    shape: Float64Array
    relative: Float64Array


def contrasts(classes: int) -> Float64Array:
    """Orthonormal basis [K, K-1] of the vectors over classes that add up to zero (Helmert).

    Raises:
        ParameterError: fewer than two classes.
    """
    if classes < 2:
        raise ParameterError(f"classes = {classes} is not allowed: decisions need at least 2")
    table = np.zeros((classes, classes - 1))
    for j in range(1, classes):
        table[:j, j - 1] = 1.0
        table[j, j - 1] = -float(j)
        table[:, j - 1] /= np.sqrt(j * (j + 1.0))
    return table


def centred(weight: AnyArray, bias: AnyArray) -> Float64Array:
    """Heads [V, K, D] and [V, K] as one array [V, K, D+1] whose columns add up to zero over the classes.

    Raises:
        NumericError: shapes that do not fit together, or numbers that are not finite.
    """
    if weight.ndim != 3 or bias.shape != weight.shape[:2] or weight.size == 0:
        raise NumericError(f"heads: weights {weight.shape} and biases {bias.shape} must be [V, K, D] and [V, K]")
    whole = np.concatenate([weight.astype(np.float64), bias.astype(np.float64)[..., None]], axis=2)
    if not np.isfinite(whole).all():
        bad = int((~np.isfinite(whole).all(axis=(1, 2))).argmax())
        raise NumericError(f"heads: the weights of head {bad} hold NaN or infinity")
    out: Float64Array = whole - whole.mean(axis=1, keepdims=True)
    return out


def head_error(weight: AnyArray, bias: AnyArray, true_weight: AnyArray, true_bias: AnyArray) -> HeadError:
    """How far heads [V, K, D], [V, K] are from the true ones, biases included, after centring.

    Raises:
        NumericError: shapes that differ, or numbers that are not finite.
    """
    found, truth = centred(weight, bias), centred(true_weight, true_bias)
    if found.shape != truth.shape:
        raise NumericError(f"heads of shape {found.shape} cannot be compared with heads of shape {truth.shape}")
    found, truth = found.reshape(len(found), -1), truth.reshape(len(truth), -1)
    inner = (found * truth).sum(1)
    own, size = np.linalg.norm(found, axis=1), np.maximum(np.linalg.norm(truth, axis=1), 1e-300)
    cosine = inner / np.maximum(own * size, 1e-300)
    relative = np.linalg.norm(found - truth, axis=1) / size
    return HeadError(cosine, np.sqrt(np.clip(1 - cosine**2, 0, 1)), relative)
