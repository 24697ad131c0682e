"""A plan in words, for tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rhe_parties.he.noise import FAILURE_BITS
from rhe_parties.he.security import MAX_MODULUS_BITS

if TYPE_CHECKING:
    from rhe_parties.he.plan import HeadPlan

__all__ = ["plan_rows"]


def plan_rows(plan: HeadPlan) -> list[tuple[str, str, str]]:
    """Rows (what, value, why) that say what the plan does and what each number follows from."""
    bits = [prime.bit_length() for prime in plan.coeff_modulus]
    rows = [
        ("scheme", plan.scheme, _SCHEME_REASONS[plan.scheme]),
        ("head", f"{plan.features} features, {plan.classes} classes", "linear, bias as one more feature"),
        ("feature bound", f"{plan.feature_bound:g}", "public power of two; beyond it features saturate"),
        (
            "ring",
            f"N={plan.degree}, q {sum(bits)} bits {bits}",
            f"128-bit security allows {MAX_MODULUS_BITS[128][plan.degree]} bits at this degree",
        ),
    ]
    if plan.scheme != "ckks":
        rows += _integer_rows(plan)
    rows += [
        ("logit error", f"{plan.logit_error:.1e}", "expected for Gaussian weights, relative to the logits"),
        ("public key", _size(plan.key_bytes), "the data owner encrypts with it"),
        (
            "evaluation keys",
            _size(plan.evaluation_key_bytes),
            "rotations of TenSEAL's dot product" if plan.evaluation_key_bytes else "plain products need none",
        ),
        ("encrypted head", _size(plan.head_bytes), f"{plan.class_tiles} × {plan.feature_tiles} ciphertexts"),
        ("request", _size(plan.request_bytes), "features of one request, in the clear at the host"),
        ("reply", _size(plan.reply_bytes), f"{plan.class_tiles} ciphertexts for {plan.batch} input(s)"),
    ]
    return rows


def _integer_rows(plan: HeadPlan) -> list[tuple[str, str, str]]:
    return [
        ("plain modulus", f"2^{int(math.log2(plan.plain_modulus))}", "holds every logit of the scaled head"),
        ("feature precision", f"{plan.feature_bits} bits", "balances both rounding errors"),
        ("weight precision", f"{plan.weight_bits} bits", "largest weight of a Gaussian head"),
        (
            "layout",
            f"w={plan.tile_width}, c={plan.tile_classes}, b={plan.batch}",
            f"{plan.feature_tiles} feature and {plan.class_tiles} class tile(s): least predicted time",
        ),
        (
            "noise margin",
            f"{plan.margin_bits:.1f} bits",
            f"noise below 2^{plan.noise_bits:.1f} except with probability 2^-{FAILURE_BITS} per request",
        ),
        ("reply modulus", f"{plan.reply_primes} prime(s)", "the smallest that still decrypts"),
    ]


def _size(count: int) -> str:
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 1e6 else f"{count / 1e6:.2f} MB"


_SCHEME_REASONS = {
    "bfv": "exact integers, coefficient packing, no evaluation keys",
    "ckks": "the paper's way: one TenSEAL vector per class, dot product by rotations",
    "plain": "integer twin for comparison: the host can read it, no protection",
}
