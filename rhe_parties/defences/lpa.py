"""LPA: every released score vector is moved a little, no decision changes, and inversion networks learn worse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Defence, Fact, Fitted, PublicData
from rhe_parties.defences.poisoning import allowed_share, fit_perturbation, perturbation
from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, IntArray

__all__ = ["LabelPreserving"]


class LabelPreserving(Defence):
    """Adds to released scores what makes inversion networks that are trained on them err most.

    The winner stays the winner, no logit moves by more than `reach`, and the confidences of an answer change by at most
    `budget` in total. It protects what is released, not the head. It hurts a network most that was trained on clean
    scores (of shadow heads); one that is trained on the perturbed answers themselves gets most of the way back.
    """

    name = "lpa"
    summary = "released scores are moved against inversion networks, labels unchanged"
    source = "Zhou et al. 2024, arXiv 2412.07575"
    two_layers = False

    @dataclass(frozen=True)
    class Options:
        """`budget`: largest total change of an answer's confidences; `reach`: largest change of a logit."""

        budget: float = 0.5
        reach: float = 4.0

        def __post_init__(self) -> None:
            for name, value in (("budget", self.budget), ("reach", self.reach)):
                if not (np.isfinite(value) and value > 0):
                    raise ParameterError(f"lpa: {name}={value} is not allowed (allowed: finite, above 0)")

    def fit(self, public: PublicData, recipe: AnyRecipe) -> Fitted:
        """See `Defence.fit`."""
        return fit_perturbation(public, recipe, self.options.reach, self.options.budget)

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """See `Defence.facts`."""
        del recipe, images
        return [("largest change of confidences", f"{self.options.budget:g}")]

    def release(self, classes: IntArray, logits: AnyArray) -> tuple[IntArray, AnyArray]:
        """See `Defence.release`."""
        exact = np.asarray(logits, np.float64)
        moved = perturbation(exact, self.fitted, self.options.reach)
        return classes, exact + allowed_share(exact, moved, self.options.budget)[:, None] * moved
