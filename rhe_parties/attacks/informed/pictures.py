"""Pixels of estimated features, with the decoder and the refinement of span inversion."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from rhe_parties.attacks.base import AttackContext
from rhe_parties.attacks.informed.posterior import Posterior
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.pipeline import SpanAttack
from rhe_parties.attacks.span.refine import ImageBasis, refine_images
from rhe_parties.model.backbone import Backbone
from rhe_parties.types import FloatArray, IntArray

__all__ = ["draw_alone", "draw_together"]

_PIECE = 8  # heads per piece of work: fixed, so that pieces are the same for any number of workers


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
        for start in range(0, len(rows), _PIECE):
            part = rows[start : start + _PIECE]
            places.append(part)
            pieces.append(_Piece(int(label), images[part], _rows(inversion, part)))
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
    for start in range(0, len(images), _PIECE):
        part = np.arange(start, min(start + _PIECE, len(images)))
        together = weight[part] if tools.images_per_class > 1 else None
        pieces.append(_Piece(-1, images[part], _rows(inversion, part), together))
    return np.concatenate(context.pool.map(functools.partial(_draw, tools, backbone), pieces))


def _decoded(tools: SpanAttack, posterior: Posterior, labels: IntArray) -> tuple[FloatArray, Inversion]:
    """Images [V, U, C, H, W] of the estimates, classes [V, U], by the same blend of decoders as in span inversion."""
    p = posterior
    flat = p.features.reshape(-1, p.features.shape[-1])
    images = tools.kernel.decode(flat, labels.ravel())
    if tools.decoder is not None and tools.share > 0:
        images = images + np.float32(tools.share) * (tools.decoder.decode(flat) - images)
    inversion = Inversion(p.features, p.points, p.whitener, p.coefficients, p.variance, p.noise_std)
    return images.reshape(*labels.shape, *images.shape[1:]), inversion


def _rows(inversion: Inversion, rows: IntArray) -> Inversion:
    return replace(
        inversion,
        features=inversion.features[rows],
        points=inversion.points[rows],
        coefficients=inversion.coefficients[rows],
    )


def _draw(tools: SpanAttack, backbone: Backbone, piece: _Piece) -> FloatArray:
    basis = tools.basis if piece.label < 0 else ImageBasis(tools.basis.directions[piece.label : piece.label + 1])
    return refine_images(backbone, piece.images, piece.inversion, basis, tools.refinement, piece.weight)
