"""A secret key that an adversary found, put to the proof: SEAL itself decrypts with it, or it is no key.

Nothing here makes keys. Coefficients that somebody worked out are written in the form in which SEAL saves a secret
key, and SEAL loads them. The key holder's own key never comes near this module.
"""

from __future__ import annotations

import secrets
import struct
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi

from rhe_parties.he import sealio
from rhe_parties.he.bfv import head_residues
from rhe_parties.he.ckks import load_head
from rhe_parties.he.exact_ring import values
from rhe_parties.he.plan import CKKS_SCALE_BITS, FINE_BITS, HeadPlan
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial, check_head
from rhe_parties.he.seal_format import write_secret_key
from rhe_parties.types import AnyArray, IntArray

__all__ = ["FoundKey"]

# Fresh ciphertexts of numbers up to this size are decrypted for the proof, to within the error.
_LARGEST, _ERROR = 1000, 1e-3


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
        self._decryptor = sealapi.Decryptor(context, key)
        self._encoder = sealapi.CKKSEncoder(context) if plan.scheme == "ckks" else None

    def opens_fresh(self, public: PublicMaterial) -> bool:
        """Whether it decrypts a fresh ciphertext of random numbers made with the public key."""
        plan, context = self._plan, self._context
        key = sealio.load_public_key(context, public.public_key, plan.degree, len(plan.coeff_modulus))
        count = plan.degree // 2
        drawn = np.frombuffer(secrets.token_bytes(4 * count), dtype="<u4").astype(np.int64) % (2 * _LARGEST + 1)
        message, cipher = drawn - _LARGEST, sealapi.Ciphertext(context)
        if self._encoder is None:
            low = FINE_BITS - plan.plain_bits
            plain = sealio.make_plaintext(context, message << low, 1 << FINE_BITS)
        else:
            plain = sealapi.Plaintext()
            self._encoder.encode(message.astype(np.float64).tolist(), 2.0**CKKS_SCALE_BITS, plain)
        with sealio.guarded("encrypting with the public key"):
            sealapi.Encryptor(context, key).encrypt(plain, cipher)
        return bool(np.abs(self._numbers(cipher, count) - message).max() < _ERROR)

    def _numbers(self, cipher: Any, count: int) -> AnyArray:
        """The first `count` numbers of a ciphertext, float64: slots, or coefficients in integers of the plan."""
        plain = sealapi.Plaintext()
        with sealio.guarded("decrypting with a key that was found"):
            self._decryptor.decrypt(cipher, plain)
            if self._encoder is not None:
                return np.asarray(self._encoder.decode_double(plain)[:count], dtype=np.float64)
        fine = sealio.plaintext_values(plain, np.arange(count, dtype=np.int64), 1 << FINE_BITS)
        low = FINE_BITS - self._plan.plain_bits
        return ((fine + (1 << (low - 1))) >> low).astype(np.float64)

    def read_head(self, public: PublicMaterial, head: HeadCiphertexts) -> tuple[AnyArray, AnyArray]:
        """Weights float64 [K, D] and biases [K] of an encrypted linear head, in units of its scale.

        That scale, one factor for all of them, is nowhere in the ciphertexts: it went to the key holder.

        Raises:
            SchemeError: the head is damaged or was encrypted for other keys.
        """
        plan = self._plan
        check_head(public, head)
        if plan.scheme == "ckks":
            rows = np.stack([self._numbers(cipher, plan.columns) for cipher in load_head(public, head)])
            return rows[:, :-1] / plan.feature_norm, rows[:, -1]
        tiles = head_residues(public, head).reshape(-1, 2, plan.degree)
        packed = [self._numbers(sealio.make_ciphertext(self._context, tile), plan.degree) for tile in tiles]
        shape = (plan.class_tiles, plan.feature_tiles, plan.degree)
        whole = plan.layout.unpack_weights(np.stack(packed).astype(np.int64).reshape(shape))
        return whole[:, :-1] * (2.0**plan.feature_bits / plan.feature_norm), whole[:, -1].astype(np.float64)
