"""The linear algebra of CKKS key recovery (Li, Micciancio 2021, ePrint 2020/1533), from the real parts of all slots.

Decryption gives m' = c0 + c1·s mod p *with* its noise. TenSEAL hands out y_j = Re m'(ζ_j)/Δ for all N/2 slots, which
is the polynomial m' + m'(1/X): its coefficients are integers, so rounding removes whatever error float64 made. At
every point ω of the transform

    c1(ω)·s(ω) + c1(1/ω)·s(1/ω) = [m' + m'(1/X)](ω) - c0(ω) - c0(1/ω)   mod p,

two unknowns for each pair (ω, 1/ω): two ciphertexts determine s. Nothing here decrypts; it solves equations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.he.exact_ring import IntegerArray, as_integers, coefficients, inverses, values
from rhe_parties.types import AnyArray, IntArray

__all__ = ["Opened", "small_key", "solve_key", "symmetric_part"]


@dataclass(frozen=True)
class Opened:
    """One ciphertext modulo one prime, and what was released of it.

    `c0`, `c1`: transforms [N] in SEAL's order; `slots`: real parts float64 [N/2] of the decoded values.
    """

    c0: AnyArray
    c1: AnyArray
    slots: AnyArray


def symmetric_part(slots: AnyArray, scale: float) -> tuple[IntArray, float]:
    """m' + m'(1/X), int64 [N], from real parts [N/2]; and the largest distance of a coefficient from an integer.

    Slot j is the value at exp(iπ·3^j/N), as in SEAL. That distance is far below 1/2 where the values are exact, and
    near 1/2 where they were rounded or had noise added.
    """
    degree = 2 * len(slots)
    points = np.empty(degree, dtype=np.float64)
    exponent = 1
    for value in np.asarray(slots, dtype=np.float64).tolist():
        points[exponent >> 1] = points[(2 * degree - exponent) >> 1] = value
        exponent = exponent * 3 % (2 * degree)
    turned = np.fft.fft(2 * scale * points) / degree * np.exp(-1j * np.pi * np.arange(degree) / degree)
    whole = np.rint(turned.real)
    return whole.astype(np.int64), float(np.abs(turned.real - whole).max())


def solve_key(first: Opened, second: Opened, scale: float, prime: int) -> IntArray | None:
    """The secret key's coefficients int64 [N] in {-1, 0, 1}, or None where these equations have no such solution."""
    sides, factors = [], []
    for item in (first, second):
        c0, c1 = as_integers(item.c0), as_integers(item.c1)
        known = values(symmetric_part(item.slots, scale)[0].tolist(), prime)
        sides.append((known - c0 - c0[::-1]) % prime)
        factors.append(c1)
    determinant = (factors[0] * factors[1][::-1] - factors[1] * factors[0][::-1]) % prime
    inverse = inverses(determinant, prime)
    if inverse is None:
        return None
    solved: IntegerArray = (sides[0] * factors[1][::-1] - sides[1] * factors[0][::-1]) * inverse % prime
    return small_key(coefficients(solved, prime), prime)


def small_key(polynomial: IntegerArray, prime: int) -> IntArray | None:
    """Coefficients that are -1, 0 or 1 modulo p, as such; None if any is not."""
    centred = [number - prime if number > prime // 2 else number for number in polynomial.tolist()]
    if any(abs(number) > 1 for number in centred):
        return None
    return np.array(centred, dtype=np.int64)
