"""Initialisation noise: heads start from larger random weights, which stay in them and hide the rest."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Defence, Fact, PublicData
from rhe_parties.errors import ParameterError

__all__ = ["InitialisationNoise"]


class InitialisationNoise(Defence):
    """Draws initial weights with a larger deviation, and trains as ever.

    The ablation of arXiv 2505.14323: few steps leave most of the initial weights where they were, so they are noise on
    the sum of training features that a head is. It gives no guarantee, and costs accuracy.
    """

    name = "init-noise"
    summary = "heads start from larger random weights; weights in the clear"
    source = "arXiv 2505.14323, ablation of the initialisation"

    @dataclass(frozen=True)
    class Options:
        """`std`: deviation of the initial weights (0.002 is the usual one for MNIST, 0.0002 to 0.2 in the ablation)."""

        std: float = 0.02

        def __post_init__(self) -> None:
            if not (np.isfinite(self.std) and self.std >= 0):
                raise ParameterError(f"init-noise: std={self.std} is not allowed (allowed: finite, at least 0)")

    def recipe(self, plain: AnyRecipe, public: PublicData) -> AnyRecipe:
        """See `Defence.recipe`."""
        del public
        return dataclasses.replace(plain, init_std=self.options.std)

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """See `Defence.facts`."""
        del recipe, images
        return [("deviation of initial weights", f"{self.options.std:g}")]
