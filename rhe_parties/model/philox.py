"""Random numbers inside compiled code, counter-based: a function of (key, stream, position) and of nothing else.

Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011) and the Box-Muller map. NumPy's
normal numbers come one after the other, ten times slower than this loop, and would take most of a shadow head's time.
The logarithm is Cephes' logf (S. Moshier); the angle runs over half a circle, a spare bit chooses the half.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numba import float32, int32, njit, uint32, uint64

from rhe_parties.jit_cache import ensure_cache_folder

__all__ = ["normals", "philox", "uniforms"]

ensure_cache_folder(Path(__file__).parent)

_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEP = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_HALF = np.uint64(32)
_TWO_31, _TWO_32 = np.float32(2.0**-31), np.float32(2.0**-32)
_TWO_24 = np.float32(2.0**-24)
_ANGLE = np.float32(math.pi * 2.0**-32)
_SQRT_HALF = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)
_MANTISSA = np.int32(0x7FFFFF)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_L0, _L1, _L2 = np.float32(7.0376836292e-2), np.float32(-1.1514610310e-1), np.float32(1.1676998740e-1)
_L3, _L4, _L5 = np.float32(-1.2420140846e-1), np.float32(1.4249322787e-1), np.float32(-1.6668057665e-1)
_L6, _L7, _L8 = np.float32(2.0000714765e-1), np.float32(-2.4999993993e-1), np.float32(3.3333331174e-1)
# Least squares on [-π/2, π/2]; errors below 5e-9.
_S0, _S1 = np.float32(2.59927111e-6), np.float32(-1.98061988e-4)
_S2, _S3 = np.float32(8.33301028e-3), np.float32(-1.66666567e-1)
_C0, _C1 = np.float32(-2.61856321e-7), np.float32(2.47688514e-5)
_C2, _C3 = np.float32(-1.38885611e-3), np.float32(4.16666553e-2)
_ONE, _HALF_ONE, _ZERO, _MINUS_TWO = np.float32(1), np.float32(0.5), np.float32(0), np.float32(-2)


@njit(inline="always", cache=True)
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Four 32-bit words from a counter of four words and a key of two, in compiled code."""
    for _ in range(10):
        p0, p1 = uint64(c0) * _MULTIPLIER[0], uint64(c2) * _MULTIPLIER[1]
        n0 = uint32(p1 >> _HALF) ^ c1 ^ k0
        n2 = uint32(p0 >> _HALF) ^ c3 ^ k1
        c0, c1, c2, c3 = n0, uint32(p1), n2, uint32(p0)
        k0, k1 = uint32(k0 + _KEY_STEP[0]), uint32(k1 + _KEY_STEP[1])
    return c0, c1, c2, c3


@njit(inline="always", cache=True)
def _pair(first: Any, second: Any) -> Any:
    """Two independent normal numbers from two words."""
    # 31 bits of `first` make the radius, its last bit the sign of the cosine.
    u = np.float32(float32(int32(first >> uint32(1))) * _TWO_31 + _TWO_32)
    bits = int32(u.view(np.int32) - _SQRT_HALF)
    exponent = float32(int32(bits >> int32(23)))
    mantissa = np.int32((bits & _MANTISSA) + _SQRT_HALF)
    m = mantissa.view(np.float32) - _ONE
    square = m * m
    y = (((((((_L0 * m + _L1) * m + _L2) * m + _L3) * m + _L4) * m + _L5) * m + _L6) * m + _L7) * m + _L8
    y = y * m * square + exponent * _LN2_LOW - _HALF_ONE * square
    radius = np.sqrt(max((m + y + exponent * _LN2_HIGH) * _MINUS_TWO, _ZERO))
    t = float32(int32(second)) * _ANGLE
    square = t * t
    sine = (((_S0 * square + _S1) * square + _S2) * square + _S3) * square * t + t
    turned = np.float32(((((_C0 * square + _C1) * square + _C2) * square + _C3) * square - _HALF_ONE) * square + _ONE)
    flipped = np.uint32(turned.view(np.uint32) ^ uint32(uint32(first & uint32(1)) << uint32(31)))
    return radius * sine, radius * flipped.view(np.float32)


@njit(nogil=True, cache=True, fastmath={"contract"})
def normals(out: Any, key: Any, kind: Any, first: Any, second: Any) -> None:
    """Fill float32 [4·n] with normal numbers: those of stream (kind, first, second) under a 64-bit key.

    The generator's four words fill four planes, so that every loop runs over neighbours in memory.
    """
    count = out.size // 4
    a, b, c, d = out[:count], out[count : 2 * count], out[2 * count : 3 * count], out[3 * count : 4 * count]
    k0, k1 = uint32(key), uint32(uint64(key) >> _HALF)
    for i in range(count):
        w0, w1, w2, w3 = philox(uint32(i), uint32(first), uint32(second), uint32(kind), k0, k1)
        a[i], b[i] = _pair(w0, w1)
        c[i], d[i] = _pair(w2, w3)


@njit(nogil=True, cache=True)
def uniforms(out: Any, key: Any, kind: Any, first: Any, second: Any) -> None:
    """Fill float32 [4·n] with multiples of 2^-24 in [0, 1): those of stream (kind, first, second)."""
    count = out.size // 4
    a, b, c, d = out[:count], out[count : 2 * count], out[2 * count : 3 * count], out[3 * count : 4 * count]
    k0, k1 = uint32(key), uint32(uint64(key) >> _HALF)
    for i in range(count):
        w0, w1, w2, w3 = philox(uint32(i), uint32(first), uint32(second), uint32(kind), k0, k1)
        a[i] = float32(int32(w0 >> uint32(8))) * _TWO_24
        b[i] = float32(int32(w1 >> uint32(8))) * _TWO_24
        c[i] = float32(int32(w2 >> uint32(8))) * _TWO_24
        d[i] = float32(int32(w3 >> uint32(8))) * _TWO_24
