"""Whether a secret key and public material belong together: what the one encrypts the other has to open."""

from __future__ import annotations

import secrets
from typing import Any

import numpy as np
import tenseal.sealapi as sealapi

from rhe_parties.he import sealio
from rhe_parties.he.plan import CKKS_SCALE_BITS, FINE_BITS, HeadPlan
from rhe_parties.he.scheme import NoCopies, PublicMaterial
from rhe_parties.types import AnyArray

__all__ = ["Opening"]

# Fresh ciphertexts of numbers up to this size are decrypted for the proof, to within the error.
_LARGEST, _ERROR = 1000, 1e-3


class Opening(NoCopies):
    """SEAL's secret key of a plan of scheme `bfv` or `ckks`, set to decrypt whatever numbers a ciphertext holds."""

    __slots__ = ("__decryptor", "_context", "_encoder", "_plan")

    def __init__(self, plan: HeadPlan, secret: Any) -> None:
        self._plan = plan
        self._context = sealio.plan_context(plan)
        self.__decryptor = sealapi.Decryptor(self._context, secret)
        self._encoder = sealapi.CKKSEncoder(self._context) if plan.scheme == "ckks" else None

    def opens_fresh(self, public: PublicMaterial) -> bool:
        """Whether it decrypts a fresh ciphertext of random numbers made with the public key.

        Raises:
            SchemeError: WRONG_KEY for a damaged public key, or one for other parameters.
        """
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
        return bool(np.abs(self.numbers(cipher, count) - message).max() < _ERROR)

    def numbers(self, cipher: Any, count: int) -> AnyArray:
        """The first `count` numbers of a ciphertext, float64: slots, or coefficients in integers of the plan."""
        plain = sealapi.Plaintext()
        with sealio.guarded("decrypting to see what a key opens"):
            self.__decryptor.decrypt(cipher, plain)
            if self._encoder is not None:
                return np.asarray(self._encoder.decode_double(plain)[:count], dtype=np.float64)
        fine = sealio.plaintext_values(plain, np.arange(count, dtype=np.int64), 1 << FINE_BITS)
        low = FINE_BITS - self._plan.plain_bits
        return ((fine + (1 << (low - 1))) >> low).astype(np.float64)
