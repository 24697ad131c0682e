"""Scheme `bfv`: exact encrypted heads by coefficient packing, through SEAL; see `layout` and `noise`.

Encryption is with the public key (Fan, Vercauteren 2012); the host multiplies by plain features and adds,
so there are no evaluation keys. SEAL draws all encryption randomness from the operating system.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.masking import masks
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.quantise import quantise_features, quantise_head
from rhe_parties.he.scheme import (
    HeadCiphertexts,
    LogitCiphertexts,
    NoCopies,
    PublicMaterial,
    check_reply,
    public_material,
)
from rhe_parties.types import AnyArray, IntArray

__all__ = [
    "BfvCustody",
    "BfvEncryptor",
    "BfvEvaluator",
    "load_head",
    "make_custody",
    "make_encryptor",
    "make_evaluator",
]


def _context(plan: HeadPlan) -> Any:
    return sealio.make_context(plan.degree, plan.coeff_modulus, plan.plain_modulus)


def _reply_level(plan: HeadPlan, context: Any) -> list[int]:
    level = context.first_context_data()
    for _ in range(len(plan.data_primes) - plan.reply_primes):
        level = level.next_context_data()
    return list(level.parms_id())


class BfvCustody(NoCopies):
    """Key holder's side: the secret lives inside SEAL's decryptor, which has no way to read it out."""

    __slots__ = ("__decryptor", "_context", "_level", "_public")

    def __init__(self, plan: HeadPlan) -> None:
        self._context = context = _context(plan)
        self._level = _reply_level(plan, context)
        generator = sealapi.KeyGenerator(context)
        public_key = sealapi.PublicKey()
        generator.create_public_key(public_key)
        self.__decryptor = sealapi.Decryptor(context, generator.secret_key())
        self._public = public_material(plan, sealio.to_bytes(public_key))

    def __repr__(self) -> str:
        return f"BfvCustody(fingerprint={self._public.fingerprint[:16]!r})"

    @property
    def public(self) -> PublicMaterial:
        """The plan and the public key."""
        return self._public

    def decrypt(self, logits: LogitCiphertexts) -> IntArray:
        """Integer logits [B, K]; see `KeyCustody.decrypt`.

        Every ciphertext must have the noise budget that an honest host leaves. A ciphertext under a foreign
        key of equal parameters decrypts to uniform noise: it passes with a probability of about 2^-N. What
        remains is a host that encrypts logits of its own choice under the right public key.
        """
        plan = self._public.plan
        check_reply(plan, logits)
        result = np.zeros((logits.batch, plan.classes), dtype=np.int64)
        for index, data in enumerate(logits.ciphertexts):
            request, class_tile = divmod(index, plan.class_tiles)
            rows = slice(request * plan.batch, min(logits.batch, (request + 1) * plan.batch))
            positions = plan.layout.output_positions(class_tile, rows.stop - rows.start)
            first = class_tile * plan.tile_classes
            result[rows, first : first + positions.shape[1]] = self._open(data, positions)
        return result

    def _open(self, data: bytes, positions: IntArray) -> IntArray:
        plan = self._public.plan
        value = sealio.load_ciphertext(self._context, data, plan.degree, plan.reply_primes, self._level)
        plain = sealapi.Plaintext()
        with sealio.guarded("decrypting a reply"):
            budget = self.__decryptor.invariant_noise_budget(value)
            self.__decryptor.decrypt(value, plain)
        if budget < plan.budget_floor:
            text = (
                f"a reply has {budget} bits of noise budget, an honest one at least {plan.budget_floor}: "
                "it was made for another key or tampered with"
            )
            raise SchemeError(FailureCode.WRONG_KEY, text)
        return sealio.plaintext_values(plain, positions, plan.plain_modulus)


class BfvEncryptor:
    """Data owner's side: packs the integer head and encrypts it with the public key."""

    def __init__(self, public: PublicMaterial) -> None:
        self._public, plan = public, public.plan
        self._context = _context(plan)
        key = sealio.load_public_key(self._context, public.public_key, plan.degree, len(plan.coeff_modulus))
        with sealio.guarded("using a public key", FailureCode.WRONG_KEY):
            self._encryptor = sealapi.Encryptor(self._context, key)

    def encrypt(self, weight: AnyArray, bias: AnyArray) -> tuple[HeadCiphertexts, float]:
        """See `HeadEncryptor.encrypt`."""
        plan = self._public.plan
        head = quantise_head(plan, weight, bias)
        data = []
        for row in plan.layout.pack_weights(head.weights).reshape(-1, plan.degree):
            value = sealapi.Ciphertext(self._context)
            self._encryptor.encrypt(sealio.make_plaintext(self._context, row, plan.plain_modulus), value)
            data.append(sealio.with_checksum(sealio.to_bytes(value)))
        return HeadCiphertexts(tuple(data), self._public.fingerprint), head.unit


def load_head(public: PublicMaterial, head: HeadCiphertexts) -> list[Any]:
    """The SEAL ciphertexts of a head, checked.

    Raises:
        SchemeError: BAD_CIPHERTEXT.
    """
    plan, context = public.plan, _context(public.plan)
    level = list(context.first_parms_id())
    primes = len(plan.data_primes)
    return [sealio.load_ciphertext(context, data, plan.degree, primes, level) for data in head.ciphertexts]


class BfvEvaluator:
    """Host's side: plain × cipher products in transform form, then masking, then the reply's modulus."""

    def __init__(self, public: PublicMaterial, head: HeadCiphertexts) -> None:
        self._plan = plan = public.plan
        self._context = _context(plan)
        self._data_level = list(self._context.first_parms_id())
        self._reply_level = _reply_level(plan, self._context)
        self._evaluator = sealapi.Evaluator(self._context)
        values = load_head(public, head)
        with sealio.guarded("preparing the encrypted head"):
            for value in values:
                self._evaluator.transform_to_ntt_inplace(value)
        tiles = plan.feature_tiles
        self._head = [values[first : first + tiles] for first in range(0, len(values), tiles)]

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        """See `HeadEvaluator.evaluate`."""
        plan = self._plan
        integers, saturated = quantise_features(plan, features)
        columns = np.concatenate([integers, np.ones((len(integers), 1), dtype=np.int64)], axis=1)
        replies: list[bytes] = []
        with sealio.guarded("evaluating the encrypted head", FailureCode.INTERNAL):
            for start in range(0, len(columns), plan.batch):
                replies += self._request(columns[start : start + plan.batch])
        return LogitCiphertexts(tuple(replies), len(integers)), saturated

    def _request(self, columns: IntArray) -> list[bytes]:
        plan = self._plan
        inputs = [self._encode(tile) for tile in plan.layout.pack_features(columns)]
        return [
            self._reply(tiles, inputs, plan.layout.output_positions(class_tile, len(columns)))
            for class_tile, tiles in enumerate(self._head)
        ]

    def _encode(self, tile: IntArray) -> Any:
        """The transformed plaintext of one feature tile, or None for zeros (SEAL refuses those)."""
        if not tile.any():
            return None
        value = sealio.make_plaintext(self._context, tile, self._plan.plain_modulus)
        self._evaluator.transform_to_ntt_inplace(value, self._data_level)
        return value

    def _reply(self, tiles: list[Any], inputs: list[Any], keep: IntArray) -> bytes:
        plan, evaluator = self._plan, self._evaluator
        total, product = None, sealapi.Ciphertext(self._context)
        for tile, encoded in zip(tiles, inputs, strict=True):
            if encoded is None:
                continue
            if total is None:
                total = sealapi.Ciphertext(self._context)
                evaluator.multiply_plain(tile, encoded, total)
            else:
                evaluator.multiply_plain(tile, encoded, product)
                evaluator.add_inplace(total, product)
        # The constant feature is never zero, so there is always one product.
        evaluator.transform_from_ntt_inplace(total)
        mask = masks(1, plan.degree, plan.plain_modulus, keep)[0]
        evaluator.add_plain_inplace(total, sealio.make_plaintext(self._context, mask, plan.plain_modulus))
        if self._reply_level != self._data_level:
            evaluator.mod_switch_to_inplace(total, self._reply_level)
        return sealio.with_checksum(sealio.to_bytes(total))


def make_custody(plan: HeadPlan) -> BfvCustody:
    """See `scheme.make_custody`."""
    return BfvCustody(plan)


def make_encryptor(public: PublicMaterial) -> BfvEncryptor:
    """See `scheme.make_encryptor`."""
    return BfvEncryptor(public)


def make_evaluator(public: PublicMaterial, head: HeadCiphertexts) -> BfvEvaluator:
    """See `scheme.make_evaluator`."""
    return BfvEvaluator(public, head)
