"""Pixels of estimated outputs of the trunk: a kernel decoder that knows their error, then steps through the trunk.

The block's inputs say more of an image than its features do: the last ReLU takes much of it.
"""

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
    """Draws images of estimated outputs of the trunk whose error is known, in the order of training sets."""

    workshop: Workshop
    error: ErrorModel
    kernel: KernelDecoder
    basis: ImageBasis

    @classmethod
    def prepare(
        cls, workshop: Workshop, images: UInt8Array, errors: AnyArray, error: ErrorModel, seed: int, pool: Pool
    ) -> Drawing:
        """Fit to auxiliary images uint8 [n, C, H, W] whose trunk's outputs have errors drawn from `errors` [m, P]."""
        pictures = to_unit(images)
        drawn = numpy_stream(seed, "adapted-errors").integers(len(errors), size=len(images))
        inputs = workshop.inputs + errors[drawn].astype(np.float32)
        kernel = fit_kernel_decoder(inputs, pictures, workshop.labels, workshop.kinds, seed, _POINTS, None, pool)
        return cls(workshop, error, kernel, ImageBasis.fit(pictures, workshop.labels))

    def draw(self, trunk: Backbone, inputs: FloatArray, steps: int, pool: Pool) -> FloatArray:
        """Images [V, N, C, H, W] in [-1, 1] of the trunk's outputs [V, N, P], refined in so many steps, each alone."""
        heads, per_head = inputs.shape[:2]
        images = self.kernel.decode(inputs.reshape(heads * per_head, -1), np.tile(self.workshop.order, heads))
        images = images.reshape(heads, per_head, *images.shape[1:])
        # What the refinement reads of an inversion are points and whitener; of heads nothing is known here.
        unseen = np.zeros((heads, per_head, 0), np.float32)
        inversion = Inversion(inputs, inputs, self.error.whitener, unseen, self.error.variances, 0.0)
        size = heads_together(per_head)
        parts = [np.arange(i, min(i + size, heads)) for i in range(0, heads, size)]
        refine = functools.partial(_refine, trunk, self.basis, Refinement(steps, _SPREAD))
        return np.concatenate(pool.map(refine, [_Piece(images[part], inversion.of(part)) for part in parts]))


def _refine(trunk: Backbone, basis: ImageBasis, refinement: Refinement, piece: _Piece) -> FloatArray:
    return refine_images(trunk, piece.images, piece.inversion, basis, refinement)
