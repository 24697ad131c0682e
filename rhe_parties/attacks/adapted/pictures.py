"""Pixels of estimated features: a kernel decoder that knows the estimates' error, then steps through the backbone."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.adapted.blocks import Workshop
from rhe_parties.attacks.adapted.estimate import ErrorModel
from rhe_parties.attacks.pools import Pool
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.kernel import KernelDecoder, fit_kernel_decoder
from rhe_parties.attacks.span.refine import ImageBasis, Refinement, heads_together, refine_images
from rhe_parties.data.datasets import to_unit
from rhe_parties.model.backbone import Backbone
from rhe_parties.rng import numpy_stream
from rhe_parties.types import AnyArray, FloatArray, UInt8Array

__all__ = ["Drawing"]

_POINTS = 1500  # pairs per class that the decoder rests on
_SPREAD = 0.2  # variance of the decoder's error over that of the images inside their class


class _Piece(NamedTuple):
    images: FloatArray
    inversion: Inversion


@dataclass(frozen=True, eq=False)
class Drawing:
    """Draws images of features whose error is known, in the order of training sets."""

    workshop: Workshop
    error: ErrorModel
    kernel: KernelDecoder
    basis: ImageBasis

    @classmethod
    def prepare(
        cls, workshop: Workshop, images: UInt8Array, errors: AnyArray, error: ErrorModel, seed: int, pool: Pool
    ) -> Drawing:
        """Fit to auxiliary images uint8 [n, C, H, W] whose features have errors drawn from `errors` [m, D]."""
        pictures = to_unit(images)
        drawn = numpy_stream(seed, "adapted-errors").integers(len(errors), size=len(images))
        features = workshop.features + errors[drawn].astype(np.float32)
        kernel = fit_kernel_decoder(features, pictures, workshop.labels, workshop.kinds, seed, _POINTS, None, pool)
        return cls(workshop, error, kernel, ImageBasis.fit(pictures, workshop.labels))

    def draw(self, backbone: Backbone, features: FloatArray, steps: int, pool: Pool) -> FloatArray:
        """Images [V, N, C, H, W] in [-1, 1] of features [V, N, D], refined in so many steps, each on its own."""
        flat = features.reshape(-1, features.shape[-1])
        images = self.kernel.decode(flat, np.tile(self.workshop.order, len(features)))
        images = images.reshape(*features.shape[:2], *images.shape[1:])
        # What the refinement reads of an inversion are points and whitener; of heads nothing is known here.
        unseen = np.zeros((*features.shape[:2], 0), np.float32)
        inversion = Inversion(features, features, self.error.whitener, unseen, self.error.variances, 0.0)
        size = heads_together(features.shape[1])
        starts = range(0, len(features), size)
        pieces = [
            _Piece(images[i : i + size], inversion.of(np.arange(i, min(i + size, len(features))))) for i in starts
        ]
        refine = functools.partial(_refine, backbone, self.basis, Refinement(steps, _SPREAD))
        return np.concatenate(pool.map(refine, pieces))


def _refine(backbone: Backbone, basis: ImageBasis, refinement: Refinement, piece: _Piece) -> FloatArray:
    return refine_images(backbone, piece.images, piece.inversion, basis, refinement)
