"""Heads read off released scores by solving linear equations, then read like plain ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, Oracle, PriorKnowledge, Strategy
from rhe_parties.attacks.extraction.claims import claim_from_heads, granted_some, mean_error, trained_shadows
from rhe_parties.attacks.extraction.hard import HardSettings, QueryPlan, plan_queries
from rhe_parties.attacks.extraction.lifted import claim_from_forms, lifted_heads
from rhe_parties.attacks.extraction.soft import SolvedHead, solve_logits
from rhe_parties.attacks.scores import ReleasedScores
from rhe_parties.attacks.two_layer_span import some_heads
from rhe_parties.attacks.white_box import Heads
from rhe_parties.errors import BudgetError, NumericError
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation

__all__ = ["SoftLabel"]

_OVERSAMPLING = 3
_MOST = 20_000


class SoftLabel(Strategy):
    """Solves for each victim head from logits of varied images, and inverts it to the training images.

    Uses: released logits, exact or rounded, for images of its own choice, the public backbone and recipe, auxiliary
    images. Expected wherever scores are released: the head itself, up to the scores' error, from a few hundred images.
    Source: Tramèr et al. 2016, arXiv 1609.02943, equation solving.
    """

    name = "soft-label"
    goal = "extraction"
    summary = "the head from released logits by equation solving, then span inversion"
    source = "Tramèr et al. 2016, arXiv 1609.02943"
    needs = frozenset({Observation.ORACLE, Observation.ORACLE_SCORES})
    two_layer_needs = needs

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            queries: images per head; 0: three per unknown of a class, and four times as many for each decimal below
                three that rounding takes away.
            shadows: heads trained for the prior.
            reconstruct: whether to go on to images.
        """

        queries: int = 0
        shadows: int = 4000
        reconstruct: bool = True

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        del view
        oracle = context.require_oracle()
        released = ReleasedScores.of(context)
        noise = released.error
        count = self.options.queries or _enough(prior.backbone.features, noise)
        context.progress(0.0, "shadow heads and questions")
        shadows = trained_shadows(prior, context, self.options.shadows)
        key = f"soft-label plan {count} {self.options.shadows}"
        if key not in context.memory:
            # All questions are asked at once: nothing is gained by waiting for answers.
            context.memory[key] = plan_queries(
                prior.backbone.extract, prior.auxiliary_images, prior.auxiliary_features,
                (shadows.weight, shadows.bias), HardSettings(), stream_seed(context.seed, "soft-label"), pool=count,
            )  # fmt: skip
        found: list[SolvedHead] = []
        used: list[int] = []
        for number, head in enumerate(context.victims):
            context.progress(0.05 + 0.55 * number / len(context.victims), f"asking about head {number + 1}")
            solved, asked = _solve(oracle, head, context.memory[key], count, released, noise)
            found.append(solved)
            used.append(asked)
        errors = [head.error_variance for head in found]
        heads = Heads(
            context.victims, np.stack([head.weight for head in found]), np.stack([head.bias for head in found]),
            mean_error(errors),
        )  # fmt: skip
        notes = {
            "queries used per head": f"{np.mean(used):.0f}",
            "error of a released logit": f"{np.mean([head.noise for head in found]):.1e}",
            "expected error of a weight": f"{np.sqrt(mean_error(errors)):.1e}",
        }
        return claim_from_heads(heads, shadows, self.options.reconstruct, prior, context, notes)

    def attack_two_layer(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack_two_layer`; equations for a quadratic form, linear in products of features."""
        del view
        oracle = context.require_oracle()
        released = ReleasedScores.of(context)
        noise = released.error
        context.progress(0.0, "shadow heads and questions")
        lifted = lifted_heads(prior, context)
        count = self.options.queries or _enough(lifted.lift.width, noise)
        key = f"soft-label forms {count} {self.options.shadows}"
        if key not in context.memory:
            flat = some_heads(prior, context, self.options.shadows)
            plan = plan_queries(
                lifted.extract, prior.auxiliary_images, lifted.lift.lift(prior.auxiliary_features), lifted.pairs(flat),
                HardSettings(), stream_seed(context.seed, "soft-label"), pool=count,
            )  # fmt: skip
            context.memory[key] = plan, lifted.error(flat[:64])
        plan, left_out = context.memory[key]
        # What a form leaves out of a head disturbs its scores as rounding does.
        noise = float(np.hypot(noise, left_out))
        found: list[SolvedHead] = []
        for number, head in enumerate(context.victims):
            context.progress(0.05 + 0.55 * number / len(context.victims), f"asking about head {number + 1}")
            found.append(_solve(oracle, head, plan, count, released, noise)[0])
        weight, bias = np.stack([head.weight for head in found]), np.stack([head.bias for head in found])
        notes = {
            "queries used per head": f"{np.mean([oracle.used(head) for head in context.victims]):.0f}",
            "error of a released logit": f"{np.mean([head.noise for head in found]):.1e}",
        }
        return claim_from_forms(lifted, weight, bias, self.options.reconstruct, prior, context, notes)


def _enough(features: int, noise: float) -> int:
    """Images to ask about: rounding to fewer decimals needs more, as errors average out with their root."""
    coarse = max(0.0, np.log10(noise / 1e-3)) if noise > 0 else 0.0
    return int(min(_MOST, _OVERSAMPLING * (features + 1) * 4**coarse))


def _solve(
    oracle: Oracle, head: str, plan: QueryPlan, count: int, released: ReleasedScores, noise: float
) -> tuple[SolvedHead, int]:
    """One head and the queries used."""
    limit = granted_some(oracle, head, count)
    try:
        logits = oracle.ask(head, plan.images[:limit]).logits
    except BudgetError as error:
        raise NumericError(f"head {head}: the key holder refused {limit} images ({error.text})") from error
    classes = plan.prior.classes
    if logits.shape != (limit, classes):
        raise NumericError(
            f"head {head}: {limit} images were answered by scores {logits.shape}, not [{limit}, {classes}]"
        )
    return solve_logits(plan.prior, plan.rows[:limit], plan.rest[:limit], released.undone(logits), noise), limit
