"""Heads stolen through class decisions alone, then read like plain ones.

The key holder answers images of the adversary's choice with a class, as it answers any client. RHE keeps the weights
from the host; it cannot keep a classifier from being a classifier. What is left against this is a budget of decisions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, Oracle, PriorKnowledge, Strategy
from rhe_parties.attacks.extraction.claims import (
    claim_from_heads,
    extracted_heads,
    granted_some,
    mean_error,
    trained_shadows,
)
from rhe_parties.attacks.extraction.hard import Extract, Extracted, HardSettings, QueryPlan, extract_head, plan_queries
from rhe_parties.attacks.extraction.lifted import claim_from_forms, lifted_heads
from rhe_parties.attacks.two_layer_span import some_heads
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import IntArray, UInt8Array

__all__ = ["HardLabel"]


class HardLabel(Strategy):
    """Extracts each victim head from classes of chosen images, and inverts it to the training images.

    Uses: decisions on images of its own choice, the public backbone and recipe, auxiliary images. Expected wherever
    the adversary may ask as a client, with RHE or without: a head that answers as the real one does, and nearly the
    reconstruction that the plain head allows. Without an oracle: blocked.
    """

    name = "hard-label"
    goal = "extraction"
    summary = "the head from class decisions on chosen images, then span inversion"
    source = "version-space extraction; against arXiv 2505.14323v2, hard-label extraction"
    needs = frozenset({Observation.ORACLE})
    two_layer_needs = frozenset({Observation.ORACLE})

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            decisions: answers used per head at most; the key holder's budget may be less.
            batch: answers per round after the first; each round is one call of the key holder.
            noise: deviation of a logit difference at the key holder (rounding under encryption), in logits.
            informed: whether the adversary's own heads serve as prior; without, only their scale does.
            shadows: heads trained for the prior.
            reconstruct: whether to go on to images.
        """

        decisions: int = 20_000
        batch: int = 2000
        noise: float = 1e-3
        informed: bool = True
        shadows: int = 8000
        reconstruct: bool = True

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        del view
        o = self.options
        settings = HardSettings(o.decisions, o.batch, noise=o.noise, informed=o.informed)
        oracle = context.require_oracle()
        context.progress(0.0, "shadow heads and first questions")
        shadows = trained_shadows(prior, context, o.shadows)
        key = f"hard-label plan {settings}"
        if key not in context.memory:
            context.memory[key] = plan_queries(
                prior.backbone.extract, prior.auxiliary_images, prior.auxiliary_features,
                (shadows.weight, shadows.bias), settings, stream_seed(context.seed, "hard-label"),
            )  # fmt: skip
        extract = prior.backbone.extract
        found = [
            self._extract(oracle, head, number, context.memory[key], settings, extract, context)
            for number, head in enumerate(context.victims)
        ]
        heads = extracted_heads(context.victims, found)
        return claim_from_heads(heads, shadows, o.reconstruct, prior, context, _notes(found, oracle.budget))

    def attack_two_layer(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack_two_layer`; what is extracted is a quadratic form, linear in products of features."""
        del view
        o = self.options
        oracle = context.require_oracle()
        context.progress(0.0, "shadow heads and first questions")
        lifted = lifted_heads(prior, context)
        key = f"hard-label forms {o}"
        if key not in context.memory:
            flat = some_heads(prior, context, o.shadows)
            # What a form leaves out of a head blurs its decisions as noise would.
            settings = HardSettings(
                o.decisions, o.batch, noise=max(o.noise, lifted.error(flat[:64])), informed=o.informed
            )
            plan = plan_queries(
                lifted.extract, prior.auxiliary_images, lifted.lift.lift(prior.auxiliary_features), lifted.pairs(flat),
                settings, stream_seed(context.seed, "hard-label"),
            )  # fmt: skip
            context.memory[key] = plan, settings
        plan, settings = context.memory[key]
        found = [
            self._extract(oracle, head, number, plan, settings, lifted.extract, context)
            for number, head in enumerate(context.victims)
        ]
        weight, bias = np.stack([head.weight for head in found]), np.stack([head.bias for head in found])
        return claim_from_forms(lifted, weight, bias, o.reconstruct, prior, context, _notes(found, oracle.budget))

    def _extract(
        self,
        oracle: Oracle,
        head: str,
        number: int,
        plan: QueryPlan,
        settings: HardSettings,
        extract: Extract,
        context: AttackContext,
    ) -> Extracted:
        context.progress(0.05 + 0.55 * number / len(context.victims), f"asking about head {number + 1}")
        limit = granted_some(oracle, head, settings.decisions)

        def ask(images: UInt8Array) -> IntArray:
            return oracle.ask(head, images).classes

        seed = stream_seed(context.seed, "hard-label-head", number)
        return extract_head(extract, plan, ask, settings, seed, limit)


def _notes(found: list[Extracted], budget: int) -> dict[str, str]:
    notes = {
        "decisions used per head": f"{np.mean([head.answers for head in found]):.0f}",
        "rounds of questions per head": f"{np.mean([head.rounds for head in found]):.0f}",
        "expected error of a weight": f"{np.sqrt(mean_error([head.error_variance for head in found])):.1e}",
    }
    if budget:
        notes["key holder's budget per head"] = str(budget)
    constant = sum(head.classes < 2 for head in found)
    if constant:
        notes["heads that always gave the same class"] = f"{constant} of {len(found)}: no boundary to search there"
    return notes
