"""Property inference: which of some values does a property of the training set have?

Source: Ateniese et al. 2015; Ganju et al. 2018; Suri & Evans 2022, arXiv 2109.06024 (the question is asked of a
distribution of training sets, whose law is public).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Challenge, Claim, PriorKnowledge
from rhe_parties.attacks.property.reader import READERS, PropertyReader, fit_property_reader
from rhe_parties.attacks.white_box import Heads, WhiteBoxStrategy
from rhe_parties.data.properties import property_sets
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.model.dual import train_many
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import Observation
from rhe_parties.types import IntArray

__all__ = ["PropertyInference"]


class PropertyInference(WhiteBoxStrategy):
    """Trains shadow heads on sets with each value of the property, and learns to tell them apart.

    Uses: the head's weights, auxiliary images, the law by which sets with a property are drawn. Expected without RHE:
    shares and the presence of a class are read almost without error, the kind of images less surely. With RHE:
    blocked as it is; on the ciphertexts every head looks like the mean head, and the guess is at chance.
    """

    name = "property-inference"
    goal = "property"
    summary = "a property of the training set (class share, presence of a class, thickness) from the weights"
    source = "Ganju et al. 2018; Suri & Evans 2022, arXiv 2109.06024"
    needs = WhiteBoxStrategy.needs | {Observation.PROPERTY}
    ciphertext_needs = WhiteBoxStrategy.ciphertext_needs | {Observation.PROPERTY}

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            shadows: shadow heads per value of the property.
            reader: `logistic`, `mlp` or `biases`, see `fit_property_reader`.
            components: principal components of the weights.
        """

        shadows: int = 1000
        reader: str = "logistic"
        components: int = 100

        def __post_init__(self) -> None:
            if self.shadows < 20 or self.components < 1:
                raise ParameterError(
                    f"shadows = {self.shadows} (at least 20) and components = {self.components} (at least 1) "
                    "are not allowed"
                )
            if self.reader not in READERS:
                raise ParameterError(f"reader={self.reader!r} is not allowed (allowed: {', '.join(READERS)})")

    def attack_heads(self, heads: Heads, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `WhiteBoxStrategy.attack_heads`."""
        reader = self._reader(prior, context)
        return Claim(
            head_ids=heads.head_ids,
            property_scores=reader.log_posterior(heads.weight, heads.bias),
            notes={f"accuracy on {reader.held_out} held-out shadow heads": f"{reader.accuracy:.3f}"},
        )

    def shadow_heads(self, prior: PriorKnowledge, context: AttackContext, count: int) -> Heads:
        """Heads on sets with every value of the property in turn."""
        per_value = -(-count // len(_values(context.challenge)))
        heads, _ = _shadows(prior, context, per_value, "property-mixture")
        order = np.arange(len(heads.head_ids)).reshape(-1, per_value).T.ravel()[:count]
        return Heads(tuple(heads.head_ids[i] for i in order), heads.weight[order], heads.bias[order])

    def _reader(self, prior: PriorKnowledge, context: AttackContext) -> PropertyReader:
        """Kept from world to world: it depends on no view."""
        challenge = context.challenge
        key = f"property-reader {self.options} {challenge.property_name} {_values(challenge)}"
        if key not in context.memory:
            context.progress(0.1, "shadow heads for each value of the property")
            heads, values = _shadows(prior, context, self.options.shadows, "property-shadows")
            context.progress(0.6, "learning to tell them apart")
            context.memory[key] = fit_property_reader(
                heads.weight, heads.bias, values, self.options.reader, self.options.components,
                stream_seed(context.seed, "property-reader"),
            )  # fmt: skip
        reader: PropertyReader = context.memory[key]
        return reader


def _values(challenge: Challenge) -> list[float]:
    """The values that the property may take.

    Raises:
        DataError: fewer than two different ones.
    """
    values = [] if challenge.property_values is None else [float(value) for value in challenge.property_values]
    if len(set(values)) < 2 or len(set(values)) < len(values):
        raise DataError(f"property values {values} are not allowed: at least two, and all different")
    return values


def _shadows(prior: PriorKnowledge, context: AttackContext, per_value: int, purpose: str) -> tuple[Heads, IntArray]:
    """`per_value` heads for each value, value after value, and the index of each head's value."""
    challenge = context.challenge
    values = _values(challenge)
    seed = stream_seed(context.seed, purpose)
    total = prior.classes * prior.images_per_class
    sets = [
        property_sets(
            prior.auxiliary_images, prior.auxiliary_labels, prior.classes, total, challenge.property_name, value,
            per_value, seed,
        )
        for value in values
    ]  # fmt: skip
    weight, bias = train_many(
        prior.auxiliary_features, prior.auxiliary_labels, np.concatenate(sets), prior.classes, prior.recipe, seed
    )
    ids = tuple(f"shadow-{index}" for index in range(len(weight)))
    return Heads(ids, weight, bias), np.repeat(np.arange(len(values)), per_value).astype(np.int64)
