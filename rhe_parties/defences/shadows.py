"""What a defender knows of released scores before any private head exists: those of heads trained on public images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rhe_parties.defences.base import AnyRecipe, PublicData
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["ShadowScores", "shadow_scores"]

_HEADS, _IMAGES = 128, 2000


class ShadowScores(NamedTuple):
    """Logits float32 [H, n, K] of H heads about the public images in `rows` int64 [n].

    `weight` float32 [H, K, D] and `sets` int64 [H, N], the public images that each head was trained on.
    """

    logits: FloatArray
    rows: IntArray
    weight: FloatArray
    sets: IntArray

    @property
    def fresh(self) -> AnyArray:
        """Bool [H, n]: whether a head was not trained on the image."""
        fresh: AnyArray = (self.rows[:, None] != self.sets[:, None]).all(axis=2)
        return fresh


def shadow_scores(public: PublicData, recipe: AnyRecipe) -> ShadowScores:
    """Train heads on public images, as the owner trains on private ones, and ask them about public images.

    Raises:
        ParameterError: a recipe of heads with a hidden layer.
    """
    from rhe_parties.data.splits import random_sets
    from rhe_parties.errors import ParameterError
    from rhe_parties.model.dual import train_many
    from rhe_parties.model.head import Recipe
    from rhe_parties.rng import numpy_stream, stream_seed

    if not isinstance(recipe, Recipe):
        raise ParameterError("what acts on scores is fitted to linear heads (allowed: hidden=0)")
    # The streams have the names under which lpa and lfp were first measured.
    stream = numpy_stream(public.seed, "poisoning-sets")
    sets = random_sets(public.labels, public.classes, public.images_per_class, _HEADS, stream)
    seed = stream_seed(public.seed, "poisoning-heads")
    weight, bias = train_many(public.features, public.labels, sets, public.classes, recipe, seed)
    rows = stream.permutation(len(public.labels))[:_IMAGES]
    logits = np.einsum("nd,hkd->hnk", public.features[rows], weight) + bias[:, None]
    return ShadowScores(logits.astype(np.float32), rows, weight, sets)
