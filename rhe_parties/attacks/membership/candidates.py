"""The challenge's candidate images as features, checked once and kept for every world."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, PriorKnowledge
from rhe_parties.errors import DataError, NumericError
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["Candidates", "challenge_features", "read_candidates"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """M candidates for each of V heads.

    Attributes:
        images: uint8 [V, M, C, H, W].
        features: their backbone features, float32 [V, M, D].
        labels: int64 [V, M] in 0..K-1.
        digest: SHA-256 (hex) over the images, the key of what is remembered about them.
    """

    images: UInt8Array
    features: FloatArray
    labels: IntArray
    digest: str


def read_candidates(prior: PriorKnowledge, context: AttackContext, heads: int) -> Candidates:
    """The candidates of the context's challenge; their features are extracted once per seat.

    Raises:
        DataError: no candidates, or labels out of range.
        NumericError: arrays that fit neither each other nor the number of heads.
    """
    images, labels = context.challenge.candidates, context.challenge.candidate_labels
    if images is None or labels is None:
        raise DataError("membership: the challenge holds no candidates (images [V, M, C, H, W] and labels [V, M])")
    if images.ndim != 5 or images.dtype != np.uint8 or labels.shape != images.shape[:2] or len(images) != heads:
        raise NumericError(
            f"membership: candidates must be uint8 [{heads}, M, C, H, W] with labels [{heads}, M], "
            f"got {images.dtype} {images.shape} and {labels.shape}"
        )
    if labels.size == 0:
        raise DataError("membership: zero candidates per head: at least 1 is needed")
    if labels.min() < 0 or labels.max() >= prior.classes:
        worst = int(labels.min() if labels.min() < 0 else labels.max())
        raise DataError(f"membership: candidate label {worst} is out of range: 0 to {prior.classes - 1}")
    digest, features = challenge_features(prior, context, images)
    return Candidates(images, features, labels, digest)


def challenge_features(prior: PriorKnowledge, context: AttackContext, images: UInt8Array) -> tuple[str, FloatArray]:
    """SHA-256 (hex) of images uint8 [V, M, C, H, W], and their features [V, M, D], extracted once per seat."""
    hashed = hashlib.sha256(repr(images.shape).encode())
    hashed.update(np.ascontiguousarray(images).tobytes())
    digest = hashed.hexdigest()
    key = f"challenge-features {digest}"
    if key not in context.memory:
        context.progress(0.0, "features of the challenge's images")
        flat = prior.backbone.extract(images.reshape(-1, *images.shape[2:]))
        context.memory[key] = flat.reshape(*images.shape[:2], -1)
    features: FloatArray = context.memory[key]
    return digest, features
