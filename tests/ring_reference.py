"""Slow, independent arithmetic of the encrypted head, which every evaluator must equal bit by bit.

Products are schoolbook convolutions of 64-bit halves, put together as Python integers; there is no transform, no
root of unity and no floating-point quotient. Letters: R request polynomials, N ring degree, T feature tiles,
K' class tiles.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from rhe_parties.he.layout import Layout
from rhe_parties.he.primes import ntt_primes
from rhe_parties.types import AnyArray, IntArray

Residues = npt.NDArray[np.uint64]


def reference_plan(
    features: int,
    classes: int,
    *,
    hidden: tuple[int, ...] = (),
    degree: int = 1024,
    prime: int | None = None,
    tile_width: int = 32,
    tile_classes: int = 1,
    batch: int = 1,
    feature_bits: int = 12,
    feature_norm: float = 8.0,
    plain_modulus: int = 1 << 20,
    reply_bytes: int = 7,
    check_positions: tuple[int, ...] = (),
) -> Any:
    """Any parameters, sound or not, with the attributes of a HeadPlan that evaluators read."""
    prime = ntt_primes(degree, (54,))[0] if prime is None else prime
    columns = features + 1 if not hidden else features * (features + 1) // 2 + features + 1
    layout = Layout(degree, columns, classes, tile_width, tile_classes, batch)
    assert batch * tile_classes * tile_width <= degree
    return SimpleNamespace(
        features=features,
        classes=classes,
        hidden=hidden,
        feature_norm=feature_norm,
        degree=degree,
        coeff_modulus=(prime,),
        prime=prime,
        plain_modulus=plain_modulus,
        feature_bits=feature_bits,
        tile_width=tile_width,
        tile_classes=tile_classes,
        batch=batch,
        reply_bytes=reply_bytes,
        word_bytes=reply_bytes,
        columns=columns,
        feature_tiles=layout.feature_tiles,
        class_tiles=layout.class_tiles,
        layout=layout,
        reply_shift=max(0, prime.bit_length() - 8 * reply_bytes),
        check_positions=np.array(check_positions, dtype=np.int64),
    )


def reference_quantise(plan: Any, features: AnyArray) -> tuple[IntArray, int]:
    """Integers [B, d] and the number of inputs whose norm was too large."""
    limit = 2.0**plan.feature_bits
    rows, saturated = [], 0
    for row in np.asarray(features).astype(np.float64):
        whole = np.clip(np.rint(row * (limit / plan.feature_norm)), -2 * limit, 2 * limit).astype(np.int64)
        norm2 = sum(int(value) ** 2 for value in whole)
        if norm2 > 4**plan.feature_bits:
            saturated += 1
            whole = np.trunc(whole * (limit / np.sqrt(np.float64(norm2)))).astype(np.int64)
        rows.append(whole)
    return np.array(rows, dtype=np.int64).reshape(len(rows), plan.features), saturated


def reference_lift(plan: Any, whole: IntArray) -> IntArray:
    """Columns [B, C] of integers [B, d]."""
    rows = []
    for row in whole.tolist():
        columns = []
        if plan.hidden:
            half = 1 << (plan.feature_bits - 1)
            columns = [
                (row[i] * row[j] + half) >> plan.feature_bits for i in range(len(row)) for j in range(i, len(row))
            ]
        rows.append([*columns, *row, 1])
    return np.array(rows, dtype=np.int64).reshape(len(rows), plan.columns)


def reference_requests(plan: Any, columns: IntArray) -> IntArray:
    """Request polynomials [R, T, N] of columns [B, C]."""
    chunks = [columns[start : start + plan.batch] for start in range(0, len(columns), plan.batch)]
    requests = np.zeros((len(chunks), plan.feature_tiles, plan.degree), dtype=np.int64)
    for r, chunk in enumerate(chunks):
        packed = plan.layout.pack_features(chunk)
        requests[r, :, : packed.shape[1]] = packed
    return requests


def negacyclic_product(left: list[int], right: list[int], prime: int) -> list[int]:
    """left·right modulo t^N + 1 and `prime`; both of N integers, those of `right` small."""
    degree, peak = len(left), max((abs(value) for value in right), default=0)
    support = max((i + 1 for i, value in enumerate(right) if value), default=0)
    if support == 0:
        return [0] * degree
    # |sum| ≤ 2^step · peak · support < 2^62 for every part of `step` bits.
    step = 62 - peak.bit_length() - support.bit_length()
    assert step > 0
    total = [0] * (degree + support - 1)
    for shift in range(0, prime.bit_length(), step):
        part = np.array([(value >> shift) & ((1 << step) - 1) for value in left], dtype=np.int64)
        wide = np.convolve(part, np.array(right[:support], dtype=np.int64))
        total = [old + (new << shift) for old, new in zip(total, wide.tolist(), strict=True)]
    folded = total[:degree]
    for i, value in enumerate(total[degree:]):
        folded[i] -= value
    return [value % prime for value in folded]


def reference_multiply(residues: Residues, requests: IntArray, prime: int) -> Residues:
    """Y [R, K', 2, N] = Σ_tiles residues [K', T, 2, N] · requests [R, T, m ≤ N], residues in [0, prime)."""
    class_tiles, tiles, _, degree = residues.shape
    result = np.zeros((len(requests), class_tiles, 2, degree), dtype=np.uint64)
    for r, k, part in np.ndindex(result.shape[:3]):
        total = [0] * degree
        for tile in range(tiles):
            right = requests[r, tile].tolist()
            right += [0] * (degree - len(right))
            product = negacyclic_product(residues[k, tile, part].tolist(), right, prime)
            total = [(old + new) % prime for old, new in zip(total, product, strict=True)]
        result[r, k, part] = total
    return result


def reference_replies(plan: Any, residues: Residues, features: AnyArray, masks: IntArray) -> tuple[list[bytes], int]:
    """Replies without checksum, r outermost, then k; and the number of saturated inputs."""
    if len(features) == 0:
        return [], 0
    whole, saturated = reference_quantise(plan, features)
    requests = reference_requests(plan, reference_lift(plan, whole))
    products = reference_multiply(residues, requests, plan.prime)
    replies = []
    for r, k in np.ndindex(products.shape[:2]):
        count = min(plan.batch, len(features) - r * plan.batch)
        first, second = products[r, k, 0].tolist(), products[r, k, 1].tolist()
        values = second + [first[p] for p in plan.layout.output_positions(k, count).ravel().tolist()]
        for position, mask in zip(plan.check_positions.tolist(), masks[r, k].tolist(), strict=True):
            extra = (plan.prime * mask + plan.plain_modulus // 2) // plan.plain_modulus
            values.append((first[position] + extra) % plan.prime)
        shifted = [value >> plan.reply_shift for value in values]
        replies.append(b"".join(value.to_bytes(plan.word_bytes, "little") for value in shifted))
    return replies, saturated
