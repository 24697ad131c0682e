"""Expected bytes of SEAL objects on the wire."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

__all__ = ["polynomial_bytes"]

_OBJECT_BYTES = 121
"""Headers, parameter hash, sizes and compression frames of one ciphertext."""


def polynomial_bytes(degree: int, primes: Sequence[int], count: int) -> int:
    """Expected bytes of `count` polynomials with uniform residues modulo each prime, as SEAL saves them.

    SEAL stores every residue in 8 bytes and compresses; zstd finds no repeats in them and codes bytes by
    their frequency, so the size is the entropy of one byte drawn from a random position of the word.
    """
    words = sum(min(64.0, 1.008 * _word_bits(prime.bit_length())) for prime in primes)
    return round(_OBJECT_BYTES + count * degree * words / 8)


@lru_cache(maxsize=64)
def _word_bits(bits: int) -> float:
    frequency = [0.0] * 256
    for position in range(8):
        known = 1 << min(8, max(0, bits - 8 * position))
        for value in range(known):
            frequency[value] += 1 / (8 * known)
    entropy = -sum(p * math.log2(p) for p in frequency if p > 0)
    return 8 * entropy if entropy < 7.7 else 64.0
