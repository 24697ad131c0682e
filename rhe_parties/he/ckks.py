"""Scheme `ckks`: the paper's way (arXiv 2505.14323) with TenSEAL, the reference and peer in benchmarks.

One CKKS vector [W_k, b_k] per class is encrypted; the host multiplies it slot by slot with the plain
features [x, 1] and adds the slots up by rotations, for which it needs Galois keys of about 18 MB. Weights
are divided by the largest logit that features within the norm bound can give (the head's scale, rounded up to
a coarse grid, which goes to the key holder only) and features by that bound, so honest logits lie in [-1, 1].
Keys and decryption go through SEAL itself, so the secret stays inside SEAL's decryptor and the wire carries
SEAL objects that are checked before TenSEAL gets them. As in the paper, slots other than the first are not
masked, and the approximation error that decryption shows depends on the secret key: only classes should be
released (Li, Micciancio 2021).
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import tenseal
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, NoiseError, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.plan import CKKS_SCALE_BITS, HeadPlan
from rhe_parties.he.quantise import Layer, checked_layers, coarse_scale, normed_features
from rhe_parties.he.scheme import (
    HeadCiphertexts,
    LogitCiphertexts,
    NoCopies,
    PublicMaterial,
    check_reply,
    public_material,
)
from rhe_parties.he.varint import varint
from rhe_parties.types import AnyArray

__all__ = [
    "CkksCustody",
    "CkksEncryptor",
    "CkksEvaluator",
    "custody_of",
    "fresh_keys",
    "load_head",
    "load_reply",
    "make_encryptor",
    "make_evaluator",
]

_SCALE = 2.0**CKKS_SCALE_BITS
_AUTOMATIC = 7
"""TenSEAL's flags: relinearise, rescale and switch moduli by itself."""
_LARGEST_LOGIT = 1.001
"""Honest logits are at most 1 plus an approximation error far below this."""


def _context(plan: HeadPlan) -> Any:
    return sealio.plan_context(plan)


def _field(number: int, value: bytes | float | int) -> bytes:
    """One protobuf field: bytes, double or unsigned integer."""
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    if isinstance(value, float):
        return varint(number << 3 | 1) + struct.pack("<d", value)
    return varint(number << 3) + varint(value)


def _seal_object(message: bytes) -> bytes:
    """The SEAL object, checksummed, in a TenSEAL vector that this process itself has just serialised."""
    start = message.index(b"\x5e\xa1\x10")
    size = int.from_bytes(message[start + 8 : start + 16], "little")
    return sealio.with_checksum(message[start : start + size])


def _tenseal_context(plan: HeadPlan, public_key: bytes, galois_keys: bytes) -> Any:
    """A public TenSEAL context (messages TenSEALContextProto and TenSEALPublicProto) from SEAL objects."""
    keys = _field(1, public_key) if public_key else b""
    keys += _field(2, _AUTOMATIC) + _field(3, _SCALE)
    keys += _field(5, galois_keys) if galois_keys else b""
    with sealio.guarded("setting up TenSEAL", FailureCode.WRONG_KEY):
        return tenseal.context_from(_field(1, _parameters(plan)) + _field(2, keys), n_threads=1)


@lru_cache(maxsize=8)
def _parameters(plan: HeadPlan) -> bytes:
    parameters = sealapi.EncryptionParameters(sealapi.SCHEME_TYPE.CKKS)
    parameters.set_poly_modulus_degree(plan.degree)
    parameters.set_coeff_modulus([sealapi.Modulus(prime) for prime in plan.coeff_modulus])
    return sealio.to_bytes(parameters)


def _vector(context: Any, size: int, data: bytes) -> Any:
    """A TenSEAL vector (message CKKSVectorProto) around a checked SEAL ciphertext."""
    message = _field(1, varint(size)) + _field(2, sealio.without_checksum(data)) + _field(3, _SCALE)
    with sealio.guarded("loading a TenSEAL vector"):
        return tenseal.ckks_vector_from(context, message)


def _checked(plan: HeadPlan, context: Any, data: bytes, primes: int) -> Any:
    """The SEAL ciphertext in `data`, with its level and scale as planned."""
    level = list(context.first_parms_id() if primes == 2 else context.last_parms_id())
    value = sealio.load_ciphertext(context, data, plan.degree, primes, level)
    scale = float(value.scale)
    if scale != _SCALE:
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, f"ciphertext has scale {scale:g} (allowed: {_SCALE:g})")
    return value


class CkksCustody(NoCopies):
    """Key holder's side: the secret lives inside SEAL's decryptor, which has no way to read it out.

    Args:
        secret: SEAL's secret key; the caller keeps none.
        public: plan, public key and Galois keys that belong to it.
    """

    __slots__ = ("__decryptor", "_context", "_encoder", "_public")

    def __init__(self, secret: Any, public: PublicMaterial) -> None:
        self._context = _context(public.plan)
        self._encoder = sealapi.CKKSEncoder(self._context)
        self.__decryptor = sealapi.Decryptor(self._context, secret)
        self._public = public

    def __repr__(self) -> str:
        return f"CkksCustody(fingerprint={self._public.fingerprint[:16]!r})"

    @property
    def public(self) -> PublicMaterial:
        """The plan, the public key and the Galois keys."""
        return self._public

    def decrypt(self, logits: LogitCiphertexts) -> npt.NDArray[np.float64]:
        """Approximate logits [B, K], within [-1, 1] up to the error; see `KeyCustody.decrypt`.

        CKKS has no noise budget. Under a foreign key the first slot is spread over about ±2^25, so it
        passes the range check with a probability of about 2^-25 per class.
        """
        return self._checked_slots(logits, 1)[..., 0]

    def decrypt_slots(self, logits: LogitCiphertexts) -> npt.NDArray[np.float64]:
        """What TenSEAL's `decrypt` gives of each reply: the real parts of all slots, [B, K, N/2]; see `decrypt`.

        Whoever gets two of these and the ciphertexts has the secret key (Li, Micciancio 2021).
        """
        return self._checked_slots(logits, self._public.plan.degree // 2)

    def _checked_slots(self, logits: LogitCiphertexts, count: int) -> npt.NDArray[np.float64]:
        """The first `count` slots of every reply, [B, K, count]; the first slot is the logit."""
        plan = self._public.plan
        check_reply(plan, logits)
        opened = np.array([self._open(data)[:count] for data in logits.ciphertexts], dtype=np.float64)
        values = opened.reshape(logits.batch, plan.classes, count)
        beyond = ~(np.abs(values[..., 0]) <= _LARGEST_LOGIT)
        if beyond.any():
            text = (
                f"{int(beyond.sum())} of {beyond.size} logits lie beyond what any input can give: "
                "the reply was made for another key or tampered with"
            )
            raise NoiseError(FailureCode.WRONG_KEY, text)
        return values

    def _open(self, data: bytes) -> list[float]:
        value = _checked(self._public.plan, self._context, data, 1)
        plain = sealapi.Plaintext()
        with sealio.guarded("decrypting a reply"):
            self.__decryptor.decrypt(value, plain)
            slots: list[float] = self._encoder.decode_double(plain)
            return slots


class CkksEncryptor:
    """Data owner's side: one TenSEAL vector per class."""

    def __init__(self, public: PublicMaterial) -> None:
        self._public, plan = public, public.plan
        sealio.load_public_key(_context(plan), public.public_key, plan.degree, len(plan.coeff_modulus))
        self._context = _tenseal_context(plan, public.public_key, b"")

    def encrypt(self, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer] = ()) -> tuple[HeadCiphertexts, float]:
        """See `HeadEncryptor.encrypt`."""
        plan = self._public.plan
        ((weights, biases),) = checked_layers(plan, weight, bias, hidden)
        with np.errstate(over="ignore"):
            reach = np.linalg.norm(weights, axis=1) * plan.feature_norm + np.abs(biases)
        unit = coarse_scale(float(reach.max()))
        rows = np.concatenate([weights * (plan.feature_norm / unit), biases[:, None] / unit], axis=1)
        vectors = [tenseal.ckks_vector(self._context, row.tolist()).serialize() for row in rows]
        return HeadCiphertexts(tuple(map(_seal_object, vectors)), self._public.fingerprint), unit


def load_head(public: PublicMaterial, head: HeadCiphertexts) -> list[Any]:
    """The SEAL ciphertexts of a head, checked.

    Raises:
        SchemeError: BAD_CIPHERTEXT.
    """
    context = _context(public.plan)
    return [_checked(public.plan, context, data, len(public.plan.data_primes)) for data in head.ciphertexts]


def load_reply(plan: HeadPlan, data: bytes) -> Any:
    """The SEAL ciphertext of one reply, checked.

    Raises:
        SchemeError: BAD_CIPHERTEXT.
    """
    return _checked(plan, _context(plan), data, 1)


class CkksEvaluator:
    """Host's side: TenSEAL's `dot` of each encrypted class vector with the plain features."""

    def __init__(self, public: PublicMaterial, head: HeadCiphertexts) -> None:
        self._plan = plan = public.plan
        load_head(public, head)
        sealio.check_galois_keys(public.evaluation_keys, plan.degree, len(plan.coeff_modulus))
        self._context = _tenseal_context(plan, b"", public.evaluation_keys)
        self._vectors = [_vector(self._context, plan.features + 1, data) for data in head.ciphertexts]

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        """See `HeadEvaluator.evaluate`."""
        values, saturated = normed_features(self._plan, features)
        columns = np.concatenate([values, np.ones((len(values), 1))], axis=1)
        replies = []
        with sealio.guarded("evaluating the encrypted head", FailureCode.INTERNAL):
            for row in columns.tolist():
                replies += [_seal_object(vector.dot(row).serialize()) for vector in self._vectors]
        return LogitCiphertexts(tuple(replies), len(values)), saturated


def fresh_keys(plan: HeadPlan) -> tuple[Any, PublicMaterial]:
    """See `scheme.fresh_keys`."""
    generator = sealapi.KeyGenerator(_context(plan))
    public_key, galois_keys = sealapi.PublicKey(), sealapi.GaloisKeys()
    generator.create_public_key(public_key)
    generator.create_galois_keys(galois_keys)
    public = public_material(plan, sealio.to_bytes(public_key), sealio.to_bytes(galois_keys))
    return generator.secret_key(), public


def custody_of(secret: Any, public: PublicMaterial) -> CkksCustody:
    """See `scheme.custody_of`."""
    return CkksCustody(secret, public)


def make_encryptor(public: PublicMaterial) -> CkksEncryptor:
    """See `scheme.make_encryptor`."""
    return CkksEncryptor(public)


def make_evaluator(public: PublicMaterial, head: HeadCiphertexts, backend: str, device: str) -> CkksEvaluator:
    """See `scheme.make_evaluator`; there is only one evaluator."""
    del backend, device
    return CkksEvaluator(public, head)
