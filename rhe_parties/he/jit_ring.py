"""Every compiled kernel of the encrypted head: transforms, sums of products, packing, exact to the last bit.

The product v·w mod q is v·w - trunc(v·(w/q))·q: the quotient in float64, the rest in int64 that wraps around. How
far a quotient may be off, and where values are reduced for that, is worked out in `jit_tables`. Fast-math stays off,
but for fused multiply-adds, which only make a quotient nearer.

The transform is Longa and Naehrig's (CANS 2016, algorithms 1 and 2) without bit reversal, two levels per pass. A
polynomial is seen as a matrix of LANES rows: levels between rows first, then the matrix is transposed, then levels
within what were rows. So the innermost loop always runs over neighbours in memory and is vectorised.

All kernels are in one file because numba's cache on disk notices changes of a kernel's own file only: touch this one
after a change of `jit_vectors`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numba
import numpy as np

from rhe_parties.he.jit_vectors import CHUNK, accumulate
from rhe_parties.jit_cache import ensure_cache_folder

__all__ = [
    "LANES",
    "evaluate_group",
    "fill_columns",
    "finish",
    "forward",
    "inverse",
    "load_head",
    "multiply",
    "multiply_add",
    "quantise",
    "reduce",
    "transform",
]  # fmt: skip

ensure_cache_folder(Path(__file__).parent)

LANES = 64
"""Rows of the matrix that a transform sees its polynomial as."""

_LEVELS = 6  # log2(LANES)
_TERMS = 32


@numba.njit(inline="always", cache=True)
def _times(value: Any, factor: Any, ratio: Any, prime: Any) -> Any:
    return value * factor - np.int64(np.float64(value) * ratio) * prime


@numba.njit(nogil=True, cache=True)
def reduce(data: Any, ring: Any) -> None:
    """Values int64 [n] to within ±(q/2)(1 + 2^-40), in place."""
    prime, reciprocal = ring.prime, ring.reciprocal
    for j in range(data.size):
        value = data[j]
        data[j] = value - np.int64(np.rint(np.float64(value) * reciprocal)) * prime


@numba.njit(nogil=True, cache=True)
def _transpose(source: Any, target: Any, rows: Any) -> None:
    columns = source.size // rows
    for i in range(rows):
        for j in range(columns):
            target[j * rows + i] = source[i * columns + j]


@numba.njit(nogil=True, cache=True)
def forward(data: Any, result: Any, ring: Any, flags: Any, nonzero: Any) -> None:
    """Transform the coefficients int64 [N] in `data`, which is overwritten, into `result`, within ±q/2.

    `flags` is `ring.small` or `ring.full`; coefficients from `nonzero` on are taken to be 0 and not read.
    """
    size = data.size
    level = 0
    while level < _LEVELS and nonzero <= size >> (level + 1):
        level += 1
    data[nonzero : size >> level] = 0
    for copy in range(1, 1 << level):
        start = copy * (size >> level)
        for j in range(size >> level):
            data[start + j] = data[j]
    _forward_between_rows(data, level, ring, flags)
    _transpose(data, result, LANES)
    _forward_within_rows(result, ring, flags >> _LEVELS)
    reduce(result, ring)


@numba.njit(nogil=True, cache=True)
def _forward_between_rows(data: Any, level: Any, ring: Any, flags: Any) -> None:
    prime, roots, ratios = ring.prime, ring.roots[0], ring.ratios[0]
    while level < _LEVELS:
        if (flags >> level) & 1:
            reduce(data, ring)
        blocks = 1 << level
        if level & 1:
            step = data.size >> (level + 1)
            for i in range(blocks):
                start = 2 * i * step
                a, b = data[start : start + step], data[start + step : start + 2 * step]
                w, f = roots[blocks + i], ratios[blocks + i]
                for j in range(step):
                    x, y = a[j], _times(b[j], w, f, prime)
                    a[j], b[j] = x + y, x - y
            level += 1
            continue
        step = data.size >> (level + 2)
        for i in range(blocks):
            start = 4 * i * step
            a, b = data[start : start + step], data[start + step : start + 2 * step]
            c, d = data[start + 2 * step : start + 3 * step], data[start + 3 * step : start + 4 * step]
            w1, f1 = roots[blocks + i], ratios[blocks + i]
            w2, f2 = roots[2 * (blocks + i)], ratios[2 * (blocks + i)]
            w3, f3 = roots[2 * (blocks + i) + 1], ratios[2 * (blocks + i) + 1]
            for j in range(step):
                z, y = _times(c[j], w1, f1, prime), _times(d[j], w1, f1, prime)
                u, v = a[j] + z, a[j] - z
                s, t = _times(b[j] + y, w2, f2, prime), _times(b[j] - y, w3, f3, prime)
                a[j], b[j], c[j], d[j] = u + s, u - s, v + t, v - t
        level += 2


@numba.njit(nogil=True, cache=True)
def _forward_within_rows(data: Any, ring: Any, flags: Any) -> None:
    prime, roots, ratios = ring.prime, ring.roots[0], ring.ratios[0]
    rows, blocks = data.size // LANES, 1
    while blocks < rows:
        if flags & 1:
            reduce(data, ring)
        flags >>= 2
        if 2 * blocks == rows:
            for i in range(blocks):
                start, root = 2 * i * LANES, (blocks + i) * LANES
                a, b = data[start : start + LANES], data[start + LANES : start + 2 * LANES]
                w, f = roots[root : root + LANES], ratios[root : root + LANES]
                for j in range(LANES):
                    x, y = a[j], _times(b[j], w[j], f[j], prime)
                    a[j], b[j] = x + y, x - y
            return
        step = rows // (4 * blocks)
        for i in range(blocks):
            root = (blocks + i) * LANES
            w1, f1 = roots[root : root + LANES], ratios[root : root + LANES]
            w2, f2 = roots[2 * root : 2 * root + LANES], ratios[2 * root : 2 * root + LANES]
            root = 2 * root + LANES
            w3, f3 = roots[root : root + LANES], ratios[root : root + LANES]
            for row in range(4 * i * step, (4 * i + 1) * step):
                start, jump = row * LANES, step * LANES
                a, b = data[start : start + LANES], data[start + jump : start + jump + LANES]
                start += 2 * jump
                c, d = data[start : start + LANES], data[start + jump : start + jump + LANES]
                for j in range(LANES):
                    z, y = _times(c[j], w1[j], f1[j], prime), _times(d[j], w1[j], f1[j], prime)
                    u, v = a[j] + z, a[j] - z
                    s, t = _times(b[j] + y, w2[j], f2[j], prime), _times(b[j] - y, w3[j], f3[j], prime)
                    a[j], b[j], c[j], d[j] = u + s, u - s, v + t, v - t
        blocks *= 4


@numba.njit(nogil=True, cache=True)
def inverse(data: Any, result: Any, ring: Any) -> None:
    """N times the inverse transform of values int64 [N] within ±q/2 (overwritten): coefficients in [0, q)."""
    _inverse_within_rows(data, ring)
    _transpose(data, result, data.size // LANES)
    _inverse_between_rows(result, ring)
    reduce(result, ring)
    prime = ring.prime
    for j in range(result.size):
        value = result[j]
        result[j] = value + prime if value < 0 else value


@numba.njit(nogil=True, cache=True)
def _inverse_within_rows(data: Any, ring: Any) -> None:
    prime, roots, ratios, flags = ring.prime, ring.roots[1], ring.ratios[1], ring.back >> _LEVELS
    rows, level = data.size // LANES, 0
    while 2 << level < rows:
        level += 1
    if level & 1 == 0:
        if (flags >> level) & 1:
            reduce(data, ring)
        for i in range(rows // 2):
            start, root = 2 * i * LANES, (rows // 2 + i) * LANES
            a, b = data[start : start + LANES], data[start + LANES : start + 2 * LANES]
            w, f = roots[root : root + LANES], ratios[root : root + LANES]
            for j in range(LANES):
                x, y = a[j] + b[j], _times(a[j] - b[j], w[j], f[j], prime)
                a[j], b[j] = x, y
        level -= 1
    level -= 1
    while level >= 0:
        if (flags >> level) & 1:
            reduce(data, ring)
        blocks = 1 << level
        step = rows // (4 * blocks)
        for i in range(blocks):
            root = (blocks + i) * LANES
            w1, f1 = roots[root : root + LANES], ratios[root : root + LANES]
            w2, f2 = roots[2 * root : 2 * root + LANES], ratios[2 * root : 2 * root + LANES]
            root = 2 * root + LANES
            w3, f3 = roots[root : root + LANES], ratios[root : root + LANES]
            for row in range(4 * i * step, (4 * i + 1) * step):
                start, jump = row * LANES, step * LANES
                a, b = data[start : start + LANES], data[start + jump : start + jump + LANES]
                start += 2 * jump
                c, d = data[start : start + LANES], data[start + jump : start + jump + LANES]
                for j in range(LANES):
                    u, s = a[j] + b[j], _times(a[j] - b[j], w2[j], f2[j], prime)
                    v, t = c[j] + d[j], _times(c[j] - d[j], w3[j], f3[j], prime)
                    a[j], c[j] = u + v, _times(u - v, w1[j], f1[j], prime)
                    b[j], d[j] = s + t, _times(s - t, w1[j], f1[j], prime)
        level -= 2


@numba.njit(nogil=True, cache=True)
def _inverse_between_rows(data: Any, ring: Any) -> None:
    prime, roots, ratios = ring.prime, ring.roots[1], ring.ratios[1]
    for level in range(_LEVELS - 2, -1, -2):
        if (ring.back >> level) & 1:
            reduce(data, ring)
        blocks, step = 1 << level, data.size >> (level + 2)
        for i in range(blocks):
            start = 4 * i * step
            a, b = data[start : start + step], data[start + step : start + 2 * step]
            c, d = data[start + 2 * step : start + 3 * step], data[start + 3 * step : start + 4 * step]
            w1, f1 = roots[blocks + i], ratios[blocks + i]
            w2, f2 = roots[2 * (blocks + i)], ratios[2 * (blocks + i)]
            w3, f3 = roots[2 * (blocks + i) + 1], ratios[2 * (blocks + i) + 1]
            for j in range(step):
                u, s = a[j] + b[j], _times(a[j] - b[j], w2, f2, prime)
                v, t = c[j] + d[j], _times(c[j] - d[j], w3, f3, prime)
                a[j], c[j] = u + v, _times(u - v, w1, f1, prime)
                b[j], d[j] = s + t, _times(s - t, w1, f1, prime)


@numba.njit(nogil=True, cache=True)
def multiply_add(head: Any, at: Any, request: Any, start: Any, tiles: Any, low: Any, high: Any, ring: Any) -> None:
    """low int64 [2·CHUNK] = Σ_tiles head [T, 2, CHUNK] · request [T, CHUNK], flat from head[at] and request[start] on.

    All are within ±q/2. Low words and float64 values (`high` [2·CHUNK], scratch) of up to n = 32 products (each
    |·| ≤ q²/4) are summed apart. In units of q < 2^54, the float64 sum is off by at most n²/4 (additions), n/2
    (products), n (factors), n (division by q) and 1/2 (rounding): 337, so that what remains is below 338·q < 2^63.
    """
    prime, reciprocal = ring.prime, ring.reciprocal
    for j in range(2 * CHUNK):
        low[j] = 0
    for first in range(0, tiles, _TERMS):
        count = min(_TERMS, tiles - first)
        accumulate(head, at + first * 2 * CHUNK, request, start + first * CHUNK, count, low, high)
        for j in range(2 * CHUNK):
            value = low[j] - np.int64(np.rint(high[j] * reciprocal)) * prime
            low[j] = value - np.int64(np.rint(np.float64(value) * reciprocal)) * prime


@numba.njit(nogil=True, cache=True)
def load_head(residues: Any, factor: Any, head: Any, ring: Any) -> None:
    """Transform the head, with the factor 1/N of the inverse transform in it."""
    classes, tiles, _, degree = residues.shape
    prime = ring.prime
    factor = factor - prime if factor > prime // 2 else factor
    ratio = factor / prime
    data, result = np.empty(degree, np.int64), np.empty(degree, np.int64)
    for k in range(classes):
        for tile in range(tiles):
            for part in range(2):
                for j in range(degree):
                    value = np.int64(residues[k, tile, part, j])
                    value = value - prime if value > prime // 2 else value
                    data[j] = value * factor - np.int64(np.float64(value) * ratio) * prime
                reduce(data, ring)
                forward(data, result, ring, ring.full, degree)
                for chunk in range(degree // CHUNK):
                    head[chunk, k, tile, part] = result[chunk * CHUNK : (chunk + 1) * CHUNK]


@numba.njit(nogil=True, cache=True)
def quantise(features: Any, scale: Any, limit: Any, whole: Any) -> Any:
    """Integers int32 [B, d] of Euclidean norm at most `limit`; returns how many inputs had to be shrunk to it."""
    saturated = 0
    for i in range(features.shape[0]):
        row, result = features[i], whole[i]
        norm2 = 0
        for j in range(row.size):
            value = int(min(max(np.rint(np.float64(row[j]) * scale), -2.0 * limit), 2.0 * limit))
            result[j] = value
            norm2 += value * value
        if norm2 > np.int64(limit) * np.int64(limit):
            saturated += 1
            shrink = limit / np.sqrt(np.float64(norm2))
            for j in range(row.size):
                result[j] = np.int64(np.float64(result[j]) * shrink)
    return saturated


@numba.njit(nogil=True, cache=True)
def fill_columns(whole: Any, row: Any, offset: Any, lift: Any, data: Any, start: Any, width: Any) -> None:
    """Columns of one input from (row, offset) of the tile's start on: `width` of them or what is left, the rest 0."""
    features, place, end = whole.size, start, start + width
    half = (1 << lift) >> 1
    while row < features and place < end:
        run = min(features - row - offset, end - place)
        value, source, target = np.int64(whole[row]), whole[row + offset :], data[place : place + run]
        for j in range(run):
            target[j] = (value * source[j] + half) >> lift
        row, offset, place = row + 1, 0, place + run
    if row == features:
        for j in range(offset, offset + min(features - offset, end - place)):
            data[place] = whole[j]
            place += 1
        if place < end:
            data[place] = 1
            place += 1
    elif place < end:
        data[place] = 1
        place += 1
    for j in range(place, end):
        data[j] = 0


@numba.njit(nogil=True, cache=True)
def transform(first: Any, last: Any, whole: Any, starts: Any, lift: Any, shape: Any, requests: Any, ring: Any) -> None:
    """Pack and transform request polynomials first ≤ r·T + tile < last."""
    batch, stride, width = shape[0], shape[1], shape[2]
    chunks, tiles = requests.shape[1], requests.shape[2]
    data, result = np.empty(chunks * CHUNK, np.int64), np.empty(chunks * CHUNK, np.int64)
    for index in range(first, last):
        r, tile = index // tiles, index % tiles
        count = min(batch, whole.shape[0] - r * batch)
        row, offset, support = starts[tile, 0], starts[tile, 1], (count - 1) * stride + width
        if stride > width:
            data[:support] = 0
        for i in range(count):
            fill_columns(whole[r * batch + i], row, offset, lift, data, i * stride, width)
        forward(data, result, ring, ring.small, support)
        for chunk in range(chunks):
            source, target = result[chunk * CHUNK : (chunk + 1) * CHUNK], requests[r, chunk, tile]
            for j in range(CHUNK):
                target[j] = source[j]


@numba.njit(nogil=True, cache=True)
def multiply(first: Any, last: Any, head: Any, requests: Any, sums: Any, ring: Any) -> None:
    """Sums of products for coefficients of chunks first ≤ chunk < last.

    Flat arrays and offsets instead of views, whose reference counting would cost more than the products of a tile.
    """
    low, high = np.empty(2 * CHUNK, np.int64), np.empty(2 * CHUNK, np.float64)
    chunks, classes, tiles = head.shape[:3]
    weights, features, results = head.reshape(-1), requests.reshape(-1), sums.reshape(-1)
    for chunk in range(first, last):
        for k in range(classes):
            at = (chunk * classes + k) * tiles * 2 * CHUNK
            for r in range(requests.shape[0]):
                multiply_add(weights, at, features, (r * chunks + chunk) * tiles * CHUNK, tiles, low, high, ring)
                place = ((r * classes + k) * 2 * chunks + chunk) * CHUNK
                for j in range(CHUNK):
                    results[place + j] = low[j]
                    results[place + chunks * CHUNK + j] = low[CHUNK + j]


@numba.njit(nogil=True, cache=True)
def _pack(values: Any, bits: Any, words: Any) -> None:
    """The low `bits` (32 to 64) of non-negative values one after the other in 64-bit words."""
    word, used, place = np.uint64(0), 0, 0
    for j in range(values.size):
        value = np.uint64(values[j])
        word |= value << np.uint64(used)
        used += bits
        if used >= 64:
            words[place] = word
            place, used = place + 1, used - 64
            word = value >> np.uint64(bits - used) if used else np.uint64(0)
    if used:
        words[place] = word


@numba.njit(nogil=True, cache=True)
def finish(
    first: Any,
    last: Any,
    sums: Any,
    count: Any,
    shape: Any,
    checks: Any,
    masks: Any,
    reply: Any,
    replies: Any,
    ring: Any,
) -> None:
    """Transform back and serialise replies first ≤ r·K' + k < last."""
    batch, stride, width, tile_classes, classes = shape
    modulus, shift, size = reply
    class_tiles, degree, prime = sums.shape[1], sums.shape[3], ring.prime
    values, extra = np.empty(degree + batch * tile_classes + checks.size, np.int64), np.empty(degree, np.int64)
    for index in range(first, last):
        r, k = index // class_tiles, index % class_tiles
        inverse(sums[r, k, 0], extra, ring)
        inverse(sums[r, k, 1], values[:degree], ring)
        place = degree
        for i in range(min(batch, count - r * batch)):
            for c in range(min(tile_classes, classes - k * tile_classes)):
                values[place] = extra[i * stride + (c + 1) * width - 1]
                place += 1
        for check in range(checks.size):
            value = extra[checks[check]] + _scaled(masks[r, k, check], modulus, prime)
            values[place] = value - prime if value >= prime else value
            place += 1
        for j in range(place):
            values[j] >>= shift
        _pack(values[:place], 8 * size, replies[r, k])


@numba.njit(nogil=True, cache=True)
def _scaled(mask: Any, modulus: Any, prime: Any) -> Any:
    """floor((q·mask + floor(t/2)) / t): quotient near in float64, the rest exact in int64 that wraps around."""
    near = np.int64(np.float64(prime) * (np.float64(mask) / np.float64(modulus)))
    rest = prime * mask + modulus // 2 - near * modulus
    return near + rest // modulus


@numba.njit(nogil=True, cache=True)
def evaluate_group(packing: Any, head: Any, serialising: Any) -> None:
    """`transform`, `multiply` and `finish` for everything at once; their arguments as in these functions."""
    whole, starts, lift, shape, requests, ring = packing
    sums, count, _, checks, masks, reply, replies, _ = serialising
    transform(0, requests.shape[0] * requests.shape[2], whole, starts, lift, shape, requests, ring)
    multiply(0, head.shape[0], head, requests, sums, ring)
    finish(0, sums.shape[0] * sums.shape[1], sums, count, shape, checks, masks, reply, replies, ring)
