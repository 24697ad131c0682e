"""How the backbone's last block is trained along with the head: as a whole, or by low-rank factors (LoRA).

Source of the factors: Hu et al. 2021, arXiv 2106.09685. Reverse homomorphic encryption (arXiv 2505.14323) protects the
head alone and says that a backbone with private data in it is outside what it protects.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.errors import ParameterError

__all__ = ["ADAPTABLE", "FACTORS", "MAX_RANK", "WHOLE", "Adaptation"]

#: Backbones whose last block can be adapted.
ADAPTABLE = ("strokenet",)
#: Names of an adapted block's tensors: the whole layer [D, P] and [D], or factors [r, P] and [D, r].
WHOLE, FACTORS = ("weight", "bias"), ("down", "up")

#: Beyond the layer's own rank, factors are more numbers than the layer.
MAX_RANK = 128
# Learning rates of the block's training, chosen on auxiliary sets of digits and MNIST so that accuracy does not fall.
_LAYER_RATE, _FACTOR_RATE = 0.03, 0.1


@dataclass(frozen=True)
class Adaptation:
    """The block's part of a recipe; steps, batch and weight decay are the head's.

    Attributes:
        learning_rate: of the block.
        rank: r of the factors whose product is added to the layer; 0: the layer itself is trained, with its bias.
    """

    learning_rate: float
    rank: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ParameterError(f"learning_rate = {self.learning_rate} of the block is not allowed: above 0")
        if self.rank < 0:
            raise ParameterError(f"rank = {self.rank} of the block's factors is not allowed: at least 1, 0 for none")

    @classmethod
    def whole(cls) -> Adaptation:
        """The usual fine-tuning of the whole layer."""
        return cls(_LAYER_RATE)

    @classmethod
    def factors(cls, rank: int) -> Adaptation:
        """The usual LoRA of a rank."""
        return cls(_FACTOR_RATE, rank)

    def describe(self) -> str:
        """In words, for the report."""
        what = f"LoRA factors of rank {self.rank}" if self.rank else "all weights"
        return f"{what} trained at learning rate {self.learning_rate:g}, in the clear at the host"
