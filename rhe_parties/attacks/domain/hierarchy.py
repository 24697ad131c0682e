"""A hierarchy over unlabelled images: kinds of pictures at the top, look-alikes at the bottom.

Adaptive domain inference (Gu and Chen 2023, arXiv 2312.15088) walks a concept hierarchy that people made over public
datasets. A pool without names has none, so one is built: groups by plain statistics of the pixels, which tell kinds of
pictures apart (light on dark, photographs, noise), and leaves within them by features of the public backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["Hierarchy", "build_hierarchy", "image_statistics"]

Float64Array = npt.NDArray[np.float64]

_ROUNDS = 12  # of 2-means; it has settled long before


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """Two levels over n images.

    Attributes:
        leaf: int64 [n], the leaf of each image, 0..L-1.
        group: int64 [L], the group of each leaf.
    """

    leaf: IntArray
    group: IntArray

    @property
    def leaves(self) -> int:
        """Number of leaves L."""
        return len(self.group)

    def members(self, leaf: int) -> IntArray:
        """Indices of the leaf's images, ascending."""
        return np.flatnonzero(self.leaf == leaf).astype(np.int64)


def image_statistics(images: UInt8Array) -> FloatArray:
    """What tells kinds of pictures apart at a glance: float32 [n, 10], each column standardised over the images.

    Mean, deviation and three quantiles of the pixels, mean of the border, mean absolute step to the right and
    downwards, mean step after averaging 2×2 (grain against shape), and deviation between channels.

    Raises:
        NumericError: not uint8 [n, C, H, W] with at least one image and sides of at least 4.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0 or min(images.shape[2:]) < 4:
        raise NumericError(f"image statistics take uint8 [n, C, H, W] with n > 0, got {images.dtype} {images.shape}")
    rows = [_statistics(images[start : start + 1024]) for start in range(0, len(images), 1024)]
    found = np.concatenate(rows)
    spread = found.std(axis=0)
    scaled: FloatArray = ((found - found.mean(axis=0)) / np.where(spread > 1e-9, spread, 1.0)).astype(np.float32)
    return scaled


def _statistics(images: UInt8Array) -> Float64Array:
    exact = images.astype(np.float64) / 255
    gray = exact.mean(axis=1)
    flat = gray.reshape(len(gray), -1)
    even = gray[:, : gray.shape[1] // 2 * 2, : gray.shape[2] // 2 * 2]
    small = (even[:, ::2, ::2] + even[:, 1::2, ::2] + even[:, ::2, 1::2] + even[:, 1::2, 1::2]) / 4
    border = np.concatenate([gray[:, 0], gray[:, -1], gray[:, :, 0], gray[:, :, -1]], axis=1)
    columns = [
        flat.mean(axis=1),
        flat.std(axis=1),
        *np.quantile(flat, [0.1, 0.5, 0.9], axis=1),
        border.mean(axis=1),
        np.abs(np.diff(gray, axis=1)).mean(axis=(1, 2)),
        np.abs(np.diff(gray, axis=2)).mean(axis=(1, 2)),
        np.abs(np.diff(small, axis=1)).mean(axis=(1, 2)),
        exact.std(axis=1).mean(axis=(1, 2)),
    ]
    return np.stack(columns, axis=1)


def build_hierarchy(
    images: UInt8Array, features: FloatArray, seed: int, groups: int = 8, leaves: int = 64, leaf_size: int = 16
) -> Hierarchy:
    """Cut a pool into groups by image statistics, and these into leaves by features, by bisecting 2-means.

    Args:
        images: uint8 [n, C, H, W].
        features: backbone features float32 [n, D].
        seed: root seed.
        groups: how many groups at most.
        leaves: how many leaves at most.
        leaf_size: no part smaller than twice this is cut.

    Raises:
        NumericError: arrays that do not fit together, or are not finite.
        ParameterError: fewer than one group, fewer leaves than groups, or a leaf size below 1.
    """
    if len(images) != len(features) or features.ndim != 2 or not np.isfinite(features).all():
        raise NumericError(f"hierarchy: images {images.shape} and finite features [n, D], {features.shape}, must fit")
    if groups < 1 or leaves < groups or leaf_size < 1:
        raise ParameterError(
            f"hierarchy: groups = {groups} (at least 1), leaves = {leaves} (at least as many), "
            f"leaf_size = {leaf_size} (at least 1)"
        )
    everything = [np.arange(len(images))]
    coarse = _bisect(everything, image_statistics(images), groups, leaf_size, seed, "domain-groups")
    fine = _bisect(coarse, features, leaves, leaf_size, seed, "domain-leaves")
    leaf, group = np.empty(len(images), np.int64), np.empty(len(fine), np.int64)
    place = np.empty(len(images), np.int64)
    for number, rows in enumerate(coarse):
        place[rows] = number
    for number, rows in enumerate(fine):
        leaf[rows], group[number] = number, place[rows[0]]
    return Hierarchy(leaf, group)


def _bisect(
    parts: Sequence[npt.NDArray[np.intp]], points: FloatArray, wanted: int, least: int, seed: int, purpose: str
) -> list[npt.NDArray[np.intp]]:
    """Halve the part with the largest sum of squares until there are enough, or none that may be cut."""
    done: list[npt.NDArray[np.intp]] = list(parts)
    cost = [_scatter(points[rows]) if len(rows) >= 2 * least else 0.0 for rows in done]
    cuts = 0
    while len(done) < wanted and max(cost) > 0:
        worst = int(np.argmax(cost))
        rows = done[worst]
        side = _two_means(points[rows].astype(np.float64), numpy_stream(seed, purpose, cuts))
        cuts += 1
        if min(side.sum(), (~side).sum()) < least:
            cost[worst] = 0.0
            continue
        done[worst], cost[worst] = rows[side], 0.0
        done.append(rows[~side])
        cost.append(0.0)
        for place in (worst, len(done) - 1):
            if len(done[place]) >= 2 * least:
                cost[place] = _scatter(points[done[place]])
    return done


def _scatter(points: FloatArray) -> float:
    exact = points.astype(np.float64)
    return float(np.square(exact - exact.mean(axis=0)).sum())


def _two_means(points: Float64Array, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which points go with the first of two centres; started along the direction of largest spread."""
    centred = points - points.mean(axis=0)
    axis = rng.standard_normal(points.shape[1])
    for _ in range(8):
        axis = centred.T @ (centred @ axis)
        axis /= max(float(np.linalg.norm(axis)), 1e-300)
    side: npt.NDArray[np.bool_] = centred @ axis > 0
    for _ in range(_ROUNDS):
        if side.all() or not side.any():
            break
        first, second = centred[side].mean(axis=0), centred[~side].mean(axis=0)
        side = (centred - (first + second) / 2) @ (first - second) > 0
    return side
