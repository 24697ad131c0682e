"""What an answer says about a candidate, and how a shadow head's answers turn it into a likelihood ratio.

Source: Carlini et al. 2022, Membership inference attacks from first principles (LiRA), arXiv 2112.03570, sections 4
and 5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["MODES", "likelihood_ratio", "margins"]

Float64Array = npt.NDArray[np.float64]

MODES = ("online", "offline")
_OWN_VARIANCE = 64  # shadow heads per side from which on a candidate's own variance is estimated (arXiv 2112.03570)
_VARIANCE_FLOOR = 0.05  # of the mean variance: a candidate on which all shadow heads agree must not decide alone


def margins(logits: AnyArray, labels: IntArray) -> FloatArray:
    """log p_y / (1 - p_y) = z_y - log Σ_{k≠y} exp z_k, without overflow at any finite logit.

    Args:
        logits: [..., K] with K at least 2.
        labels: integers of a shape that broadcasts to [...], in 0..K-1.

    Returns:
        float32 [...].

    Raises:
        NumericError: logits that are not finite, or fewer than two classes.
    """
    if logits.ndim < 1 or logits.shape[-1] < 2 or not np.isfinite(logits).all():
        raise NumericError(f"margins take finite logits [..., K] of at least 2 classes, got shape {logits.shape}")
    exact = logits.astype(np.float64)
    own = np.broadcast_to(labels, exact.shape[:-1])[..., None]
    mine = np.take_along_axis(exact, own, axis=-1)[..., 0]
    others = exact.copy()
    np.put_along_axis(others, own, -np.inf, axis=-1)
    top = others.max(axis=-1, keepdims=True)
    rest = top[..., 0] + np.log(np.exp(others - top).sum(axis=-1))
    found: FloatArray = (mine - rest).astype(np.float32)
    return found


def likelihood_ratio(seen: AnyArray, inside: AnyArray, outside: AnyArray, mode: str = "online") -> FloatArray:
    """How much rather a candidate's statistic comes from a head that saw it than from one that did not.

    Both laws are taken as normal. Below 64 shadow heads on a side all candidates share that side's variance.

    Args:
        seen: the statistic of C candidates on their victims' heads [C].
        inside: the same on shadow heads that were trained on the candidate [C, n]; not looked at if offline.
        outside: on shadow heads that were not [C, m].
        mode: `online`: log N(seen; inside) - log N(seen; outside); `offline`: (seen - mean) / deviation of outside.

    Returns:
        float32 [C], larger: rather a member.

    Raises:
        ParameterError: an unknown mode.
        NumericError: shapes that do not fit together, or values that are not finite.
        DataError: fewer than two shadow heads on a side.
    """
    if mode not in MODES:
        raise ParameterError(f"mode={mode!r} is not allowed (allowed: {', '.join(MODES)})")
    sides = (inside, outside) if mode == "online" else (outside,)
    for side in sides:
        if seen.ndim != 1 or side.ndim != 2 or len(side) != len(seen):
            raise NumericError(f"likelihood ratio: statistics {seen.shape} and {side.shape} must be [C] and [C, n]")
        if side.shape[1] < 2:
            raise DataError(f"likelihood ratio: {side.shape[1]} shadow heads on a side are too few: at least 2")
        if not (np.isfinite(seen).all() and np.isfinite(side).all()):
            raise NumericError("likelihood ratio: statistics hold NaN or infinity")
    exact = seen.astype(np.float64)
    away = [_standardised(exact, side) for side in sides]
    if mode == "offline":
        return away[0][0].astype(np.float32)
    (z_in, spread_in), (z_out, spread_out) = away
    found = 0.5 * (np.square(z_out) - np.square(z_in)) + np.log(spread_out / spread_in)
    return found.astype(np.float32)


def _standardised(seen: Float64Array, side: AnyArray) -> tuple[Float64Array, Float64Array]:
    """(seen - mean) / deviation per candidate, and the deviation."""
    exact = side.astype(np.float64)
    own = exact.var(axis=1, ddof=1)
    common = max(float(own.mean()), 1e-12)
    variance = np.full_like(own, common) if side.shape[1] < _OWN_VARIANCE else np.maximum(own, _VARIANCE_FLOOR * common)
    spread = np.sqrt(variance)
    return (seen - exact.mean(axis=1)) / spread, spread
