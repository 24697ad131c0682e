"""DP-SGD as a value: clipping, noise, sampling, steps, and the epsilon that they spend."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

import numpy as np

from rhe_parties.errors import ParameterError
from rhe_parties.types import FloatArray

__all__ = ["DpMechanism", "epsilon"]


@dataclass(frozen=True)
class DpMechanism:
    """How a head is trained privately (Abadi et al., CCS 2016), with the conventions of Opacus.

    Each example's gradient over weights and biases is clipped to norm C; each step takes every example with
    probability q; N(0, σ²C²) is added to the sum, which is divided by q·N; then one step of SGD with weight decay.

    Attributes:
        clip: C.
        noise_multiplier: σ.
        sampling_rate: q; 1 takes all examples at every step.
        steps: number of noisy steps; None: the recipe's epochs.
        centre: public point that features are measured from, one number each, so that less is clipped and drowned in
            noise; the trained head is turned back to plain features. Empty: the origin.

    Raises:
        ParameterError: C not above 0, σ below 0, q outside (0, 1], fewer than one step, or NaN.
    """

    clip: float
    noise_multiplier: float
    sampling_rate: float = 1.0
    steps: int | None = None
    centre: tuple[float, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for name, value, allowed, limits in (
            ("clip", self.clip, self.clip > 0, "above 0"),
            ("noise_multiplier", self.noise_multiplier, self.noise_multiplier >= 0, "at least 0"),
            ("sampling_rate", self.sampling_rate, 0 < self.sampling_rate <= 1, "above 0, at most 1"),
            ("steps", self.steps or 1, self.steps is None or self.steps >= 1, "at least 1"),
        ):
            if not (allowed and np.isfinite(value)):
                raise ParameterError(f"DP mechanism: {name} = {getattr(self, name)} is not allowed ({limits})")

    def centred(self, features: FloatArray) -> FloatArray:
        """Features [..., D] as the training sees them."""
        if not self.centre:
            return features
        return features - np.asarray(self.centre, features.dtype)

    def bias(self, weight: FloatArray, bias: FloatArray) -> FloatArray:
        """The bias [..., K] for plain features of a head [..., K, D] that was trained on centred ones."""
        if not self.centre:
            return bias
        moved: FloatArray = bias - (weight.astype(np.float64) @ np.asarray(self.centre)).astype(bias.dtype)
        return moved

    def steps_of(self, epochs: int) -> int:
        """Steps under a recipe of so many epochs."""
        return epochs if self.steps is None else self.steps


def epsilon(mechanism: DpMechanism, epochs: int, delta: float) -> float:
    """The ε that one training spends at δ, add/remove adjacency, from Opacus' PRV accountant.

    Args:
        mechanism: σ, q and the number of steps count; the clipping norm does not.
        epochs: of the recipe, for a mechanism without steps of its own.
        delta: δ in (0, 1).

    Returns:
        ε; infinity without noise.

    Raises:
        ParameterError: δ outside (0, 1).
    """
    if not 0 < delta < 1:
        raise ParameterError(f"delta = {delta} is not allowed (allowed: above 0, below 1)")
    if mechanism.noise_multiplier == 0:
        return float("inf")
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    steps = mechanism.steps_of(epochs)
    accountant.history = [(mechanism.noise_multiplier, mechanism.sampling_rate, steps)]
    # At q = 1 the PRV takes log(0) where its density is 0; and the rough RDP bound that it starts from may say that it
    # is rough. Neither touches the result.
    with np.errstate(divide="ignore"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Optimal order is the", UserWarning)
        return float(accountant.get_epsilon(delta=delta))
