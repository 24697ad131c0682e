"""Scheme `plain`: the integer twin of `bfv`. NO PROTECTION: its "ciphertexts" are the numbers themselves.

Same plan, quantisation and packing as `bfv`; the logits are computed from the unpacked integers, without any
polynomial, so the twin also judges the layout. Bytes are little-endian int64: the packed polynomials of the head,
and the logits.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import numpy as np

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.quantise import Layer, lift_columns, quantise_features, quantise_head
from rhe_parties.he.reply import reply_positions
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
    "PlainCustody",
    "PlainEncryptor",
    "PlainEvaluator",
    "custody_of",
    "fresh_keys",
    "make_encryptor",
    "make_evaluator",
    "read_polynomial",
]

_TAG_BYTES = 16


def read_polynomial(plan: HeadPlan, data: bytes) -> IntArray:
    """The N coefficients in the bytes of one polynomial of the head.

    Raises:
        SchemeError: BAD_CIPHERTEXT for another length or values outside ±t/2.
    """
    return _read(plan, data, plan.degree, "polynomial")


def _read(plan: HeadPlan, data: bytes, count: int, what: str) -> IntArray:
    if len(data) != 8 * count:
        text = f"a plain {what} of {len(data)} bytes is not allowed (allowed: {8 * count})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    values = np.frombuffer(data, dtype="<i8").astype(np.int64)
    half = plan.plain_modulus // 2
    if ((values < -half) | (values >= half)).any():
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, f"a plain {what} has numbers beyond ±{half}")
    return values


class PlainCustody(NoCopies):
    """Key holder without a key: `public_key` is a random tag that only tells keys apart."""

    __slots__ = ("_public",)

    def __init__(self, public: PublicMaterial) -> None:
        self._public = public

    def __repr__(self) -> str:
        return f"PlainCustody(fingerprint={self._public.fingerprint[:16]!r})"

    @property
    def public(self) -> PublicMaterial:
        """The plan and the tag."""
        return self._public

    def decrypt(self, logits: LogitCiphertexts) -> IntArray:
        """Integer logits [B, K]; see `KeyCustody.decrypt`. Without a key foreign replies pass."""
        plan = self._public.plan
        check_reply(plan, logits)
        result = np.zeros((logits.batch, plan.classes), dtype=np.int64)
        for index, data in enumerate(logits.ciphertexts):
            request, class_tile = divmod(index, plan.class_tiles)
            rows = slice(request * plan.batch, min(logits.batch, (request + 1) * plan.batch))
            positions, _ = reply_positions(plan, class_tile, rows.stop - rows.start)
            first = class_tile * plan.tile_classes
            values = _read(plan, data, positions.size, "reply").reshape(positions.shape)
            result[rows, first : first + positions.shape[1]] = values
        return result


class PlainEncryptor:
    """Data owner's side of the twin: packs, does not encrypt."""

    def __init__(self, public: PublicMaterial) -> None:
        self._public = public

    def encrypt(self, weight: AnyArray, bias: AnyArray, hidden: Sequence[Layer] = ()) -> tuple[HeadCiphertexts, float]:
        """Packed integer weights in the clear; see `HeadEncryptor.encrypt`."""
        plan = self._public.plan
        head = quantise_head(plan, weight, bias, hidden)
        polynomials = plan.layout.pack_weights(head.weights).reshape(-1, plan.degree)
        data = tuple(row.astype("<i8").tobytes() for row in polynomials)
        return HeadCiphertexts(data, self._public.fingerprint), head.unit


class PlainEvaluator:
    """Host's side of the twin."""

    def __init__(self, public: PublicMaterial, head: HeadCiphertexts) -> None:
        self._plan = plan = public.plan
        polynomials = np.stack([read_polynomial(plan, data) for data in head.ciphertexts])
        packed = polynomials.reshape(plan.class_tiles, plan.feature_tiles, plan.degree)
        self._weights = plan.layout.unpack_weights(packed)

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        """Integer logits; see `HeadEvaluator.evaluate`."""
        plan = self._plan
        integers, saturated = quantise_features(plan, features)
        replies = []
        for start in range(0, len(integers), plan.batch):
            logits = lift_columns(plan, integers[start : start + plan.batch]) @ self._weights.T
            for first in range(0, plan.classes, plan.tile_classes):
                replies.append(logits[:, first : first + plan.tile_classes].astype("<i8").tobytes())
        return LogitCiphertexts(tuple(replies), len(integers)), saturated


def fresh_keys(plan: HeadPlan) -> tuple[None, PublicMaterial]:
    """See `scheme.fresh_keys`; there is no secret."""
    return None, public_material(plan, secrets.token_bytes(_TAG_BYTES))


def custody_of(secret: None, public: PublicMaterial) -> PlainCustody:
    """See `scheme.custody_of`."""
    del secret
    return PlainCustody(public)


def make_encryptor(public: PublicMaterial) -> PlainEncryptor:
    """See `scheme.make_encryptor`."""
    return PlainEncryptor(public)


def make_evaluator(public: PublicMaterial, head: HeadCiphertexts, backend: str, device: str) -> PlainEvaluator:
    """See `scheme.make_evaluator`; there is only one evaluator."""
    del backend, device
    return PlainEvaluator(public, head)
