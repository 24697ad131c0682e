"""A plan in words, for tables."""

from __future__ import annotations

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
        ("scheme", plan.scheme, _reason(plan)),
        ("head", _shape(plan), _way(plan)),
        (
            "feature norm",
            f"{plan.feature_norm:g}",
            "public bound of a feature vector's length; beyond it scaled down",
        ),
        (
            "ring",
            f"N={plan.degree}, q {sum(bits)} bits {bits}",
            f"{plan.security}-bit security allows {MAX_MODULUS_BITS[plan.security][plan.degree]} bits at this degree",
        ),
    ]
    if plan.scheme != "ckks":
        rows += _integer_rows(plan)
    rows += [
        ("logit error", f"{plan.logit_error:.1e}", "expected for a trained head, relative to the logits"),
        ("public key", _size(plan.key_bytes), "the data owner encrypts with it"),
        (
            "evaluation keys",
            _size(plan.evaluation_key_bytes),
            "rotations and products of ciphertexts" if plan.evaluation_key_bytes else "plain products need none",
        ),
        (
            "encrypted head",
            _size(plan.head_bytes),
            f"{plan.head_ciphertexts} ciphertexts; {_size(plan.head_memory_bytes)} in memory",
        ),
        ("request", _size(plan.request_bytes), "features of one full request, in the clear at the host"),
        ("reply", _size(plan.reply_bytes), f"{plan.class_tiles} ciphertexts for {plan.batch} input(s)"),
    ]
    return rows


def _reason(plan: HeadPlan) -> str:
    if plan.scheme == "ckks" and plan.hidden:
        return "approximate numbers in slots, one level per product"
    return _SCHEME_REASONS[plan.scheme]


def _shape(plan: HeadPlan) -> str:
    layers = "".join(f" → {width} (x²)" for width in plan.hidden)
    return f"{plan.features} features{layers} → {plan.classes} classes"


def _way(plan: HeadPlan) -> str:
    if not plan.hidden:
        return "linear, bias as one more feature"
    if plan.scheme == "ckks":
        return "levelled products of ciphertexts"
    return f"one layer on {plan.columns} products of two features: depth one, exact"


def _integer_rows(plan: HeadPlan) -> list[tuple[str, str, str]]:
    from rhe_parties.he.planner import operations

    count = operations(plan)
    return [
        ("plain modulus", f"2^{plan.plain_bits}", "holds every logit of the scaled head"),
        ("feature precision", f"{plan.feature_bits} bits", "of a feature as long as the norm bound"),
        (
            "layout",
            f"w={plan.tile_width}, c={plan.tile_classes}, b={plan.batch}",
            f"{plan.feature_tiles} feature and {plan.class_tiles} class tile(s), {plan.batch} input(s) per request",
        ),
        (
            "host's work",
            f"{count['transforms']} transforms, {count['products'] / 1e6:.3g} M products",
            "for one request polynomial",
        ),
        (
            "noise margin",
            f"{plan.margin_bits:.1f} bits",
            f"noise below 2^{plan.noise_bits:.1f} except with probability 2^-{FAILURE_BITS} per request",
        ),
        (
            "reply on the wire",
            f"{plan.word_bytes} bytes per coefficient",
            f"c1, c0 at the logits, and {plan.check_count} masked coefficients that show a wrong key",
        ),
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
