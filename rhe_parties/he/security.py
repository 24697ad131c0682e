"""Which encryption parameters are allowed: the HomomorphicEncryption.org standard (2018), table 1.

The table bounds the bits of the whole coefficient modulus (the key-switching prime included) for a ring
degree, with secrets drawn uniformly from {-1, 0, 1}, against the best known classical attacks. Nothing in
this package runs below 128 bits.
"""

from __future__ import annotations

from rhe_parties.errors import ParameterError

__all__ = ["MAX_MODULUS_BITS", "MINIMUM_SECURITY", "check_security"]

MINIMUM_SECURITY = 128

MAX_MODULUS_BITS: dict[int, dict[int, int]] = {
    128: {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438},
    192: {1024: 19, 2048: 37, 4096: 75, 8192: 152, 16384: 305},
    256: {1024: 14, 2048: 29, 4096: 58, 8192: 118, 16384: 237},
}
"""Largest log2 q by security level in bits and ring degree N (ternary secrets, classical attacks)."""


def check_security(degree: int, coeff_modulus_bits: int, bits: int = MINIMUM_SECURITY) -> None:
    """Raise unless ring degree N and log2 q give at least `bits` (and never less than 128) bits of security.

    Raises:
        ParameterError: the level, the degree or the size of the modulus is not in the standard's table.
    """
    if bits not in MAX_MODULUS_BITS:
        levels = ", ".join(map(str, MAX_MODULUS_BITS))
        raise ParameterError(f"security of {bits} bits is not allowed (allowed: {levels})")
    table = MAX_MODULUS_BITS[bits]
    if degree not in table:
        degrees = ", ".join(map(str, table))
        raise ParameterError(f"ring degree {degree} is not in the security table (allowed: {degrees})")
    if not 0 < coeff_modulus_bits <= table[degree]:
        raise ParameterError(
            f"a coefficient modulus of {coeff_modulus_bits} bits at ring degree {degree} is below {bits}-bit "
            f"security (allowed: 1 to {table[degree]} bits)"
        )
