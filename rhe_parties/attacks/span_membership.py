"""Membership from the weights in closed form, without a single shadow head.

Source: the span identity of linear softmax heads (see `rhe_parties.attacks.span.inversion`); the question is that of
arXiv 2112.03570, put to all weights at once instead of to one margin.
"""

from __future__ import annotations

from dataclasses import dataclass

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.membership.candidates import read_candidates
from rhe_parties.attacks.membership.span_evidence import span_evidence
from rhe_parties.attacks.span.inversion import invert_heads
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.white_box import Heads, WhiteBoxStrategy
from rhe_parties.errors import ParameterError
from rhe_parties.threat.view import Observation

__all__ = ["SpanMembership"]


class SpanMembership(WhiteBoxStrategy):
    """Judges each candidate by how much likelier it makes the head's weights.

    Uses: the head's weights, the candidates, auxiliary images. Expected without RHE at one image per class: no member
    missed and no false alarm; at four, still far above a margin's verdict. With RHE: blocked as it is, at chance on
    the ciphertexts.
    """

    name = "span-membership"
    goal = "membership"
    summary = "membership: the likelihood of all weights with and without the candidate, in closed form"
    source = "span identity; against arXiv 2112.03570"
    needs = WhiteBoxStrategy.needs | {Observation.CANDIDATES}
    ciphertext_needs = WhiteBoxStrategy.ciphertext_needs | {Observation.CANDIDATES}

    @dataclass(frozen=True)
    class Options:
        """`iterations`: rounds of the inversion that finds the dual coefficients."""

        iterations: int = 4

        def __post_init__(self) -> None:
            if self.iterations < 1:
                raise ParameterError(f"iterations = {self.iterations} is not allowed: at least 1")

    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_heads`."""
        candidates = read_candidates(prior, context, len(heads.weight))
        if "membership-prior" not in context.memory:
            context.memory["membership-prior"] = FeaturePrior.fit(
                prior.auxiliary_features, prior.auxiliary_labels, prior.classes
            )
        belief: FeaturePrior = context.memory["membership-prior"]
        per_class = prior.images_per_class
        context.progress(0.5, "inverting heads")
        inversion = invert_heads(
            heads.weight, heads.bias, prior.recipe, belief, per_class, self.options.iterations, heads.error_variance
        )
        context.progress(0.8, "likelihoods with and without each candidate")
        scores = span_evidence(heads.weight, inversion, belief, candidates.features, candidates.labels, per_class)
        return Claim(head_ids=heads.head_ids, scores=scores)
