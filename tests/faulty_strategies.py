"""Strategies with one fault each, which the conformance suite must find; the first has none."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.threat.view import AdversaryView, Observation


class Sound(Strategy):
    """Claims the weights that it sees."""

    name, summary, source = "sound", "claims the weights that it sees", "tests"
    needs = frozenset({Observation.PLAIN_HEAD})

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        heads = view.plain_heads()
        context.progress(0.5, "reading")
        return Claim(head_ids=context.victims, weights=np.stack([heads[name].weight for name in context.victims]))


class Moody(Sound):
    """Another claim every time."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        claim = super().attack(view, prior, context)
        noise = np.frombuffer(os.urandom(8), np.uint8).astype(np.float32).mean()
        return dataclasses.replace(claim, weights=claim.weights + noise)


class Hasty(Sound):
    """What it claims depends on which piece of work is done first."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        order: list[int] = []
        context.pool.map(order.append, [1, 2, 3])
        claim = super().attack(view, prior, context)
        return dataclasses.replace(claim, weights=claim.weights * order[0])


class Vandal(Sound):
    """Writes into what everybody is to find as it was."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        prior.auxiliary_features[:] = 0
        return super().attack(view, prior, context)


class Stubborn(Sound):
    """Names the victims in the order in which it saw them."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        heads = view.plain_heads()
        return Claim(head_ids=tuple(heads), weights=np.stack([head.weight for head in heads.values()]))


class Boastful(Sound):
    """More than done."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        context.progress(1.5, "more than done")
        return super().attack(view, prior, context)


class Blurred(Sound):
    """Pictures brighter than white."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        shape = (len(context.victims), prior.classes * prior.images_per_class, *prior.auxiliary_images.shape[1:])
        return Claim(head_ids=context.victims, images=np.full(shape, 1.01, np.float32))


class Lost(Sound):
    """Not a number."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        claim = super().attack(view, prior, context)
        return dataclasses.replace(claim, weights=claim.weights * np.float32("nan"))


class Narrow(Sound):
    """One column short."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        claim = super().attack(view, prior, context)
        return dataclasses.replace(claim, weights=claim.weights[:, :, 1:])


class TenClasses(Sound):
    """Takes for granted that there are ten classes."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        claim = super().attack(view, prior, context)
        return dataclasses.replace(claim, weights=claim.weights.reshape(-1, 10, prior.backbone.features))


class Silent(Sound):
    """Claims nothing."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        return Claim(head_ids=context.victims)


class Changeable(Sound):
    """Options that anybody may change."""

    @dataclass
    class Options:
        """Not frozen."""

        strength: float = 1.0


class Nameless(Sound):
    """No command line can name it."""

    name = "two words"
