"""Softened scores: logits are divided by a temperature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import Defence
from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, IntArray

__all__ = ["Temperature"]


class Temperature(Defence):
    """Divides released logits by a temperature, which flattens confidences and changes no class.

    An adversary that knows the temperature undoes it: on its own it is a control, not a protection. Before rounding it
    makes the grid coarser.
    """

    name = "temperature"
    summary = "released scores are divided by a temperature"
    source = "Shokri et al. 2017, arXiv 1610.05820, section VIII"

    @dataclass(frozen=True)
    class Options:
        """`value`: the temperature."""

        value: float = 4.0

        def __post_init__(self) -> None:
            if not (np.isfinite(self.value) and self.value > 0):
                raise ParameterError(f"temperature: value={self.value} is not allowed (allowed: finite, above 0)")

    def release(self, classes: IntArray, logits: AnyArray) -> tuple[IntArray, AnyArray]:
        """See `Defence.release`."""
        return classes, logits / self.options.value
