"""Flat weights of heads made comparable: mean and deviation per coordinate, constant coordinates dropped.

Source: code of v1 of arXiv 2505.14323: only the diagonal is normalised, nothing is whitened; victims are treated with
the statistics of the shadows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import DataError, NumericError
from rhe_parties.types import FloatArray

__all__ = ["Moments", "Standardiser", "flatten_heads"]

_CONSTANT = 1e-7  # deviation over mean magnitude below which float32 weights differ by rounding alone


def flatten_heads(*layers: FloatArray) -> FloatArray:
    """Flat float32 [V, P] of a batch of heads, in the order of `parameters()`.

    Args:
        layers: weight [V, K, D] and bias [V, K] of each layer in turn; of a linear head just these two.

    Raises:
        NumericError: no layers, or arrays of different numbers of heads.
    """
    if not layers or len({len(part) for part in layers}) != 1:
        raise NumericError(f"layers of one batch of heads are needed, got shapes {[part.shape for part in layers]}")
    return np.concatenate([np.asarray(part, np.float32).reshape(len(part), -1) for part in layers], axis=1)


class Moments:
    """Mean and population variance per coordinate, added up block by block in float64 (Chan et al. 1979)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: npt.NDArray[np.float64] = np.zeros(0)
        self._squares: npt.NDArray[np.float64] = np.zeros(0)

    def add(self, flat: FloatArray) -> None:
        """Take in flat weights [B, P].

        Raises:
            NumericError: not two axes, another P than before, or numbers that are not finite.
        """
        if flat.ndim != 2 or (self.count and flat.shape[1] != len(self.mean)):
            known = f"[B, {len(self.mean)}]" if self.count else "[B, P]"
            raise NumericError(f"shadow heads must be {known}, got {flat.shape}")
        if not np.isfinite(flat).all():
            raise NumericError("shadow heads hold NaN or infinity")
        if len(flat) == 0:
            return
        exact = flat.astype(np.float64)
        mean = exact.mean(axis=0)
        squares = np.square(exact - mean).sum(axis=0)
        if self.count == 0:
            self.mean, self._squares = mean, squares
        else:
            total = self.count + len(flat)
            shift = mean - self.mean
            self._squares = self._squares + squares + np.square(shift) * (self.count * len(flat) / total)
            self.mean = self.mean + shift * (len(flat) / total)
        self.count += len(flat)

    @property
    def deviation(self) -> npt.NDArray[np.float64]:
        """Population standard deviation [P]."""
        return np.sqrt(self._squares / max(self.count, 1))


@dataclass(frozen=True, eq=False)
class Standardiser:
    """(w - mean) / deviation on the coordinates `kept`; float64 statistics over the training shadows.

    Attributes:
        width: P, coordinates of a head.
        kept: int64 [Q], coordinates that vary.
        mean, deviation: float64 [Q].
    """

    width: int
    kept: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    deviation: npt.NDArray[np.float64]

    @classmethod
    def fit(cls, moments: Moments) -> Standardiser:
        """Statistics of the shadows so far.

        Raises:
            DataError: fewer than two shadow heads, or all of them alike.
        """
        if moments.count < 2:
            raise DataError(f"{moments.count} shadow heads are too few for a deviation: at least 2")
        deviation = moments.deviation
        kept = np.flatnonzero(deviation > _CONSTANT * np.abs(moments.mean)).astype(np.int64)
        if len(kept) == 0:
            raise DataError(f"all {moments.count} shadow heads are the same: nothing to learn from")
        return cls(len(deviation), kept, moments.mean[kept], deviation[kept])

    def apply(self, flat: FloatArray) -> FloatArray:
        """Standardised float32 [V, Q] of flat weights [V, P].

        Raises:
            NumericError: another P, or numbers that are not finite.
        """
        if flat.ndim != 2 or flat.shape[1] != self.width:
            raise NumericError(f"flat weights must be [V, {self.width}], got {flat.shape}")
        if not np.isfinite(flat).all():
            raise NumericError("flat weights hold NaN or infinity")
        return ((flat[:, self.kept].astype(np.float64) - self.mean) / self.deviation).astype(np.float32)
