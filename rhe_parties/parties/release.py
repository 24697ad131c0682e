"""What the key holder lets out of a decrypted answer, and to whom: always to the party that asked, nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import Defence
from rhe_parties.errors import FailureCode, NumericError, ParameterError
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["MAX_KAPPA", "RAW_SCHEME", "Release", "flooded", "parse_release", "rounded"]

#: Decimals that raw values may be rounded to, at most.
_MAX_DIGITS = 6
#: Bits of security that flooding may be asked for.
MAX_KAPPA = 128
#: The scheme whose decryption gives more than logits.
RAW_SCHEME = "ckks"


def rounded(values: AnyArray, digits: int) -> AnyArray:
    """Values on a grid of 10^-digits: far coarser than the noise, it hides the noise, though nothing proves it."""
    result: AnyArray = np.round(values, digits)
    return result


def flooded(values: AnyArray, kappa: int, queries: int, noise: float, generator: np.random.Generator) -> AnyArray:
    """Values with Gaussian noise of deviation 2^(κ/2)·√queries·noise (Li, Micciancio, Schultz, Sorrell 2022).

    Args:
        kappa: bits of statistical security.
        queries: answers over which it must hold.
        noise: bound on the noise that decryption shows, in the values' unit.
    """
    result: AnyArray = values + generator.normal(0.0, 2.0 ** (kappa / 2) * queries**0.5 * noise, values.shape)
    return result


@dataclass(frozen=True)
class Release:
    """A release policy.

    Attributes:
        kind: classes, logits, or raw: every decoded slot, as TenSEAL's `decrypt` returns it.
        treatment: of raw values: "" for none, `rounded` or `flooded`.
        amount: decimals or κ of the treatment.
        defences: act on classes and logits before they go out, in order.
    """

    kind: str = "classes"
    treatment: str = ""
    amount: int = 0
    defences: Sequence[Defence] = ()

    @property
    def raw(self) -> bool:
        """Whether decoded slots go out."""
        return self.kind == "raw"

    def slots(self, slots: AnyArray, queries: int, noise: float) -> AnyArray:
        """What goes out of decoded slots float64 [B, K, S] under the policy `raw`; see `flooded`."""
        if self.treatment == "rounded":
            return rounded(slots, self.amount)
        if self.treatment == "flooded":
            return flooded(slots, self.amount, queries, noise, np.random.default_rng())
        return slots

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
        for defence in self.defences:
            said, shape = classes, real.shape
            classes, real = defence.release(said, real)
            if real.shape != shape or classes.shape != shape[:1] or not np.isfinite(real).all():
                raise NumericError(
                    f"defence {defence.name!r} released classes {classes.shape} and logits {real.shape} for "
                    f"{shape[0]} images of {shape[1]} classes, or numbers that are not finite",
                    FailureCode.BAD_TENSOR,
                )
        return classes, real.astype(np.float32) if self.kind == "logits" else np.empty((0,), np.float32)

    @property
    def name(self) -> str:
        """The policy as `parse_release` takes it."""
        return f"{self.kind}:{self.treatment}:{self.amount}" if self.treatment else self.kind

    def describe(self) -> str:
        """The policy in words, as the threat model states it."""
        what = {
            "classes": "classes",
            "logits": "classes and logits",
            "raw": f"classes and all decoded values{self._treated()}",
        }[self.kind]
        return f"{what}, to the party that asked; never to the host"

    def _treated(self) -> str:
        if self.treatment == "rounded":
            return f" rounded to {self.amount} decimals"
        return f" under noise for {self.amount} bits" if self.treatment else ""


def parse_release(text: str) -> Release:
    """A policy by name: `classes`, `logits`, `raw`, `raw:rounded:DIGITS` or `raw:flooded:KAPPA`.

    Raises:
        ParameterError: anything else.
    """
    kind, colon, rest = text.partition(":")
    if kind in ("classes", "logits", "raw") and not colon:
        return Release(kind)
    treatment, _, amount = rest.partition(":")
    most = {"rounded": _MAX_DIGITS, "flooded": MAX_KAPPA}.get(treatment, -1)
    if kind == "raw" and amount.isascii() and amount.isdigit() and int(amount[:4]) <= most:
        return Release(kind, treatment, int(amount))
    hint = ""
    if kind == "rounded":
        hint = "; rounding is a defence: +rounding@digits=N in the world's name, with release=logits"
    raise ParameterError(
        f"release={text[:64]!r} is not allowed (allowed: classes, logits; under scheme {RAW_SCHEME} also raw, "
        f"raw:rounded:DIGITS with 0 to {_MAX_DIGITS}, raw:flooded:KAPPA with 0 to {MAX_KAPPA}{hint})"
    )
