"""Tables and bounds for the compiled transforms in Z_q[t]/(t^N+1); plain Python, once per ring.

A residue is kept as any int64 congruent to it. A product's quotient is rounded in float64 and may be off by a few
units, so that a product is exact modulo q but only bounded by a few q. The bounds here follow from the rounding of
float64 alone, and say before which levels of a transform values must be reduced, so that nothing ever leaves 2^63
(q < 2^54 leaves 9 bits).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import ParameterError
from rhe_parties.he.jit_ring import LANES
from rhe_parties.he.primes import is_prime
from rhe_parties.types import IntArray

__all__ = ["MAX_PRIME_BITS", "Ring", "make_ring"]

MAX_PRIME_BITS = 54

_BITS = 53  # of a float64's mantissa


class Ring(NamedTuple):
    """Tables for one (N, q): roots int64 [2, N] (forward, inverse) within ±q/2, the same divided by q, and the
    levels (bit l for level l) before which values are reduced: for forward transforms of small polynomials
    (coefficients below 2^30), of any within ±q/2, and for the inverse.
    """

    prime: int
    reciprocal: float
    roots: IntArray
    ratios: npt.NDArray[np.float64]
    small: int
    full: int
    back: int


def _half_ulp(bound: float) -> float:
    """Largest rounding error of a float64 of at most this magnitude."""
    return 2.0 ** (math.ceil(math.log2(bound)) - _BITS - 1)


def _product_bound(bound: float, prime: int) -> float:
    """Bound of v·w - trunc(v·(w/q))·q for |v| ≤ bound and |w| ≤ q/2: v, w/q and their product are rounded."""
    rounding = 0.5 * _half_ulp(bound) + bound * _half_ulp(0.5) + _half_ulp(max(bound, 2.0) / 2)
    return (1 + 1.001 * rounding) * prime


def _schedule(prime: int, levels: int, start: float, decimating: bool) -> int:
    """The levels before which a transform reduces its values to ±q/2; passes are of two levels, aligned to even ones.

    Forward (decimating in time) a level makes u ± w·v; the inverse makes u + v and w·(u - v).
    """

    def grow(bound: float, count: int) -> float:
        for _ in range(count):
            product = _product_bound(bound if decimating else 2 * bound, prime)
            bound = bound + product if decimating else max(2 * bound, product)
        return bound

    # `reduce` is near enough up to 2^10·q.
    limit = min(2.0**63, 2.0**10 * prime)
    passes = [(level, min(2, levels - level)) for level in range(0, levels, 2)]
    bound, flags = start, 0
    for level, count in passes if decimating else reversed(passes):
        after = grow(bound, count)
        if after >= limit:
            flags |= 1 << level
            after = grow(0.5001 * prime, count)
        bound = after
    return flags


def _primitive_root(degree: int, prime: int) -> int:
    """The 2N-th primitive root of unity from the smallest base that has one: a root whose N-th power is -1."""
    for base in range(2, prime):
        root = pow(base, (prime - 1) // (2 * degree), prime)
        if pow(root, degree, prime) == prime - 1:
            return root
    raise ParameterError(f"no root of unity of order {2 * degree} modulo {prime}")


def _ordered_powers(degree: int, prime: int, root: int) -> list[int]:
    """Powers of the root within ±q/2, in the order in which the passes read them.

    Longa and Naehrig's table holds root^bitreverse(m+i) for block i of level log2(m). Levels after the
    transposition read LANES blocks side by side.
    """
    powers = [1] * degree
    for i in range(1, degree):
        powers[i] = powers[i - 1] * root % prime
    bits = degree.bit_length() - 1
    table = [powers[int(format(i, f"0{bits}b")[::-1], 2)] for i in range(degree)]
    table = [value - prime if value > prime // 2 else value for value in table]
    ordered = table[:LANES]
    blocks = 1
    while blocks * LANES < degree:
        level = table[blocks * LANES : 2 * blocks * LANES]
        ordered += [level[lane * blocks + i] for i in range(blocks) for lane in range(LANES)]
        blocks *= 2
    return ordered


@lru_cache(maxsize=8)
def make_ring(degree: int, prime: int) -> Ring:
    """Tables for Z_q[t]/(t^N+1).

    Raises:
        ParameterError: N is no power of two from 1024 to 32768, or q is no prime below 2^54 with q ≡ 1 mod 2N.
    """
    if degree not in (1 << bits for bits in range(10, 16)):
        raise ParameterError(f"ring degree {degree} is not allowed (allowed: powers of two, 1024 to 32768)")
    if prime.bit_length() > MAX_PRIME_BITS or prime % (2 * degree) != 1 or not is_prime(prime):
        text = f"allowed: primes below 2^{MAX_PRIME_BITS} that are 1 modulo {2 * degree}"
        raise ParameterError(f"modulus {prime} is not allowed ({text})")
    root = _primitive_root(degree, prime)
    tables = [_ordered_powers(degree, prime, base) for base in (root, pow(root, -1, prime))]
    levels = degree.bit_length() - 1
    return Ring(
        prime,
        1 / prime,
        np.array(tables, dtype=np.int64),
        np.array([[value / prime for value in table] for table in tables]),
        _schedule(prime, levels, min(2.0**30, 0.5001 * prime), True),
        _schedule(prime, levels, 0.5001 * prime, True),
        _schedule(prime, levels, 0.5001 * prime, False),
    )
