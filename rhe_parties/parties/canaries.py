"""Inputs whose right class the key holder knows, among everybody's requests: a host that cheats on one is found out.

A host that cheats on a share γ of all requests goes unseen by c canaries with a probability of (1-γ)^c. One that cheats
on certain requests alone, because whoever sent them is in league with it, is never seen in this way.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

import numpy as np

from rhe_parties.types import AnyArray, IntArray, UInt8Array

__all__ = ["Canaries", "Canary", "clear_classes"]

# Inputs whose two highest logits are nearer to each other than this share of their range may be decided either way.
_CLEAR = 0.05


class Canary(NamedTuple):
    """A request of the key holder's own: its id, one image uint8 [1, C, H, W], and the class it must get."""

    request_id: str
    image: UInt8Array
    expected: int


def clear_classes(logits: AnyArray) -> IntArray:
    """The classes int64 [C] that canaries with these logits [C, K] must get, -1 where it is too close to tell."""
    ordered = np.sort(logits, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > _CLEAR * (ordered[:, -1] - ordered[:, 0])
    return np.where(clear, logits.argmax(axis=1), -1).astype(np.int64)


class Canaries:
    """Sends canaries along with requests.

    Args:
        images: uint8 [C, ch, H, W] that the owner knows too and the host does not.
        share: canaries for each image that is asked about; 0 sends none.
    """

    def __init__(self, images: UInt8Array | None, share: float) -> None:
        self._images, self._share = images, share
        self._owed = 0.0

    def due(self, classes: IntArray, images: int) -> list[Canary]:
        """The canaries that go along with a request for so many images of a head that decides `classes` on them."""
        usable = np.flatnonzero(classes >= 0)
        if self._images is None or not self._share or not len(usable):
            return []
        self._owed += self._share * images
        count, self._owed = int(self._owed), self._owed % 1
        # Nobody may foresee which, nor tell them by their ids.
        chosen = [int(usable[secrets.randbelow(len(usable))]) for _ in range(count)]
        return [Canary(secrets.token_hex(12), self._images[i : i + 1], int(classes[i])) for i in chosen]
