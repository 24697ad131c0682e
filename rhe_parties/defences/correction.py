"""A small Bayesian network behind a classifier: logits in, logits of the average posterior out.

After Wang and Diao, arXiv 2306.16979: the classifier is frozen, and what is appended to it models clean images, their
adversarial versions and the labels together, as an energy-based model whose weights are sampled instead of fitted. The
network here is residual, K-32-K; its weights come from stochastic-gradient Hamiltonian Monte Carlo (Chen, Fox and
Guestrin 2014, arXiv 1402.4102), in chains that run side by side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rhe_parties.defences.base import Fitted
from rhe_parties.types import AnyArray, FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["adversarial_logits", "correct", "sample_corrections"]

_ASCENT = 8  # steps of the adversary that images are moved by
_UNITS = 32
_CHAINS, _KEPT = 5, 5
_BURN_IN, _APART = 500, 50  # steps before the first sample that is kept, and between samples
_STEP, _FRICTION = 1e-3, 0.1
_HASTE = 20  # times longer are the steps of the burn-in
_BATCH = 128
_PRIOR = 1.0  # deviation of a weight

Weights = list["Tensor"]


def correct(logits: AnyArray, fitted: Fitted) -> AnyArray:
    """Logarithms of the samples' average posterior, float64 [B, K], from a head's logits [B, K]."""
    x = (logits - fitted["mean"]) / fitted["deviation"]
    hidden = np.maximum(x @ fitted["weight0"].transpose(0, 2, 1) + fitted["bias0"][:, None], 0)
    scores = logits + hidden @ fitted["weight1"].transpose(0, 2, 1) + fitted["bias1"][:, None]
    posteriors = scores - np.logaddexp.reduce(scores, axis=2)[..., None]
    averaged: AnyArray = np.logaddexp.reduce(posteriors, axis=0) - np.log(len(posteriors))
    return averaged


def adversarial_logits(logits: FloatArray, weight: FloatArray, labels: IntArray, radius: float) -> FloatArray:
    """Logits after features were moved, within a ball around them, to where the loss is largest.

    Projected gradient ascent through linear heads. Features move in the span of a head's weights alone, so that W·Wᵀ
    is all that is needed of them. Moved features may be such as no image has.

    Args:
        logits: [H, n, K] of H heads about n images.
        weight: [H, K, D].
        labels: int64 [n] of the images.
        radius: of the ball, in units of features.

    Returns:
        float32 [H, n, K].
    """
    gram = weight @ weight.transpose(0, 2, 1)
    wanted = np.eye(logits.shape[2], dtype=np.float32)[labels]
    moved, push = logits, np.zeros_like(logits)
    for _ in range(_ASCENT):
        raised = np.exp(moved - moved.max(axis=2, keepdims=True))
        error = raised / raised.sum(axis=2, keepdims=True) - wanted
        push = push + (2 * radius / _ASCENT) * error / _length(error, gram)
        push = push * np.minimum(1, radius / _length(push, gram))
        moved = logits + push @ gram
    return moved.astype(np.float32)


def _length(push: AnyArray, gram: AnyArray) -> AnyArray:
    """Lengths [H, n, 1] of the features Wᵀ·push."""
    length: AnyArray = np.sqrt(np.maximum((push @ gram * push).sum(axis=2, keepdims=True), 1e-12))
    return length


def sample_corrections(
    clean: FloatArray, adversarial: FloatArray, labels: IntArray, energy: float, seed: int
) -> dict[str, FloatArray]:
    """Sample networks from their posterior given public scores.

    The potential is the cross-entropy of clean and of adversarial logits, a Gaussian prior of the weights, and the
    energy of clean logits, -logsumexp, against that of logits whose entries come from different images. Without the
    latter it would have no minimum: a constant added to all outputs would lower it for ever.

    Args:
        clean: logits [H, n, K] of H heads about n images.
        adversarial: the same after the images were moved.
        labels: int64 [n].
        energy: weight of the energy in the potential.
        seed: root seed.

    Returns:
        What `correct` takes, float32 by name; S samples of each weight.
    """
    import torch

    from rhe_parties.rng import torch_stream
    from rhe_parties.threads import limited_threads

    generator = torch_stream(seed, "correction")
    mean, deviation = clean.mean(axis=(0, 1)), clean.std(axis=(0, 1)) + 1e-6
    scale = torch.from_numpy(mean), torch.from_numpy(deviation)
    pools = torch.from_numpy(clean), torch.from_numpy(adversarial)
    truth = torch.from_numpy(labels)
    weights = _start(clean.shape[2], generator)
    speeds = [torch.zeros_like(weight) for weight in weights]
    kept: list[Weights] = []
    with limited_threads(1):
        for step in range(1, _BURN_IN + _KEPT * _APART + 1):
            stride = _STEP * (_HASTE if step <= _BURN_IN else 1)
            shake = (2 * _FRICTION * stride / len(labels)) ** 0.5
            potential = _potential(weights, pools, truth, scale, energy, generator)
            slopes = torch.autograd.grad(potential, weights)
            with torch.no_grad():
                for weight, speed, slope in zip(weights, speeds, slopes, strict=True):
                    noise = torch.randn(speed.shape, generator=generator)
                    speed.mul_(1 - _FRICTION).add_(slope, alpha=-stride).add_(noise, alpha=shake)
                    weight.add_(speed)
            if step > _BURN_IN and (step - _BURN_IN) % _APART == 0:
                kept.append([weight.detach().clone() for weight in weights])
    names = ("weight0", "bias0", "weight1", "bias1")
    drawn = {name: torch.cat(parts).numpy() for name, parts in zip(names, zip(*kept, strict=True), strict=True)}
    return drawn | {"mean": mean, "deviation": deviation}


def _start(classes: int, generator: Generator) -> Weights:
    """Weights of every chain [C, 32, K], [C, 32], [C, K, 32], [C, K] before the first step."""
    import torch

    first = torch.randn((_CHAINS, _UNITS, classes), generator=generator) * (2 / classes) ** 0.5
    last = torch.randn((_CHAINS, classes, _UNITS), generator=generator) * 0.1 / _UNITS**0.5
    weights = [first, torch.zeros(_CHAINS, _UNITS), last, torch.zeros(_CHAINS, classes)]
    return [weight.requires_grad_() for weight in weights]


def _potential(
    weights: Weights,
    pools: tuple[Tensor, Tensor],
    truth: Tensor,
    scale: tuple[Tensor, Tensor],
    energy: float,
    generator: Generator,
) -> Tensor:
    """Sum over the chains of the potential per image, estimated on a batch [C, B, K] of each chain's own."""
    import torch

    heads = torch.randint(len(pools[0]), (2, _CHAINS, _BATCH), generator=generator)
    images = torch.randint(len(truth), (2, _CHAINS, _BATCH), generator=generator)
    clean, moved = _scores(weights, pools[0][heads[0], images[0]], scale), pools[1][heads[1], images[1]]
    classes = clean.shape[2]
    # Each class's logit from an image of its own: what energy is measured against.
    strangers = torch.randint(_BATCH, (_CHAINS, _BATCH, classes), generator=generator)
    mixed = pools[0][heads[0], images[0]].gather(1, strangers)
    loss = torch.zeros(())
    for scores, asked in ((clean, images[0]), (_scores(weights, moved, scale), images[1])):
        loss = loss - scores.log_softmax(2).gather(2, truth[asked][..., None]).mean(dim=(1, 2)).sum()
    gap = _scores(weights, mixed, scale).logsumexp(2) - clean.logsumexp(2)
    prior = sum((weight.square().sum() for weight in weights), torch.zeros(()))
    total: Tensor = loss + energy * gap.mean(dim=1).sum() + prior / (2 * _PRIOR**2 * len(truth))
    return total


def _scores(weights: Weights, logits: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    """Outputs [C, B, K] of every chain's network for logits [C, B, K]; see `correct`."""
    first, offset, last, shift = weights
    hidden = ((logits - scale[0]) / scale[1] @ first.mT + offset[:, None]).relu()
    found: Tensor = logits + hidden @ last.mT + shift[:, None]
    return found
