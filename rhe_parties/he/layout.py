"""Where weights, features and logits sit in polynomials: one formula for every layout.

With b inputs, c classes and tiles of w features (b·c·w ≤ N), k < c, i < b, j < w:
    W(t) = Σ_k Σ_j W[k,j]·t^(k·w + w-1-j)        X(t) = Σ_i Σ_j x[i,j]·t^(i·c·w + j)
The coefficient of W·X modulo t^N + 1 at i·c·w + k·w + w-1 is Σ_j W[k,j]·x[i,j]: two exponents meet there
only for equal j, and what wraps around has a degree of at most w-2. Features beyond w go to further tiles
whose products are added; classes beyond c go to further output polynomials. The bias is the weight of a
last feature, always 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.types import IntArray

__all__ = ["Layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Shape of the packing; `columns` counts what the head multiplies, the constant one included."""

    degree: int
    columns: int
    classes: int
    tile_width: int
    tile_classes: int
    batch: int

    @property
    def feature_tiles(self) -> int:
        """Number of feature polynomials per request polynomial: ceil((D+1)/w)."""
        return -(-self.columns // self.tile_width)

    @property
    def class_tiles(self) -> int:
        """Number of output polynomials per request polynomial: ceil(K/c)."""
        return -(-self.classes // self.tile_classes)

    @property
    def stride(self) -> int:
        """Distance c·w between two inputs in one polynomial."""
        return self.tile_classes * self.tile_width

    def pack_weights(self, weights: IntArray) -> IntArray:
        """Integers [K, D+1] as polynomials [class tiles, feature tiles, N]."""
        padded = np.zeros((self.class_tiles * self.tile_classes, self.feature_tiles * self.tile_width), dtype=np.int64)
        padded[: self.classes, : self.columns] = weights
        tiles = padded.reshape(self.class_tiles, self.tile_classes, self.feature_tiles, self.tile_width)
        tiles = tiles.transpose(0, 2, 1, 3)[..., ::-1]
        packed = np.zeros((self.class_tiles, self.feature_tiles, self.degree), dtype=np.int64)
        packed[..., : self.stride] = tiles.reshape(self.class_tiles, self.feature_tiles, self.stride)
        return packed

    def unpack_weights(self, packed: IntArray) -> IntArray:
        """Polynomials [class tiles, feature tiles, N] back as integers [K, columns]."""
        tiles = packed[..., : self.stride].reshape(self.class_tiles, self.feature_tiles, self.tile_classes, -1)
        rows = tiles[..., ::-1].transpose(0, 2, 1, 3).reshape(self.class_tiles * self.tile_classes, -1)
        return np.ascontiguousarray(rows[: self.classes, : self.columns])

    def pack_features(self, features: IntArray) -> IntArray:
        """Integers [n ≤ b, D+1] as polynomials [feature tiles, (n-1)·c·w + w] (the rest is zero)."""
        count = features.shape[0]
        padded = np.zeros((count, self.feature_tiles * self.tile_width), dtype=np.int64)
        padded[:, : self.columns] = features
        packed = np.zeros((self.feature_tiles, count, self.stride), dtype=np.int64)
        tiles = padded.reshape(count, self.feature_tiles, self.tile_width).transpose(1, 0, 2)
        packed[..., : self.tile_width] = tiles
        return packed.reshape(self.feature_tiles, -1)[:, : (count - 1) * self.stride + self.tile_width]

    def output_positions(self, class_tile: int, count: int) -> IntArray:
        """Coefficients that hold logits of one output polynomial, int64 [n, classes of this tile]."""
        first = class_tile * self.tile_classes
        classes = np.arange(min(self.tile_classes, self.classes - first), dtype=np.int64)
        inputs = np.arange(count, dtype=np.int64)
        return inputs[:, None] * self.stride + classes[None, :] * self.tile_width + (self.tile_width - 1)
