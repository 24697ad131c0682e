"""How well an extracted head answers as the real one does, on three kinds of points."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.extraction.gauge import Float64Array
from rhe_parties.errors import NumericError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["Agreement", "agreement", "boundary_points", "feature_mixes"]


class Agreement(NamedTuple):
    """Per head [V]: share of equal answers on the given features, on random mixes of them, and next to the real head's
    decision boundary."""

    real: Float64Array
    mixes: Float64Array
    boundary: Float64Array


def feature_mixes(features: FloatArray, count: int, seed: int, parts: int = 4) -> Float64Array:
    """`count` random convex combinations [count, D] of `parts` feature vectors each."""
    rng = numpy_stream(seed, "extraction-mixes")
    chosen = rng.integers(0, len(features), (count, parts))
    shares = rng.dirichlet(np.ones(parts), count)
    mixed: Float64Array = np.einsum("nm,nmd->nd", shares, features[chosen].astype(np.float64), optimize=True)
    return mixed


def boundary_points(
    weight: AnyArray, bias: AnyArray, features: FloatArray, count: int, distance: float, seed: int
) -> Float64Array:
    """Points [m, D], m at most `count`, on both sides of the boundary of one head (weight [K, D], bias [K]).

    On straight lines between features of different classes the boundary is found by bisection; the point lies a share
    `distance` of the line's length away from it, on a random side.
    """
    rng = numpy_stream(seed, "extraction-boundary")
    pairs = rng.integers(0, len(features), (4 * count, 2))
    first, second = features[pairs[:, 0]].astype(np.float64), features[pairs[:, 1]].astype(np.float64)
    start = _classes(weight, bias, first)
    unlike = np.flatnonzero(start != _classes(weight, bias, second))[:count]
    first, second, start = first[unlike], second[unlike], start[unlike]
    low, high = np.zeros(len(unlike)), np.ones(len(unlike))
    for _ in range(40):
        middle = (low + high) / 2
        same = _classes(weight, bias, first + middle[:, None] * (second - first)) == start
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    place = np.clip(high + distance * rng.choice([-1.0, 1.0], len(high)), 0, 1)
    points: Float64Array = first + place[:, None] * (second - first)
    return points


def agreement(
    weight: AnyArray,
    bias: AnyArray,
    true_weight: AnyArray,
    true_bias: AnyArray,
    features: FloatArray,
    seed: int = 0,
    distance: float = 0.01,
) -> Agreement:
    """Compare heads [V, K, D], [V, K] with the true ones.

    Args:
        weight, bias: the extracted heads.
        true_weight, true_bias: the real ones.
        features: fresh features [n, D], n at least 2.
        seed: of mixes and boundary points.
        distance: of the boundary points from the boundary, as a share of the line between two features.

    Raises:
        NumericError: shapes that do not fit together, or values that are not finite.
    """
    if weight.shape != true_weight.shape or bias.shape != true_bias.shape or features.shape[1:] != weight.shape[2:]:
        raise NumericError(f"heads {weight.shape}, {true_weight.shape} and features {features.shape} do not fit")
    if not all(np.isfinite(array).all() for array in (weight, bias, true_weight, true_bias, features)):
        raise NumericError("heads or features hold NaN or infinity")
    mixes = feature_mixes(features, len(features), seed)
    rates = np.empty((3, len(weight)))
    for v in range(len(weight)):
        near = boundary_points(true_weight[v], true_bias[v], features, len(features), distance, seed)
        kinds: tuple[AnyArray, ...] = (features, mixes, near)
        for row, points in enumerate(kinds):
            same = _classes(weight[v], bias[v], points) == _classes(true_weight[v], true_bias[v], points)
            rates[row, v] = same.mean() if len(same) else np.nan
    return Agreement(*rates)


def _classes(weight: AnyArray, bias: AnyArray, points: AnyArray) -> AnyArray:
    answers: AnyArray = (points.astype(np.float64) @ weight.astype(np.float64).T + bias).argmax(axis=1)
    return answers
