"""Nearest neighbour: which of the images that everybody has does a head point at?"""

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.data.datasets import to_unit
from rhe_parties.threat.view import AdversaryView, Observation


class NearestNeighbour(Strategy):
    """Claims, class by class, the auxiliary images whose features lie best along the class's row of weights."""

    name = "nearest-neighbour"
    summary = "claims the auxiliary images whose features lie best along the rows of weights"
    source = "README, An adversary of your own"
    needs = frozenset({Observation.PLAIN_HEAD})

    @dataclass(frozen=True)
    class Options:
        """`centred`: compare what tells an image from the average image, not its brightness."""

        centred: bool = True

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        heads, features = view.plain_heads(), prior.auxiliary_features
        moved = features - features.mean(axis=0) if self.options.centred else features
        moved = moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)
        chosen = []
        for done, head_id in enumerate(context.victims):
            context.progress(done / len(context.victims), "looking for neighbours")
            weight = heads[head_id].weight
            for label, row in enumerate(weight - weight.mean(axis=0)):
                own = np.flatnonzero(prior.auxiliary_labels == label)
                best = own[np.argsort(-moved[own] @ row, kind="stable")]
                chosen.append(np.resize(best, prior.images_per_class))
        index = np.reshape(chosen, (len(context.victims), -1))
        images = to_unit(prior.auxiliary_images)[index]
        return Claim(head_ids=context.victims, images=images, features=features[index])
