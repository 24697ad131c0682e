"""Fresh uniform masks for the coefficients of a reply that hold no logit, from the system's randomness.

The key holder needs some coefficients beside the logits to see the noise of a reply. They hold partial sums of
weights times features; with a mask added they are uniform. All other coefficients never go on the wire.
"""

from __future__ import annotations

import secrets

import numpy as np

from rhe_parties.he.plan import HeadPlan
from rhe_parties.types import IntArray

__all__ = ["fresh_masks"]


def fresh_masks(plan: HeadPlan, inputs: int) -> IntArray:
    """Uniform values below t, int64 [requests, class tiles, check_count], for a batch of `inputs`."""
    shape = (-(-inputs // plan.batch), plan.class_tiles, plan.check_count)
    noise = np.frombuffer(secrets.token_bytes(8 * int(np.prod(shape))), dtype="<i8").reshape(shape)
    return (noise & (plan.plain_modulus - 1)).astype(np.int64)
