"""What a block of the backbone gives away that was trained on private images and runs in the clear at the host.

Reverse homomorphic encryption encrypts the head alone. Source of the warning: arXiv 2505.14323 protects heads on frozen
backbones; of the algebra: a dense layer's gradient is a sum of outer products with its inputs (Phong et al. 2018, IEEE
TIFS 13(5)), which for full-batch training on N images stays of rank N to the end.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.adapted.blocks import Blocks, Workshop
from rhe_parties.attacks.adapted.estimate import ErrorModel, Estimate, estimate_features
from rhe_parties.attacks.adapted.rays import outside_share, row_space
from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.membership.candidates import Candidates, read_candidates
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.pipeline import SpanAttack
from rhe_parties.attacks.span.refine import heads_together, refine_images
from rhe_parties.attacks.span_inversion import SpanEffort, span_tools
from rhe_parties.attacks.white_box import known_victims
from rhe_parties.errors import ParameterError
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.last_block import trunk_of
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray

__all__ = ["AdaptedBlockMembership", "AdaptedBlockReconstruction"]

_SEARCH = 120  # steps through the simulated adaptation


class _Estimates(NamedTuple):
    """What is estimated of the victims and of as many shadows, and the error measured on the latter."""

    victims: Estimate
    shadows: Estimate
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
    class Options(SpanEffort):
        """Effort, as in `SpanEffort`, and of the search.

        Attributes:
            search_steps: steps through the simulated adaptation where algebra alone does not do: LoRA, more images.
        """

        search_steps: int = _SEARCH

        def __post_init__(self) -> None:
            _check_steps(self.search_steps)

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`; the null control is the same made of blocks that hold auxiliary images."""
        tools = span_tools(self.options, prior, context)
        ids, blocks, workshop = _read(view, prior, context)
        found = _estimates(blocks, workshop, self.options.search_steps, context)
        context.progress(0.9, "decoding and refining")
        claims = [
            Claim(
                head_ids=ids,
                images=_pictures(tools, prior.backbone, each.features, found.error, context),
                features=each.features,
                whitener=found.error.whitener,
            )
            for each in (found.victims, found.shadows)
        ]
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
    context.progress(0.75, "training images that the blocks were adapted to")
    victims = estimate_features(blocks, workshop, steps, context.pool)
    key = f"adapted-shadows {len(blocks)} {steps}"
    if key not in context.memory:
        context.progress(0.8, "the same of blocks adapted to auxiliary images")
        made, sets = workshop.shadows(len(blocks), stream_seed(context.seed, "adapted-block"))
        shadows = estimate_features(made, workshop, steps, context.pool)
        context.memory[key] = shadows, ErrorModel.fit(shadows.features - workshop.features[sets], workshop)
    shadows, error = context.memory[key]
    return _Estimates(victims, shadows, error)


def _notes(found: _Estimates, heads: int) -> dict[str, str]:
    return {
        "heads whose training features were solved for exactly": f"{found.victims.exact} of {heads}",
        "error of features on shadows, share of their variance within a class": f"{found.error.share:.3g}",
    }


def _nearness(estimate: Estimate, error: ErrorModel, workshop: Workshop, candidates: Candidates) -> FloatArray:
    """Log-likelihood ratio [V, M] of candidates: as an image of its class with this estimate, and as any of its class."""
    belief, classes = workshop.feature_belief, workshop.targets
    scores = np.empty(candidates.labels.shape, np.float32)
    for head, (features, labels) in enumerate(zip(candidates.features, candidates.labels, strict=True)):
        away = (features[:, None] - estimate.features[head]) @ error.whitener.T
        typical = (features[:, None] - belief.means[workshop.order].astype(np.float32)) @ belief.whitener.T
        ratio = 0.5 * (np.square(typical).sum(-1) - np.square(away).sum(-1))
        scores[head] = np.where(labels[:, None] == classes, ratio, -np.inf).max(axis=1)
    return scores


class _Piece(NamedTuple):
    images: FloatArray
    inversion: Inversion


def _pictures(
    tools: SpanAttack, backbone: Backbone, features: FloatArray, error: ErrorModel, context: AttackContext
) -> FloatArray:
    """Images [V, N, C, H, W] in [-1, 1] of features [V, N, D], each matched to its own."""
    labels = np.repeat(np.arange(tools.prior.classes), tools.images_per_class)
    images = tools.decode_features(features, np.tile(labels, len(features)))
    unseen = np.zeros((*features.shape[:2], tools.prior.classes), np.float32)
    inversion = Inversion(features, features, error.whitener, unseen, error.variances, 0.0)
    size = heads_together(features.shape[1])
    starts = range(0, len(features), size)
    pieces = [_Piece(images[i : i + size], inversion.of(slice(i, i + size))) for i in starts]
    return np.concatenate(context.pool.map(functools.partial(_picture, tools, backbone), pieces))


def _picture(tools: SpanAttack, backbone: Backbone, piece: _Piece) -> FloatArray:
    return refine_images(backbone, piece.images, piece.inversion, tools.basis, tools.refinement)
