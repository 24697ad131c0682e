"""Sixteen float32 numbers side by side in compiled code.

A loop vectoriser neither keeps sums in registers nor trusts two arrays not to overlap, which costs the training of
shadow heads a factor of three. So numba is taught LLVM's own vector: one register of AVX-512, two of AVX2, four of
NEON or SSE. Loads and stores take a flat contiguous float32 array and the position of the first number; nothing is
checked. Products and sums may be fused.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, models, overload, register_model

__all__ = ["LANES", "below", "exp", "load", "maximum", "minimum", "root", "splat", "store", "total"]

LANES = 16

_NUMBERS = ir.VectorType(ir.FloatType(), LANES)
_WHOLE = ir.VectorType(ir.IntType(32), LANES)
_FUSED = ("contract",)


class _Vector(types.Type):
    def __init__(self) -> None:
        initialise: Any = super().__init__
        initialise("float32x16")


_VECTOR = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        initialise: Any = super().__init__
        initialise(manager, kind, _NUMBERS)


def _constant(value: float) -> Any:
    return ir.Constant(_NUMBERS, [value] * LANES)


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [at]), _NUMBERS.as_pointer())


def _call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """Call an LLVM intrinsic such as llvm.sqrt for whole vectors."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    suffix = f"v{LANES}f32"
    return builder.call(builder.module.declare_intrinsic(f"llvm.{name}.{suffix}", (), kind), arguments)


def _load(_typing: Any, array: Any, _at: Any) -> Any:
    """load(array, at) in compiled code: the numbers from array[at] on."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature.args[0], *args), align=4)

    return _VECTOR(array, types.intp), generate


def _store(_typing: Any, array: Any, _at: Any, _vector: Any) -> Any:
    """store(array, at, vector) in compiled code."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, signature.args[0], *args[:2]), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, _VECTOR), generate


def _splat(_typing: Any, _value: Any) -> Any:
    """splat(value) in compiled code: one number in every lane."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        single = builder.insert_element(ir.Constant(_NUMBERS, ir.Undefined), args[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(single, ir.Constant(_NUMBERS, ir.Undefined), ir.Constant(_WHOLE, [0] * LANES))

    return _VECTOR(types.float32), generate


def _total(_typing: Any, _vector: Any) -> Any:
    """total(vector) in compiled code: the sum of the lanes, halves first, so that its rounding is fixed."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            low, high = (
                ir.Constant(ir.VectorType(ir.IntType(32), width), [first + lane for lane in range(width)])
                for first in (0, width)
            )
            halves = [
                builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), part) for part in (low, high)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(_VECTOR), generate


def _below(_typing: Any, _left: Any, _right: Any) -> Any:
    """below(left, right) in compiled code: 1 in the lanes where left < right, 0 in the others."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered("<", *args), _constant(1.0), _constant(0.0))

    return _VECTOR(_VECTOR, _VECTOR), generate


def _exp(_typing: Any, _vector: Any) -> Any:
    """exp(vector) in compiled code for numbers up to 0; relative error below 2e-7, flushed to 1e-38 below -87.

    2^n · P(r) with x = n·ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts and polynomial as in Cephes' expf (S. Moshier).
    """

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        def fused(left: Any, right: Any, third: Any) -> Any:
            return builder.fadd(builder.fmul(left, right, flags=_FUSED), third, flags=_FUSED)

        x = _call(builder, "maxnum", _NUMBERS, args[0], _constant(-87.0))
        n = _call(builder, "rint", _NUMBERS, builder.fmul(x, _constant(1.4426950216293335)))
        r = fused(n, _constant(-0.693359375), x)
        r = fused(n, _constant(2.1219444170128554e-4), r)
        value = _constant(1.9875691214110702e-4)
        for coefficient in (
            1.398199936375022e-3, 8.333452045917511e-3, 4.166579619050026e-2, 0.16666665673255920, 0.5, 1.0, 1.0,
        ):  # fmt: skip
            value = fused(value, r, _constant(coefficient))
        exponent = builder.add(builder.fptosi(n, _WHOLE), ir.Constant(_WHOLE, [127] * LANES))
        power = builder.bitcast(builder.shl(exponent, ir.Constant(_WHOLE, [23] * LANES)), _NUMBERS)
        return builder.fmul(value, power)

    return _VECTOR(_VECTOR), generate


def _named(name: str, count: int, text: str) -> Any:
    """An LLVM intrinsic of `count` vectors as a function of compiled code."""

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _call(builder, name, _NUMBERS, *args)

    def one(_typing: Any, _vector: Any) -> Any:
        return _VECTOR(_VECTOR), generate

    def two(_typing: Any, _left: Any, _right: Any) -> Any:
        return _VECTOR(_VECTOR, _VECTOR), generate

    function = one if count == 1 else two
    function.__doc__ = text
    return intrinsic(function)


load: Any = intrinsic(_load)
store: Any = intrinsic(_store)
splat: Any = intrinsic(_splat)
total: Any = intrinsic(_total)
below: Any = intrinsic(_below)
exp: Any = intrinsic(_exp)
maximum: Any = _named("maxnum", 2, "maximum(left, right) in compiled code, lane by lane.")
minimum: Any = _named("minnum", 2, "minimum(left, right) in compiled code, lane by lane.")
root: Any = _named("sqrt", 1, "root(vector) in compiled code: square roots.")


def _operation(instruction: str) -> Any:
    def operation(_typing: Any, _left: Any, _right: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args, flags=_FUSED)

        return _VECTOR(_VECTOR, _VECTOR), generate

    return intrinsic(operation)


def _define(symbol: Callable[[Any, Any], Any], instruction: str) -> None:
    compute = _operation(instruction)

    def apply(left: Any, right: Any) -> Any:
        return compute(left, right)

    def choose(left: Any, right: Any) -> Any:
        return apply if isinstance(left, _Vector) and isinstance(right, _Vector) else None

    overload(symbol, inline="always")(choose)


_define(operator.add, "fadd")
_define(operator.sub, "fsub")
_define(operator.mul, "fmul")
_define(operator.truediv, "fdiv")
