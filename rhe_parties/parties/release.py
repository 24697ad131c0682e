"""What the key holder lets out of a decrypted answer, and to whom: always to the party that asked, nobody else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["MAX_DIGITS", "Release", "parse_release"]

#: A float32 logit carries no more decimals than this.
MAX_DIGITS = 6


@dataclass(frozen=True)
class Release:
    """A release policy: `kind` is classes, rounded or logits; `digits` are the decimals of `rounded`."""

    kind: str = "classes"
    digits: int = 0

    def logits(self, logits: AnyArray, scale: float) -> FloatArray:
        """What goes out beside the classes: float32 [B, K], or an empty array.

        Args:
            logits: decrypted logits [B, K] in units of the head's weight scale.
            scale: that scale; 1 for logits that are real already.
        """
        if self.kind == "classes":
            return np.empty((0,), dtype=np.float32)
        real = np.asarray(logits, dtype=np.float64) * scale
        return (np.round(real, self.digits) if self.kind == "rounded" else real).astype(np.float32)

    @property
    def name(self) -> str:
        """The policy as `parse_release` takes it."""
        return f"{self.kind}:{self.digits}" if self.kind == "rounded" else self.kind

    def describe(self) -> str:
        """The policy in words, as the threat model states it."""
        places = "decimal" if self.digits == 1 else "decimals"
        what = {
            "classes": "classes",
            "rounded": f"classes and logits rounded to {self.digits} {places}",
            "logits": "classes and logits",
        }[self.kind]
        return f"{what}, to the party that asked; never to the host"


def parse_release(text: str) -> Release:
    """A policy by name: `classes`, `rounded:DIGITS` or `logits`.

    Raises:
        ParameterError: anything else.
    """
    kind, colon, digits = text.partition(":")
    if kind == "rounded" and digits.isascii() and digits.isdigit() and int(digits[:3]) <= MAX_DIGITS:
        return Release(kind, int(digits))
    if kind in ("classes", "logits") and not colon:
        return Release(kind)
    raise ParameterError(
        f"release={text[:64]!r} is not allowed (allowed: classes, rounded:DIGITS with 0 to {MAX_DIGITS}, logits)"
    )
