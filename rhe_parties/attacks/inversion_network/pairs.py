"""Training pairs: what shadow heads say about auxiliary images they were not trained on, and the images.

The adversarial variant moves some images a little towards another class of their shadow head, so that the pairs cover
score vectors that natural images hardly give ("Boosting model inversion attacks with adversarial examples",
arXiv 2306.13965; here white-box through the public backbone, as shadow heads are the adversary's own).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.data.datasets import to_unit
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.model.backbone import Backbone
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["AnsweredPairs", "Nudge", "PairBatch", "ShadowPairs"]


@dataclass(frozen=True)
class Nudge:
    """Adversarial augmentation: `share` of the pairs, moved by at most `size` per pixel ([-1, 1]) in `steps` steps."""

    share: float = 0.0
    size: float = 0.15
    steps: int = 2

    def __post_init__(self) -> None:
        if not (0 <= self.share <= 1 and 0 < self.size <= 2 and self.steps >= 1):
            raise ParameterError(
                f"adversarial augmentation: share = {self.share} (0 to 1), size = {self.size} (above 0, up to 2), "
                f"steps = {self.steps} (at least 1)"
            )


class PairBatch(NamedTuple):
    """`logits` [B, K] as released, `images` [B, C, H, W] in [-1, 1], `heads` int64 [B]: whose logits they are."""

    logits: Tensor
    images: Tensor
    heads: Tensor


class ShadowPairs:
    """Endless (logits, image) pairs of M shadow heads and n auxiliary images.

    Args:
        backbone: the public network.
        images: uint8 [n, C, H, W].
        features: their backbone features float32 [n, D].
        weight: shadow heads [M, K, D].
        bias: [M, K].
        sets: int64 [M, N], which of the images each head was trained on; N = 0 where it was on none of them.
        grid: the release rounds logits to multiples of it; 0: it does not.
        member_share: share of pairs whose image is one of the head's own training images.
        nudge: adversarial augmentation.

    Raises:
        NumericError: arrays that do not fit together, hold NaN or infinity, or a head that used up all images.
        ParameterError: a member share outside [0, 1].
    """

    def __init__(
        self,
        backbone: Backbone,
        images: UInt8Array,
        features: FloatArray,
        weight: FloatArray,
        bias: FloatArray,
        sets: IntArray,
        grid: float = 0.0,
        member_share: float = 0.0,
        nudge: Nudge | None = None,
    ) -> None:
        if sets.ndim != 2:
            raise NumericError(f"inversion pairs: sets must be [M, N], got {sets.shape}")
        if len(images) != len(features) or len(images) == 0 or not np.isfinite(features).all():
            raise NumericError(f"inversion pairs: images {images.shape} and finite features {features.shape} must fit")
        if weight.ndim != 3 or bias.shape != weight.shape[:2] or len(sets) != len(weight) or len(weight) == 0:
            raise NumericError(f"inversion pairs: heads {weight.shape}, {bias.shape} and sets {sets.shape} must fit")
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise NumericError("inversion pairs: shadow heads hold NaN or infinity")
        if sets.shape[1] >= len(images):
            raise NumericError(
                f"inversion pairs: {len(images)} images leave none outside a training set of {sets.shape[1]}"
            )
        if not 0 <= member_share <= (1 if sets.shape[1] else 0):
            raise ParameterError(f"member_share = {member_share} is not allowed: 0 to 1, and 0 without training images")
        self.backbone, self.grid, self.member_share = backbone, grid, member_share
        self.nudge = nudge or Nudge()
        device = backbone.device
        self.images = torch.from_numpy(to_unit(images)).to(device)
        self.features = torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device)
        self.weight = torch.from_numpy(np.ascontiguousarray(weight, np.float32)).to(device)
        self.bias = torch.from_numpy(np.ascontiguousarray(bias, np.float32)).to(device)
        self.sets = torch.from_numpy(np.sort(sets, axis=1)).to(device)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return int(self.weight.shape[1])

    def logits(self, heads: Tensor, features: Tensor) -> Tensor:
        """Logits [B, K], unrounded, of features [B, D] under head `heads[i]` each; differentiable."""
        return torch.einsum("bd,bkd->bk", features, self.weight[heads]) + self.bias[heads]

    def draw(self, count: int, generator: torch.Generator, nudged: bool = True) -> PairBatch:
        """`count` random pairs, some of them moved as `nudge` says unless `nudged` is false."""
        total, used = len(self.images), self.sets.shape[1]
        heads = torch.randint(len(self.weight), (count,), generator=generator).to(self.sets.device)
        rank = torch.randint(total - used, (count,), generator=generator).to(self.sets.device)
        chosen = self._outside(heads, rank)
        if self.member_share > 0:
            seat = torch.randint(used, (count,), generator=generator).to(self.sets.device)
            member = (torch.rand(count, generator=generator) < self.member_share).to(self.sets.device)
            chosen = torch.where(member, self.sets[heads, seat], chosen)
        images, features = self.images[chosen], self.features[chosen]
        moved = round(self.nudge.share * count) if nudged else 0
        if moved:
            images = torch.cat([self._move(images[:moved], heads[:moved], generator), images[moved:]])
            with torch.no_grad():
                features = torch.cat([self.backbone.forward(images[:moved]), features[moved:]])
        logits = self.logits(heads, features)
        if self.grid:
            logits = (logits.double() / self.grid).round().mul(self.grid).to(logits.dtype)
        return PairBatch(logits, images, heads)

    def _outside(self, heads: Tensor, rank: Tensor) -> Tensor:
        """The image of that rank among those that the head was not trained on."""
        index = rank.clone()
        for column in self.sets[heads].T:
            index = index + (index >= column)
        return index

    def _move(self, images: Tensor, heads: Tensor, generator: torch.Generator) -> Tensor:
        """Signed gradient steps towards a random class, within `nudge.size` per pixel."""
        targets = torch.randint(self.classes, (len(images),), generator=generator).to(images.device)
        start, rate = images, self.nudge.size / self.nudge.steps
        for _ in range(self.nudge.steps):
            at = images.detach().requires_grad_(True)
            loss = F.cross_entropy(self.logits(heads, self.backbone.forward(at)), targets, reduction="sum")
            (slope,) = torch.autograd.grad(loss, at)
            images = start + (images - rate * slope.sign() - start).clamp(-self.nudge.size, self.nudge.size)
            images = images.clamp(-1, 1)
        return images.detach()


class AnsweredPairs(ShadowPairs):
    """Pairs of what the victims themselves answered about auxiliary images, as the public code trains its network.

    Args:
        backbone: the public network.
        images: uint8 [n, C, H, W].
        features: their backbone features float32 [n, D].
        answers: released logits float32 [V, n, K].

    Raises:
        NumericError: arrays that do not fit together, or scores that are not finite.
    """

    def __init__(self, backbone: Backbone, images: UInt8Array, features: FloatArray, answers: FloatArray) -> None:
        if answers.ndim != 3 or answers.shape[1] != len(images) or not np.isfinite(answers).all():
            raise NumericError(f"inversion pairs: finite answers {answers.shape} and images {images.shape} must fit")
        heads, _, classes = answers.shape
        unknown = np.zeros((heads, classes, features.shape[1]), np.float32)
        super().__init__(backbone, images, features, unknown, unknown[..., 0], np.empty((heads, 0), np.int64))
        self.answers = torch.from_numpy(np.ascontiguousarray(answers, np.float32)).to(backbone.device)

    def draw(self, count: int, generator: torch.Generator, nudged: bool = True) -> PairBatch:
        """`count` random pairs."""
        del nudged
        heads = torch.randint(len(self.answers), (count,), generator=generator).to(self.sets.device)
        chosen = torch.randint(len(self.images), (count,), generator=generator).to(self.sets.device)
        return PairBatch(self.answers[heads, chosen], self.images[chosen], heads)
