"""The innermost loop of the encrypted head, in LLVM's own vectors.

Vectors of eight 64-bit lanes are what AVX-512 has; for other targets LLVM splits them. The loop is written out so
because its sums must stay in registers over all tiles, which loop vectorisers do not find by themselves.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = ["CHUNK", "accumulate"]

CHUNK = 16
"""Neighbouring coefficients that products work on at a time: two vectors."""


def _accumulate(_typing: Any, head: Any, _at: Any, request: Any, _start: Any, _tiles: Any, low: Any, high: Any) -> Any:
    """accumulate(head, at, request, start, tiles, low, high) in compiled code: low + Σ of wrapping products to low,
    Σ of float64 products to high.

    Flat, contiguous arrays: head int64 [T, 2, CHUNK] from head[at] on, request int64 [T, CHUNK] from request[start]
    on, low int64 [2, CHUNK], high float64 [2, CHUNK]; nothing is checked.
    """
    allocate: Any = cgutils.alloca_once
    whole, real = ir.VectorType(ir.IntType(64), 8), ir.VectorType(ir.DoubleType(), 8)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bases = [context.make_array(signature.args[i])(context, builder, args[i]).data for i in (0, 2, 5, 6)]

        def number(value: int) -> Any:
            return ir.Constant(ir.IntType(64), value)

        def vector(base: Any, first: Any, offset: int, kind: Any) -> Any:
            index = builder.add(first, number(offset))
            return builder.bitcast(builder.gep(base, [index]), kind.as_pointer())

        offsets = [(part * CHUNK + lane, lane) for lane in range(0, CHUNK, 8) for part in range(2)]
        sums = [(allocate(builder, whole), allocate(builder, real)) for _ in offsets]
        for (offset, _), (low_sum, high_sum) in zip(offsets, sums, strict=True):
            builder.store(builder.load(vector(bases[2], number(0), offset, whole), align=8), low_sum)
            builder.store(ir.Constant(real, [0.0] * 8), high_sum)
        with cgutils.for_range(builder, args[4], intp=ir.IntType(64)) as loop:
            first = builder.add(args[1], builder.mul(loop.index, number(2 * CHUNK)))
            second = builder.add(args[3], builder.mul(loop.index, number(CHUNK)))
            for (offset, lane), (low_sum, high_sum) in zip(offsets, sums, strict=True):
                h = builder.load(vector(bases[0], first, offset, whole), align=8)
                x = builder.load(vector(bases[1], second, lane, whole), align=8)
                builder.store(builder.add(builder.load(low_sum), builder.mul(h, x)), low_sum)
                product = builder.fmul(builder.sitofp(h, real), builder.sitofp(x, real), flags=("contract",))
                builder.store(builder.fadd(builder.load(high_sum), product, flags=("contract",)), high_sum)
        for (offset, _), (low_sum, high_sum) in zip(offsets, sums, strict=True):
            builder.store(builder.load(low_sum), vector(bases[2], number(0), offset, whole), align=8)
            builder.store(builder.load(high_sum), vector(bases[3], number(0), offset, real), align=8)
        return context.get_dummy_value()

    return types.void(head, types.int64, request, types.int64, types.int64, low, high), generate


accumulate: Any = intrinsic(_accumulate)
