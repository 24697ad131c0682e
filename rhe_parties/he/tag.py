"""A secret last row of an encrypted head, by which the key holder knows what no honest host computes.

The owner draws v uniformly modulo t, one number per class, and appends r = Σ_k v_k·w_k mod t to the integer head, bias
included. An honest reply is linear in the rows and exact modulo t, so z_r = Σ_k v_k·z_k (mod t) holds without any
tolerance: logits as small as one likes are no way round it. To a host the row is as any other ciphertext.

A host that does not know v has to guess Σ_k v_k·z_k for logits of its own making. That is uniform over the multiples
of 2^g, the largest power of two that divides them all, and a guess is right with a probability of 2^g/t. As t is a
power of two, logits out of {0, t/2} would be right every other time. The key holder therefore takes no logits, all zero
apart, for which that is above 2^-12. Honest ones are all divisible by as much with a probability of (2^11/t)^K.

What still passes is every evaluation of the whole head, of any features that the host likes, or of another request's.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np

from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.quantise import Layer, quantise_head
from rhe_parties.he.scheme import HeadCiphertexts, HeadEncryptor
from rhe_parties.types import AnyArray, IntArray

__all__ = ["encrypt_as_planned", "encrypt_tagged", "tag_holds"]


# What forged logits may be guessed right with at most: 2^-12.
_GUESS_BITS = 12


def encrypt_tagged(
    encryptor: HeadEncryptor, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer] = ()
) -> tuple[HeadCiphertexts, float, IntArray]:
    """Encrypt a head of K classes for a plan of scheme `bfv` with K + 1, the last row its tag.

    Returns:
        the ciphertexts, the scale as in `HeadEncryptor.encrypt`, and the secret v, int64 [K].

    Raises:
        NumericError: as `HeadEncryptor.encrypt`.
    """
    bfv: Any = encryptor
    plan: HeadPlan = bfv.plan
    rows = [np.concatenate([np.asarray(part), np.zeros((1, *np.shape(part)[1:]))]) for part in (weight, bias)]
    head = quantise_head(plan, rows[0], rows[1], hidden)
    modulus, classes = plan.plain_modulus, plan.classes - 1
    tag = [secrets.randbelow(modulus) for _ in range(classes)]
    weights = head.weights.copy()
    weights[-1] = _combined(weights[:-1].T, tag, modulus)
    return bfv.encrypt_integers(weights), head.unit, np.array(tag, dtype=np.int64)


def encrypt_as_planned(
    encryptor: HeadEncryptor, plan: HeadPlan, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer] = ()
) -> HeadCiphertexts:
    """A head of somebody's own encrypted as the victims' are: with a tag where the plan has a row more than it."""
    if len(weight) + 1 == plan.classes:
        return encrypt_tagged(encryptor, weight, bias, hidden)[0]
    return encryptor.encrypt(weight, bias, hidden)[0]


def _combined(columns: IntArray, tag: list[int], modulus: int) -> IntArray:
    """Σ_k v_k·x_k mod t, int64 [n], of integers [n, K]; exact, in Python's own integers."""
    return np.array([sum(v * x for v, x in zip(tag, row, strict=True)) % modulus for row in columns.tolist()], np.int64)


def tag_holds(logits: IntArray, tag: IntArray, plan: HeadPlan) -> bool:
    """Whether the last of the integer logits [B, K + 1] is the secret combination of the others, for every input.

    No where that could have been guessed, too; see the module.
    """
    modulus = plan.plain_modulus
    residues = logits % modulus
    expected = _combined(residues[:, :-1], tag.tolist(), modulus)
    joined = np.bitwise_or.reduce(residues[:, :-1], axis=1)
    # The lowest bit that is set in any logit of an input; 0 where all are zero.
    divisor = joined & -joined
    return bool((residues[:, -1] == expected).all() and (divisor <= modulus >> _GUESS_BITS).all())
