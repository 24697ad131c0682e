"""Weights of a square head made ready for the levelled path: scaled so that nothing overflows, laid out in slots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rhe_parties.errors import NumericError
from rhe_parties.he.levelled_layout import LevelledLayout
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.quantise import Float64Array, coarse_scale

__all__ = ["packed_layers", "scaled_layers"]

_LARGEST_SUM = 2.0**8
"""Largest sum of magnitudes of one later unit's scaled weights: bounds what errors grow to."""
_TINY = 1e-140

Layers = Sequence[tuple[Float64Array, Float64Array]]


def scaled_layers(plan: HeadPlan, layers: Layers) -> tuple[list[tuple[Float64Array, Float64Array]], float]:
    """Layers (weights [out, in], bias [out]) for features of norm 1 at most, and the real logit that 1 stands for.

    Hidden values and logits of the scaled layers lie in [-1, 1].

    Each unit's bound is the smaller of the sum over its inputs' bounds and, behind the first square, the bound of the
    quadratic form: with values u_i = w_i·x + a_i and output Σ_i v_i·u_i² + c,
        |Σ v_i·a_i² + c| + R·‖2·Σ v_i·a_i·w_i‖ + R²·‖Σ v_i·w_i·w_iᵀ‖.

    Raises:
        NumericError: weights so large that the logits are not finite numbers.
    """
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        first, offset = layers[0][0] * plan.feature_norm, layers[0][1]
        bound = _divisor(np.linalg.norm(first, axis=1) + np.abs(offset))
        scaled = [(first / bound[:, None], offset / bound)]
        for index, (weight, bias) in enumerate(layers[1:]):
            last = index == len(layers) - 2
            weight = weight * np.square(bound)
            sums = np.abs(weight).sum(axis=1)
            reach = sums + np.abs(bias)
            if index == 0:
                reach = np.minimum(reach, _form_reach(scaled[0], weight, bias))
            reach = np.maximum(reach, sums / _LARGEST_SUM)
            if last:
                reach = np.full_like(reach, coarse_scale(float(reach.max())))
            bound = _divisor(reach)
            scaled.append((weight / bound[:, None], bias / bound))
    if not all(np.isfinite(array).all() for layer in scaled for array in layer):
        raise NumericError("the head's weights are too large: its logits are not finite numbers")
    return scaled, float(bound.max())


def _divisor(bound: Float64Array) -> Float64Array:
    return np.where(bound < _TINY, 1.0, bound)


def _form_reach(first: tuple[Float64Array, Float64Array], weight: Float64Array, bias: Float64Array) -> Float64Array:
    """The bound of the quadratic form for norm 1: constant, linear part, spectral norm of Wᵀ·diag(v)·W."""
    (rows, offset), reach = first, []
    triangle = np.linalg.qr(rows.T)[1]
    for v, c in zip(weight, bias, strict=True):
        if not (np.isfinite(v).all() and np.isfinite(c)):
            return np.full(len(weight), np.inf)
        spectrum = np.linalg.eigvalsh((triangle * v) @ triangle.T)
        linear = 2 * np.linalg.norm((v * offset) @ rows)
        reach.append(abs(v @ np.square(offset) + c) + linear + np.abs(spectrum).max(initial=0.0))
    return np.array(reach)


def packed_layers(layout: LevelledLayout, layers: Layers) -> list[Float64Array]:
    """Slots [N/2] of every ciphertext of a head, in the order of `levelled_layout`."""
    grids = _first_slots(layout, *layers[0])
    if layout.run:
        grids += _middle_slots(layout, *layers[1])
    return grids + _last_slots(layout, *layers[-1])


def _first_slots(layout: LevelledLayout, weight: Float64Array, bias: Float64Array) -> list[Float64Array]:
    """Slots [N/2] of each input tile."""
    grid = np.zeros((layout.input_tiles * layout.blocks, layout.block))
    columns = np.concatenate([weight, bias[:, None]], axis=1)
    grid[: columns.shape[1], : len(bias)] = columns.T
    return [part.ravel() for part in np.split(grid, layout.input_tiles)]


def _middle_slots(layout: LevelledLayout, weight: Float64Array, bias: Float64Array) -> list[Float64Array]:
    """Weights and bias of the second hidden layer, repeated over runs of blocks."""
    runs = layout.blocks // layout.run
    grid, offsets = np.zeros((runs, layout.run, layout.block)), np.zeros((runs, layout.run * layout.block))
    grid[: len(bias), :, : weight.shape[1]] = weight[:, None]
    offsets[: len(bias)] = bias[:, None]
    return [grid.ravel(), offsets.ravel()]


def _last_slots(layout: LevelledLayout, weight: Float64Array, bias: Float64Array) -> list[Float64Array]:
    """Weights and biases of each class tile, alternating."""
    out = []
    for start in range(0, len(bias), layout.tile_classes):
        part, offset = weight[start : start + layout.tile_classes], bias[start : start + layout.tile_classes]
        slots, offsets = np.zeros(layout.degree // 2), np.zeros(layout.degree // 2)
        offsets[: len(offset) * layout.class_step : layout.class_step] = offset
        if layout.run:
            slots.reshape(-1, layout.run * layout.block)[: part.shape[1], : len(offset)] = part.T
        else:
            slots.reshape(-1, layout.block)[: len(offset), : part.shape[1]] = part
        out += [slots, offsets]
    return out
