"""How large the noise of an encrypted head can get: one bound, with a stated probability of failure.

A BFV ciphertext decrypts to the nearest multiple of q/t; its noise must stay below q/(2t). Encrypting with
a public key gives noise v = e·u + e0 + e1·s (Fan, Vercauteren 2012) with e, e0, e1 small errors, u and the
secret s ternary. Multiplying by the plain feature polynomial X and adding up the tiles gives, at each
coefficient,
    Σ_tiles ⟨e, u*X⟩ + ⟨e1, s*X⟩ + ⟨e0, X⟩        (* is the negacyclic product)
Features are fixed; errors are sub-Gaussian with proxy σ², ternary digits with proxy τ² = 2/3. Given u and s
the sum is sub-Gaussian with proxy σ²·(‖u*X‖² + ‖s*X‖² + ‖X‖²), and the quadratic forms have trace N·n2 and
largest eigenvalue at most m·n2 (n2: squared norm of all features, m: number of coefficients that X
occupies; Cauchy-Schwarz on its spectrum). So
    ln E exp(λ·noise) ≤ −(k/2)·(N/m)·ln(1 − λ²σ²τ²·m·n2) + λ²σ²·n2/2
with k quadratic forms (u and s: 2), because the left side is convex in the spectrum. Chernoff's bound over
λ and a union over the N coefficients of all replies give the figure for a failure probability of 2^-40.
When SEAL has more than one prime it encrypts modulo one more and divides by it: what stays is the rounding
error r0 + r1·s with r uniform in [-1/2, 1/2] (σ² = 1/12, one quadratic form), taken as independent of s
because the remainder modulo the dropped prime is pseudo-random.
"""

from __future__ import annotations

import math
from functools import lru_cache

__all__ = ["FAILURE_BITS", "ckks_error", "evaluation_noise_bits", "reply_noise_bits"]

FAILURE_BITS = 40
"""The bound fails with probability at most 2^-FAILURE_BITS per request, over keys and encryptions."""

_ERROR_PROXY = 10.5
"""Variance of SEAL's centred binomial errors (21 coin pairs); also covers its rounded Gaussian of σ = 3.2."""
_TERNARY_PROXY = 2.0 / 3.0
_ROUNDING_PROXY = 1.0 / 12.0
_DECRYPTION_ROUNDING = 16.0
"""SEAL rounds to multiples of q/2^52, four units at q = 2^54, twice."""


def _chernoff(degree: int, support: int, norm2: float, proxy: float, forms: int, outputs: int) -> float:
    """Smallest bound T with P(some coefficient exceeds T) ≤ 2^-(FAILURE_BITS + 1), over a grid of λ."""
    return _chernoff_of_one(degree, support, proxy, forms, outputs) * math.sqrt(norm2)


@lru_cache(maxsize=65536)
def _chernoff_of_one(degree: int, support: int, proxy: float, forms: int, outputs: int) -> float:
    """The bound for features of norm 1; it grows in proportion to their norm."""
    log_terms = (FAILURE_BITS + 2) * math.log(2) + math.log(degree * outputs)
    best = math.inf
    for step in range(1, 100):
        share = step / 100
        rate = math.sqrt(share / (support * proxy * _TERNARY_PROXY))
        log_mgf = -0.5 * forms * degree / support * math.log1p(-share) + 0.5 * rate**2 * proxy
        best = min(best, (log_terms + log_mgf) / rate)
    return best


def evaluation_noise_bits(
    degree: int, special_prime: int | None, support: int, norm2: float, norm1: float, outputs: int = 1
) -> float:
    """log2 of the noise bound after the plain products and their sum.

    Args:
        degree: ring degree N.
        special_prime: the prime that is only used for encrypting, None where there is none.
        support: coefficients that one feature polynomial occupies (m).
        norm2: largest possible squared Euclidean norm of all features of one request polynomial.
        norm1: largest possible sum of their absolute values.
        outputs: polynomials in the reply to one request.
    """
    encrypted = _chernoff(degree, support, norm2, _ERROR_PROXY, 2, outputs)
    # Encoding rounds q·m/t once per weight polynomial and once for the mask: at most 1/2 each.
    encoding = 0.5 * norm1 + 0.5
    if special_prime is None:
        return math.log2(encrypted + encoding)
    rounding = _chernoff(degree, support, norm2, _ROUNDING_PROXY, 1, outputs)
    return math.log2(encrypted / special_prime + rounding + encoding)


def reply_noise_bits(degree: int, noise_bits: float, shift: int, outputs: int = 1) -> float:
    """log2 of the noise bound of a reply whose residues lost their lowest `shift` bits on the wire.

    The receiver puts the middle of the lost range back, so each coefficient is off by a uniform r within
    2^(shift-1): the noise grows by r0 + r1·s (one quadratic form in the ternary secret), plus one unit for
    the asymmetry of the range and a few for SEAL's own rounding at decryption.
    """
    if shift == 0:
        return math.log2(2.0**noise_bits + _DECRYPTION_ROUNDING)
    lost = _chernoff(degree, 1, 1.0, _ROUNDING_PROXY * 4.0**shift, 1, outputs) + degree
    return math.log2(2.0**noise_bits + lost + _DECRYPTION_ROUNDING)


def ckks_error(degree: int, features: int, scale_bits: int) -> float:
    """Root mean square error of TenSEAL's rotated dot product, for values in [-1, 1] at scale 2^scale_bits.

    SEAL's key switching multiplies digits in [0, q), not centred ones, by the errors e of the key. Their
    mean q/2 is the polynomial (q/2)·Σ t^i, whose first slot ζ = exp(iπ/N) has magnitude q·N/π: with a
    special prime as large as q each rotation adds (N/π)·|e(ζ)| there, |e(ζ)| having a root mean square of
    σ·√N. Everything else is far smaller.
    """
    rotations = max(1, math.ceil(math.log2(features + 1)))
    each = degree / math.pi * math.sqrt(_ERROR_PROXY * degree)
    return math.sqrt(rotations) * each * 2.0**-scale_bits
