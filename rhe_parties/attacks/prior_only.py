"""The baseline: what an adversary claims that saw nothing."""

from __future__ import annotations

import numpy as np

from rhe_parties.attacks.base import AttackContext, Challenge, Claim, PriorKnowledge, Strategy
from rhe_parties.data.datasets import to_unit
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["PriorOnly"]


class PriorOnly(Strategy):
    """Claims what its auxiliary images alone suggest, whatever the task.

    Training images: the class average. Membership: how typical a candidate is of its class. A property: the first of
    its values. Uses no observation. Expected: chance in every world; any attack that does not beat it has learned
    nothing from its view.
    """

    name = "prior-only"
    summary = "no view at all: claims what its own auxiliary images suggest, the class average above all"
    source = "baseline"
    needs = frozenset()
    two_layer_needs = frozenset()

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`; the view is not looked at."""
        del view
        heads, challenge = context.victims, context.challenge
        if challenge.property_values is not None:
            flat = np.zeros((len(heads), len(challenge.property_values)), np.float32)
            return Claim(heads, property_scores=flat)
        if (prior.auxiliary_labels < 0).any():  # a mixture without labels has no class averages
            return Claim(heads)
        if challenge.candidates is not None and challenge.candidate_labels is not None:
            return Claim(heads, scores=_typicality(challenge, prior))
        pictures = to_unit(prior.auxiliary_images)
        if challenge.target_labels is not None:
            target = challenge.target_labels[:, None]
            images, features = _class_means(pictures, prior), _class_means(prior.auxiliary_features, prior)
            return Claim(heads, images=images[target], features=features[target])
        # Where training sets are balanced over something finer than the classes, that is known, and an average of it.
        labels, kinds, each = prior.balance
        images, features = _means(pictures, labels, kinds), _means(prior.auxiliary_features, labels, kinds)
        return Claim(heads, images=_repeat(images, each, len(heads)), features=_repeat(features, each, len(heads)))


def _typicality(challenge: Challenge, prior: PriorKnowledge) -> FloatArray:
    """Minus the squared distance [V, M] of each candidate's features to its class's mean."""
    if challenge.candidates is None or challenge.candidate_labels is None:
        raise LookupError("no candidates to judge")
    heads, count = challenge.candidates.shape[:2]
    features = prior.backbone.extract(challenge.candidates.reshape(-1, *challenge.candidates.shape[2:]))
    means = _class_means(prior.auxiliary_features, prior)[challenge.candidate_labels.reshape(-1)]
    scores: FloatArray = -np.square(features - means).sum(axis=1).reshape(heads, count)
    return scores


def _class_means(values: AnyArray, prior: PriorKnowledge) -> FloatArray:
    """[K, …], float32."""
    return _means(values, prior.auxiliary_labels, prior.classes)


def _means(values: AnyArray, labels: IntArray, classes: int) -> FloatArray:
    return np.stack([values[labels == k].mean(axis=0) for k in range(classes)]).astype(np.float32)


def _repeat(means: FloatArray, each: int, heads: int) -> FloatArray:
    """Means [K, …], each `each` times, the same for every head: [V, N, …]."""
    block = np.repeat(means, each, axis=0)
    return np.broadcast_to(block, (heads, *block.shape)).astype(np.float32)
