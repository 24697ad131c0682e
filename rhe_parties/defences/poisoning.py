"""Perturbations of released scores that make an inversion network learn as little as possible from them.

The aim is that of Zhou, Ye, Zhu and Zhou (arXiv 2412.07575): a bi-level problem, in which the outer level raises the
error of an inversion model and the inner one trains that model on the perturbed scores. There the inner level is met by
aligning gradients; here it is solved exactly, for a surrogate that is linear in random features of the scores, and the
outer gradient goes through that solution. The perturbation is a small network of the scores alone, so that equal
questions get equal answers and asking again averages nothing out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Fitted, PublicData
from rhe_parties.defences.shadows import shadow_scores
from rhe_parties.types import AnyArray, FloatArray

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["allowed_share", "fit_perturbation", "perturbation", "softmax"]

_UNITS, _FEATURES, _COMPONENTS = 64, 192, 24  # of the network, of the surrogate, and of images
_MARGIN = 1e-3  # of the winning logit over the others, so that rounding to float32 changes no decision
_HALVINGS = 20
_BATCH, _STEPS, _RATE, _RIDGE = 384, 250, 3e-3, 1e-2


def softmax(logits: AnyArray) -> AnyArray:
    """Confidences of logits [..., K]."""
    raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
    confidences: AnyArray = raised / raised.sum(axis=-1, keepdims=True)
    return confidences


def allowed_share(logits: AnyArray, moved: AnyArray, budget: float) -> FloatArray:
    """The largest share of a perturbation that keeps the label and the budget.

    Args:
        logits: float64 [B, K].
        moved: what is to be added to them.
        budget: largest sum of absolute changes of the confidences.

    Returns:
        [B] in [0, 1].
    """
    rows = np.arange(len(logits))
    top = logits.argmax(axis=1)
    room = np.maximum(logits[rows, top][:, None] - logits - _MARGIN, 0)
    lost = moved - moved[rows, top][:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(lost > 0, room / lost, 1.0)
    share[rows, top] = 1.0
    most = np.clip(share.min(axis=1), 0, 1)
    before = softmax(logits)

    def spent(part: AnyArray) -> AnyArray:
        change: AnyArray = np.abs(softmax(logits + part[:, None] * moved) - before).sum(axis=1)
        return change

    low, high = np.zeros(len(logits)), most
    fits = spent(most) <= budget
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        good = spent(middle) <= budget
        low, high = np.where(good, middle, low), np.where(good, high, middle)
    found: FloatArray = np.where(fits, most, low)
    return found


def perturbation(logits: AnyArray, fitted: Fitted, reach: float) -> AnyArray:
    """What is added to logits [B, K]: at most `reach` in every one of them."""
    x = (logits - fitted["mean"]) / fitted["deviation"]
    for index in (0, 1):
        x = np.maximum(x @ fitted[f"weight{index}"].T + fitted[f"bias{index}"], 0)
    moved: AnyArray = reach * np.tanh(x @ fitted["weight2"].T + fitted["bias2"])
    return moved


def fit_perturbation(public: PublicData, recipe: AnyRecipe, reach: float, budget: float) -> Fitted:
    """The weights of the network behind `perturbation`, float32 by name.

    Args:
        public: what it is fitted on.
        recipe: how heads are trained.
        reach: largest change of a logit.
        budget: largest total change of the confidences.
    """
    import torch

    from rhe_parties.rng import torch_stream
    from rhe_parties.threads import limited_threads

    shadows = shadow_scores(public, recipe)
    logits, pictures = shadows.logits, _components(public.images[shadows.rows])
    mean, deviation = logits.mean(axis=(0, 1)), logits.std(axis=(0, 1)) + 1e-6
    scores, targets = torch.from_numpy(logits), torch.from_numpy(pictures)
    classes = logits.shape[2]
    start, draws = torch_stream(public.seed, "poisoning-start"), torch_stream(public.seed, "poisoning-batches")
    shapes = [(_UNITS, classes), (_UNITS, _UNITS), (classes, _UNITS)]
    weights = [torch.randn(shape, generator=start) * (2 / shape[1]) ** 0.5 for shape in shapes]
    biases = [torch.zeros(shape[0]) for shape in shapes]
    lift = torch.randn((classes, _FEATURES), generator=start), torch.randn(_FEATURES, generator=start)
    centre, scale = torch.from_numpy(mean), torch.from_numpy(deviation)
    parameters = [tensor.requires_grad_() for tensor in (*weights, *biases)]
    optimiser = torch.optim.Adam(parameters, _RATE)
    with limited_threads(1):
        for _ in range(_STEPS):
            heads = torch.randint(len(scores), (2 * _BATCH,), generator=draws)
            images = torch.randint(len(targets), (2 * _BATCH,), generator=draws)
            batch = scores[heads, images]
            x = (batch - centre) / scale
            for weight, bias in zip(weights[:2], biases[:2], strict=True):
                x = torch.relu(x @ weight.T + bias)
            moved = reach * torch.tanh(x @ weights[2].T + biases[2])
            released = batch + moved * _allowed(batch, moved, budget)
            error = _surrogate_error(released, targets[images], lift)
            optimiser.zero_grad()
            (-error).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    names = [*(f"weight{i}" for i in range(3)), *(f"bias{i}" for i in range(3))]
    found = {name: tensor.detach().numpy() for name, tensor in zip(names, parameters, strict=True)}
    return found | {"mean": mean, "deviation": deviation}


def _components(images: AnyArray) -> FloatArray:
    """The first principal components of images, of unit total variance [n, P]."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    flat = flat - flat.mean(axis=0)
    left, size, _ = np.linalg.svd(flat, full_matrices=False)
    found = left[:, :_COMPONENTS] * size[:_COMPONENTS]
    scaled: FloatArray = (found / np.sqrt(np.square(found).sum(axis=1).mean())).astype(np.float32)
    return scaled


def _allowed(batch: Tensor, moved: Tensor, budget: float) -> Tensor:
    """Share [B, 1] of a perturbation that keeps the label and the budget, as a constant for the gradient."""
    import torch

    share = allowed_share(batch.numpy().astype(np.float64), moved.detach().numpy().astype(np.float64), budget)
    return torch.from_numpy(share.astype(np.float32))[:, None]


def _surrogate_error(released: Tensor, targets: Tensor, lift: tuple[Tensor, Tensor]) -> Tensor:
    """Error on the second half of the pairs of the surrogate that is trained, exactly, on the first half."""
    import torch

    logs = torch.log_softmax(released, dim=1)
    logs = (logs - logs.mean(dim=0)) / (logs.std(dim=0) + 1e-4)
    lifted = torch.cat([torch.relu(logs @ lift[0] + lift[1]), logs, torch.ones_like(logs[:, :1])], dim=1)
    half = len(released) // 2
    known, wanted = lifted[:half], targets[:half]
    gram = known.T @ known / half + _RIDGE * torch.eye(lifted.shape[1])
    solved = torch.linalg.solve(gram, known.T @ wanted / half)
    error: Tensor = (lifted[half:] @ solved - targets[half:]).square().sum(dim=1).mean()
    return error
