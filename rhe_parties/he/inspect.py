"""What an adversary at the host can read out of an encrypted head: every number in its bytes.

Attacks on the encrypted head train on this view, so that "the attack failed" is measured and not argued.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rhe_parties.he import bfv, ckks
from rhe_parties.he.plain import read_polynomial
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial, check_head
from rhe_parties.he.sealio import ciphertext_residues

__all__ = ["numeric_view"]


def numeric_view(public: PublicMaterial, head: HeadCiphertexts) -> npt.NDArray[np.float64]:
    """All numbers in the head's bytes as one vector float64 [p]; p is the same for equal plans.

    For `bfv` and `ckks` these are the residues of both polynomials of every ciphertext modulo each prime,
    centred and scaled to [-1, 1]; for `plain` the packed integer weights themselves, unscaled.

    Raises:
        SchemeError: the head is damaged or was encrypted for other keys.
    """
    plan = public.plan
    check_head(public, head)
    if plan.scheme == "plain":
        return np.concatenate([read_polynomial(plan, data) for data in head.ciphertexts]).astype(np.float64)
    primes = np.array(plan.data_primes, dtype=np.int64)[None, :, None]
    if plan.scheme == "bfv":
        values = [bfv.head_residues(public, head).reshape(-1, 1, plan.degree)]
    else:
        values = [ciphertext_residues(value) for value in ckks.load_head(public, head)]
    parts = []
    for value in values:
        residues = value.astype(np.int64)
        centred = np.where(residues > primes // 2, residues - primes, residues)
        parts.append((centred / (primes / 2)).ravel())
    return np.concatenate(parts)
