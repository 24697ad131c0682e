"""What the key holder lets out of a decrypted answer, and to whom: always to the party that asked, nobody else."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["MAX_DIGITS", "MAX_KAPPA", "RAW_SCHEME", "Release", "flooded", "parse_release", "rounded"]

#: A float32 logit carries no more decimals than this.
MAX_DIGITS = 6
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
        kind: classes, rounded, logits, or raw: every decoded slot, as TenSEAL's `decrypt` returns it.
        digits: decimals of rounded logits.
        treatment: of raw values: "" for none, `rounded` or `flooded`.
        amount: decimals or κ of the treatment.
    """

    kind: str = "classes"
    digits: int = 0
    treatment: str = ""
    amount: int = 0

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

    def logits(self, logits: AnyArray, scale: float) -> FloatArray:
        """What goes out beside the classes: float32 [B, K], or an empty array.

        Args:
            logits: decrypted logits [B, K] in units of the head's weight scale.
            scale: that scale; 1 for logits that are real already.
        """
        if self.kind in ("classes", "raw"):
            return np.empty((0,), dtype=np.float32)
        real = np.asarray(logits, dtype=np.float64) * scale
        return (np.round(real, self.digits) if self.kind == "rounded" else real).astype(np.float32)

    @property
    def name(self) -> str:
        """The policy as `parse_release` takes it."""
        if self.treatment:
            return f"{self.kind}:{self.treatment}:{self.amount}"
        return f"{self.kind}:{self.digits}" if self.kind == "rounded" else self.kind

    def describe(self) -> str:
        """The policy in words, as the threat model states it."""
        places = "decimal" if self.digits == 1 else "decimals"
        what = {
            "classes": "classes",
            "rounded": f"classes and logits rounded to {self.digits} {places}",
            "logits": "classes and logits",
            "raw": f"classes and all decoded values{self._treated()}",
        }[self.kind]
        return f"{what}, to the party that asked; never to the host"

    def _treated(self) -> str:
        if self.treatment == "rounded":
            return f" rounded to {self.amount} decimals"
        return f" under noise for {self.amount} bits" if self.treatment else ""


def parse_release(text: str) -> Release:
    """A policy by name: `classes`, `rounded:DIGITS`, `logits`, `raw`, `raw:rounded:DIGITS` or `raw:flooded:KAPPA`.

    Raises:
        ParameterError: anything else.
    """
    kind, colon, digits = text.partition(":")
    if kind == "rounded" and digits.isascii() and digits.isdigit() and int(digits[:3]) <= MAX_DIGITS:
        return Release(kind, int(digits))
    if kind in ("classes", "logits", "raw") and not colon:
        return Release(kind)
    treatment, _, amount = digits.partition(":")
    most = {"rounded": MAX_DIGITS, "flooded": MAX_KAPPA}.get(treatment, -1)
    if kind == "raw" and amount.isascii() and amount.isdigit() and int(amount[:4]) <= most:
        return Release(kind, treatment=treatment, amount=int(amount))
    raise ParameterError(
        f"release={text[:64]!r} is not allowed (allowed: classes, rounded:DIGITS with 0 to {MAX_DIGITS}, logits; under "
        f"scheme {RAW_SCHEME} also raw, raw:rounded:DIGITS, raw:flooded:KAPPA with 0 to {MAX_KAPPA})"
    )
