"""What the loss says to the logits, step by step: plain cross-entropy, and RelaxLoss; and how DP-SGD clips it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["clip_factors", "loss_errors"]


def loss_errors(logits: Tensor, onehot: Tensor, relax: float, step: int) -> Tensor:
    """Gradient of each example's loss by its logits.

    RelaxLoss (Chen, Yu, Fritz 2022, arXiv 2207.05801, algorithm 1, with one batch per epoch) holds the mean loss of a
    head near α: in even steps it descends where the loss is above α and climbs where it is below; in odd steps it
    descends above α, and below it flattens the posterior: the target keeps the probability of the true class and
    spreads the rest evenly over the others.

    Args:
        logits: [V, N, K].
        onehot: the labels [V, N, K], floating.
        relax: α; 0 for plain cross-entropy.
        step: number of the step, from 0 on.

    Returns:
        [V, N, K]; not divided by N.
    """
    chances = torch.softmax(logits, dim=-1)
    if not relax:
        return chances - onehot
    true = (chances * onehot).sum(-1, keepdim=True)
    above = -true.clamp_min(1e-300).log().mean(dim=-2, keepdim=True) > relax
    if step % 2 == 0:
        return torch.where(above, chances - onehot, onehot - chances)
    flat = torch.where(onehot > 0, true, (1 - true) / (logits.shape[-1] - 1))
    return chances - torch.where(above, onehot, flat)


def clip_factors(errors: Tensor, lengths: Tensor, clip: float) -> Tensor:
    """What DP-SGD multiplies each example's gradient with.

    Args:
        errors: gradients by the logits [V, N, K]; the gradient by weights and bias is their product with [x, 1].
        lengths: |[x, 1]| of each example [V, N].
        clip: largest norm C of an example's gradient.

    Returns:
        [V, N, 1], at most 1.
    """
    norms = errors.norm(dim=-1) * lengths
    factors: Tensor = (clip / norms.clamp_min(1e-30)).clamp_max(1.0)
    return factors[..., None]
