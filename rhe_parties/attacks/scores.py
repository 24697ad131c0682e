"""What released scores are worth to who knows the defences in force."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rhe_parties.attacks.base import AttackContext
from rhe_parties.defences.base import DEFENCES, Defence
from rhe_parties.defences.rounding import Rounding
from rhe_parties.defences.temperature import Temperature
from rhe_parties.errors import ParameterError
from rhe_parties.registry import parse_options, split_options
from rhe_parties.types import FloatArray

__all__ = ["ReleasedScores"]


@dataclass(frozen=True)
class ReleasedScores:
    """How released logits follow from the head's.

    Attributes:
        scale: what undoes every temperature, as a factor.
        error: deviation of a logit's error after that, from rounding.
        grid: distance of neighbouring values of a logit after that; 0: no rounding.
    """

    scale: float = 1.0
    error: float = 0.0
    grid: float = 0.0

    @classmethod
    def of(cls, context: AttackContext) -> ReleasedScores:
        """By the world's defences, which are no secret.

        Raises:
            ParameterError: the key holder releases no scores.
        """
        release = context.require_oracle().release
        if release != "logits":
            raise ParameterError(f"release={release[:40]!r} holds no scores (needed: logits)")
        return cls.under(context.defences)

    @classmethod
    def under(cls, defences: tuple[str, ...]) -> ReleasedScores:
        """The same under defences by name and options, in their order."""
        scale, error, grid = 1.0, 0.0, 0.0
        for text in defences:
            defence = _defence(text)
            if isinstance(defence, Temperature):
                scale *= defence.options.value
            elif isinstance(defence, Rounding):
                step = scale * 10.0**-defence.options.digits
                error, grid = math.hypot(error, step / math.sqrt(12)), max(grid, step)
        return cls(scale, error, grid)

    def undone(self, logits: FloatArray) -> FloatArray:
        """The head's logits, up to `error`."""
        return logits * logits.dtype.type(self.scale)


def _defence(text: str) -> Defence | None:
    name, options = split_options(text)
    if name not in DEFENCES.names():
        return None  # somebody's own, of which nothing is known here
    cls = DEFENCES.load(name)
    return cls(parse_options("defence", cls, options))
