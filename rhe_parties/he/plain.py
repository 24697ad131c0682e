"""Scheme `plain`: the integer twin of `bfv`. NO PROTECTION: its "ciphertexts" are the numbers themselves.

Same plan, quantisation, packing, polynomial product and masking as `bfv`, computed exactly in 64-bit
integers (the plain modulus is a power of two, so wrapping modulo 2^64 is harmless). Bytes are little-endian
int64 coefficients.
"""

from __future__ import annotations

import secrets

import numpy as np

from rhe_parties.errors import FailureCode, SchemeError
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
    "PlainCustody",
    "PlainEncryptor",
    "PlainEvaluator",
    "make_custody",
    "make_encryptor",
    "make_evaluator",
    "read_polynomial",
]

_TAG_BYTES = 16


def read_polynomial(plan: HeadPlan, data: bytes) -> IntArray:
    """The N coefficients in the bytes of one polynomial.

    Raises:
        SchemeError: BAD_CIPHERTEXT for another length or values outside ±t/2.
    """
    if len(data) != 8 * plan.degree:
        text = f"a plain polynomial of {len(data)} bytes is not allowed (allowed: {8 * plan.degree})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    values = np.frombuffer(data, dtype="<i8").astype(np.int64)
    half = plan.plain_modulus // 2
    if ((values < -half) | (values >= half)).any():
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, f"a plain polynomial has coefficients beyond ±{half}")
    return values


class PlainCustody(NoCopies):
    """Key holder without a key: `public_key` is a random tag that only tells keys apart."""

    __slots__ = ("_public",)

    def __init__(self, plan: HeadPlan) -> None:
        self._public = public_material(plan, secrets.token_bytes(_TAG_BYTES))

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
            positions = plan.layout.output_positions(class_tile, rows.stop - rows.start)
            first = class_tile * plan.tile_classes
            result[rows, first : first + positions.shape[1]] = read_polynomial(plan, data)[positions]
        return result


class PlainEncryptor:
    """Data owner's side of the twin: packs, does not encrypt."""

    def __init__(self, public: PublicMaterial) -> None:
        self._public = public

    def encrypt(self, weight: AnyArray, bias: AnyArray) -> tuple[HeadCiphertexts, float]:
        """Packed integer weights in the clear; see `HeadEncryptor.encrypt`."""
        plan = self._public.plan
        head = quantise_head(plan, weight, bias)
        polynomials = plan.layout.pack_weights(head.weights).reshape(-1, plan.degree)
        data = tuple(row.astype("<i8").tobytes() for row in polynomials)
        return HeadCiphertexts(data, self._public.fingerprint), head.unit


class PlainEvaluator:
    """Host's side of the twin."""

    def __init__(self, public: PublicMaterial, head: HeadCiphertexts) -> None:
        self._plan = plan = public.plan
        polynomials = np.stack([read_polynomial(plan, data) for data in head.ciphertexts])
        self._head = polynomials.reshape(plan.class_tiles, plan.feature_tiles, plan.degree)

    def evaluate(self, features: AnyArray) -> tuple[LogitCiphertexts, int]:
        """Masked integer logits; see `HeadEvaluator.evaluate`."""
        plan = self._plan
        integers, saturated = quantise_features(plan, features)
        columns = np.concatenate([integers, np.ones((len(integers), 1), dtype=np.int64)], axis=1)
        replies: list[bytes] = []
        for start in range(0, len(columns), plan.batch):
            replies += self._request(columns[start : start + plan.batch])
        return LogitCiphertexts(tuple(replies), len(integers)), saturated

    def _request(self, columns: IntArray) -> list[bytes]:
        plan = self._plan
        tiles = plan.layout.pack_features(columns)
        replies = []
        for class_tile in range(plan.class_tiles):
            total = np.zeros(plan.degree, dtype=np.int64)
            for weights, inputs in zip(self._head[class_tile], tiles, strict=True):
                total += _negacyclic(weights, inputs)
            keep = plan.layout.output_positions(class_tile, len(columns))
            total += masks(1, plan.degree, plan.plain_modulus, keep)[0]
            half = plan.plain_modulus // 2
            centred = ((total + half) & (plan.plain_modulus - 1)) - half
            replies.append(centred.astype("<i8").tobytes())
        return replies


def _negacyclic(left: IntArray, right: IntArray) -> IntArray:
    """left·right modulo t^N + 1 and 2^64, for `left` [N] and `right` [n ≤ N]."""
    degree = left.shape[0]
    extended = np.concatenate([-left, left])
    # Row i of the view, read backwards from position N+i, holds left shifted by 0, 1, 2, … with its sign.
    windows = np.lib.stride_tricks.sliding_window_view(extended, right.shape[0])
    first = degree - right.shape[0] + 1
    product: IntArray = windows[first : first + degree] @ right[::-1]
    return product


def make_custody(plan: HeadPlan) -> PlainCustody:
    """See `scheme.make_custody`."""
    return PlainCustody(plan)


def make_encryptor(public: PublicMaterial) -> PlainEncryptor:
    """See `scheme.make_encryptor`."""
    return PlainEncryptor(public)


def make_evaluator(public: PublicMaterial, head: HeadCiphertexts) -> PlainEvaluator:
    """See `scheme.make_evaluator`."""
    return PlainEvaluator(public, head)
