"""Compiled linear algebra of sixteen heads side by side, for `rhe_parties.model.dual_kernels`.

Number i of head h of a group lies at LANES·i + h of a flat array; rows of features and of weights lie one after the
other. Touch `dual_kernels` after a change here: numba's cache on disk notices changes of a kernel's own file only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import float32, njit

from rhe_parties.jit_cache import ensure_cache_folder
from rhe_parties.model.vectors import LANES, load, splat, store, total

__all__ = ["FULL", "LOWER", "UPPER", "cholesky", "gather", "mix", "products", "scaled", "solve"]

ensure_cache_folder(Path(__file__).parent)

FULL, LOWER, UPPER = 0, 1, 2  # shape of a matrix of coefficients
_ZERO = np.float32(0)
_RANK = 1e-6  # a direction with this share of its row's square norm, or less, is taken to be in the others' span


@njit(nogil=True, cache=True)
def gather(features: Any, rows: Any, x: Any, width: Any, places: Any) -> Any:
    """Where the rows of features [n, D] lie: in what is returned, flat, at `places` int64 [N].

    That is the table itself where D is a multiple of LANES, else a copy in x; what is beyond D stays 0 there.
    """
    if features.shape[1] == width:
        for i in range(rows.size):
            places[i] = rows[i] * width
        return features.reshape(features.size)
    for i in range(rows.size):
        places[i] = i * width
        x[i * width : i * width + features.shape[1]] = features[rows[i]]
    return x


@njit(nogil=True, cache=True)
def products(
    x: Any, places: Any, y: Any, other_places: Any, same: Any, width: Any, lane: Any, result: Any
) -> None:  # fmt: skip
    """Inner products of rows of x and of y, at their places, into result [count, others, LANES] at one lane.

    `same`: both are the same rows, so half of the products do.
    """
    count, others = places.size, other_places.size
    i = 0
    while i < count:
        j, pair = i // 5 * 5 if same else 0, i + 1 < count
        while j < others:
            to = (i * others + j) * LANES + lane
            if pair and j + 5 <= others:
                a = b = c = d = e = f = g = h = p = q = splat(_ZERO)
                for at in range(0, width, LANES):
                    first, second = load(x, places[i] + at), load(x, places[i + 1] + at)
                    other = load(y, other_places[j] + at)
                    a, f = a + first * other, f + second * other
                    other = load(y, other_places[j + 1] + at)
                    b, g = b + first * other, g + second * other
                    other = load(y, other_places[j + 2] + at)
                    c, h = c + first * other, h + second * other
                    other = load(y, other_places[j + 3] + at)
                    d, p = d + first * other, p + second * other
                    other = load(y, other_places[j + 4] + at)
                    e, q = e + first * other, q + second * other
                below_it = to + others * LANES
                result[to], result[below_it] = total(a), total(f)
                result[to + LANES], result[below_it + LANES] = total(b), total(g)
                result[to + 2 * LANES], result[below_it + 2 * LANES] = total(c), total(h)
                result[to + 3 * LANES], result[below_it + 3 * LANES] = total(d), total(p)
                result[to + 4 * LANES], result[below_it + 4 * LANES] = total(e), total(q)
                j += 5
            else:
                for row in range(i, i + 2 if pair else i + 1):
                    a = splat(_ZERO)
                    for at in range(0, width, LANES):
                        a = a + load(x, places[row] + at) * load(y, other_places[j] + at)
                    result[(row * others + j) * LANES + lane] = total(a)
                j += 1
        i += 2
    if same:
        for i in range(count):
            for j in range(i):
                result[(i * others + j) * LANES + lane] = result[(j * others + i) * LANES + lane]


@njit(nogil=True, cache=True)
def mix(
    factors: Any, row_step: Any, term_step: Any, shape: Any, count: Any, terms: Any, classes: Any, out: Any
) -> None:  # fmt: skip
    """out[i, k] += Σ_j factors[i, j]·terms[j, k] lane by lane; i, j < count, k < classes, flat arrays.

    factors[i, j] lies at vector i·row_step + j·term_step; LOWER and UPPER matrices have zeros beyond the diagonal.
    """
    i = 0
    while i < count:
        pair = i + 1 < count
        start = i if shape == UPPER else 0
        stop = min(i + 2, count) if shape == LOWER else count
        k = 0
        while k < classes:
            to = (i * classes + k) * LANES
            if pair and k + 5 <= classes:
                to2 = to + classes * LANES
                a, b, c = load(out, to), load(out, to + LANES), load(out, to + 2 * LANES)
                d, e, f = load(out, to + 3 * LANES), load(out, to + 4 * LANES), load(out, to2)
                g, h = load(out, to2 + LANES), load(out, to2 + 2 * LANES)
                p, q = load(out, to2 + 3 * LANES), load(out, to2 + 4 * LANES)
                for j in range(start, stop):
                    at = (i * row_step + j * term_step) * LANES
                    first, second = load(factors, at), load(factors, at + row_step * LANES)
                    at = (j * classes + k) * LANES
                    term = load(terms, at)
                    a, f = a + first * term, f + second * term
                    term = load(terms, at + LANES)
                    b, g = b + first * term, g + second * term
                    term = load(terms, at + 2 * LANES)
                    c, h = c + first * term, h + second * term
                    term = load(terms, at + 3 * LANES)
                    d, p = d + first * term, p + second * term
                    term = load(terms, at + 4 * LANES)
                    e, q = e + first * term, q + second * term
                store(out, to, a), store(out, to + LANES, b), store(out, to + 2 * LANES, c)
                store(out, to + 3 * LANES, d), store(out, to + 4 * LANES, e), store(out, to2, f)
                store(out, to2 + LANES, g), store(out, to2 + 2 * LANES, h)
                store(out, to2 + 3 * LANES, p), store(out, to2 + 4 * LANES, q)
                k += 5
            else:
                for row in range(i, i + 2 if pair else i + 1):
                    at = (row * classes + k) * LANES
                    a = load(out, at)
                    for j in range(start, stop):
                        factor = load(factors, (row * row_step + j * term_step) * LANES)
                        a = a + factor * load(terms, (j * classes + k) * LANES)
                    store(out, at, a)
                k += 1
        i += 2


@njit(nogil=True, cache=True)
def scaled(target: Any, factor: Any, source: Any, size: Any) -> None:
    """target = factor·source, flat, in vectors."""
    by = splat(float32(factor))
    for at in range(0, size, LANES):
        store(target, at, by * load(source, at))


@njit(nogil=True, cache=True)
def cholesky(gram: Any, count: Any, lane: Any, lower: Any, inverse: Any, rows: Any) -> None:
    """L with L·Lᵀ = gram [count, count, LANES] at one lane, and 1/diagonal [count, LANES], by way of float64 rows.

    A row in the span of those before it gets a zero column and a zero in `inverse`: so L⁺ leaves that direction out.
    """
    for i in range(count):
        for j in range(i + 1):
            value = np.float64(gram[(i * count + j) * LANES + lane])
            for m in range(j):
                value -= rows[i, m] * rows[j, m]
            if j < i:
                rows[i, j] = value / rows[j, j] if rows[j, j] > 0 else 0.0
            else:
                whole = np.float64(gram[(i * count + i) * LANES + lane])
                rows[i, i] = np.sqrt(value) if value > _RANK * whole else 0.0
                inverse[i * LANES + lane] = 1 / rows[i, i] if rows[i, i] > 0 else 0.0
            lower[(i * count + j) * LANES + lane] = rows[i, j]


@njit(nogil=True, cache=True)
def solve(lower: Any, inverse: Any, count: Any, classes: Any, transposed: Any, values: Any) -> None:
    """values [count, classes, LANES] become L⁺·values or its transpose's, in place."""
    for turn in range(count):
        i = count - 1 - turn if transposed else turn
        first, last = (i + 1, count) if transposed else (0, i)
        scale = load(inverse, i * LANES)
        for k in range(classes):
            to = (i * classes + k) * LANES
            value = load(values, to)
            for j in range(first, last):
                at = (j * count + i) * LANES if transposed else (i * count + j) * LANES
                value = value - load(lower, at) * load(values, (j * classes + k) * LANES)
            store(values, to, value * scale)
