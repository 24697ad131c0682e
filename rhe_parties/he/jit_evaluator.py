"""The encrypted head on a CPU, compiled: quantise, lift, pack, transform, multiply, transform back, serialise.

The head is transformed once and kept in the order in which the products read it, so that a request streams it once
from memory: [N/CHUNK, class tiles, feature tiles, 2, CHUNK] int64, 8 bytes per residue. Several request polynomials
share one pass. Every reply equals that of the other evaluators byte by byte, for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import ParameterError
from rhe_parties.he import jit_ring
from rhe_parties.he.jit_tables import make_ring
from rhe_parties.he.jit_vectors import CHUNK
from rhe_parties.he.plan import HeadPlan
from rhe_parties.types import AnyArray, IntArray

__all__ = ["JitEvaluator"]

_WORKSPACE_BYTES = 16 * 2**20  # of transformed requests: a share of a usual last-level cache


class JitEvaluator:
    """Evaluator of one encrypted head with `threads` threads; compiles at its first use on a machine.

    Args:
        plan: the head's plan.
        residues: uint64 [class tiles, feature tiles, 2, N], each below q.
        threads: threads that share the work of one call.

    Raises:
        ParameterError: the ring, the shape of the head, its residues or the number of threads are not allowed.
    """

    def __init__(self, plan: HeadPlan, residues: npt.NDArray[np.uint64], threads: int = 1) -> None:
        prime, degree = plan.prime, plan.degree
        ring = make_ring(degree, prime)
        _check(plan, residues, threads)
        self._plan, self._ring, self._threads = plan, ring, threads
        self._class_tiles, self._tiles = residues.shape[:2]
        self._limit = float(2**plan.feature_bits)
        self._lift = plan.feature_bits if plan.hidden else 0
        self._starts = _tile_starts(plan.features, bool(plan.hidden), plan.tile_width, self._tiles)
        self._checks = np.ascontiguousarray(plan.check_positions, dtype=np.int64)
        self._head = np.empty((degree // CHUNK, self._class_tiles, self._tiles, 2, CHUNK), dtype=np.int64)
        jit_ring.load_head(np.ascontiguousarray(residues), pow(degree, -1, prime), self._head, ring)
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._lock = Lock()
        self._requests = np.empty((0, degree // CHUNK, self._tiles, CHUNK), dtype=np.int64)
        self._sums = np.empty((0, self._class_tiles, 2, degree), dtype=np.int64)
        for dtype in (np.float32, np.float64):
            self.evaluate(
                np.zeros((1, plan.features), dtype), np.zeros((1, self._class_tiles, self._checks.size), np.int64)
            )

    def evaluate(self, features: AnyArray, masks: IntArray) -> tuple[list[bytes], int]:
        """Replies without checksum, r outermost, then the class tile, and the number of saturated inputs.

        Args:
            features: finite, [B, d].
            masks: int64 [R, class tiles, check positions] in [0, t), R = ceil(B / batch).

        Raises:
            ParameterError: features or masks of another shape.
        """
        plan, count = self._plan, len(features)
        rounds = -(-count // plan.batch)
        for given, allowed in (
            (features.shape, (count, plan.features)),
            (masks.shape, (rounds, self._class_tiles, self._checks.size)),
        ):
            if given != allowed:
                raise ParameterError(f"an array of shape {list(given)} is not allowed (allowed: {list(allowed)})")
        if features.dtype not in (np.float32, np.float64):
            features = features.astype(np.float64)
        whole = np.empty((count, plan.features), dtype=np.int32)
        scale = self._limit / plan.feature_norm
        saturated = int(jit_ring.quantise(np.ascontiguousarray(features), scale, self._limit, whole))
        masks = np.ascontiguousarray(masks, dtype=np.int64)
        replies: list[bytes] = []
        with self._lock:
            group = self._reserve(rounds)
            for first in range(0, rounds, group):
                last = min(first + group, rounds)
                part = whole[first * plan.batch : last * plan.batch]
                replies += self._evaluate_group(part, masks[first:last], last - first)
        return replies, saturated

    def _reserve(self, rounds: int) -> int:
        """Request polynomials per pass over the head, with room for them."""
        each = self._tiles * self._plan.degree * 8
        group = max(1, min(rounds, int(_WORKSPACE_BYTES // each)))
        if group > len(self._requests):
            self._requests = np.empty((group, *self._requests.shape[1:]), dtype=np.int64)
            self._sums = np.empty((group, *self._sums.shape[1:]), dtype=np.int64)
        return group

    def _evaluate_group(self, whole: npt.NDArray[np.int32], masks: IntArray, rounds: int) -> list[bytes]:
        plan, ring, batch = self._plan, self._ring, self._plan.batch
        stride = plan.tile_classes * plan.tile_width
        size = (plan.degree + batch * plan.tile_classes + self._checks.size) * plan.word_bytes
        replies = np.empty((rounds, self._class_tiles, -(-size // 8)), dtype=np.uint64)
        requests, sums = self._requests[:rounds], self._sums[:rounds]
        shape = (batch, stride, plan.tile_width, plan.tile_classes, plan.classes)
        reply = (plan.plain_modulus, plan.reply_shift, plan.word_bytes)
        transform = (whole, self._starts, self._lift, shape, requests, ring)
        finish = (sums, len(whole), shape, self._checks, masks, reply, replies, ring)
        if self._pool is None:
            jit_ring.evaluate_group(transform, self._head, finish)
        else:
            _share(self._pool, self._threads, rounds * self._tiles, jit_ring.transform, transform)
            product = (self._head, requests, sums, ring)
            _share(self._pool, self._threads, plan.degree // CHUNK, jit_ring.multiply, product)
            _share(self._pool, self._threads, rounds * self._class_tiles, jit_ring.finish, finish)
        # Words are in this machine's order of bytes, the wire is little-endian.
        replies = replies.astype("<u8", copy=False).view(np.uint8)
        return [
            replies[r, k, : self._reply_size(min(batch, len(whole) - r * batch), k)].tobytes()
            for r in range(rounds)
            for k in range(self._class_tiles)
        ]

    def _reply_size(self, count: int, class_tile: int) -> int:
        plan = self._plan
        outputs = count * min(plan.tile_classes, plan.classes - class_tile * plan.tile_classes)
        return (plan.degree + outputs + self._checks.size) * plan.word_bytes


def _share(pool: ThreadPoolExecutor, parts: int, total: int, work: Callable[..., None], rest: tuple[Any, ...]) -> None:
    """`work(first, last, *rest)` for `parts` ranges that make up 0 to `total`, at the same time."""
    bounds = [total * i // parts for i in range(parts + 1)]
    for done in [pool.submit(work, a, b, *rest) for a, b in pairwise(bounds)]:
        done.result()


def _check(plan: HeadPlan, residues: npt.NDArray[np.uint64], threads: int) -> None:
    """Refuse what compiled code, which checks no bounds, could not survive."""
    allowed = (plan.class_tiles, plan.feature_tiles, 2, plan.degree)
    if residues.dtype != np.uint64 or residues.shape != allowed:
        text = f"a head of {residues.dtype} {list(residues.shape)} is not allowed (allowed: uint64 {list(allowed)})"
        raise ParameterError(text)
    if residues.max() >= plan.prime:
        raise ParameterError(f"residue {residues.max()} of the head is not allowed (allowed: 0 to {plan.prime - 1})")
    if threads < 1:
        raise ParameterError(f"{threads} threads are not allowed (allowed: 1 or more)")
    if not 1 <= plan.feature_bits <= 30 or 2**plan.feature_bits >= plan.prime // 2:
        text = f"allowed: 1 to 30, and 2^bits below half of {plan.prime}"
        raise ParameterError(f"feature_bits {plan.feature_bits} is not allowed ({text})")
    used = plan.batch * plan.tile_classes * plan.tile_width
    if min(plan.batch, plan.tile_classes, plan.tile_width) < 1 or used > plan.degree:
        raise ParameterError(f"a layout of {used} coefficients is not allowed (allowed: 1 to {plan.degree})")
    if not 4 <= plan.word_bytes <= 8 or plan.prime >> plan.reply_shift >= 1 << (8 * plan.word_bytes):
        text = f"{plan.word_bytes} bytes for q >> {plan.reply_shift} are not allowed (allowed: enough, 4 to 8)"
        raise ParameterError(text)
    for position in plan.check_positions:
        if not 0 <= position < plan.degree:
            raise ParameterError(f"check position {position} is not allowed (allowed: 0 to {plan.degree - 1})")


def _tile_starts(features: int, lifted: bool, width: int, tiles: int) -> IntArray:
    """Where the columns of each tile start, int64 [T, 2]: row and column of the triangle of products.

    Row i < d holds u_i·u_i … u_i·u_{d-1}, row d the features, row d+1 the constant.
    """
    lengths = [*(range(features, 0, -1) if lifted else [0] * features), features, 1]
    ends = np.cumsum(lengths)
    first = np.arange(tiles) * width
    rows = np.searchsorted(ends, first, side="right")
    return np.stack([rows, first - (ends - lengths)[rows]], axis=1).astype(np.int64)
