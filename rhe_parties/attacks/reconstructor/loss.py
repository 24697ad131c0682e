"""How far a drawn image is from a set of images: the soft minimum of pair errors.

Source: code of v1 of arXiv 2505.14323.
"""

from __future__ import annotations

from torch import Tensor

from rhe_parties.errors import NumericError, ParameterError

__all__ = ["pair_errors", "softmin_set_loss"]


def pair_errors(drawn: Tensor, targets: Tensor) -> Tensor:
    """½(MSE + MAE) per pair, [B, S].

    Args:
        drawn: images [B, C, H, W] in [-1, 1].
        targets: sets of images [B, S, C, H, W].

    Raises:
        NumericError: shapes that do not fit together, or empty sets.
    """
    fits = drawn.ndim == 4 and targets.ndim == 5 and targets.shape[:1] + targets.shape[2:] == drawn.shape
    if not fits or targets.shape[1] == 0:
        raise NumericError(
            f"set loss takes images [B, C, H, W] and sets [B, S, C, H, W] of at least one image, "
            f"got {tuple(drawn.shape)} and {tuple(targets.shape)}"
        )
    difference = (drawn[:, None] - targets).flatten(2)
    return 0.5 * (difference.square().mean(2) + difference.abs().mean(2))


def softmin_set_loss(drawn: Tensor, targets: Tensor, alpha: float) -> Tensor:
    """L(u, S) = Σ_x e(u, x)·softmax_x(-α·e(u, x)), per drawn image [B]; gradients flow through the weights too.

    With one image in the set it is that pair's error. Arguments and errors as in `pair_errors`.

    Raises:
        ParameterError: α below 0 (0 is the plain mean over the set).
    """
    if not alpha >= 0:
        raise ParameterError(f"alpha = {alpha} is not allowed: 0 or more")
    errors = pair_errors(drawn, targets)
    weighted: Tensor = (errors * (-alpha * errors).softmax(dim=1)).sum(dim=1)
    return weighted
