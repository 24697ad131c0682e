"""What somebody gets who has public images and no view of any head: the numbers that a leak has to beat."""

from __future__ import annotations

import numpy as np

from rhe_parties.metrics.reconstruction import identification, mean_squared_error
from rhe_parties.metrics.truth import GroundTruth, Measured, squared_distances
from rhe_parties.types import FloatArray

__all__ = ["class_mean_claim", "nearest_public_claim", "pixel_baselines"]

_BLOCK = 4_000_000


def class_mean_claim(truth: GroundTruth) -> FloatArray | None:
    """Images [V, T, C, H, W]: for every target the mean public image of its class; None where a class has none."""
    labels = truth.labels[truth.aims]
    means = truth.class_means
    if not set(np.unique(labels).tolist()) <= set(means):
        return None
    table = np.stack([means.get(k, np.zeros(truth.images.shape[1:], np.float32)) for k in range(truth.classes)])
    return table[labels].astype(np.float32)


def nearest_public_claim(truth: GroundTruth, claimed: FloatArray) -> FloatArray | None:
    """Every claimed image [V, T, C, H, W] replaced by the public image of its class nearest to it.

    A claim that is no better than this recalls public images instead of reconstructing private ones.
    """
    if truth.public_images is None or truth.public_labels is None:
        return None
    labels = truth.labels[truth.aims]
    found = np.empty_like(claimed)
    for k in np.unique(labels):
        public = truth.public_images[truth.public_labels == k]
        if not len(public):
            return None
        heads, places = np.nonzero(labels == k)
        flat = public.reshape(len(public), -1)
        step = max(1, _BLOCK // len(public))
        for i in range(0, len(heads), step):
            rows = heads[i : i + step], places[i : i + step]
            nearest = squared_distances(claimed[rows].reshape(len(rows[0]), -1), flat).argmin(axis=1)
            found[rows] = public[nearest]
    return found


def pixel_baselines(claimed: FloatArray, truth: GroundTruth, generator: np.random.Generator) -> list[Measured]:
    """Identification by pixels and pixel error of both baselines, named `class_mean_…` and `nearest_public_…`."""
    results = []
    pool = truth.images.reshape(len(truth.images), -1)
    for name, images in (
        ("class_mean", class_mean_claim(truth)),
        ("nearest_public", nearest_public_claim(truth, claimed)),
    ):
        if images is not None:
            flat = images.reshape(*images.shape[:2], -1)
            results.append(identification(truth, flat, pool, generator, f"{name}_identification_rate"))
            results.append(mean_squared_error(truth, images, generator, f"{name}_mse"))
    return results
