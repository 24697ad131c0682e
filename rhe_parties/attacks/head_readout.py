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
    goal = "extraction"
    summary = "reads the head's weights where they are in the clear"
    source = "control"
    needs = frozenset({Observation.PLAIN_HEAD})
    two_layer_needs = frozenset({Observation.TWO_LAYER_HEAD})

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

    def attack_two_layer(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack_two_layer`; the logit of class 0 is zero."""
        del prior
        seen = view.two_layer_heads()
        ids = known_victims(context.victims, seen)
        heads = [seen[name] for name in ids]
        return Claim(
            head_ids=ids,
            weights=np.stack([np.concatenate([0 * head.weight, head.weight]) for head in heads]),
            biases=np.stack([np.concatenate([0 * head.bias, head.bias]) for head in heads]),
            hidden_weights=np.stack([head.hidden_weight for head in heads]),
            hidden_biases=np.stack([head.hidden_bias for head in heads]),
            activation=heads[0].activation,
        )
