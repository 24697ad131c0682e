"""What the key holder lets out of a decrypted answer, and to whom: always to the party that asked, nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import Defence, Fitted
from rhe_parties.errors import FailureCode, NumericError, ParameterError
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["Release", "parse_release"]

_POLICIES = {"classes": "classes", "logits": "classes and logits"}


@dataclass(frozen=True)
class Release:
    """A release policy: `kind` is classes or logits; `defences` act on the answer before it goes out, in order."""

    kind: str = "classes"
    defences: Sequence[tuple[Defence, Fitted]] = ()

    def answer(self, logits: AnyArray, scale: float) -> tuple[IntArray, FloatArray]:
        """What goes out: classes int64 [B], and logits float32 [B, K] or an empty array.

        Args:
            logits: decrypted logits [B, K] in units of the head's weight scale.
            scale: that scale; 1 for logits that are real already.

        Raises:
            NumericError: a defence gave an answer of another shape, unknown classes, or NaN.
        """
        classes: IntArray = np.argmax(logits, axis=1).astype(np.int64)
        real: AnyArray = np.asarray(logits, dtype=np.float64) * scale
        for defence, fitted in self.defences:
            said, shape = classes, real.shape
            classes, real = defence.release(said, real, fitted)
            if real.shape != shape or classes.shape != shape[:1] or not np.isfinite(real).all():
                raise NumericError(
                    f"defence {defence.name!r} released classes {classes.shape} and logits {real.shape} for "
                    f"{shape[0]} images of {shape[1]} classes, or numbers that are not finite",
                    FailureCode.BAD_TENSOR,
                )
        return classes, np.empty((0,), np.float32) if self.kind == "classes" else real.astype(np.float32)

    def describe(self) -> str:
        """The policy in words, as the threat model states it."""
        return f"{_POLICIES[self.kind]}, to the party that asked; never to the host"


def parse_release(text: str) -> Release:
    """A policy by name: `classes` or `logits`.

    Raises:
        ParameterError: anything else.
    """
    if text in _POLICIES:
        return Release(text)
    hint = ""
    if text.startswith("rounded"):
        hint = "; rounding is a defence: +rounding@digits=N in the world's name, with release=logits"
    raise ParameterError(f"release={text[:64]!r} is not allowed (allowed: {', '.join(_POLICIES)}{hint})")
