"""LFP: the least certain decisions are given to the runner-up, which mislabels what an inversion network trains on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Defence, Fact, Fitted, PublicData
from rhe_parties.defences.shadows import shadow_scores
from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, IntArray

__all__ = ["LabelFlipping"]


class LabelFlipping(Defence):
    """Swaps the two largest scores of the answers with the smallest margins, a given share of all.

    The threshold is a quantile of the margins that shadow heads give to public images. It costs at most that share of
    accuracy, and must not stand where a decision matters for safety. The answer to an image depends on its scores
    alone.
    """

    name = "lfp"
    summary = "a small share of released decisions, the least certain ones, goes to the runner-up"
    source = "Zhou et al. 2024, arXiv 2412.07575"
    two_layers = False

    @dataclass(frozen=True)
    class Options:
        """`share`: of the answers that are flipped."""

        share: float = 0.05

        def __post_init__(self) -> None:
            if not (np.isfinite(self.share) and 0 < self.share <= 0.5):
                raise ParameterError(f"lfp: share={self.share} is not allowed (allowed: above 0, at most 0.5)")

    def fit(self, public: PublicData, recipe: AnyRecipe) -> Fitted:
        """See `Defence.fit`."""
        logits = shadow_scores(public, recipe).logits
        two = np.partition(logits.reshape(-1, logits.shape[2]), -2, axis=1)[:, -2:]
        return {"margin": np.asarray([np.quantile(two[:, 1] - two[:, 0], self.options.share)], np.float32)}

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """See `Defence.facts`."""
        del recipe, images
        return [("decisions flipped", f"about {100 * self.options.share:g} % of all")]

    def release(self, classes: IntArray, logits: AnyArray) -> tuple[IntArray, AnyArray]:
        """See `Defence.release`."""
        order = np.argsort(logits, axis=1)
        first, second = order[:, -1], order[:, -2]
        rows = np.arange(len(logits))
        flipped = logits[rows, first] - logits[rows, second] < float(self.fitted["margin"][0])
        swapped = logits.copy()
        swapped[rows, first], swapped[rows, second] = logits[rows, second], logits[rows, first]
        return np.where(flipped, second, classes).astype(np.int64), np.where(flipped[:, None], swapped, logits)
