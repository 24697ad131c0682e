"""A secret key that an adversary found, put to the proof: SEAL itself decrypts with it, or it is no key.

Nothing here makes keys. Coefficients that somebody worked out are written in the form in which SEAL saves a secret
key, and SEAL loads them. The key holder's own key never comes near this module.
"""

from __future__ import annotations

import struct

import numpy as np
import tenseal.sealapi as sealapi

from rhe_parties.he import sealio
from rhe_parties.he.bfv import head_residues
from rhe_parties.he.ckks import load_head
from rhe_parties.he.exact_ring import values
from rhe_parties.he.opening import Opening
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial, check_head
from rhe_parties.he.seal_format import write_secret_key
from rhe_parties.types import AnyArray, IntArray

__all__ = ["FoundKey"]


class FoundKey:
    """Coefficients int64 [N] in {-1, 0, 1} as a SEAL secret key for a plan of scheme `bfv` or `ckks`.

    Raises:
        SchemeError: WRONG_KEY where SEAL does not take them.
    """

    def __init__(self, plan: HeadPlan, coefficients: IntArray) -> None:
        self._plan = plan
        self._context = context = sealio.plan_context(plan)
        listed = coefficients.tolist()
        residues = np.array([values(listed, prime).tolist() for prime in plan.coeff_modulus], dtype=np.uint64)
        mark = struct.pack("<4Q", *context.key_parms_id())
        key = sealapi.SecretKey()
        sealio.load_secret(context, key, write_secret_key(residues, mark, sealio.version()))
        self._opening = Opening(plan, key)

    def opens_fresh(self, public: PublicMaterial) -> bool:
        """Whether it decrypts a fresh ciphertext of random numbers made with the public key."""
        return self._opening.opens_fresh(public)

    def read_head(self, public: PublicMaterial, head: HeadCiphertexts) -> tuple[AnyArray, AnyArray]:
        """Weights float64 [K, D] and biases [K] of an encrypted linear head, in units of its scale.

        That scale, one factor for all of them, is nowhere in the ciphertexts: it went to the key holder.

        Raises:
            SchemeError: the head is damaged or was encrypted for other keys.
        """
        plan = self._plan
        check_head(public, head)
        if plan.scheme == "ckks":
            rows = np.stack([self._opening.numbers(cipher, plan.columns) for cipher in load_head(public, head)])
            return rows[:, :-1] / plan.feature_norm, rows[:, -1]
        tiles = head_residues(public, head).reshape(-1, 2, plan.degree)
        packed = [self._opening.numbers(sealio.make_ciphertext(self._context, tile), plan.degree) for tile in tiles]
        shape = (plan.class_tiles, plan.feature_tiles, plan.degree)
        whole = plan.layout.unpack_weights(np.stack(packed).astype(np.int64).reshape(shape))
        return whole[:, :-1] * (2.0**plan.feature_bits / plan.feature_norm), whole[:, -1].astype(np.float64)
