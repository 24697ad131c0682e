"""The common offset of a head's training features, which the span identity leaves out of sight.

The rows of A sum to zero over the classes, so W = AᵀX + noise tells nothing of one combination uᵀX of the training
features: with one image per class, u is nearly constant, and all features are known up to one common offset δ [D]. A
Gaussian prior of the features gives δ a tenth of their own variance, four fifths of the whole error of the inversion.
Here δ is estimated coordinate by coordinate from the exact distributions of the features (see `marginals`):

    p(δ_d) ∝ Π_k p_{k,d}(z_{k,d} + u_k δ_d),      z: class averages with their noise, u_k: average of u over class k.

Divided by what the Gaussian prior says of a coordinate alone, this is one more linear observation of X with Gaussian
noise, and joins the others in the estimate with the prior's full covariance.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.span.marginals import LogDensity, Marginals
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.rng import numpy_stream

__all__ = ["Anchor", "Sight"]

_GRID = 65
_REACH = 4.0  # prior standard deviations of the offset on either side
_SIMULATED = 32  # heads, for the expected precision
_WEAKEST = 1e-6  # least precision of an observed coordinate over its prior precision


class Sight(NamedTuple):
    """What A [V, N, K] sees: directions [V, N, R], strengths [V, R], their shares of W's rows [V, R, K], and u [V, N].

    Directions are orthonormal left singular vectors of A, strengths the squared singular values.
    """

    directions: Tensor
    strength: Tensor
    share: Tensor
    unseen: Tensor

    @classmethod
    def of(cls, coefficients: Tensor) -> Sight:
        """Of coefficients [V, N, K]; u is the unseen direction next to the constant one."""
        squared, vectors = torch.linalg.eigh(coefficients.mT @ coefficients)
        # A's columns sum to zero over classes: the smallest of the K singular values is zero but for roundings.
        squared, vectors = squared[:, 1:].clamp_min(1e-30), vectors[..., 1:]
        directions = (coefficients @ vectors) / squared.sqrt()[:, None]
        ones = torch.ones_like(directions[..., :1])
        rest = ones - directions @ (directions.mT @ ones)
        unseen = (rest / rest.norm(dim=1, keepdim=True).clamp_min(1e-12)).squeeze(-1)
        return cls(directions, squared, vectors.mT / squared.sqrt()[..., None], unseen)

    def averages(self, per_class: int) -> tuple[Tensor, Tensor]:
        """The seen directions and u, averaged over the images of each class: [V, K, R] and [V, K]."""
        heads, count, rank = self.directions.shape
        grouped = self.directions.view(heads, count // per_class, per_class, rank).mean(2)
        return grouped, self.unseen.view(heads, count // per_class, per_class).mean(2)


class Anchor:
    """Estimates the offset δ of heads trained by one recipe with S images per class."""

    def __init__(
        self, prior: FeaturePrior, marginals: Marginals, expected: Tensor, noise: float, per_class: int
    ) -> None:
        """Prepare it.

        Args:
            prior: mean and covariance of the features.
            marginals: their exact distributions.
            expected: coefficients [1, N, K] of a typical head; they fix the width of the noise in class averages.
            noise: variance of W - AᵀX per weight.
            per_class: S.
        """
        self.per_class, self.noise = per_class, noise
        device = expected.device
        self.means = torch.from_numpy(prior.means).to(device)
        self.covariance = torch.from_numpy(prior.covariance).to(device)
        self.live = torch.from_numpy(marginals.live).to(device)
        sight = Sight.of(expected)
        grouped, unseen = sight.averages(per_class)
        self.deviation = math.sqrt(noise * float((grouped.square() / sight.strength[:, None]).sum(-1).mean()))
        spread = self.covariance.diagonal()[self.live]
        #: False where the noise drowns the class averages: then there is nothing to anchor.
        self.useful = self.deviation**2 < float(spread.mean()) / per_class
        if not self.useful:
            return
        density = marginals.averages(per_class, self.deviation)
        self.table = torch.from_numpy(density.values).to(device)
        self.low, self.step = density.low, density.step
        self.spread = spread
        drawn = _simulated(density).to(device)
        self.expected_precision = self._precision(self._offset(drawn, unseen.expand(len(drawn), -1))[1]).mean(dim=0)

    def expected_share(self, basis: Tensor) -> Tensor:
        """Share [D] of the offset's variance that a typical head reveals, along the columns of `basis`."""
        rows = self.covariance[self.live]
        noisy = rows[:, self.live] + torch.diag(1 / self.expected_precision)
        known = (rows @ basis * torch.linalg.solve(noisy, rows @ basis)).sum(0)
        prior = (basis * (self.covariance @ basis)).sum(0)
        share: Tensor = (known / prior.clamp_min(1e-30)).clamp(0, 1)
        return share

    def locate(self, weight: Tensor, sight: Sight) -> Tensor:
        """δ less its prior mean, [V, D], of heads with weights [V, K, D] in the features' own coordinates.

        Every image n of a head moves by u_n times this.
        """
        labels = torch.arange(len(self.means), device=weight.device).repeat_interleave(self.per_class)
        means = self.means[labels]
        grouped, unseen = sight.averages(self.per_class)
        # The seen part of the class averages, at its likeliest value; the unseen one at its prior mean.
        centre = sight.unseen @ means
        seen = grouped @ (sight.share @ weight) + unseen[..., None] * centre[:, None]
        if self.per_class > 1:  # differences inside a class are out of sight too, and stay at the prior's mean
            inside = (
                means - sight.directions @ (sight.directions.mT @ means) - sight.unseen[..., None] * centre[:, None]
            )
            seen = seen + inside.view(len(weight), len(self.means), self.per_class, -1).mean(2)
        moved, variance = self._offset(seen[:, :, self.live], unseen)
        precision = self._precision(variance)
        site = moved / variance / precision
        rows = self.covariance[self.live]
        # One head at a time: a matrix [L, L] for each of them is too much memory for wide backbones.
        pairs = zip(precision, site, strict=True)
        return torch.stack([torch.linalg.solve(rows[:, self.live] + torch.diag(1 / p), s) @ rows for p, s in pairs])

    def _offset(self, averages: Tensor, unseen: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance [V, L] of the offset, coordinate by coordinate.

        Args:
            averages: class averages [V, K, L] at offset 0.
            unseen: u's class averages [V, K].
        """
        bins = self.table.shape[-1]
        classes, live = averages.shape[1:]
        start = (torch.arange(classes * live, device=averages.device) * bins).view(classes, live, 1)
        ladder = torch.linspace(-_REACH, _REACH, _GRID, device=averages.device) * self.spread.float().sqrt()[:, None]
        flat = self.table.view(-1)
        found = []
        for at, along in zip(averages.float(), unseen.float(), strict=True):
            place = ((at[..., None] + along[:, None, None] * ladder - self.low) / self.step).clamp_(0, bins - 1.001)
            index = place.long()
            part, index = place - index, index + start
            weight = torch.softmax(torch.lerp(flat[index], flat[index + 1], part).sum(0), dim=-1)
            mean = (weight * ladder).sum(-1)
            found.append(torch.stack([mean, (weight * (ladder - mean[:, None]).square()).sum(-1)]))
        mean, variance = torch.stack(found, dim=1).double()
        # A peak between two steps of the ladder has no variance there.
        return mean, variance + (ladder[:, 1] - ladder[:, 0]).double().square() / 12

    def _precision(self, variance: Tensor) -> Tensor:
        """What the marginals add to the Gaussian prior's precision of a coordinate alone, [V, L]."""
        return torch.maximum(1 / variance - 1 / self.spread, _WEAKEST / self.spread)


def _simulated(density: LogDensity) -> Tensor:
    """Noisy class averages float64 [heads, K, L] of heads whose offset is 0, every coordinate drawn for itself."""
    chance = np.cumsum(np.exp(density.values.astype(np.float64)), axis=-1)
    chance /= chance[..., -1:]
    draws = numpy_stream(0, "span-anchor").random((_SIMULATED, *chance.shape[:2]))
    place = np.stack([(chance < draw[..., None]).sum(axis=-1) for draw in draws])
    return torch.from_numpy(density.low + density.step * place)
