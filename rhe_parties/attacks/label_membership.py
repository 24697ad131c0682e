"""Membership from class decisions alone: how robust is the head's decision on a candidate?

Source: Choquette-Choo et al. 2021, Label-only membership inference attacks (ICML; arXiv 2007.14321), sections 4 and 5,
calibrated for each candidate as in Carlini et al. 2022 (arXiv 2112.03570): shadow heads with and without it choose the
questions, weigh the answers and give the likelihood ratio.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.membership.candidates import Candidates, read_candidates
from rhe_parties.attacks.membership.oracle import random_shadows, share_of_budget
from rhe_parties.attacks.membership.probes import PROBES, ProbeKit
from rhe_parties.attacks.membership.shadows import Answer, Workshop, shadow_answers
from rhe_parties.attacks.membership.statistics import likelihood_ratio
from rhe_parties.errors import ParameterError
from rhe_parties.model.backbone import Backbone
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import AnyArray, FloatArray, IntArray, UInt8Array

__all__ = ["LabelMembership"]


class _Plan(NamedTuple):
    """For each of C candidates: Q chosen probes, their weights, and the weighted sums of shadow heads."""

    kit: ProbeKit
    features: FloatArray  # [V, M, P, D] of all probes
    chosen: IntArray  # [C, Q]
    weights: FloatArray  # [C, Q]
    inside: FloatArray  # [C, n]
    outside: FloatArray  # [C, m]


class LabelMembership(Strategy):
    """Asks for decisions on mixtures of each candidate with images of other classes.

    Uses: class decisions on images of its own choice, the candidates, auxiliary images. Expected wherever a client is
    served, with RHE or without: well above chance with ten questions per candidate, below the scores' verdict.
    """

    name = "label-membership"
    goal = "membership"
    summary = "membership from decisions alone: robustness of a candidate's decision, calibrated by shadow heads"
    source = "Choquette-Choo et al. 2021, arXiv 2007.14321"
    needs = frozenset({Observation.ORACLE, Observation.CANDIDATES})

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            queries: decisions asked per candidate, at most the number of probes.
            inside: shadow heads per candidate that were trained on it.
            outside: shadow heads that were not.
        """

        queries: int = 10
        inside: int = 64
        outside: int = 128

        def __post_init__(self) -> None:
            if not 1 <= self.queries <= PROBES:
                raise ParameterError(f"queries = {self.queries} per candidate is not allowed: 1 to {PROBES}")
            for name, value in (("inside", self.inside), ("outside", self.outside)):
                if value < 2:
                    raise ParameterError(f"{name} = {value} shadow heads are not allowed: at least 2")

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`.

        Raises:
            ParameterError: the budget does not cover one question per candidate.
        """
        del view  # the oracle is asked instead
        oracle = context.require_oracle()
        heads = context.victims
        candidates = read_candidates(prior, context, len(heads))
        judged = candidates.labels.shape[1]
        queries = share_of_budget(oracle, heads, self.options.queries * judged) // judged
        if queries < 1:
            raise ParameterError(
                f"client budget = {oracle.budget} images per head is below one question for each of {judged} candidates"
            )
        plan = self._plan(candidates, queries, prior, context)
        chosen = plan.chosen.reshape(*candidates.labels.shape, queries)
        seen = np.empty(chosen.shape, np.bool_)
        for row, head in enumerate(heads):
            context.progress(0.7 + 0.3 * row / len(heads), "asking for decisions")
            probes = plan.kit.probes(candidates.images[row], candidates.labels[row], row)
            asked: UInt8Array = np.take_along_axis(probes, chosen[row][:, :, None, None, None], axis=1)
            answers = oracle.ask(head, asked.reshape(-1, *asked.shape[2:]))
            seen[row] = answers.classes.reshape(judged, queries) == candidates.labels[row][:, None]
        blind = _answers_of_nothing(plan, candidates, prior, context)
        null = Claim(head_ids=heads, scores=_judge(plan, blind))
        notes = {"queries per candidate": str(queries)}
        return Claim(head_ids=heads, scores=_judge(plan, seen), null=null, notes=notes)

    def _plan(self, candidates: Candidates, queries: int, prior: PriorKnowledge, context: AttackContext) -> _Plan:
        """Probes, shadow heads' decisions on them, and the choice; kept from world to world."""
        key = f"label-membership {self.options} {queries} {candidates.digest}"
        if key not in context.memory:
            seed = stream_seed(context.seed, "label-membership")
            kit = ProbeKit.build(prior, seed)
            pieces = [(row, candidates.images[row], candidates.labels[row]) for row in range(len(candidates.labels))]
            parts = []
            for part in context.pool.stream(functools.partial(_extract, kit, prior.backbone), pieces):
                parts.append(part)
                context.progress(0.4 * len(parts) / len(pieces), "features of the probes")
            features = np.stack(parts)
            workshop = Workshop.build(prior, self.options.inside, self.options.outside, Answer("label"), seed)
            flat = features.reshape(-1, *features.shape[2:])
            shadows = shadow_answers(
                workshop, candidates.features.reshape(len(flat), -1), candidates.labels.ravel(), flat, context
            )
            context.memory[key] = _Plan(kit, features, *_choose(shadows.inside, shadows.outside, queries))
        plan: _Plan = context.memory[key]
        return plan


def _extract(kit: ProbeKit, backbone: Backbone, piece: tuple[int, UInt8Array, IntArray]) -> FloatArray:
    row, images, labels = piece
    probes = kit.probes(images, labels, row)
    return backbone.extract(probes.reshape(-1, *probes.shape[2:])).reshape(*probes.shape[:2], -1)


def _choose(inside: AnyArray, outside: AnyArray, queries: int) -> tuple[IntArray, FloatArray, FloatArray, FloatArray]:
    """The probes that tell most, by symmetric relative entropy; weights are log odds ratios, as of naive Bayes."""
    chances = []
    for side in (inside, outside):
        chances.append((side.sum(axis=2) + 1) / (side.shape[2] + 2))
    odds = [np.log(chance / (1 - chance)) for chance in chances]
    telling = (chances[0] - chances[1]) * (odds[0] - odds[1])
    chosen = np.argsort(-telling, axis=1, kind="stable")[:, :queries].astype(np.int64)
    weights = np.take_along_axis(odds[0] - odds[1], chosen, axis=1).astype(np.float32)
    sums = [
        np.einsum("cq,cqn->cn", weights, np.take_along_axis(side, chosen[..., None], axis=1).astype(np.float32))
        for side in (inside, outside)
    ]
    return chosen, weights, sums[0], sums[1]


def _judge(plan: _Plan, seen: AnyArray) -> FloatArray:
    """Scores [V, M] of answers [V, M, Q]."""
    total = (plan.weights * seen.reshape(plan.weights.shape)).sum(axis=1)
    return likelihood_ratio(total, plan.inside, plan.outside).reshape(seen.shape[:2])


def _answers_of_nothing(plan: _Plan, candidates: Candidates, prior: PriorKnowledge, context: AttackContext) -> AnyArray:
    """What random heads would have answered, [V, M, Q]."""
    heads = random_shadows(prior, context)
    seen = np.empty((*candidates.labels.shape, plan.chosen.shape[1]), np.bool_)
    for row in range(len(seen)):
        logits = plan.features[row] @ heads.weight[row].T + heads.bias[row]
        right = logits.argmax(axis=-1) == candidates.labels[row][:, None]
        seen[row] = np.take_along_axis(right, plan.chosen.reshape(seen.shape)[row], axis=1)
    return seen
