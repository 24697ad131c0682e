"""Ring, modulus and expected bytes of the levelled CKKS path for heads with square activation.

Pure arithmetic, so that the planner needs neither SEAL nor TenSEAL; `levelled` does the work.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rhe_parties.he.noise import ckks_error
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.sizes import polynomial_bytes

__all__ = ["LevelledSize", "levelled_modulus", "levelled_size"]

_DEGREE, _SCALE_BITS, _ENDS = 16384, 40, 60


@dataclass(frozen=True, slots=True)
class LevelledSize:
    """Expected bytes of keys, head and reply, and the relative error of a logit."""

    key_bytes: int
    evaluation_key_bytes: int
    head_bytes: int
    head_memory_bytes: int
    reply_bytes: int
    error: float


def levelled_modulus(hidden: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """(N, primes): one 40-bit prime for the dot product and two for each square and the layer behind it."""
    levels = 1 + 2 * len(hidden)
    return _DEGREE, ntt_primes(_DEGREE, (_ENDS, *[_SCALE_BITS] * levels, _ENDS))


def levelled_size(features: int, classes: int, hidden: tuple[int, ...]) -> LevelledSize:
    """Expected sizes of a head with D features, K classes and the hidden widths."""
    degree, primes = levelled_modulus(hidden)
    data = primes[:-1]
    key = polynomial_bytes(degree, primes, 2)
    rotations = 2 * (degree.bit_length() - 2)
    later = sum(a * b for a, b in zip(hidden, (*hidden[1:], classes), strict=True)) + classes + sum(hidden[1:])
    ciphertexts = hidden[0] + later
    size = polynomial_bytes(degree, data, 2)
    return LevelledSize(
        key_bytes=key,
        evaluation_key_bytes=(rotations + 1) * len(data) * key,
        head_bytes=ciphertexts * size,
        head_memory_bytes=ciphertexts * 16 * degree * len(data),
        reply_bytes=classes * polynomial_bytes(degree, primes[:1], 2),
        error=ckks_error(degree, features, _SCALE_BITS) * math.prod(2 * width for width in hidden),
    )
