"""Reply ciphertexts and the values that were released of them, turned into a candidate for the secret key.

What comes of it is a candidate only: `found_key.FoundKey.opens_fresh` says whether it is the key.
"""

from __future__ import annotations

import numpy as np

from rhe_parties.he import sealio
from rhe_parties.he.ckks import load_reply
from rhe_parties.he.exact_ring import as_integers, coefficients, inverses, values
from rhe_parties.he.key_algebra import Opened, small_key, solve_key
from rhe_parties.he.plan import CKKS_SCALE_BITS, HeadPlan
from rhe_parties.he.reply import reply_positions, unpack_reply
from rhe_parties.types import AnyArray, IntArray

__all__ = ["bfv_candidate", "ckks_candidate"]


def ckks_candidate(plan: HeadPlan, first: tuple[bytes, AnyArray], second: tuple[bytes, AnyArray]) -> IntArray | None:
    """The key from two replies with the real parts [S] of their first S slots; unknown slots are taken to be 0."""
    opened = []
    for data, known in (first, second):
        residues = sealio.ciphertext_residues(load_reply(plan, data))
        slots = np.zeros(plan.degree // 2, dtype=np.float64)
        slots[: len(known)] = known
        opened.append(Opened(residues[0, 0], residues[1, 0], slots))
    return solve_key(opened[0], opened[1], 2.0**CKKS_SCALE_BITS, plan.prime)


def bfv_candidate(plan: HeadPlan, ciphertexts: tuple[bytes, ...], logits: AnyArray) -> IntArray | None:
    """The key from the first reply polynomial, as though its decryption, logits [B, K], held the noise too.

    It does not: bfv rounds the noise away, and the unit of released logits went to the key holder alone. So the largest
    of them is taken to be a quarter of the plaintext modulus.
    """
    count = min(len(logits), plan.batch)
    positions, _ = reply_positions(plan, 0, count)
    reply = unpack_reply(plan, sealio.without_checksum(ciphertexts[0]), positions)
    whole = np.rint(logits / max(float(np.abs(logits).max()), 1e-30) * (plan.plain_modulus // 4))
    message = as_integers(np.zeros(plan.degree))
    message[positions.ravel()] = as_integers(whole[:count, : positions.shape[1]].ravel())
    prime = plan.prime
    inverse = inverses(values(reply.c1.tolist(), prime), prime)
    if inverse is None:
        return None
    known = values((message * (prime // plan.plain_modulus) - as_integers(reply.c0)).tolist(), prime)
    return small_key(coefficients(known * inverse % prime, prime), prime)
