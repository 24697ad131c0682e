"""Reads the weights off the wire: whether a head is in the clear at all."""

from __future__ import annotations

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.white_box import known_victims
from rhe_parties.threat.view import AdversaryView, Observation

__all__ = ["HeadReadout"]


class HeadReadout(Strategy):
    """Claims the heads that the view holds in the clear.

    Expected: cosine 1 without RHE; blocked under RHE, where no plain head crosses any border.
    """

    name = "head-readout"
    summary = "reads the head's weights where they are in the clear"
    source = "control"
    needs = frozenset({Observation.PLAIN_HEAD})

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`; needs no prior knowledge."""
        del prior
        heads = view.plain_heads()
        ids = known_victims(context.victims, heads)
        return Claim(
            head_ids=ids,
            weights=np.stack([heads[name].weight for name in ids]),
            biases=np.stack([heads[name].bias for name in ids]),
        )
