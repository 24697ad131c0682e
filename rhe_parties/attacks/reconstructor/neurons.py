"""One order for the hidden units of a two-layer head: permuting them changes the weights but not the function."""

from __future__ import annotations

import numpy as np

from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.types import FloatArray

__all__ = ["sort_hidden_units"]


def sort_hidden_units(flat: FloatArray, features: int, hidden: int, outputs: int = 1, even: bool = False) -> FloatArray:
    """Flat two-layer heads with their hidden units in order of (first outgoing weight)·(norm of incoming weights).

    The key is the slope that a ReLU unit adds to the first output, which rescaling a unit leaves alone. The paper
    feeds the weights as they are; sorting is the simplest of the invariant forms of Ganju et al. (CCS 2018, section 4).

    Args:
        flat: [V, P] with P = H·(D + 1) + O·(H + 1): W1 [H, D], b1 [H], W2 [O, H], b2 [O].
        features: D.
        hidden: H.
        outputs: O.
        even: whether the activation is even, as x² is: then turning a unit's incoming weights and bias around changes
            nothing either, and each is turned so that its incoming weights add up to 0 or more.

    Raises:
        ParameterError: a size below 1.
        NumericError: another P.
    """
    if min(features, hidden, outputs) < 1:
        raise ParameterError(f"a head of {features} features, {hidden} units, {outputs} outputs: each at least 1")
    ends = np.cumsum([hidden * features, hidden, outputs * hidden, outputs])
    if flat.ndim != 2 or flat.shape[1] != ends[-1]:
        raise NumericError(f"flat two-layer heads must be [V, {ends[-1]}], got {flat.shape}")
    heads = len(flat)
    first, bias, second, rest = np.split(flat, ends[:-1], axis=1)
    first = first.reshape(heads, hidden, features)
    second = second.reshape(heads, outputs, hidden)
    if even:
        sign = np.where(first.sum(axis=2) < 0, np.float32(-1), np.float32(1))
        first, bias = first * sign[:, :, None], bias * sign
    order = np.argsort(second[:, 0] * np.linalg.norm(first, axis=2), axis=1, kind="stable")
    return np.concatenate(
        [
            np.take_along_axis(first, order[:, :, None], axis=1).reshape(heads, -1),
            np.take_along_axis(bias, order, axis=1),
            np.take_along_axis(second, order[:, None], axis=2).reshape(heads, -1),
            rest,
        ],
        axis=1,
    )
