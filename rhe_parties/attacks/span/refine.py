"""Make decoded images agree with the head: a few gradient steps through the public, differentiable backbone.

Around the decoder's image x₀ the adversary searches x = x₀ + Σ_i u_i √(ρ λ_i) v_i, where (λ_i, v_i) are the principal
directions of auxiliary images of the class, and minimises

    ½ |whitener (f(x) - point)|² + ½ |u|²       (one image per class: the likelihood of the image's own features)
    ½ |W - Aᵀ f(X)|² / noise² + ½ |u|²          (several: a head shows only sums over the images of a class)

so ρ, the only weight, says how far the decoder is trusted. `choose_refinement` takes ρ from held-out auxiliary images,
and takes no refinement at all where none lowers their pixel error.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.pools import Pool, SerialPool
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.principal import principal_directions
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.backbone import Backbone
from rhe_parties.types import FloatArray, IntArray

__all__ = ["ImageBasis", "Refinement", "choose_refinement", "heads_together", "refine_images"]

_SPREADS = (0.1, 0.2, 0.4)
_IMAGES_TOGETHER = 40  # small convolutions take half as long per image as with ten
_OWN_SHARE = 0.7


@dataclass(frozen=True, eq=False)
class ImageBasis:
    """Principal directions of the images of each class, scaled by their deviations: float32 [K, rank, C·H·W]."""

    directions: FloatArray

    @classmethod
    def fit(cls, images: FloatArray, labels: IntArray, rank: int = 64) -> ImageBasis:
        """Fit to auxiliary images [n, C, H, W] with labels [n] in 0..K-1.

        A class's covariance is 70 % its own and 30 % pooled, all within the leading pooled directions.

        Raises:
            DataError: images that do not differ inside their classes.
        """
        flat = images.reshape(len(images), -1).astype(np.float32)
        classes = int(labels.max()) + 1
        for label in range(classes):
            flat[labels == label] -= flat[labels == label].mean(axis=0)
        pooled = principal_directions(flat, 2 * rank)
        if not pooled.any():
            raise DataError("auxiliary images of one class are all alike: nothing to refine along")
        size = np.square(pooled).sum(axis=1)
        scores = (flat @ (pooled / size[:, None]).T).astype(np.float64)
        found = []
        for label in range(classes):
            own = scores[labels == label]
            mixed = _OWN_SHARE * (own.T @ own) / len(own) + (1 - _OWN_SHARE) * np.eye(len(pooled))
            # Back to lengths in pixels before the directions are ranked.
            length = np.sqrt(size)
            values, vectors = np.linalg.eigh(mixed * length[:, None] * length)
            top = vectors[:, -rank:] * np.sqrt(np.maximum(values[-rank:], 0))
            found.append((top / length[:, None]).T @ pooled)
        return cls(np.stack(found).astype(np.float32))


@dataclass(frozen=True)
class Refinement:
    """How strongly to refine.

    Attributes:
        steps: Adam steps; 0: not at all.
        spread: ρ, variance of the decoder's error over that of the images inside their class.
        rate: first step size in units of u; it falls linearly to a tenth.
    """

    steps: int
    spread: float = 0.5
    rate: float = 0.2

    def __post_init__(self) -> None:
        if self.steps < 0 or not self.spread > 0 or not self.rate > 0:
            raise ParameterError(
                f"refinement: steps = {self.steps} must be at least 0, "
                f"spread = {self.spread} and rate = {self.rate} above 0"
            )


def heads_together(images_per_head: int) -> int:
    """Heads of N images each that `refine_images` works on in one pass: cut work into this many for other cores."""
    return max(1, _IMAGES_TOGETHER // images_per_head)


def refine_images(
    backbone: Backbone,
    images: FloatArray,
    inversion: Inversion,
    basis: ImageBasis,
    refinement: Refinement,
    weight: FloatArray | None = None,
    progress: Callable[[float], None] | None = None,
) -> FloatArray:
    """Refine the decoded images of V heads.

    Heads are worked on in blocks of a fixed size, the last one filled up, so that the result of a head has the same
    bits whatever is refined beside it, as long as the number of threads is the same.

    Args:
        backbone: the public network.
        images: decoded images float32 [V, N, C, H, W] in [-1, 1].
        inversion: what `invert_heads` gave for the same heads.
        basis: directions to search along.
        refinement: steps and trust.
        weight: the heads' weights [V, K, D]; given, all images of a head are explained together (use it for S > 1);
            None: every image is matched to its own features.
        progress: called with the done share in [0, 1].

    Returns:
        float32 [V, N, C, H, W] in [-1, 1].

    Raises:
        NumericError: shapes that do not fit together, or images that are not finite.
    """
    heads = len(images)
    if images.ndim != 5 or images.shape[:2] != inversion.points.shape[:2] or not np.isfinite(images).all():
        raise NumericError(
            f"refinement takes finite images [V, N, C, H, W] for features {inversion.points.shape}, got {images.shape}"
        )
    if refinement.steps == 0:
        return images.astype(np.float32)
    count = images.shape[1]
    together = heads_together(count)
    per_class = count // len(basis.directions)
    scaled = np.repeat(basis.directions * np.float32(np.sqrt(refinement.spread)), per_class, axis=0)
    directions = torch.from_numpy(scaled).to(backbone.device).repeat(together, 1, 1)
    out = np.empty(images.shape, np.float32)
    for first in range(0, heads, together):
        rows = np.minimum(np.arange(first, first + together), heads - 1)
        mismatch = _mismatch(inversion.of(rows), None if weight is None else weight[rows], backbone.device)
        start = torch.from_numpy(images[rows].astype(np.float32)).flatten(0, 1).to(backbone.device)
        found = _search(backbone, start, directions, mismatch, refinement).cpu().numpy()
        out[first : first + together] = found.reshape(together, *images.shape[1:])[: heads - first]
        if progress is not None:
            progress(min(first + together, heads) / heads)
    return out


def _mismatch(inversion: Inversion, weight: FloatArray | None, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Half the squared, noise-scaled distance between what features [V·N, D] imply and what was seen of V heads."""
    if weight is None:
        whitener = torch.from_numpy(inversion.whitener).to(device).mT
        target = torch.from_numpy(inversion.points).flatten(0, 1).to(device) @ whitener

        def each(features: Tensor) -> Tensor:
            return 0.5 * (features @ whitener - target).square().sum()

        return each
    coefficients = torch.from_numpy(inversion.coefficients).to(device).mT
    seen = torch.from_numpy(weight).to(device)

    def together(features: Tensor) -> Tensor:
        explained = coefficients @ features.view(len(seen), -1, features.shape[1])
        return 0.5 * ((seen - explained) / inversion.noise_std).square().sum()

    return together


def _search(
    backbone: Backbone,
    start: Tensor,
    directions: Tensor,
    mismatch: Callable[[Tensor], Tensor],
    refinement: Refinement,
) -> Tensor:
    """Adam on u [V·N, rank] with hand-written moments, zero start; directions [V·N, rank, C·H·W]."""
    u = torch.zeros(directions.shape[:2], device=start.device)

    def image(at: Tensor) -> Tensor:
        return start + torch.bmm(at[:, None], directions).view_as(start)

    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for step in range(refinement.steps):
        u.requires_grad_(True)
        loss = mismatch(backbone.forward(image(u))) + 0.5 * u.square().sum()
        (slope,) = torch.autograd.grad(loss, u)
        u = u.detach()
        first = 0.9 * first + 0.1 * slope
        second = 0.99 * second + 0.01 * slope.square()
        rate = refinement.rate * (1 - 0.9 * step / refinement.steps)
        size = (second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8
        u = u - rate * first / (1 - 0.9 ** (step + 1)) / size
    return image(u).clamp(-1, 1)


def choose_refinement(
    backbone: Backbone,
    decoded: FloatArray,
    truth: FloatArray,
    inversion: Inversion,
    basis: ImageBasis,
    steps: int,
    weight: FloatArray | None = None,
    spreads: Sequence[float] = _SPREADS,
    pool: Pool | None = None,
) -> tuple[Refinement, FloatArray]:
    """Pick ρ on auxiliary heads whose images the decoder never saw.

    Args:
        backbone: the public network.
        decoded: the decoder's images of the held-out heads [V, N, C, H, W].
        truth: their true images, same shape.
        inversion: of the same heads.
        basis: directions to search along.
        steps: Adam steps of the refinement.
        weight: as in `refine_images`.
        spreads: values of ρ to try.
        pool: tries them side by side; None: one after the other.

    Returns:
        The refinement with the lowest pixel error (0 steps where none beats the decoder), and the mean squared
        errors: without, then for each ρ.
    """
    options = [Refinement(steps, spread) for spread in spreads] if steps > 0 else []
    refine = functools.partial(_refined, backbone, decoded, inversion, basis, weight)
    refined = (pool or SerialPool()).map(refine, options)
    errors = [float(np.square(images - truth).mean()) for images in (decoded, *refined)]
    return (Refinement(0), *options)[int(np.argmin(errors))], np.asarray(errors, np.float32)


def _refined(
    backbone: Backbone,
    images: FloatArray,
    inversion: Inversion,
    basis: ImageBasis,
    weight: FloatArray | None,
    refinement: Refinement,
) -> FloatArray:
    return refine_images(backbone, images, inversion, basis, refinement, weight)
