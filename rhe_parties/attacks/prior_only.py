"""The baseline: what an adversary claims that saw nothing."""

from __future__ import annotations

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.data.datasets import to_unit
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import AnyArray

__all__ = ["PriorOnly"]


class PriorOnly(Strategy):
    """Claims the class average of its auxiliary images for every training image of the class.

    Uses no observation. Expected: identification at chance in every world; any attack that does not beat it has
    learned nothing from its view.
    """

    name = "prior-only"
    summary = "no view at all: claims the class average of its own auxiliary images"
    source = "baseline"
    needs = frozenset()

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`; the view is not looked at."""
        del view
        heads = context.victims
        images = to_unit(prior.auxiliary_images)
        return Claim(
            head_ids=heads,
            images=_repeat(images, prior, len(heads)),
            features=_repeat(prior.auxiliary_features, prior, len(heads)),
        )


def _repeat(values: AnyArray, prior: PriorKnowledge, heads: int) -> AnyArray:
    """Class means [K, …], each S times, the same for every head: [V, N, …]."""
    means = np.stack([values[prior.auxiliary_labels == k].mean(axis=0) for k in range(prior.classes)])
    block = np.repeat(means, prior.images_per_class, axis=0)
    return np.broadcast_to(block, (heads, *block.shape)).astype(np.float32)
