"""What a block of the backbone gives away that was trained on private images and runs in the clear at the host.

Reverse homomorphic encryption encrypts the head alone. Source of the warning: arXiv 2505.14323 protects heads on frozen
backbones; of the algebra: a dense layer's gradient is a sum of outer products with its inputs (Phong et al. 2018, IEEE
TIFS 13(5)), which for full-batch training on N images stays of rank N to the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.adapted.blocks import Blocks, Workshop
from rhe_parties.attacks.adapted.estimate import ErrorModel, Estimate, estimate_features
from rhe_parties.attacks.adapted.pictures import Drawing
from rhe_parties.attacks.adapted.rays import outside_share, row_space
from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.membership.candidates import Candidates, read_candidates
from rhe_parties.attacks.white_box import known_victims
from rhe_parties.errors import ParameterError
from rhe_parties.model.last_block import trunk_of
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["AdaptedBlockMembership", "AdaptedBlockReconstruction"]

_SEARCH = 120  # steps through the simulated adaptation


class _Estimates(NamedTuple):
    """What is estimated of the victims and of as many shadows.

    Of the latter also the errors of the trunk's outputs [V·N, P], their model, and the model of features' errors.
    """

    victims: Estimate
    shadows: Estimate
    errors: AnyArray
    input_error: ErrorModel
    error: ErrorModel


class AdaptedBlockReconstruction(Strategy):
    """Recovers the training features from the block that was adapted to them, and draws the images.

    Uses: the block in the clear, public backbone and recipe, auxiliary images; nothing of the head. Expected of a
    fine-tuned layer at one image per class: every training image, exactly, whether the head is encrypted or not; of
    LoRA factors: most. Blocked where the backbone stays as it was.
    """

    name = "adapted-block"
    goal = "reconstruction"
    summary = "training images from a backbone block adapted to them: exact algebra, or simulated adaptation for LoRA"
    source = "rank of a dense layer's change, arXiv 1206.5882; against arXiv 2505.14323"
    needs = frozenset({Observation.ADAPTED_BLOCK})

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            search_steps: steps through the simulated adaptation where algebra alone does not do: LoRA, more images.
            refine_steps: steps through the backbone that improve the pixels; 0: none.
        """

        search_steps: int = _SEARCH
        refine_steps: int = 40

        def __post_init__(self) -> None:
            _check_steps(self.search_steps)
            if self.refine_steps < 0:
                raise ParameterError(f"refine_steps = {self.refine_steps} is not allowed: at least 0")

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`; the null control is the same made of blocks that hold auxiliary images."""
        ids, blocks, workshop = _read(view, prior, context)
        found = _estimates(blocks, workshop, self.options.search_steps, context)
        drawing, trunk = _drawing(found, workshop, prior, context), trunk_of(prior.backbone)
        claims: list[Claim] = []
        for each in (found.victims, found.shadows):
            context.progress(0.6 + 0.2 * len(claims), "decoding and refining")
            images = drawing.draw(trunk, each.inputs, self.options.refine_steps, context.pool)
            claims.append(Claim(ids, images=images, features=each.features, whitener=found.error.whitener))
        return replace(claims[0], null=claims[1], notes=_notes(found, len(ids)))


class AdaptedBlockMembership(Strategy):
    """Judges each candidate by whether the adapted block holds it.

    Uses: the block in the clear, the candidates, public backbone and recipe, auxiliary images. Expected of a fine-tuned
    layer: no member missed and no false alarm, at any number of images that stays below the layer's width; of LoRA
    factors: most members. Blocked where the backbone stays as it was.
    """

    name = "adapted-block-membership"
    goal = "membership"
    summary = "membership: whether a candidate lies in the span of what a backbone block was adapted to"
    source = "rank of a dense layer's change; against arXiv 2505.14323"
    needs = frozenset({Observation.ADAPTED_BLOCK, Observation.CANDIDATES})

    @dataclass(frozen=True)
    class Options:
        """`search_steps`: through the simulated adaptation, for LoRA factors."""

        search_steps: int = _SEARCH

        def __post_init__(self) -> None:
            _check_steps(self.search_steps)

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`; the null control judges by blocks that hold auxiliary images."""
        ids, blocks, workshop = _read(view, prior, context)
        candidates = read_candidates(prior, context, len(ids))
        if workshop.adaptation.rank:
            found = _estimates(blocks, workshop, self.options.search_steps, context)
            scores = [_nearness(each, found.error, workshop, candidates) for each in (found.victims, found.shadows)]
            return Claim(ids, scores=scores[0], null=Claim(ids, scores=scores[1]), notes=_notes(found, len(ids)))
        shape = candidates.images.shape
        inputs = trunk_of(prior.backbone).extract(candidates.images.reshape(-1, *shape[2:]))
        inputs = inputs.reshape(*shape[:2], -1)
        shadows, _ = workshop.shadows(len(ids), stream_seed(context.seed, "adapted-block"))
        # A share of a few 1e-7, float32's rounding, is a member; the logarithm keeps its distance in float32.
        scores = [
            -np.log(outside_share(row_space(each, workshop), inputs, workshop)).astype(np.float32)
            for each in (blocks, shadows)
        ]
        return Claim(ids, scores=scores[0], null=Claim(ids, scores=scores[1]))


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ParameterError(f"search_steps = {steps} is not allowed: at least 1")


def _read(
    view: AdversaryView, prior: PriorKnowledge, context: AttackContext
) -> tuple[tuple[str, ...], Blocks, Workshop]:
    """The victims' blocks in their order, and the workshop, which depends on prior knowledge alone."""
    seen = view.adapted_blocks()
    ids = known_victims(context.victims, seen)
    if "adapted-workshop" not in context.memory:
        context.progress(0.0, "what the trunk makes of auxiliary images")
        context.memory["adapted-workshop"] = Workshop.build(prior)
    workshop: Workshop = context.memory["adapted-workshop"]
    return ids, Blocks.of([seen[name] for name in ids]), workshop


def _estimates(blocks: Blocks, workshop: Workshop, steps: int, context: AttackContext) -> _Estimates:
    """Estimates of the victims, of shadows made alike, and from the latter the error."""
    context.progress(0.1, "training images that the blocks were adapted to")
    victims = estimate_features(blocks, workshop, steps, context.pool)
    key = f"adapted-shadows {len(blocks)} {steps}"
    if key not in context.memory:
        context.progress(0.3, "the same of blocks adapted to auxiliary images")
        made, sets = workshop.shadows(len(blocks), stream_seed(context.seed, "adapted-block"))
        shadows = estimate_features(made, workshop, steps, context.pool)
        seen, known = (shadows.inputs, shadows.features), (workshop.inputs, workshop.features)
        beliefs = (workshop.belief, workshop.feature_belief)
        errors = [(mine - own[sets]).reshape(-1, own.shape[1]) for mine, own in zip(seen, known, strict=True)]
        models = [ErrorModel.fit(each, belief) for each, belief in zip(errors, beliefs, strict=True)]
        context.memory[key] = shadows, errors[0], *models
    return _Estimates(victims, *context.memory[key])


def _drawing(found: _Estimates, workshop: Workshop, prior: PriorKnowledge, context: AttackContext) -> Drawing:
    """What draws images of such estimates, a function of prior knowledge and of how many victims there are."""
    key = f"adapted-drawing {len(found.errors)}"
    if key not in context.memory:
        context.progress(0.5, "decoder")
        seed = stream_seed(context.seed, "adapted-decoder")
        context.memory[key] = Drawing.prepare(
            workshop, prior.auxiliary_images, found.errors, found.input_error, seed, context.pool
        )
    drawing: Drawing = context.memory[key]
    return drawing


def _notes(found: _Estimates, heads: int) -> dict[str, str]:
    return {
        "heads whose training features were solved for exactly": f"{found.victims.exact} of {heads}",
        "error of features on shadows, share of their variance within a class": f"{found.error.share:.3g}",
    }


def _nearness(estimate: Estimate, error: ErrorModel, workshop: Workshop, candidates: Candidates) -> FloatArray:
    """Log-likelihood ratio [V, M] of candidates: as the estimated image of its class, and as any image of its class."""
    belief, classes = workshop.feature_belief, workshop.targets
    scores = np.empty(candidates.labels.shape, np.float32)
    for head, (features, labels) in enumerate(zip(candidates.features, candidates.labels, strict=True)):
        away = (features[:, None] - estimate.features[head]) @ error.whitener.T
        typical = (features[:, None] - belief.means[workshop.order].astype(np.float32)) @ belief.whitener.T
        ratio = 0.5 * (np.square(typical).sum(-1) - np.square(away).sum(-1))
        scores[head] = np.where(labels[:, None] == classes, ratio, -np.inf).max(axis=1)
    return scores
