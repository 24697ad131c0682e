"""Training recipes as messages carry them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the key holder's process loads messages, but no torch
    from rhe_parties.model.head import Recipe
    from rhe_parties.model.two_layer import BatchRecipe

__all__ = ["RecipeSpec"]


@dataclass(frozen=True)
class RecipeSpec:
    """A linear head's recipe (`rhe_parties.model.head.Recipe`), or with `hidden` units that of a two-layer head.

    `clip`, `noise_multiplier`, `sampling_rate`, `steps` and `centre` are those of DP-SGD where `clip` is above 0;
    `block_rate` and `block_rank` those of the backbone's last block where `block_rate` is above 0.
    """

    learning_rate: float
    weight_decay: float
    init_std: float
    epochs: int
    hidden: int = 0
    activation: str = "relu"
    clip: float = 0.0
    noise_multiplier: float = 0.0
    sampling_rate: float = 0.0
    steps: int = 0
    relax: float = 0.0
    centre: tuple[float, ...] = ()
    block_rate: float = 0.0
    block_rank: int = 0

    @classmethod
    def of(cls, recipe: Recipe | BatchRecipe) -> RecipeSpec:
        """The recipe as a message."""
        from rhe_parties.model.head import Recipe

        r = recipe
        base = (r.learning_rate, r.weight_decay, r.init_std, r.epochs)
        if not isinstance(r, Recipe):
            return cls(*base, hidden=r.hidden, activation=r.activation)
        m = r.mechanism
        if r.adaptation is not None:
            return cls(*base, block_rate=r.adaptation.learning_rate, block_rank=r.adaptation.rank)
        if m is None:
            return cls(*base, relax=r.relax)
        return cls(*base, 0, "relu", m.clip, m.noise_multiplier, m.sampling_rate, r.steps, 0.0, m.centre)

    def linear(self) -> Recipe:
        """The recipe of a linear head."""
        from rhe_parties.model.adaptation import Adaptation
        from rhe_parties.model.dp import DpMechanism
        from rhe_parties.model.head import Recipe

        base = (self.learning_rate, self.weight_decay, self.init_std, self.epochs)
        if self.block_rate:
            return Recipe(*base, adaptation=Adaptation(self.block_rate, self.block_rank))
        if not self.clip:
            return Recipe(*base, relax=self.relax)
        return Recipe(*base, DpMechanism(self.clip, self.noise_multiplier, self.sampling_rate, self.steps, self.centre))

    def two_layer(self) -> BatchRecipe | None:
        """The recipe of a binary head with a hidden layer; None where heads are linear."""
        from rhe_parties.model.two_layer import BatchRecipe

        if not self.hidden:
            return None
        base = (self.learning_rate, self.weight_decay, self.init_std, self.epochs)
        return BatchRecipe(*base, self.hidden, self.activation, "binary")
