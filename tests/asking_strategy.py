"""A strategy for tests: asks for decisions on auxiliary images, and says in its notes what came."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.errors import BudgetError
from rhe_parties.threat.view import AdversaryView, Observation


class Asking(Strategy):
    """Asks in rounds of `images`; `overdraw` asks for one more than the budget allows."""

    name, summary, source = "asking", "asks for decisions on auxiliary images", "test"
    needs = frozenset({Observation.ORACLE})

    @dataclass(frozen=True)
    class Options:
        """Images per round, rounds, and whether to break the budget afterwards."""

        images: int = 30
        rounds: int = 2
        overdraw: bool = False
        fail: bool = False

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """Claims nothing but notes."""
        assert context.oracle is not None
        notes = {"budget": str(context.oracle.budget), "release": context.oracle.release}
        for head in context.victims:
            for number in range(self.options.rounds):
                start = number * self.options.images
                answers = context.oracle.ask(head, prior.auxiliary_images[start : start + self.options.images])
                notes[f"{head} {number}"] = " ".join(map(str, answers.classes))
                notes[f"{head} {number} logits"] = str(np.asarray(answers.logits).shape)
            if self.options.fail:
                raise RuntimeError("gave up in the middle")
            if self.options.overdraw:
                try:
                    context.oracle.ask(head, prior.auxiliary_images[: context.oracle.budget + 1])
                except BudgetError as error:
                    notes[f"{head} refused"] = str(error)
            notes[f"{head} used"] = str(context.oracle.used(head))
        return Claim(head_ids=context.victims, notes=notes)
