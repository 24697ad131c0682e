"""The informed adversary: all training images known but one.

Source: Balle, Cherubin & Hayes 2022, Reconstructing training data with informed adversaries, arXiv 2201.04845. Their
closed form is for heads trained to the optimum; few-shot heads stop long before, so the training is simulated instead.
"""

from __future__ import annotations

from dataclasses import dataclass

from rhe_parties.attacks.base import AttackContext, Challenge, Claim, PriorKnowledge
from rhe_parties.attacks.informed.pictures import draw_alone
from rhe_parties.attacks.informed.posterior import Knowledge, infer_features
from rhe_parties.attacks.membership.candidates import challenge_features
from rhe_parties.attacks.span_inversion import SpanEffort, span_tools
from rhe_parties.attacks.white_box import Heads, WhiteBoxStrategy
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.threat.view import Observation

__all__ = ["InformedAdversary"]


class InformedAdversary(WhiteBoxStrategy):
    """Takes what the known images explain out of the head; the rest is the unknown image's own.

    Uses: the head's weights, all training images but one, the class of that one. Expected without RHE: the image
    identified almost always, at four images per class too, where an uninformed adversary mostly fails. With RHE:
    blocked as it is; without the head the other images say nothing about the last one.
    """

    name = "informed"
    goal = "reconstruction"
    summary = "the one unknown training image from the weights and all the others, in closed form, then pixels"
    source = "Balle et al. 2022, arXiv 2201.04845"
    needs = WhiteBoxStrategy.needs | {Observation.KNOWN_IMAGES}
    ciphertext_needs = WhiteBoxStrategy.ciphertext_needs | {Observation.KNOWN_IMAGES}

    @dataclass(frozen=True)
    class Options(SpanEffort):
        """Knowledge, and effort as in `SpanEffort`.

        Attributes:
            strong: use the initial weights too, where the challenge holds them.
            iterations: rounds of the inversion.
        """

        strong: bool = False
        iterations: int = 8

        def __post_init__(self) -> None:
            if self.iterations < 1:
                raise ParameterError(f"iterations = {self.iterations} is not allowed: at least 1")

    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_heads`."""
        options = self.options
        tools = span_tools(options, prior, context)
        knowledge = _knowledge(context.challenge, len(heads.weight), options.strong, prior, context)
        context.progress(0.75, "inferring the unknown features")
        posterior = infer_features(
            heads.weight, heads.bias, knowledge, prior.recipe, tools.prior, options.iterations, heads.error_variance
        )
        context.progress(0.8, "decoding and refining")
        images = draw_alone(tools, prior.backbone, posterior, knowledge.unknown[:, 0], context)
        return Claim(head_ids=heads.head_ids, images=images, features=posterior.points, whitener=posterior.whitener)


def _knowledge(
    challenge: Challenge, heads: int, strong: bool, prior: PriorKnowledge, context: AttackContext
) -> Knowledge:
    """The challenge as features.

    Raises:
        DataError: something is missing: the known images, or the initial weights for the strong adversary.
        NumericError: arrays that fit neither each other nor the heads.
    """
    images, labels, target = challenge.known_images, challenge.known_labels, challenge.target_labels
    if images is None or labels is None or target is None:
        raise DataError("informed: the challenge lacks the known images, their labels or the unknown image's label")
    if strong and challenge.initial_weights is None:
        raise DataError("informed.strong=true takes initial weights, and the challenge holds none")
    if images.ndim != 5 or labels.shape != images.shape[:2] or target.shape != (heads,) or len(images) != heads:
        raise NumericError(
            f"informed: known images {images.shape}, their labels {labels.shape} and target labels {target.shape} "
            f"do not fit {heads} heads"
        )
    _, features = challenge_features(prior, context, images)
    return Knowledge(features, labels, target[:, None], challenge.initial_weights if strong else None)
