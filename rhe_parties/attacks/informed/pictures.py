"""Pixels of estimated features, with the decoder and the refinement of span inversion."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext
from rhe_parties.attacks.informed.posterior import Posterior
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.pipeline import SpanAttack
from rhe_parties.attacks.span.refine import ImageBasis, heads_together, refine_images
from rhe_parties.model.backbone import Backbone
from rhe_parties.types import FloatArray, IntArray

__all__ = ["draw_alone", "draw_together"]


@dataclass(frozen=True, eq=False)
class _Piece:
    label: int  # -1: all classes in order
    images: FloatArray
    inversion: Inversion
    weight: FloatArray | None = None


def draw_alone(
    tools: SpanAttack, backbone: Backbone, posterior: Posterior, labels: IntArray, context: AttackContext
) -> FloatArray:
    """Images [V, 1, C, H, W] in [-1, 1] of one unknown image per head, with classes `labels` [V]."""
    images, inversion = _decoded(tools, posterior, labels[:, None])
    pieces, places = [], []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        for start in range(0, len(rows), heads_together(1)):
            part = rows[start : start + heads_together(1)]
            places.append(part)
            pieces.append(_Piece(int(label), images[part], inversion.of(part)))
    drawn = context.pool.map(functools.partial(_draw, tools, backbone), pieces)
    return np.concatenate(drawn)[np.argsort(np.concatenate(places))]


def draw_together(
    tools: SpanAttack, backbone: Backbone, posterior: Posterior, weight: FloatArray, context: AttackContext
) -> FloatArray:
    """Images [V, N, C, H, W] in [-1, 1] of all training images, ordered by class.

    `weight` [V, K, D] is what they must explain together where S > 1: the head's weights less the decayed initial ones.
    """
    order = np.repeat(np.arange(tools.prior.classes), tools.images_per_class).astype(np.int64)
    images, inversion = _decoded(tools, posterior, np.tile(order, (len(weight), 1)))
    pieces = []
    size = heads_together(images.shape[1])
    for start in range(0, len(images), size):
        part = np.arange(start, min(start + size, len(images)))
        together = weight[part] if tools.images_per_class > 1 else None
        pieces.append(_Piece(-1, images[part], inversion.of(part), together))
    return np.concatenate(context.pool.map(functools.partial(_draw, tools, backbone), pieces))


def _decoded(tools: SpanAttack, posterior: Posterior, labels: IntArray) -> tuple[FloatArray, Inversion]:
    """Images [V, U, C, H, W] of the estimates, classes [V, U], by the same blend of decoders as in span inversion."""
    p = posterior
    inversion = Inversion(p.features, p.points, p.whitener, p.coefficients, p.variance, p.noise_std)
    return tools.decode_features(p.features, labels.ravel()), inversion


def _draw(tools: SpanAttack, backbone: Backbone, piece: _Piece) -> FloatArray:
    basis = tools.basis if piece.label < 0 else ImageBasis(tools.basis.directions[piece.label : piece.label + 1])
    return refine_images(backbone, piece.images, piece.inversion, basis, tools.refinement, piece.weight)
