"""The trunk's outputs of the training images from a fine-tuned layer, exactly and without a shadow.

Full-batch gradient descent moves weights and bias of the last layer by Σ_n c_n [a_n; 1]ᵀ, so their change has rank N
and its rows span the trunk's outputs a_n of the training images themselves. Which vectors of that span they are
follows from two things: behind a ReLU no entry is negative, and most are exactly zero. A vector of the span with that
many zeros is one of them, and the last entry, 1, gives its length. The search is for the sparsest non-negative vector
of a subspace (Spielman, Wang, Wright 2012, arXiv 1206.5882; reweighted least squares: Daubechies et al. 2010, arXiv
0807.0575), one after the other, each kept out of the span of those found before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.adapted.blocks import Blocks, Workshop
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["Rays", "find_rays", "outside_share", "row_space"]

_SHARPNESS = np.geomspace(0.3, 1e-6, 30)  # of the reweighting, as shares of the largest entry
_TRIES = 3  # entries that a vector is forced to have, per vector
_ZERO, _NEGATIVE = 1e-4, 1e-3  # shares of the largest entry that count as zero, and as not negative
_SURPLUS = 1.5  # zeros of a training image per place of its set; chance makes one fewer than there are places
_DEAD = 1e-6  # share of the longest row below which an entry is zero for every image
_JITTER = 1e-13


@dataclass(frozen=True, eq=False)
class Rays:
    """Vectors of V heads, in no order: float64 [V, N, P], and which of them [V, N] are sparse and not negative."""

    vectors: AnyArray
    found: AnyArray


def _unit(workshop: Workshop) -> float:
    """What stands for the constant 1 beside a trunk's output, of the size of its other entries."""
    return float(np.linalg.norm(workshop.inputs, axis=1).mean() / workshop.inputs.shape[1] ** 0.5)


def row_space(blocks: Blocks, workshop: Workshop) -> Tensor:
    """Orthonormal bases [V, P+1, N] of what the change of each whole layer spans, the bias as its last coordinate."""
    adaptation, recipe = workshop.adaptation, workshop.recipe
    kept = (1 - adaptation.learning_rate * recipe.weight_decay) ** recipe.epochs
    weight = blocks.first - kept * workshop.layer.weight
    bias = (blocks.second - kept * workshop.layer.bias) * _unit(workshop)
    rows: Tensor = torch.linalg.svd(torch.cat([weight, bias[..., None]], dim=-1), full_matrices=False).Vh
    return rows[:, : len(workshop.order)].mT.contiguous()


def outside_share(space: Tensor, inputs: FloatArray, workshop: Workshop) -> AnyArray:
    """Share [V, M] of the length of trunk's outputs [V, M, P] that lies outside the spaces [V, P+1, N]."""
    exact = torch.from_numpy(np.ascontiguousarray(inputs)).double()
    whole = torch.cat([exact, torch.full_like(exact[..., :1], _unit(workshop))], dim=-1)
    rest = whole - (whole @ space) @ space.mT
    share: AnyArray = (rest.norm(dim=-1) / whole.norm(dim=-1)).numpy()
    return share


def find_rays(space: Tensor, workshop: Workshop) -> Rays:
    """The sparsest non-negative vectors, N of each space [V, P+1, N]."""
    rows, last = space[:, :-1], space[:, -1]
    heads, _, count = rows.shape
    taken = torch.zeros((heads, 0, count), dtype=rows.dtype)
    zeros = []
    for _ in range(count):
        free = _free_of(rows, taken)
        best, most = torch.zeros_like(last), torch.full((heads,), -1, dtype=torch.long)
        for entry in free.norm(dim=-1).topk(min(_TRIES, rows.shape[1]), dim=-1).indices.T:
            move = _sparsest(rows, free[torch.arange(heads), entry])
            number = _zeros(rows, move)
            best = torch.where((number > most)[:, None], move, best)
            most = torch.maximum(most, number)
        taken = torch.cat([taken, (best / best.norm(dim=-1, keepdim=True))[:, None]], dim=1)
        zeros.append(most)
    length = (taken * last[:, None]).sum(-1, keepdim=True)
    vectors = taken @ rows.mT * _unit(workshop) / torch.where(length == 0, 1.0, length)
    found = (torch.stack(zeros, dim=1) >= _SURPLUS * count) & (length[..., 0] != 0)
    return Rays(vectors.numpy(), found.numpy())


def _free_of(rows: Tensor, taken: Tensor) -> Tensor:
    """Rows [V, P, N] with what lies along the found vectors' coordinates [V, j, N] taken out."""
    if taken.shape[1] == 0:
        return rows
    basis: Tensor = torch.linalg.qr(taken.mT).Q
    return rows - (rows @ basis) @ basis.mT


def _sparsest(rows: Tensor, goal: Tensor) -> Tensor:
    """Coordinates m [V, N] with goal·m = 1 for which rows·m is as sparse and as little negative as reweighting gets."""
    weight = torch.ones_like(rows[..., 0])
    eye = torch.eye(rows.shape[-1], dtype=rows.dtype)
    move = goal
    for sharpness in _SHARPNESS:
        square = rows.mT @ (weight[..., None] * rows)
        level = square.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
        found = torch.linalg.solve(square + _JITTER * level * eye, goal[..., None])[..., 0]
        move = found / (goal * found).sum(-1, keepdim=True)
        entries = (rows @ move[..., None])[..., 0]
        entries = entries / entries.abs().amax(-1, keepdim=True)
        weight = torch.where(entries < 0, sharpness**-2, 1 / (entries.square() + sharpness**2))
    return move


def _zeros(rows: Tensor, move: Tensor) -> Tensor:
    """Zero entries [V] of rows·m, less those that every image has; 0 where some are negative."""
    sizes = rows.norm(dim=-1)
    live = sizes > _DEAD * sizes.amax(-1, keepdim=True)
    entries = (rows @ move[..., None])[..., 0]
    entries = entries / entries.abs().amax(-1, keepdim=True)
    number = ((entries.abs() < _ZERO) & live).sum(-1)
    return torch.where(entries.amin(-1) < -_NEGATIVE, 0, number)
