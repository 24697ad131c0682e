"""What can be told of a release policy from the released numbers, and how to imitate it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rhe_parties.errors import NumericError
from rhe_parties.types import FloatArray

__all__ = ["apply_release", "infer_digits"]

_MAX_DIGITS = 6  # decimals that a float32 logit carries


def infer_digits(logits: FloatArray) -> int | None:
    """Decimals that released logits were rounded to, read off the numbers; None where they were not.

    Raises:
        NumericError: no values, or values that are NaN or infinite.
    """
    values = np.asarray(logits, np.float64)
    if values.size == 0 or not np.isfinite(values).all():
        raise NumericError(f"released scores must be finite and at least one, got shape {values.shape}")
    for digits in range(_MAX_DIGITS):
        if (np.round(values, digits).astype(np.float32) == values.astype(np.float32)).all():
            return digits
    return None


def apply_release(logits: Tensor, digits: int | None) -> Tensor:
    """Logits as a release policy with that many decimals lets them out; None: unchanged."""
    return logits if digits is None else torch.round(logits.double(), decimals=digits).to(logits.dtype)
