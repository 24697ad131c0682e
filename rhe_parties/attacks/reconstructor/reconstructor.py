"""A trained reconstructor: images claimed from flat weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.reconstructor.network import ReconstructorNet
from rhe_parties.attacks.reconstructor.standardise import Standardiser
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray

__all__ = ["Reconstructor", "network_inputs"]

_BLOCK = 32  # vectors per forward pass: fixed, so that an image's bits do not depend on what is drawn beside it


def network_inputs(vectors: Tensor, groups: Tensor | None, count: int) -> Tensor:
    """Standardised weights [B, Q], with the one-hot code [count] of the groups [B] behind them where there are any."""
    if groups is None:
        return vectors
    return torch.cat([vectors, torch.nn.functional.one_hot(groups, count).to(vectors)], dim=1)


class Reconstructor:
    """Draws G images per head (conditional) or one (unconditional); build it with `train_reconstructor`.

    Attributes:
        groups: G, or 0 for the unconditional variant.
    """

    def __init__(self, network: ReconstructorNet, standardiser: Standardiser, groups: int) -> None:
        self.network, self.standardiser, self.groups = network, standardiser, groups

    def draw(self, flat: FloatArray) -> FloatArray:
        """Images float32 [V, G, C, H, W] in [-1, 1] of flat weights [V, P]; G is 1 in the unconditional variant.

        Equal heads give equal images.

        Raises:
            NumericError: another P, or numbers that are not finite.
        """
        vectors = torch.from_numpy(self.standardiser.apply(flat))
        count = max(self.groups, 1)
        code = torch.arange(self.groups).repeat(len(vectors)) if self.groups else None
        given = network_inputs(vectors.repeat_interleave(count, dim=0), code, count)
        device = next(self.network.parameters()).device
        out = np.empty((len(given), *self.network.shape), np.float32)
        # On one thread an image's bits do not depend on its place in the block.
        with torch.no_grad(), limited_threads(1):
            for start in range(0, len(given), _BLOCK):
                block = torch.zeros((_BLOCK, given.shape[1]))
                part = given[start : start + _BLOCK]
                block[: len(part)] = part
                out[start : start + len(part)] = self.network(block.to(device))[: len(part)].cpu().numpy()
        return out.reshape(len(vectors), count, *self.network.shape)
