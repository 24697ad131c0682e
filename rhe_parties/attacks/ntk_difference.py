"""The difference attack: the initial weights are known, so what training added to them is known exactly.

Source: Loo et al. 2023, Understanding reconstruction attacks with the neural tangent kernel, arXiv 2302.01428. For a
linear head the linearisation there is exact: W_T - s·W_0 = AᵀX, a matrix of rank at most K - 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.informed.pictures import draw_together
from rhe_parties.attacks.informed.posterior import Knowledge, infer_features
from rhe_parties.attacks.span_inversion import SpanEffort, span_tools
from rhe_parties.attacks.white_box import Heads, WhiteBoxStrategy
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.threat.view import Observation

__all__ = ["NtkDifference"]


class NtkDifference(WhiteBoxStrategy):
    """Recovers all training features up to the K - 1 combinations that a head can show, then decodes them.

    Uses: the head's weights before and after training, the recipe. Expected without RHE: a little better features
    than without the initial weights, far better ones where these are large; at several images per class no more
    identification, because the rank bounds it and not the noise. With RHE: blocked as it is, at chance on the
    ciphertexts.
    """

    name = "ntk-difference"
    goal = "reconstruction"
    summary = "training features from the difference of the weights after and before training, then pixels"
    source = "Loo et al. 2023, arXiv 2302.01428"
    needs = WhiteBoxStrategy.needs | {Observation.INITIAL_WEIGHTS}
    ciphertext_needs = WhiteBoxStrategy.ciphertext_needs | {Observation.INITIAL_WEIGHTS}

    @dataclass(frozen=True)
    class Options(SpanEffort):
        """Effort, as in `SpanEffort`.

        Attributes:
            iterations: rounds of the inversion; without noise to hold them back, many overshoot.
        """

        iterations: int = 4

        def __post_init__(self) -> None:
            if self.iterations < 1:
                raise ParameterError(f"iterations = {self.iterations} is not allowed: at least 1")

    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_heads`."""
        initial = context.challenge.initial_weights
        if initial is None:
            raise DataError("ntk-difference: the challenge holds no initial weights")
        options = self.options
        tools = span_tools(options, prior, context)
        count, width = len(heads.weight), heads.weight.shape[2]
        labels = np.repeat(np.arange(prior.classes), prior.images_per_class).astype(np.int64)
        nothing = np.zeros((count, 0, width), np.float32), np.zeros((count, 0), np.int64)
        knowledge = Knowledge(*nothing, np.tile(labels, (count, 1)), initial)
        context.progress(0.75, "inferring features")
        posterior = infer_features(
            heads.weight, heads.bias, knowledge, prior.recipe, tools.prior, options.iterations, heads.error_variance
        )
        context.progress(0.8, "decoding and refining")
        change = heads.weight - np.float32(prior.recipe.shrink) * initial
        images = draw_together(tools, prior.backbone, posterior, change, context)
        return Claim(head_ids=heads.head_ids, images=images, features=posterior.points, whitener=posterior.whitener)
