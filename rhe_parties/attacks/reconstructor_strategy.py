"""The paper's reconstructor as a strategy: a network learns from a stream of shadow heads to draw training images."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.reconstructor.neurons import sort_hidden_units
from rhe_parties.attacks.reconstructor.reconstructor import Reconstructor
from rhe_parties.attacks.reconstructor.stream import shadow_stream
from rhe_parties.attacks.reconstructor.training import ReconstructorSettings, Training
from rhe_parties.attacks.shadows.factory import ShadowBlock, ShadowFactory
from rhe_parties.attacks.shadows.sets import BalancedSets
from rhe_parties.attacks.shadows.stream import BlockSource
from rhe_parties.attacks.shadows.two_layer_factory import FlatBlock, TwoLayerFactory
from rhe_parties.attacks.two_layer_span import flat_heads
from rhe_parties.attacks.white_box import (
    Heads,
    WhiteBoxStrategy,
    gaussian_like,
    null_shadows,
    read_ciphertexts,
)
from rhe_parties.errors import ParameterError
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray

__all__ = ["ReconstructorStrategy"]

# Auxiliary images, and the default number of steps below and above: a minute or two of a CPU, and three times that.
_FEW_IMAGES = 5000
_STEPS, _MORE_STEPS = 1500, 5000
# Two-layer heads encrypted for the variant on ciphertexts: 33 ciphertexts each at 256 features.
_TWO_LAYER_SHADOWS = 256


class ReconstructorStrategy(WhiteBoxStrategy):
    """Learns the map from weights to images of one class (conditional) or to one image of any class.

    Uses: the head's weights, recipe, backbone and auxiliary images, on which it trains shadow heads as it goes; of the
    algebra of training it knows nothing. Expected without RHE: far behind `span-inversion` in the same minutes, near
    it after days of a GPU. With RHE: blocked as it is; on ciphertexts it sees the mean head and is at chance.
    """

    name = "reconstructor"
    goal = "reconstruction"
    summary = "a network trained on a stream of shadow heads draws images from the weights"
    source = "arXiv 2505.14323, reconstructor with softmin set loss (code of v1)"
    two_layer_needs = frozenset({Observation.TWO_LAYER_HEAD})

    @dataclass(frozen=True)
    class Options:
        """What the paper varies, and the effort; with `minutes` the result depends on the machine's speed.

        Attributes:
            conditional: one image per class; false: one per head.
            width: channels of the network, g; the paper has 256, on a GPU.
            steps: optimiser steps; 0: no limit, or, where `minutes` is 0 too, a default for the auxiliary images.
            minutes: wall time of training; 0: no limit.
            batch: heads per step.
            learning_rate: of Adam; the paper has 2e-4, for a hundred times as many steps.
            alpha: sharpness of the soft minimum over a class' images.
            uses: how often each shadow head is trained on.
            sort_units: hidden units of two-layer heads in one order, which does not change what a head computes; false:
                as they come, which is the paper's way and learns more slowly.
            device: torch device of the network.
        """

        conditional: bool = True
        width: int = ReconstructorSettings.width
        steps: int = 0
        minutes: float = 0.0
        batch: int = ReconstructorSettings.batch
        learning_rate: float = ReconstructorSettings.learning_rate
        alpha: float = ReconstructorSettings.alpha
        uses: int = ReconstructorSettings.uses
        sort_units: bool = True
        device: str = "cpu"

        def __post_init__(self) -> None:
            self.settings()
            if self.steps < 0 or not 0 <= self.minutes < float("inf"):
                raise ParameterError(f"steps = {self.steps} and minutes = {self.minutes} must not be negative")

        def settings(self) -> ReconstructorSettings:
            """The network's and the training's part of the options."""
            return ReconstructorSettings(
                self.conditional, self.width, self.batch, self.learning_rate, self.alpha, self.uses
            )

    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_heads`; one drawn image stands for all S of its class."""
        claim = self._drawn(heads.head_ids, heads.flat(), prior, context)
        return replace(claim, weights=heads.weight, biases=heads.bias)

    def attack_two_layer(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack_two_layer`; the null control is again what it draws from random heads."""
        ids, flat = flat_heads(view, prior, context)
        claim = self._drawn(ids, self._arranged(prior, flat), prior, context)
        context.progress(0.85, "null control")
        shadows = self._arranged(prior, _some_heads(prior, context, null_shadows(len(ids))))
        return replace(claim, null=self._drawn(ids, gaussian_like(shadows, len(ids), context.seed), prior, context))

    def attack_ciphertexts(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_ciphertexts`; of two-layer heads it reads the weights in their one order."""
        recipe, width = prior.two_layer, prior.backbone.features
        if recipe is None:
            return super().attack_ciphertexts(view, prior, context)
        flat = _some_heads(prior, context, _TWO_LAYER_SHADOWS)
        shadows = [BinaryHead.of(row, recipe, width) for row in flat]
        read = read_ciphertexts(view, shadows, self._arranged(prior, flat), context)
        claim = self._drawn(read.head_ids, read.flat, prior, context)
        null = self._drawn(read.head_ids, read.nothing, prior, context)
        return replace(claim, null=null, notes=claim.notes | read.notes)

    def _drawn(
        self, head_ids: tuple[str, ...], flat: FloatArray, prior: PriorKnowledge, context: AttackContext
    ) -> Claim:
        """Images claimed from flat weights [V, P], arranged as the network knows them."""
        trained, notes = self._trained(prior, context)
        context.progress(0.8, "drawing")
        drawn = trained.draw(flat)
        per_head = prior.classes * prior.images_per_class
        images = np.repeat(drawn, per_head // drawn.shape[1], axis=1)
        return Claim(head_ids=head_ids, images=images, notes=notes)

    def _arranged(self, prior: PriorKnowledge, flat: FloatArray) -> FloatArray:
        """Flat weights [V, P] in the form that the network sees."""
        recipe = prior.two_layer
        if recipe is None or not self.options.sort_units:
            return flat
        return sort_hidden_units(flat, prior.backbone.features, recipe.hidden, even=recipe.activation == "square")

    def _trained(self, prior: PriorKnowledge, context: AttackContext) -> tuple[Reconstructor, dict[str, str]]:
        """A function of prior knowledge, made once for all worlds."""
        key = f"reconstructor {self.options}"
        if key not in context.memory:
            context.memory[key] = self._train(prior, context)
        found: tuple[Reconstructor, dict[str, str]] = context.memory[key]
        return found

    def _train(self, prior: PriorKnowledge, context: AttackContext) -> tuple[Reconstructor, dict[str, str]]:
        options = self.options
        seed = stream_seed(context.seed, "reconstructor")
        context.progress(0.0, "features of auxiliary images")
        factory = _factory(prior, seed, "reconstructor")
        settings = options.settings()
        steps = options.steps
        if steps == 0 and options.minutes == 0:
            steps = _STEPS if len(prior.auxiliary_labels) < _FEW_IMAGES else _MORE_STEPS
        # A short training takes its statistics from what it sees at all.
        if steps:
            settings = replace(settings, statistics_heads=min(settings.statistics_heads, steps * settings.batch))
        _labels, classes, per_class = prior.balance
        stream = shadow_stream(factory, functools.partial(self._arranged, prior))
        training = Training(stream, prior.auxiliary_images, classes, settings, seed, options.device)
        training.advance(steps, 60 * options.minutes, lambda done, text: context.progress(0.8 * done, text))
        notes = {
            "shadow heads": f"{training.heads:,}",
            "training steps": f"{training.steps:,} of {settings.batch} heads, width {settings.width}",
        }
        if not settings.conditional:
            notes["images"] = "one per head, claimed for every place in its training set"
        elif per_class > 1:
            notes["images"] = "one per class, claimed for each of the class' places in the training set"
        return training.reconstructor(), notes


def _factory(
    prior: PriorKnowledge, seed: int, purpose: str, block: int = 256
) -> BlockSource[ShadowBlock] | BlockSource[FlatBlock]:
    """Shadow heads like the victims', on sets that are balanced as theirs are."""
    features, labels, classes = prior.auxiliary_features, prior.auxiliary_labels, prior.classes
    rule = BalancedSets(*prior.balance, seed, purpose, block)
    if prior.two_layer is not None:
        return TwoLayerFactory(
            features, labels, classes, prior.images_per_class, prior.two_layer, seed, purpose, block, rule
        )
    return ShadowFactory(
        features, labels, classes, prior.images_per_class, prior.recipe, seed, purpose, block=block, sets=rule
    )


def _some_heads(prior: PriorKnowledge, context: AttackContext, count: int) -> FloatArray:
    """Flat weights [count, P] of shadow heads that the network was not trained on."""
    factory = _factory(prior, stream_seed(context.seed, "white-box-shadows"), "shadow", count)
    return next(shadow_stream(factory)).flat
