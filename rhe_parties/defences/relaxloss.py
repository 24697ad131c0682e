"""RelaxLoss: training stops short of certainty."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Defence, Fact, PublicData
from rhe_parties.errors import ParameterError

__all__ = ["RelaxLoss"]


class RelaxLoss(Defence):
    """Holds the mean training loss near a target instead of driving it to zero.

    Made against membership inference: members and others get losses of like size. A head still is a sum over its
    training features, so that reconstruction from its weights should lose little.
    """

    name = "relaxloss"
    summary = "training holds the loss at a target, so that members do not stand out; weights in the clear"
    source = "Chen, Yu, Fritz 2022, arXiv 2207.05801"
    two_layers = False
    own_rule = True

    @dataclass(frozen=True)
    class Options:
        """`alpha`: the target of the mean cross-entropy (1.0 in the paper for ten classes)."""

        alpha: float = 1.0

        def __post_init__(self) -> None:
            if not (np.isfinite(self.alpha) and self.alpha > 0):
                raise ParameterError(f"relaxloss: alpha={self.alpha} is not allowed (allowed: finite, above 0)")

    def recipe(self, plain: AnyRecipe, public: PublicData) -> AnyRecipe:
        """See `Defence.recipe`."""
        from rhe_parties.model.head import Recipe

        del public
        if not isinstance(plain, Recipe) or plain.mechanism is not None:
            raise ParameterError("relaxloss trains linear heads without noise (allowed: hidden=0, no dp-sgd)")
        return dataclasses.replace(plain, relax=self.options.alpha)

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """See `Defence.facts`."""
        del recipe, images
        return [("target loss", f"{self.options.alpha:g}")]
