"""Primes for number-theoretic transforms, in the order in which SEAL picks them."""

from __future__ import annotations

from functools import lru_cache

from rhe_parties.errors import ParameterError

__all__ = ["is_prime", "ntt_primes"]

_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def is_prime(number: int) -> bool:
    """Miller-Rabin with the first twelve primes: deterministic below 2^64 (Sorenson, Webster 2015)."""
    if number < 2:
        return False
    for prime in _WITNESSES:
        if number % prime == 0:
            return number == prime
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in _WITNESSES:
        power = pow(witness, odd, number)
        if power in (1, number - 1):
            continue
        for _ in range(twos - 1):
            power = power * power % number
            if power == number - 1:
                break
        else:
            return False
    return True


@lru_cache(maxsize=64)
def ntt_primes(degree: int, bit_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """For each size the largest unused prime of exactly that many bits with p ≡ 1 (mod 2N).

    SEAL's own choice (`CoeffModulus::Create`): primes of equal size are handed out in ascending order.

    Raises:
        ParameterError: there are not enough such primes.
    """
    pools: dict[int, list[int]] = {}
    for bits in set(bit_sizes):
        pools[bits] = _largest(degree, bits, bit_sizes.count(bits))
    return tuple(pools[bits].pop() for bits in bit_sizes)


def _largest(degree: int, bits: int, count: int) -> list[int]:
    step = 2 * degree
    candidate = ((1 << bits) - 1) // step * step + 1
    if candidate >= 1 << bits:
        candidate -= step
    found: list[int] = []
    while len(found) < count and candidate > 1 << (bits - 1):
        if is_prime(candidate):
            found.append(candidate)
        candidate -= step
    if len(found) < count:
        raise ParameterError(f"there are no {count} primes of {bits} bits congruent to 1 modulo {step}")
    return found
