"""From released scores to what the network is fed: confidences alone, or what they say under a known head.

`ConfidenceInputs` is the pre-map of Yang et al. 2019 (arXiv 1902.08552, public code): the largest confidences as
logarithms, zero elsewhere. The public code lifts the logarithms by 50 so that zero is free to mean "cut off"; here
they are standardised instead. With the lift, the first layer's constant part, which differs over its 4×4 places, is
all that batch norm sees: on `digits` the network then learned nothing but the mean image.

`HeadInputs` is for an adversary that also knows the head, such as a client that solved it from scores of its own
images: K scores are K linear measurements of the features, and their Bayes estimate means the same under every head,
so that one network serves all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.errors import NumericError, ParameterError

__all__ = ["Bound", "ConfidenceInputs", "HeadInputs", "NetworkInputs"]

#: (logits [B, K], index of each row's head [B]) to network inputs float32 [B, width].
Bound: TypeAlias = Callable[[Tensor, Tensor], Tensor]


class NetworkInputs(Protocol):
    """A map from released logits to network inputs."""

    @property
    def width(self) -> int:
        """Number of inputs."""
        ...

    def bind(self, weight: Tensor, bias: Tensor) -> Bound:
        """The map for these heads: weight [M, K, D], bias [M, K]."""
        ...


@dataclass(frozen=True)
class ConfidenceInputs:
    """Standardised logarithms of the confidences; knows nothing of the head.

    Attributes:
        width: number of classes K.
        mean: of the kept logarithms over the training pairs.
        deviation: theirs.
        truncation: how many of the largest confidences are kept; 0: all. The others are fed as 0, which then stands
            two deviations below the mean of those kept.
    """

    width: int
    mean: float
    deviation: float
    truncation: int = 0

    @classmethod
    def fit(cls, logits: Tensor, truncation: int = 0) -> ConfidenceInputs:
        """Fit mean and deviation to released logits [n, K] of training pairs.

        Raises:
            ParameterError: a truncation below 0 or above K.
        """
        classes = int(logits.shape[1])
        if not 0 <= truncation <= classes:
            raise ParameterError(f"truncation = {truncation} is not allowed: 0 (all) to {classes}")
        kept = torch.log_softmax(logits.double(), dim=1).topk(truncation or classes, dim=1).values
        return cls(classes, float(kept.mean()), max(float(kept.std()), 1e-6), truncation)

    def bind(self, weight: Tensor, bias: Tensor) -> Bound:
        """See `NetworkInputs`; the heads are not looked at."""
        del weight, bias
        return lambda logits, _heads: self._map(logits)

    def _map(self, logits: Tensor) -> Tensor:
        _check(logits, self.width)
        logs = torch.log_softmax(logits.double(), dim=1)
        scaled = (logs - self.mean) / self.deviation
        if 0 < self.truncation < self.width:
            kept = logs.topk(self.truncation, dim=1).indices
            scaled = torch.zeros_like(scaled).scatter_(1, kept, scaled.gather(1, kept) + 2)
        return scaled.float()


class HeadInputs:
    """Bayes estimate of the features from the scores and the head, on principal directions, and class probabilities.

    With φ ~ N(μ_y, Σ), y uniform, and z = Wφ + b + ε, ε ~ N(0, σ²): given the class, the estimate is
    μ_y + ΣWᵀ(WΣWᵀ + σ²)⁻¹(z - Wμ_y - b), and the class probabilities follow from the same Gaussians.

    Attributes:
        width: number of inputs: directions and classes.
    """

    def __init__(self, prior: FeaturePrior, rank: int = 64, variance: float = 0.0, device: str = "cpu") -> None:
        """Args: the prior of features; how many directions to keep; variance of errors of a score; torch device.

        Raises:
            ParameterError: a rank below 1 or a negative variance.
        """
        if rank < 1 or not variance >= 0:
            raise ParameterError(f"head inputs: rank = {rank} (at least 1), variance = {variance} (at least 0)")
        self._means = torch.from_numpy(prior.means).to(device)
        self._spread = torch.from_numpy(prior.covariance).to(device)
        self._variance = variance
        overall = self._means.mean(dim=0)
        between = (self._means - overall).mT @ (self._means - overall) / prior.classes
        values, vectors = torch.linalg.eigh(self._spread + between)
        self._directions = vectors[:, -rank:]
        self._centre = overall @ self._directions
        self._scale = float(values[-rank:].mean().clamp_min(1e-30).sqrt())
        self.width = int(self._directions.shape[1]) + prior.classes

    def bind(self, weight: Tensor, bias: Tensor) -> Bound:
        """See `NetworkInputs`: gains and expected scores of each head are worked out once."""
        exact = weight.double()
        expected = self._means @ exact.mT + bias.double()[:, None]  # [M, classes, K]
        noise = exact @ self._spread @ exact.mT
        identity = torch.eye(exact.shape[1], dtype=exact.dtype, device=exact.device)
        level = noise.diagonal(dim1=1, dim2=2).mean(dim=1)[:, None, None]
        noise = noise + (self._variance + 1e-6 * level) * identity
        precision = torch.linalg.inv(noise)
        gain = precision @ exact @ self._spread @ self._directions  # [M, K, rank]
        means = self._means @ self._directions

        def inputs(logits: Tensor, heads: Tensor) -> Tensor:
            _check(logits, exact.shape[1])
            surprise = logits.double()[:, None] - expected[heads]
            weighed = surprise @ precision[heads]
            share = torch.softmax(-0.5 * (weighed * surprise).sum(dim=2), dim=1)
            typical = torch.einsum("bc,bck->bk", share, surprise)
            guess = share @ means + torch.einsum("bk,bkr->br", typical, gain[heads])
            return torch.cat([(guess - self._centre) / self._scale, share], dim=1).float()

        return inputs


def _check(logits: Tensor, classes: int) -> None:
    if logits.ndim != 2 or logits.shape[1] != classes or not bool(torch.isfinite(logits).all()):
        raise NumericError(f"inversion network takes finite scores [B, {classes}], got {tuple(logits.shape)}")
