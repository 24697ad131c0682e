"""The bytes of an encrypted reply: only what decryption needs, and of that only the highest bits.

Decrypting coefficient i of (c0, c1) needs all of c1 but only c0[i]. So a reply carries the N coefficients of c1
and c0 at the positions of the logits, each cut to its highest bits (Brakerski, Vaikuntanathan 2011, modulus
switching, here to a power of two). What c0 holds elsewhere, partial sums of weights and features, never leaves
the host; c1 does not depend on the weights at all. A few further coefficients carry a fresh uniform mask: their
content is noise, but their *encryption* noise shows the key holder whether the reply was made for its key.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.types import IntArray

__all__ = ["ReplyPolynomials", "pack_reply", "reply_positions", "unpack_reply"]

UInt64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class ReplyPolynomials:
    """Residues uint64 [N] of both polynomials; c0 is zero wherever the reply does not carry it."""

    c0: UInt64Array
    c1: UInt64Array


def reply_positions(plan: HeadPlan, class_tile: int, inputs: int) -> tuple[IntArray, IntArray]:
    """Positions of c0 on the wire: logits int64 [inputs, classes of the tile], checks int64 [check_count]."""
    return plan.layout.output_positions(class_tile, inputs), plan.check_positions


def pack_reply(plan: HeadPlan, c0: UInt64Array, c1: UInt64Array, logits: IntArray, masks: IntArray) -> bytes:
    """The wire form of residues c0, c1 uint64 [N], with masks int64 [check_count] added at the check positions."""
    q, t = plan.prime, plan.plain_modulus
    lifted = np.array([(q * int(mask) + t // 2) // t for mask in masks], dtype=np.uint64)
    checks = (c0[plan.check_positions] + lifted) % np.uint64(q)
    values = np.concatenate([c1, c0[logits.ravel()], checks]) >> np.uint64(plan.reply_shift)
    words = values.astype("<u8").view(np.uint8).reshape(-1, 8)[:, : plan.word_bytes]
    return words.tobytes()


def unpack_reply(plan: HeadPlan, data: bytes, logits: IntArray) -> ReplyPolynomials:
    """Residues from the wire form; what was cut off is replaced by the middle of its range.

    Raises:
        SchemeError: BAD_CIPHERTEXT for another length, residues beyond q, or a transparent reply (c1 mostly zero:
            anybody could read it, so nobody honest sent it).
    """
    count = plan.degree + logits.size + plan.check_count
    if len(data) != count * plan.word_bytes:
        text = f"a reply of {len(data)} bytes is not allowed (allowed: {count * plan.word_bytes})"
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, text)
    words = np.zeros((count, 8), dtype=np.uint8)
    words[:, : plan.word_bytes] = np.frombuffer(data, dtype=np.uint8).reshape(count, plan.word_bytes)
    cut = words.view("<u8").ravel().astype(np.uint64)
    shift = np.uint64(plan.reply_shift)
    if (cut > np.uint64((plan.prime - 1) >> plan.reply_shift)).any():
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, "a reply holds residues beyond the modulus")
    if np.count_nonzero(cut[: plan.degree]) < plan.degree // 2:
        raise SchemeError(FailureCode.BAD_CIPHERTEXT, "a reply is transparent: it hides nothing")
    middle = np.uint64((1 << plan.reply_shift) >> 1)
    values = np.minimum((cut << shift) + middle, np.uint64(plan.prime - 1))
    c0 = np.zeros(plan.degree, dtype=np.uint64)
    c0[np.concatenate([logits.ravel(), plan.check_positions])] = values[plan.degree :]
    return ReplyPolynomials(c0, values[: plan.degree])
