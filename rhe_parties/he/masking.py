"""Fresh uniform noise for the coefficients of a reply that hold no logit, from the system's randomness."""

from __future__ import annotations

import secrets

import numpy as np

from rhe_parties.types import IntArray

__all__ = ["masks"]


def masks(count: int, degree: int, modulus: int, keep: IntArray) -> IntArray:
    """Uniform values below `modulus` (a power of two), int64 [count, N], zero at the positions `keep`.

    The coefficients without a logit hold partial sums of weights times features; with this added they are
    uniform.
    """
    noise = np.frombuffer(secrets.token_bytes(8 * count * degree), dtype="<i8").reshape(count, degree)
    masked = noise & (modulus - 1)
    masked[:, keep.ravel()] = 0
    return masked.astype(np.int64, copy=False)
