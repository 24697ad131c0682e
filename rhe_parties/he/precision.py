"""How precise an encrypted head is: the norms of its integer inputs, the noise of its replies, the logits' error."""

from __future__ import annotations

import math
from functools import lru_cache

from rhe_parties.he.noise import ckks_error, evaluation_noise_bits, reply_noise_bits

__all__ = [
    "input_norms",
    "leaves_room",
    "levelled_error",
    "lifted_columns",
    "logit_errors",
    "reply_noise",
    "rotated_dot_error",
]

# Logit errors are stated for trained heads whose logits have a root mean square of this share (its square
# for a quadratic head) of the largest that weights and features of their norms can give, and for features
# of half the norm bound.
_ALIGNMENT, _NORM_SHARE = 0.25, 0.5


def lifted_columns(features: int, hidden: tuple[int, ...]) -> int:
    """Columns of the packed head: D features and the constant one, or all products of two of these."""
    return features + 1 if not hidden else features * (features + 1) // 2 + features + 1


def input_norms(features: int, hidden: tuple[int, ...], feature_bits: int) -> tuple[float, float]:
    """Bounds of one input's columns in integers: squared Euclidean norm and sum of magnitudes.

    Linear: ‖u‖ ≤ 2^f by construction, and the constant 1. Quadratic: the products u_i·u_j / 2^f for i ≤ j
    have a norm of at most ‖u‖²/2^f ≤ 2^f, the u_i one of 2^f; rounding adds at most 1/2 per column.
    """
    columns = lifted_columns(features, hidden)
    norm = 2.0**feature_bits if not hidden else math.sqrt(2.0) * 2.0**feature_bits + math.sqrt(columns) / 2
    return norm * norm + 1.0, math.sqrt(columns) * norm + 1.0


def leaves_room(features: int, hidden: tuple[int, ...], feature_bits: int, modulus: int) -> bool:
    """Whether t/2 is several times what rounding every weight by 1/2 can move a logit."""
    norm2, norm1 = input_norms(features, hidden, feature_bits)
    return modulus // 2 > 4 * (norm1 + math.sqrt(norm2)) + 4


@lru_cache(maxsize=16384)
def reply_noise(
    degree: int, primes: tuple[int, ...], support: int, outputs: int,
    features: int, hidden: tuple[int, ...], feature_bits: int, batch: int, shift: int,
) -> float:  # fmt: skip
    """log2 of the noise bound of a reply; see `noise`."""
    norm2, norm1 = input_norms(features, hidden, feature_bits)
    special = primes[-1] if len(primes) > 1 else None
    noise = evaluation_noise_bits(degree, special, support, batch * norm2, batch * norm1, outputs)
    return reply_noise_bits(degree, noise, shift, outputs)


def logit_errors(hidden: tuple[int, ...], feature_bits: int, modulus: int) -> float:
    """Relative error of rounding features and weights to integers (uniform errors, variance 1/12)."""
    f, half = 2.0**feature_bits, modulus / 2
    if not hidden:
        from_features = 1 / (f * _ALIGNMENT * _NORM_SHARE)
        from_weights = f / (half * _ALIGNMENT)
    else:
        share, length = (_ALIGNMENT * _NORM_SHARE) ** 2, math.sqrt(2.0)
        from_features = 1 / (f * share)
        from_weights = length * length * f * _NORM_SHARE / (half * share)
    return math.hypot(from_features, from_weights) / math.sqrt(12)


def rotated_dot_error(degree: int, features: int, scale_bits: int) -> float:
    """Relative error of the logits of TenSEAL's rotated dot product."""
    return ckks_error(degree, features, scale_bits) / (_ALIGNMENT * _NORM_SHARE)


def levelled_error(share_of_largest: float, squares: int) -> float:
    """Relative error of the logits of the levelled path from the error in units of the largest possible logit."""
    typical = math.pow(_ALIGNMENT * _NORM_SHARE, 2**squares)
    return share_of_largest / typical
