"""Rounded scores: what the key holder lets out has few decimals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import Defence
from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, IntArray

__all__ = ["MAX_DIGITS", "Rounding"]

#: A float32 logit carries no more decimals than this.
MAX_DIGITS = 6


class Rounding(Defence):
    """Rounds released logits; classes are decided before, so that no answer changes."""

    name = "rounding"
    summary = "released scores are rounded"
    source = "Tramer et al. 2016, arXiv 1609.02943, section 7"

    @dataclass(frozen=True)
    class Options:
        """`digits`: decimals that are left."""

        digits: int = 1

        def __post_init__(self) -> None:
            if not 0 <= self.digits <= MAX_DIGITS:
                raise ParameterError(f"rounding: digits={self.digits} is not allowed (allowed: 0 to {MAX_DIGITS})")

    def release(self, classes: IntArray, logits: AnyArray) -> tuple[IntArray, AnyArray]:
        """See `Defence.release`."""
        return classes, np.round(logits, self.options.digits)
