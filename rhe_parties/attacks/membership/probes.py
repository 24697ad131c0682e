"""Images around a candidate whose decisions tell how far away the decision boundary is.

The image itself, and its mixtures with auxiliary images of other classes. A client can send them like any image, and
the adversary knows their features, so it can tell beforehand which of them a head that was trained on the candidate
answers differently.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import PriorKnowledge
from rhe_parties.errors import DataError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import IntArray, UInt8Array

__all__ = ["PROBES", "ProbeKit"]

_DIRECTIONS, _LEVELS = 4, (0.2, 0.35, 0.5, 0.65)
_OTHERS = 200  # auxiliary images per class to mix with
#: Probes per candidate.
PROBES = 1 + _DIRECTIONS * len(_LEVELS)


@dataclass(frozen=True, eq=False)
class ProbeKit:
    """Auxiliary images to mix with: uint8 [K, n, C, H, W]."""

    others: UInt8Array
    seed: int

    @classmethod
    def build(cls, prior: PriorKnowledge, seed: int) -> ProbeKit:
        """Up to 200 auxiliary images of each class.

        Raises:
            DataError: a class without auxiliary image.
        """
        pools = [np.flatnonzero(prior.auxiliary_labels == label) for label in range(prior.classes)]
        fewest = min(len(pool) for pool in pools)
        if fewest == 0:
            raise DataError(f"membership: class {[len(p) for p in pools].index(0)} has no auxiliary image")
        rows = [
            numpy_stream(seed, "probe-others", label).permutation(pool)[: min(fewest, _OTHERS)]
            for label, pool in enumerate(pools)
        ]
        return cls(prior.auxiliary_images[np.stack(rows)], seed)

    def probes(self, images: UInt8Array, labels: IntArray, index: int) -> UInt8Array:
        """Probes uint8 [M, P, C, H, W] of images [M, C, H, W]; the same whenever asked with the same `index`."""
        rng = numpy_stream(self.seed, "probes", index)
        count, (classes, stock) = len(images), self.others.shape[:2]
        exact = images.astype(np.float32)
        found = [exact]
        for _ in range(_DIRECTIONS):
            other = (labels + rng.integers(1, classes, count)) % classes
            toward = self.others[other, rng.integers(stock, size=count)].astype(np.float32)
            found += [(1 - level) * exact + level * toward for level in _LEVELS]
        return np.stack(found, axis=1).round().clip(0, 255).astype(np.uint8)
