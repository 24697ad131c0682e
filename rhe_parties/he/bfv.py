"""Scheme `bfv`: exact encrypted heads by coefficient packing, through SEAL; see `layout` and `noise`.

Encryption is with the public key (Fan, Vercauteren 2012); the host multiplies by plain features and adds,
so there are no evaluation keys. SEAL draws all encryption randomness from the operating system.

SEAL is told a plain modulus of 2^52, far finer than the plan's t: logits are encrypted in the highest bits, so
the lower bits of a decrypted coefficient show its noise, and each single coefficient can be judged by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, NoiseError
from rhe_parties.he import sealio
from rhe_parties.he.evaluators import Evaluator, load_evaluator
from rhe_parties.he.masking import fresh_masks
from rhe_parties.he.plan import FINE_BITS, HeadPlan
from rhe_parties.he.quantise import Layer, checked_features, quantise_head
from rhe_parties.he.reply import reply_positions, unpack_reply
from rhe_parties.he.scheme import (
    HeadCiphertexts,
    LogitCiphertexts,
    NoCopies,
    PublicMaterial,
    check_reply,
    public_material,
)
from rhe_parties.he.seal_format import read_ciphertext
from rhe_parties.types import AnyArray, IntArray

__all__ = [
    "BfvCustody",
    "BfvEncryptor",
    "BfvEvaluator",
    "custody_of",
    "fresh_keys",
    "head_residues",
    "make_encryptor",
    "make_evaluator",
]


class BfvCustody(NoCopies):
    """Key holder's side: the secret lives inside SEAL's decryptor, which has no way to read it out.

    Args:
        secret: SEAL's secret key; the caller keeps none.
        public: plan and public key that belong to it.
        noise_check: whether replies noisier than honest ones are refused; without, they are rounded to some logit.
    """

    __slots__ = ("__decryptor", "_context", "_public", "_tolerance")

    def __init__(self, secret: Any, public: PublicMaterial, noise_check: bool = True) -> None:
        plan = public.plan
        self._context = sealio.plan_context(plan)
        self.__decryptor = sealapi.Decryptor(self._context, secret)
        self._public = public
        # The bound on honest noise, in the units of 1/2^52 that decryption shows.
        honest = math.ceil(2.0 ** (plan.noise_bits + FINE_BITS) / plan.prime) + 1
        self._tolerance = honest if noise_check else 1 << FINE_BITS

    def __repr__(self) -> str:
        return f"BfvCustody(fingerprint={self._public.fingerprint[:16]!r})"

    @property
    def public(self) -> PublicMaterial:
        """The plan and the public key."""
        return self._public

    def decrypt(self, logits: LogitCiphertexts) -> IntArray:
        """Integer logits [B, K]; see `KeyCustody.decrypt`.

        Every coefficient on the wire must have no more noise than an honest host leaves. Under a foreign key
        the noise is uniform: all coefficients of a reply polynomial pass with a probability of 2^-40 at most.
        What remains is a host that encrypts logits of its own choice under the right public key.
        """
        plan = self._public.plan
        check_reply(plan, logits)
        result = np.zeros((logits.batch, plan.classes), dtype=np.int64)
        for index, data in enumerate(logits.ciphertexts):
            request, class_tile = divmod(index, plan.class_tiles)
            rows = slice(request * plan.batch, min(logits.batch, (request + 1) * plan.batch))
            positions, checks = reply_positions(plan, class_tile, rows.stop - rows.start)
            first = class_tile * plan.tile_classes
            values = self._open(data, positions, checks)
            result[rows, first : first + positions.shape[1]] = values.reshape(positions.shape)
        return result

    def _open(self, data: bytes, positions: IntArray, checks: IntArray) -> IntArray:
        """Logits at `positions`, flat; noise is judged there and at `checks`."""
        plan = self._public.plan
        residues = unpack_reply(plan, sealio.without_checksum(data), positions)
        value = sealio.make_ciphertext(self._context, np.stack([residues.c0, residues.c1]))
        plain = sealapi.Plaintext()
        with sealio.guarded("decrypting a reply"):
            self.__decryptor.decrypt(value, plain)
        fine = sealio.plaintext_values(plain, np.concatenate([positions.ravel(), checks]), 1 << FINE_BITS)
        low = FINE_BITS - plan.plain_bits
        rounded = (fine + (1 << (low - 1))) >> low
        noise = np.abs(fine - (rounded << low))
        if int(noise.max()) > self._tolerance:
            most, allowed = math.log2(int(noise.max()) + 1), math.log2(self._tolerance)
            text = (
                f"a reply has noise of 2^{most:.1f} units, an honest one at most 2^{allowed:.1f}: "
                "it was made for another key or tampered with"
            )
            raise NoiseError(FailureCode.WRONG_KEY, text)
        half = plan.plain_modulus // 2
        centred: IntArray = ((rounded + half) & (plan.plain_modulus - 1)) - half
        return centred[: positions.size]


class BfvEncryptor:
    """Data owner's side: packs the integer head and encrypts it with the public key."""

    def __init__(self, public: PublicMaterial) -> None:
        self._public, plan = public, public.plan
        self._context = sealio.plan_context(plan)
        key = sealio.load_public_key(self._context, public.public_key, plan.degree, len(plan.coeff_modulus))
        with sealio.guarded("using a public key", FailureCode.WRONG_KEY):
            self._encryptor = sealapi.Encryptor(self._context, key)

    def zero(self) -> npt.NDArray[np.uint64]:
        """Residues uint64 [2, N] of a fresh encryption of zero."""
        value = sealapi.Ciphertext(self._context)
        nothing = np.zeros(self._public.plan.degree, dtype=np.int64)
        self._encryptor.encrypt(sealio.make_plaintext(self._context, nothing, 1 << FINE_BITS), value)
        residues: npt.NDArray[np.uint64] = sealio.ciphertext_residues(value)[:, 0]
        return residues

    @property
    def plan(self) -> HeadPlan:
        """The plan that heads are encrypted for."""
        return self._public.plan

    def encrypt(self, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer] = ()) -> tuple[HeadCiphertexts, float]:
        """See `HeadEncryptor.encrypt`."""
        head = quantise_head(self._public.plan, weight, bias, hidden)
        return self.encrypt_integers(head.weights), head.unit

    def encrypt_integers(self, weights: IntArray) -> HeadCiphertexts:
        """Integer weights [K, columns] of the plan, each modulo t, encrypted."""
        plan, data = self._public.plan, []
        low = FINE_BITS - plan.plain_bits
        for row in plan.layout.pack_weights(weights).reshape(-1, plan.degree):
            value = sealapi.Ciphertext(self._context)
            self._encryptor.encrypt(sealio.make_plaintext(self._context, row << low, 1 << FINE_BITS), value)
            data.append(sealio.with_checksum(sealio.to_bytes(value)))
        return HeadCiphertexts(tuple(data), self._public.fingerprint)


def head_residues(public: PublicMaterial, head: HeadCiphertexts) -> npt.NDArray[np.uint64]:
    """The residues of an encrypted head, uint64 [class tiles, feature tiles, 2, N], each checked to be below q.

    Raises:
        SchemeError: BAD_CIPHERTEXT.
    """
    plan = public.plan
    level = sealio.parms_id(plan)
    shape = (plan.class_tiles, plan.feature_tiles, 2, plan.degree)
    residues = np.empty(shape, dtype=np.uint64)
    for row, data in zip(residues.reshape(-1, 2, plan.degree), head.ciphertexts, strict=True):
        row[:] = read_ciphertext(sealio.without_checksum(data), plan.degree, plan.prime, level)
    return residues


class BfvEvaluator:
    """Host's side: products with plain features by the chosen evaluator, fresh masks, checksums."""

    def __init__(self, public: PublicMaterial, head: HeadCiphertexts, backend: str, device: str) -> None:
        self._plan = public.plan
        self._evaluator: Evaluator = load_evaluator(public.plan, head_residues(public, head), backend, device)

    @property
    def on_device(self) -> bool:
        """Whether `evaluate` also takes features that lie on the evaluator's device, as a torch tensor."""
        return hasattr(self._evaluator, "evaluate_tensor")

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        """See `HeadEvaluator.evaluate`; a torch tensor stays on its device where `on_device` says so."""
        given: Any = features
        if self.on_device and not isinstance(given, np.ndarray):
            evaluate: Any = getattr(self._evaluator, "evaluate_tensor")  # noqa: B009 - not part of the protocol
        else:
            given, evaluate = checked_features(self._plan, features), self._evaluator.evaluate
        replies, saturated = evaluate(given, fresh_masks(self._plan, len(given)))
        return LogitCiphertexts(tuple(map(sealio.with_checksum, replies)), len(given)), saturated


def fresh_keys(plan: HeadPlan) -> tuple[Any, PublicMaterial]:
    """See `scheme.fresh_keys`."""
    generator = sealapi.KeyGenerator(sealio.plan_context(plan))
    public_key = sealapi.PublicKey()
    generator.create_public_key(public_key)
    return generator.secret_key(), public_material(plan, sealio.to_bytes(public_key))


def custody_of(secret: Any, public: PublicMaterial, noise_check: bool = True) -> BfvCustody:
    """See `scheme.custody_of`."""
    return BfvCustody(secret, public, noise_check)


def make_encryptor(public: PublicMaterial) -> BfvEncryptor:
    """See `scheme.make_encryptor`."""
    return BfvEncryptor(public)


def make_evaluator(public: PublicMaterial, head: HeadCiphertexts, backend: str, device: str) -> BfvEvaluator:
    """See `scheme.make_evaluator`."""
    return BfvEvaluator(public, head, backend, device)
