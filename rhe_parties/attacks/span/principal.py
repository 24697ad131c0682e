"""Principal directions of images, whichever of pixels and images are fewer."""

from __future__ import annotations

import numpy as np

from rhe_parties.types import FloatArray

__all__ = ["principal_directions"]

_MOST_IMAGES = 4000
_MOST_SQUARE = 1500  # side of a matrix whose eigenvectors are still quick to find


def principal_directions(centred: FloatArray, rank: int) -> FloatArray:
    """The leading directions of centred, flat images [n, P], scaled by their deviations.

    Returns:
        float32 [r, P], r ≤ rank (directions without variance are left out), strongest last.
    """
    pixels = centred.shape[1]
    limit = _MOST_IMAGES if pixels <= _MOST_SQUARE else _MOST_SQUARE
    some = centred[:: -(-len(centred) // limit)].astype(np.float64)
    if pixels <= len(some):
        values, vectors = np.linalg.eigh(some.T @ some / len(some))
        kept = _kept(values, rank)
        scaled = vectors[:, kept:] * np.sqrt(values[kept:])
    else:
        values, vectors = np.linalg.eigh(some @ some.T / len(some))
        kept = _kept(values, rank)
        # Left singular vectors to right ones: the deviation of direction i is √value_i.
        scaled = some.T @ vectors[:, kept:] / np.sqrt(len(some))
    return np.ascontiguousarray(scaled.T, np.float32)


def _kept(values: np.ndarray[tuple[int], np.dtype[np.float64]], rank: int) -> int:
    """Index of the first eigenvalue (ascending) that is kept."""
    alive = int((values > 1e-6 * max(float(values[-1]), 1e-30)).sum())
    return len(values) - min(rank, alive)
