"""Span inversion as a strategy: plain heads as they are, encrypted heads through a regressor on their bytes.

Source: the span identity of linear softmax heads under full-batch gradient descent, turned into a Bayes estimate (see
`rhe_parties.attacks.span`). The reconstructor of arXiv 2505.14323 learns the same map from millions of shadow heads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.pipeline import SpanAttack, SpanSettings, prepare
from rhe_parties.attacks.span.refine import heads_together
from rhe_parties.attacks.two_layer_span import attack_encrypted, attack_plain
from rhe_parties.attacks.white_box import Heads, WhiteBoxStrategy
from rhe_parties.model.backbone import Backbone
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray

__all__ = ["SpanEffort", "SpanInversion", "span_tools"]


@dataclass(frozen=True)
class SpanEffort:
    """Effort of what turns features into pixels; 0 leaves the default for the number of auxiliary images.

    Attributes:
        effort: multiplies the work put into decoding; more pays with many auxiliary images.
        decoder_steps: training steps of the decoder.
        shadow_heads: auxiliary heads inverted for the decoder's training; of two-layer heads, those that the estimate
            of features is fitted to.
        refine_steps: steps through the backbone; -1 leaves the default, 0 turns refinement off.
    """

    effort: float = 1.0
    decoder_steps: int = 0
    shadow_heads: int = 0
    refine_steps: int = -1


def span_tools(options: SpanEffort, prior: PriorKnowledge, context: AttackContext) -> SpanAttack:
    """Prior, decoder and refinement: functions of prior knowledge, made once for all worlds and strategies."""
    effort = SpanEffort(*(getattr(options, each.name) for each in fields(SpanEffort)))
    key = f"span tools {effort}"
    if key not in context.memory:
        settings = SpanSettings.for_images(len(prior.auxiliary_labels), effort.effort)
        settings = replace(
            settings,
            decoder_steps=effort.decoder_steps or settings.decoder_steps,
            shadow_heads=effort.shadow_heads or settings.shadow_heads,
            refine_steps=settings.refine_steps if effort.refine_steps < 0 else effort.refine_steps,
        )
        context.memory[key] = prepare(
            prior.backbone,
            prior.auxiliary_images,
            prior.auxiliary_labels,
            prior.classes,
            prior.recipe,
            prior.images_per_class,
            stream_seed(context.seed, "span-tools"),
            settings,
            lambda done, text: context.progress(0.3 + 0.45 * done, text),
            context.pool,
        )
    tools: SpanAttack = context.memory[key]
    return tools


@dataclass(frozen=True)
class _Piece:
    weight: FloatArray
    inversion: Inversion


class SpanInversion(WhiteBoxStrategy):
    """Recovers the training features of each head, decodes them to pixels, refines the pixels through the backbone.

    Uses: the head's weights, the public backbone and recipe, auxiliary images. Expected without RHE at one image per
    class: nearly every training image identified among all private ones of its class. With RHE: blocked as it is;
    on the ciphertexts the regressor has no skill, its estimate is the mean head, and identification is at chance.
    Heads with a hidden layer have no closed form; there a ridge regression on shadow heads finds the features.
    """

    name = "span-inversion"
    goal = "reconstruction"
    summary = "training features from the weights in closed form, then pixels by decoder and backbone"
    source = "span identity; against arXiv 2505.14323, section on reconstruction"
    two_layer_needs = frozenset({Observation.TWO_LAYER_HEAD})

    @dataclass(frozen=True)
    class Options(SpanEffort):
        """Effort, as in `SpanEffort`, and that of the variant on ciphertexts.

        Attributes:
            ciphertext_shadows: heads encrypted under the same key for the variant on ciphertexts; half as many where
                heads have a hidden layer, which makes dozens of ciphertexts of each.
        """

        ciphertext_shadows: int = 512

    def attack_two_layer(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack_two_layer`."""
        return attack_plain(view, prior, context, self.options.shadow_heads)

    def attack_ciphertexts(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_ciphertexts`; of two-layer heads, products of weights are read."""
        if prior.two_layer is None:
            return super().attack_ciphertexts(view, prior, context)
        o = self.options
        return attack_encrypted(view, prior, context, o.shadow_heads, max(1, o.ciphertext_shadows // 2))

    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_heads`."""
        tools = span_tools(self.options, prior, context)
        context.progress(0.75, "inverting heads")
        inversion = tools.invert(heads.weight, heads.bias, heads.error_variance)
        context.progress(0.8, "decoding and refining")
        # Equal heads give equal pictures: an estimate without skill is the same mean head for every victim.
        flat = heads.weight.reshape(len(heads.weight), -1)
        _, first, place = np.unique(flat, axis=0, return_index=True, return_inverse=True)
        size = heads_together(inversion.points.shape[1])
        chunks = [first[i : i + size] for i in range(0, len(first), size)]
        draw = functools.partial(_picture, tools, prior.backbone)
        pieces = [_Piece(heads.weight[rows], inversion.of(rows)) for rows in chunks]
        images = np.concatenate(context.pool.map(draw, pieces))[place.reshape(-1)]
        return Claim(
            head_ids=heads.head_ids,
            images=images,
            features=inversion.points,
            whitener=inversion.whitener,
            weights=heads.weight,
            biases=heads.bias,
        )


def _picture(tools: SpanAttack, backbone: Backbone, piece: _Piece) -> FloatArray:
    return tools.picture(backbone, piece.weight, piece.inversion)
