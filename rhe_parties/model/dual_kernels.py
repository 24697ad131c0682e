"""Compiled training of linear softmax heads in the dual space, sixteen heads side by side.

Full-batch descent on logits X·Wᵀ + b never leaves W_t = s_t·W_0 + A_tᵀX (X: the N training features), so an epoch
works on N×K numbers of each head, whatever D is. Per group of sixteen heads: gather X, draw W_0, take the products
X·Xᵀ and X·W_0ᵀ head by head (vectors run over D), train (vectors run over the heads: number i of head h lies at
16·i + h), and write W head by head.

DP-SGD adds to every step noise ν [K, D+1] that is independent of everything else. In an orthonormal basis Q = L⁺X of
the span of the features (X·Xᵀ = L·Lᵀ) the coefficients of ν are K×N normal numbers, and so is the weights' part c in
the span: logits are L·c + b, the step is c ← keep·c - rate·(LᵀE + σC·g), and the bias takes noise of its own. What ν
adds outside the span enters no logit: these sums are drawn once, together with what W_0 has there.

Touch this file after a change of `dual_algebra`, `philox` or `vectors`: numba's cache on disk notices changes of a
kernel's own file only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba import float32, njit

from rhe_parties.jit_cache import ensure_cache_folder
from rhe_parties.model.dual_algebra import FULL, LOWER, UPPER, cholesky, gather, mix, products, scaled, solve
from rhe_parties.model.philox import normals, uniforms
from rhe_parties.model.vectors import LANES, below, exp, load, maximum, minimum, root, splat, store

__all__ = ["train_noisy", "train_plain"]

ensure_cache_folder(Path(__file__).parent)

INIT, EXTRA, NOISE, SAMPLE = 0, 1, 2, 3  # kinds of random streams
_ZERO, _ONE = np.float32(0), np.float32(1)
_TINY = np.float32(1e-6)  # Opacus' guard against a division by zero in clipping


@njit(nogil=True, cache=True)
def _errors(logits: Any, labels: Any, count: Any, classes: Any) -> None:
    """Logits [count, classes, LANES] become softmax minus one-hot, in place; labels int64 [count·LANES]."""
    for i in range(count):
        row = i * classes * LANES
        top = load(logits, row)
        for k in range(1, classes):
            top = maximum(top, load(logits, row + k * LANES))
        whole = splat(_ZERO)
        for k in range(classes):
            value = exp(load(logits, row + k * LANES) - top)
            whole = whole + value
            store(logits, row + k * LANES, value)
        share = splat(_ONE) / whole
        for k in range(classes):
            store(logits, row + k * LANES, load(logits, row + k * LANES) * share)
        for lane in range(LANES):
            logits[row + labels[i * LANES + lane] * LANES + lane] -= _ONE


@njit(nogil=True, cache=True)
def _start(given: Any, head: Any, key: Any, kind: Any, scale: Any, classes: Any, width: Any, z: Any) -> None:
    """Fill z, flat [classes, width]: scale times normal numbers, or times the given weights of this head."""
    if given.shape[0]:
        for k in range(classes):
            z[k * width : k * width + given.shape[2]] = given[head, k]
    else:
        normals(z, key, kind, head, 0)
    factor = splat(float32(scale))
    for at in range(0, classes * width, LANES):
        store(z, at, load(z, at) * factor)


@njit(nogil=True, cache=True)
def _finish(x: Any, places: Any, z: Any, classes: Any, width: Any, factors: Any, lane: Any, weight: Any) -> None:
    """z becomes z + Aᵀx with A [count, classes, LANES] at one lane of `factors`, and goes to weight, flat [K·D]."""
    count, features = places.size, weight.size // classes
    for k in range(classes):
        i = 0
        while i < count:
            at = (i * classes + k) * LANES + lane
            step = classes * LANES
            a = splat(factors[at])
            if i + 5 <= count:
                b, c = splat(factors[at + step]), splat(factors[at + 2 * step])
                d, e = splat(factors[at + 3 * step]), splat(factors[at + 4 * step])
                for j in range(0, width, LANES):
                    value = load(z, k * width + j) + a * load(x, places[i] + j) + b * load(x, places[i + 1] + j)
                    value = value + c * load(x, places[i + 2] + j) + d * load(x, places[i + 3] + j)
                    store(z, k * width + j, value + e * load(x, places[i + 4] + j))
                i += 5
            else:
                for j in range(0, width, LANES):
                    store(z, k * width + j, load(z, k * width + j) + a * load(x, places[i] + j))
                i += 1
        if features != width:
            weight[k * features : (k + 1) * features] = z[k * width : k * width + features]


@njit(nogil=True, cache=True)
def train_plain(
    features: Any, labels: Any, sets: Any, key: Any, given: Any, recipe: Any, work: Any, weight: Any, bias: Any
) -> None:  # fmt: skip
    """Train the heads on `sets` [B, N] without noise; see `rhe_parties.model.dual.train_many`.

    recipe: (init_std, keep, rate, epochs) with keep = 1 - lr·wd and rate = lr/N; `work` holds the arrays of
    `rhe_parties.model.dual._Work`.
    """
    init_std, keep, rate, epochs = recipe
    x, z, gram, first, logits, factors, offset, marks, places, starts = work
    heads, count = sets.shape
    classes, width = bias.shape[1], z.shape[1] // bias.shape[1]
    direct = weight.shape[1] == z.shape[1]
    for group in range(0, heads, LANES):
        live = min(LANES, heads - group)
        for lane in range(live):
            head = group + lane
            rows, start = sets[head], weight[head] if direct else z[lane]
            table = gather(features, rows, x[lane], width, places)
            _start(given, head, key, INIT, _ONE if given.shape[0] else init_std, classes, width, start)
            products(table, places, table, places, True, width, lane, gram)
            products(table, places, start, starts, False, width, lane, first)
            for i in range(count):
                marks[i * LANES + lane] = labels[rows[i]]
        factors[:] = _ZERO
        offset[:] = _ZERO
        shrink = 1.0
        held, pace = splat(float32(keep)), splat(float32(rate))
        for _ in range(epochs):
            now = splat(float32(shrink))
            for i in range(count):
                for k in range(classes):
                    at = (i * classes + k) * LANES
                    store(logits, at, now * load(first, at) + load(offset, k * LANES))
            mix(gram, count, 1, FULL, count, factors, classes, logits)
            _errors(logits, marks, count, classes)
            for k in range(classes):
                move = splat(_ZERO)
                for i in range(count):
                    at = (i * classes + k) * LANES
                    error = load(logits, at)
                    store(factors, at, held * load(factors, at) - pace * error)
                    move = move + error
                store(offset, k * LANES, held * load(offset, k * LANES) - pace * move)
            shrink *= keep
        for lane in range(live):
            head = group + lane
            start = weight[head] if direct else z[lane]
            table = gather(features, sets[head], x[lane], width, places)
            scaled(start, shrink, start, classes * width)
            _finish(table, places, start, classes, width, factors, lane, weight[head])
            for k in range(classes):
                bias[head, k] = offset[k * LANES + lane]


@njit(nogil=True, cache=True)
def _clip(errors: Any, gram: Any, count: Any, classes: Any, clip: Any, sample: Any, share: Any) -> None:
    """Scale each image's error to a gradient norm of at most `clip`, and to 0 where it is not in the sample."""
    limit = splat(float32(clip))
    for i in range(count):
        row = i * classes * LANES
        square = splat(_ZERO)
        for k in range(classes):
            error = load(errors, row + k * LANES)
            square = square + error * error
        norm = root(square * (load(gram, (i * count + i) * LANES) + splat(_ONE)))
        factor = minimum(limit / (norm + splat(_TINY)), splat(_ONE))
        if share < 1:
            factor = factor * below(load(sample, i * LANES), splat(float32(share)))
        for k in range(classes):
            store(errors, row + k * LANES, load(errors, row + k * LANES) * factor)


@njit(nogil=True, cache=True)
def train_noisy(
    features: Any, labels: Any, sets: Any, key: Any, given: Any, recipe: Any, mechanism: Any,
    work: Any, more: Any, weight: Any, bias: Any,
) -> None:  # fmt: skip
    """Train the heads on `sets` [B, N] by DP-SGD; see `rhe_parties.model.dual.train_many`.

    recipe: (init_std, keep, rate, steps) with keep = 1 - lr·wd and rate = lr/(q·N); mechanism: (C, σ·C, q).
    """
    init_std, keep, rate, steps = recipe
    clip, noise_std, share = mechanism
    x, z, gram, first, logits, factors, offset, marks, places, starts = work
    lower, inverse, rows64, noise, sample, base, extra = more
    heads, count = sets.shape
    classes, width = bias.shape[1], z.shape[1] // bias.shape[1]
    direct = weight.shape[1] == z.shape[1]
    size = count * classes * LANES
    drift, shrink = 0.0, 1.0  # after all steps: variance of the noise outside the span; what is left of W_0
    for _ in range(steps):
        drift = keep * keep * drift + (rate * noise_std) ** 2
        shrink *= keep
    spread = np.sqrt((shrink * init_std) ** 2 + drift)
    for group in range(0, heads, LANES):
        live = min(LANES, heads - group)
        for lane in range(live):
            head = group + lane
            rows, start = sets[head], weight[head] if direct else z[lane]
            table = gather(features, rows, x[lane], width, places)
            products(table, places, table, places, True, width, lane, gram)
            if given.shape[0]:
                _start(given, head, key, INIT, _ONE, classes, width, start)
                products(table, places, start, starts, False, width, lane, factors)
                normals(extra, key, EXTRA, head, 0)
                for at in range(0, classes * width, LANES):
                    value = splat(float32(shrink)) * load(start, at)
                    store(start, at, value + splat(float32(np.sqrt(drift))) * load(extra, at))
            else:
                _start(given, head, key, INIT, spread, classes, width, start)
            products(table, places, start, starts, False, width, lane, base)
            cholesky(gram, count, lane, lower, inverse, rows64)
            for i in range(count):
                marks[i * LANES + lane] = labels[rows[i]]
        if not given.shape[0]:
            scaled(factors, init_std / spread if spread > 0 else 0.0, base, size)
        solve(lower, inverse, count, classes, False, factors)  # W_0 in the basis
        solve(lower, inverse, count, classes, False, base)  # what `z` has there, to be taken away
        offset[:] = _ZERO
        held, pace, loud = splat(float32(keep)), splat(float32(rate)), splat(float32(noise_std))
        for step in range(steps):
            for i in range(count):
                for k in range(classes):
                    store(logits, (i * classes + k) * LANES, load(offset, k * LANES))
            mix(lower, count, 1, LOWER, count, factors, classes, logits)
            _errors(logits, marks, count, classes)
            if share < 1:
                uniforms(sample, key, SAMPLE, group, step)
            _clip(logits, gram, count, classes, clip, sample, share)
            normals(noise, key, NOISE, group, step)
            for k in range(classes):
                move = loud * load(noise, size + k * LANES)
                for i in range(count):
                    move = move + load(logits, (i * classes + k) * LANES)
                store(offset, k * LANES, held * load(offset, k * LANES) - pace * move)
            scaled(first, noise_std, noise, size)
            mix(lower, 1, count, UPPER, count, logits, classes, first)
            for at in range(0, size, LANES):
                store(factors, at, held * load(factors, at) - pace * load(first, at))
        for at in range(0, size, LANES):
            store(factors, at, load(factors, at) - load(base, at))
        solve(lower, inverse, count, classes, True, factors)
        for lane in range(live):
            head = group + lane
            table = gather(features, sets[head], x[lane], width, places)
            _finish(table, places, weight[head] if direct else z[lane], classes, width, factors, lane, weight[head])
            for k in range(classes):
                bias[head, k] = offset[k * LANES + lane]
