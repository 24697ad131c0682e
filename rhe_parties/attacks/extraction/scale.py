"""The one factor that an encrypted head's integers leave open, from what is known of heads as such.

Whoever reads an encrypted head, by its key or by decisions, has its weights up to the head's scale, which goes to the
key holder alone. Along directions in which features hardly vary, training leaves the initial weights as they are, whose
deviation the public recipe says; and the scale lies on a grid of an eighth of an octave. With 256 features and the
paper's recipe about a thousand such coordinates give the right step of that grid for nine heads in ten, and the next
one for the others: their weights are all 9 % too large or too small, which changes no decision.
"""

from __future__ import annotations

import numpy as np

from rhe_parties.types import AnyArray, FloatArray

__all__ = ["real_heads"]

_STEPS_PER_OCTAVE = 8
# Coordinates whose variance over heads is at most this multiple of the smallest (its 5 % quantile) hold noise alone.
_QUIET = 1.3


def real_heads(
    weights: AnyArray, biases: AnyArray, shadows: FloatArray, features: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Heads in real numbers from heads that are right but for one factor each.

    Args:
        weights: [V, K, D] in units of unknown size.
        biases: [V, K] in the same units.
        shadows: weights [S, K, D] of heads trained by the same recipe.
        features: [n, D] of public images.

    Returns:
        float32 weights [V, K, D] and biases [V, K].
    """
    exact = features.astype(np.float64)
    _, directions = np.linalg.eigh(exact.T @ exact)
    known = shadows.astype(np.float64) @ directions
    variance = known.var(axis=0)
    quiet = variance <= _QUIET * np.quantile(variance, 0.05)
    expected = np.mean(np.square(known[:, quiet]))
    found = np.mean(np.square((weights @ directions)[:, quiet]), axis=1)
    ratio = np.sqrt(np.divide(expected, found, out=np.ones_like(found), where=found > 0))
    unit = 2.0 ** (np.rint(_STEPS_PER_OCTAVE * np.log2(ratio)) / _STEPS_PER_OCTAVE)
    return (weights * unit[:, None, None]).astype(np.float32), (biases * unit[:, None]).astype(np.float32)
