"""Likelihood-ratio membership inference (LiRA) on weights, and on scores that the key holder releases.

Source: Carlini et al. 2022, arXiv 2112.03570. For few-shot linear heads the hundreds of shadow models per target that
the paper calls expensive take a second for thousands of targets.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.membership.candidates import Candidates, read_candidates
from rhe_parties.attacks.membership.oracle import random_shadows, share_of_budget
from rhe_parties.attacks.membership.shadows import Answer, ShadowAnswers, Workshop, shadow_answers
from rhe_parties.attacks.membership.statistics import MODES, likelihood_ratio, margins
from rhe_parties.attacks.scores import ReleasedScores
from rhe_parties.attacks.white_box import Heads, WhiteBoxStrategy
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray

__all__ = ["Lira", "LiraScores"]


@dataclass(frozen=True)
class _Options:
    """Effort.

    Attributes:
        mode: `online` or `offline` (see `likelihood_ratio`).
        inside: shadow heads per candidate that were trained on it; not used offline.
        outside: shadow heads that were not.
    """

    mode: str = "online"
    inside: int = 64
    outside: int = 256

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ParameterError(f"mode={self.mode!r} is not allowed (allowed: {', '.join(MODES)})")
        for name, value in (("inside", self.inside), ("outside", self.outside)):
            if value < 2:
                raise ParameterError(f"{name} = {value} shadow heads are not allowed: at least 2")


class Lira(WhiteBoxStrategy):
    """Judges each candidate by the margin that the head gives it, against heads with and without the candidate.

    Uses: the head's weights, the candidates, auxiliary images. Expected without RHE at one image per class: nearly
    every member found at one false alarm in a hundred. With RHE: blocked as it is; the ciphertexts give the mean head,
    whose margins say which image is typical and not which was used.
    """

    name = "lira"
    goal = "membership"
    summary = "membership: the likelihood ratio of a candidate's margin under shadow heads with and without it"
    source = "Carlini et al. 2022, arXiv 2112.03570"
    needs = WhiteBoxStrategy.needs | {Observation.CANDIDATES}
    ciphertext_needs = WhiteBoxStrategy.ciphertext_needs | {Observation.CANDIDATES}

    @dataclass(frozen=True)
    class Options(_Options):
        """See `_Options`."""

    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_heads`."""
        candidates = read_candidates(prior, context, len(heads.weight))
        shadows = _shadows(self.options, candidates, prior, context, 0.0)
        seen = margins(_logits(heads, candidates), candidates.labels)
        return Claim(head_ids=heads.head_ids, scores=_judge(seen, shadows, self.options.mode))


class LiraScores(Strategy):
    """The same from the scores that the key holder releases to a client: one query per candidate.

    Uses: the released logits of the candidates. Expected wherever a client gets logits: as strong as on the weights,
    with RHE or without; rounding to one decimal takes some of it, class decisions alone block it.
    """

    name = "lira-scores"
    goal = "membership"
    summary = "membership: the likelihood ratio of a candidate's margin, from scores released to a client"
    source = "Carlini et al. 2022, arXiv 2112.03570"
    needs = frozenset({Observation.ORACLE, Observation.ORACLE_SCORES, Observation.CANDIDATES})

    @dataclass(frozen=True)
    class Options(_Options):
        """See `_Options`."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        del view  # the oracle is asked instead
        oracle = context.require_oracle()
        heads = context.victims
        candidates = read_candidates(prior, context, len(heads))
        released = ReleasedScores.of(context)
        shadows = _shadows(self.options, candidates, prior, context, released.grid)
        per_head = share_of_budget(oracle, heads, candidates.labels.shape[1])
        seen = np.zeros(candidates.labels.shape, np.float32)
        for row, head in enumerate(heads):
            context.progress(0.7 + 0.3 * row / len(heads), "asking for the candidates' scores")
            answers = oracle.ask(head, candidates.images[row, :per_head])
            if answers.logits.shape != (per_head, prior.classes):
                raise NumericError(f"{per_head} candidates got scores of shape {answers.logits.shape}")
            seen[row, :per_head] = margins(released.undone(answers.logits), candidates.labels[row, :per_head])
        blind = margins(_logits(random_shadows(prior, context), candidates), candidates.labels)
        claims = []
        for statistic in (seen, blind):
            scores = _judge(statistic, shadows, self.options.mode)
            scores[:, per_head:] = 0  # nothing was asked: no evidence either way
            claims.append(Claim(head_ids=heads, scores=scores))
        return replace(claims[0], null=claims[1], notes={"queries per head": str(per_head)})


def _logits(heads: Heads, candidates: Candidates) -> FloatArray:
    """What V heads say of their own candidates, [V, M, K]."""
    logits: FloatArray = candidates.features @ heads.weight.swapaxes(1, 2) + heads.bias[:, None]
    return logits


def _shadows(
    options: Any, candidates: Candidates, prior: PriorKnowledge, context: AttackContext, grid: float
) -> ShadowAnswers:
    """Shadow margins of all candidates, kept from world to world: they depend on no view."""
    key = f"lira-shadows {options} {grid} {candidates.digest}"
    if key not in context.memory:
        inside = options.inside if options.mode == "online" else 0
        seed = stream_seed(context.seed, "lira")
        workshop = Workshop.build(prior, inside, options.outside, Answer("margin", grid), seed)
        flat = candidates.features.reshape(-1, candidates.features.shape[-1])
        context.memory[key] = shadow_answers(workshop, flat, candidates.labels.ravel(), flat[:, None], context)
    found: ShadowAnswers = context.memory[key]
    return found


def _judge(seen: FloatArray, shadows: ShadowAnswers, mode: str) -> FloatArray:
    ratio = likelihood_ratio(seen.ravel(), shadows.inside[:, 0], shadows.outside[:, 0], mode)
    return ratio.reshape(seen.shape)
