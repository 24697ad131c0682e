"""Training material for the decoder: augmented auxiliary images, and shadow heads with their inverted features."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F

from rhe_parties.attacks.pools import Pool, SerialPool
from rhe_parties.attacks.span.inversion import Inversion, invert_heads
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.errors import DataError
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.rng import numpy_stream, stream_seed, torch_stream
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["augment_images", "balanced_sets", "shadow_inversions"]

_ROTATION = math.radians(7)  # standard deviations of the random affine map
_SHEAR = 0.08
_LOG_SCALE = 0.06
_SHIFT = 0.6  # pixels per 32
_BLOCK = 256  # heads trained and inverted at a time


def augment_images(images: UInt8Array, copies: int, seed: int, strength: float = 1.0) -> UInt8Array:
    """Random affine variants (rotation, shear, scale, shift) of images, bilinear, edges continued.

    Args:
        images: uint8 [n, C, H, W].
        copies: variants of each image.
        seed: root seed.
        strength: factor on the size of all variations.

    Returns:
        uint8 [copies·n, C, H, W]: the n images `copies` times in their order, each varied anew.
    """
    source = torch.from_numpy(images).float()
    count, channels, height, width = source.shape
    parts = []
    for copy in range(copies):
        noise = strength * torch.randn((count, 6), generator=torch_stream(seed, "span-augment", copy))
        turn, skew = noise[:, 0] * _ROTATION, noise[:, 1] * _SHEAR
        grow_x, grow_y = torch.exp(noise[:, 2] * _LOG_SCALE), torch.exp(noise[:, 3] * _LOG_SCALE)
        cos, sin = torch.cos(turn), torch.sin(turn)
        # One row of the map per output axis, in units of half the image; its last column is the shift.
        shift = noise[:, 4:] * (_SHIFT / 16)
        first = torch.stack([grow_x * cos, grow_x * (skew * cos - sin), shift[:, 0]], dim=1)
        second = torch.stack([grow_y * sin, grow_y * (skew * sin + cos), shift[:, 1]], dim=1)
        grid = F.affine_grid(torch.stack([first, second], dim=1), [count, channels, height, width], align_corners=False)
        moved = F.grid_sample(source, grid, mode="bilinear", padding_mode="border", align_corners=False)
        parts.append(moved.round_().clamp_(0, 255).to(torch.uint8).numpy())
    return np.concatenate(parts)


def balanced_sets(labels: IntArray, classes: int, per_class: int, heads: int, seed: int) -> IntArray:
    """Random class-balanced sets [heads, K·S] of indices, ordered by class; none serves twice before all have.

    Raises:
        DataError: a class with fewer than S images.
    """
    columns = []
    for label in range(classes):
        pool = np.flatnonzero(labels == label)
        if len(pool) < per_class:
            raise DataError(f"class {label} has {len(pool)} auxiliary images, {per_class} are needed for a shadow head")
        usable = len(pool) // per_class * per_class
        rng = numpy_stream(seed, "span-sets", label)
        rounds = -(-heads * per_class // usable)
        drawn = np.concatenate([rng.permutation(pool)[:usable] for _ in range(rounds)])
        columns.append(drawn[: heads * per_class].reshape(heads, per_class))
    return np.concatenate(columns, axis=1).astype(np.int64)


def shadow_inversions(
    features: FloatArray,
    sets: IntArray,
    prior: FeaturePrior,
    recipe: Recipe,
    per_class: int,
    seed: int,
    iterations: int = 4,
    progress: Callable[[float], None] | None = None,
    pool: Pool | None = None,
) -> Inversion:
    """Train one head on each set of auxiliary features and invert it.

    Args:
        features: [n, D].
        sets: [V, N] indices into `features`, ordered by class.
        prior: the adversary's prior of features.
        recipe: the victims' training recipe.
        per_class: S.
        seed: root of the heads' initial weights.
        iterations: rounds of the inversion.
        progress: called with the done share in [0, 1].
        pool: where blocks of heads are trained and inverted; None: here, one after the other.
    """
    blocks = [(sets[start : start + _BLOCK], start // _BLOCK) for start in range(0, len(sets), _BLOCK)]
    parts = []
    work = functools.partial(_train_and_invert, features, prior, recipe, per_class, seed, iterations)
    for part in (pool or SerialPool()).stream(work, blocks):
        parts.append(part)
        if progress is not None:
            progress(len(parts) / len(blocks))
    joined = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("features", "points", "coefficients")
    )
    recovered, points, coefficients = joined
    return replace(parts[0], features=recovered, points=points, coefficients=coefficients)


def _train_and_invert(
    features: FloatArray,
    prior: FeaturePrior,
    recipe: Recipe,
    per_class: int,
    seed: int,
    iterations: int,
    block: tuple[IntArray, int],
) -> Inversion:
    sets, index = block
    labels = np.tile(np.repeat(np.arange(prior.classes), per_class), (len(sets), 1))
    seeds = [stream_seed(seed, "span-shadow", index, row) for row in range(len(sets))]
    weight, bias = train_heads(features[sets], labels, prior.classes, recipe, seeds)
    return invert_heads(weight, bias, recipe, prior, per_class, iterations)
