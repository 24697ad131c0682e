"""Transforms in Z_p[X]/(X^N+1) for primes of any size, in SEAL's order of points, with Python's own integers.

The compiled and the torch transforms stop at primes of 54 bits; CKKS has primes of 60. A transform of N=8192 takes
a fraction of a second here, which is plenty for looking at a handful of ciphertexts.

Entry i of a transform is the value at ψ^(2·rev(i)+1), with rev reversing log2(N) bits and ψ SEAL's root of unity, the
smallest of order 2N. So entry N-1-i is the value at the inverse of the point of entry i.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import ParameterError

__all__ = ["IntegerArray", "as_integers", "coefficients", "inverses", "values"]

#: Python integers of any size, dtype object.
IntegerArray = npt.NDArray[np.object_]


@lru_cache(maxsize=8)
def _roots(degree: int, prime: int) -> tuple[IntegerArray, IntegerArray]:
    """ψ^rev(i) and their inverses, i < N."""
    if degree & (degree - 1) or degree < 2 or prime % (2 * degree) != 1:
        raise ParameterError(
            f"degree {degree} and modulus {prime} are not allowed: 2^n and a prime that is 1 mod 2^n+1"
        )
    root = next(
        found
        for base in range(2, prime)
        if pow(found := pow(base, (prime - 1) // (2 * degree), prime), degree, prime) == prime - 1
    )
    smallest, square, power = root, root * root % prime, root
    for _ in range(degree - 1):
        power = power * square % prime
        smallest = min(smallest, power)
    bits = degree.bit_length() - 1
    order = [int(format(i, f"0{bits}b")[::-1], 2) for i in range(degree)]
    tables = []
    for base in (smallest, pow(smallest, -1, prime)):
        powers = [1]
        for _ in range(degree - 1):
            powers.append(powers[-1] * base % prime)
        tables.append(as_integers(powers[i] for i in order))
    return tables[0], tables[1]


def as_integers(numbers: Iterable[Any]) -> IntegerArray:
    """Numbers as Python integers, dtype object."""
    listed = [int(number) for number in numbers]
    result: IntegerArray = np.empty(len(listed), dtype=object)
    result[:] = listed
    return result


def values(polynomial: Iterable[Any], prime: int) -> IntegerArray:
    """The transform of N integer coefficients: values in [0, p) at all points.

    Raises:
        ParameterError: N is no power of two, or 2N does not divide p - 1.
    """
    data: IntegerArray = as_integers(polynomial) % prime
    degree = len(data)
    roots, _ = _roots(degree, prime)
    blocks = 1
    while blocks < degree:
        pairs = data.reshape(blocks, 2, -1)
        low, high = pairs[:, 0], pairs[:, 1] * roots[blocks : 2 * blocks, None]
        data = np.stack([low + high, low - high], axis=1).reshape(-1) % prime
        blocks *= 2
    return data


def coefficients(transform: IntegerArray, prime: int) -> IntegerArray:
    """The polynomial with these values, coefficients in [0, p); see `values`."""
    degree = len(transform)
    _, roots = _roots(degree, prime)
    data, blocks = transform % prime, degree // 2
    while blocks:
        pairs = data.reshape(blocks, 2, -1)
        low, high = pairs[:, 0] + pairs[:, 1], (pairs[:, 0] - pairs[:, 1]) * roots[blocks : 2 * blocks, None]
        data = np.stack([low, high], axis=1).reshape(-1) % prime
        blocks //= 2
    result: IntegerArray = data * pow(degree, -1, prime) % prime
    return result


def inverses(numbers: IntegerArray, prime: int) -> IntegerArray | None:
    """Inverses modulo p of every number; None where one is 0."""
    if not all(numbers.tolist()):
        return None
    return as_integers(pow(number, -1, prime) for number in numbers.tolist())
