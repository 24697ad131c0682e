"""The trunk's outputs of the training images from an adapted block, by simulating the adaptation.

Unknown are the trunk's outputs (class-wise Gaussian, cut off at zero) and the head's weights before training (Gaussian
by the recipe). The adaptation is simulated from a guess of both, and the guess improved by gradient descent through all
of its steps, until the simulated block is the one that was seen: the maximum of the posterior, as Balle et al. 2022
(arXiv 2201.04845) and Haim et al. 2022 (arXiv 2206.07758: the smooth derivative of the ReLU) do it for whole networks.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.attacks.adapted.blocks import Blocks, Workshop
from rhe_parties.attacks.pools import Pool
from rhe_parties.model.head import Recipe
from rhe_parties.model.last_block import Descent, Layer, descend_adapted
from rhe_parties.types import FloatArray

__all__ = ["most_likely_inputs"]

_TOGETHER = 20  # heads per piece of work
_DOUBT = (0.5, 0.03)  # assumed error of a simulated block at first and at last, as a share of the block's size
_SOFTNESS = (0.1, 0.005)  # width of the ReLU's smooth derivative, as a share of the trunk's outputs' length
_RATE = 0.2  # of Adam, in units of the prior's deviations
_EVERY = 3  # steps between two updates of the factors' start
_COARSE, _COARSE_SHARE = 8, 0.9  # of the training's steps taken at once, for the first share of the search


@dataclass(frozen=True, eq=False)
class _Search:
    """What stays the same for all heads: float32 tensors of the workshop."""

    workshop: Workshop
    steps: int

    def run(self, blocks: Blocks) -> FloatArray:
        """Inputs float32 [V, N, P] of some blocks."""
        w = self.workshop
        layer = Layer(w.layer.weight.float(), w.layer.bias.float(), w.layer.gain)
        means = torch.from_numpy(w.belief.means[w.order]).float()
        spread = torch.from_numpy(w.belief.eigenvectors * np.sqrt(w.belief.eigenvalues)).float().mT
        length = float(means.norm(dim=-1).mean())
        onehot = F.one_hot(torch.from_numpy(w.targets), w.classes).float().expand(len(blocks), -1, -1)
        first, seen = blocks.first.float(), self._seen(blocks).float()
        down = first if w.adaptation.rank else None
        size = float(seen.square().mean().sqrt()) or 1.0
        away = torch.zeros((len(blocks), *means.shape), requires_grad=True)
        start = torch.zeros((len(blocks), w.classes, len(layer.weight)), requires_grad=True)
        optimiser = torch.optim.Adam([away, start], lr=_RATE, betas=(0.9, 0.99))
        for step in range(self.steps):
            done = step / self.steps
            doubt, softness = (high * (low / high) ** done for high, low in (_DOUBT, _SOFTNESS))
            inputs = (means + away @ spread).relu()
            recipe = _coarse(w.recipe) if done < _COARSE_SHARE else w.recipe
            end = descend_adapted(
                inputs, onehot, w.recipe.init_std * start, layer, recipe, down, softness * length
            )  # fmt: skip
            miss = (self._made(end, inputs) - seen) / (doubt * size)
            loss = 0.5 * (miss.square().sum() + away.square().sum() + start.square().sum())
            optimiser.zero_grad()
            loss.backward()
            optimiser.param_groups[0]["lr"] = _RATE * (1 - 0.9 * done)
            optimiser.step()
            if down is not None and step % _EVERY == 0:  # what was seen are the factors after training
                down = ((first - end.moved.mT @ inputs) / end.shrink).detach()
        with torch.no_grad():
            return (means + away @ spread).relu().numpy()

    def _seen(self, blocks: Blocks) -> Tensor:
        if self.workshop.adaptation.rank:
            return blocks.second
        recipe, rate = self.workshop.recipe, self.workshop.adaptation.learning_rate
        return blocks.first - (1 - rate * recipe.weight_decay) ** recipe.epochs * self.workshop.layer.weight

    def _made(self, end: Descent, inputs: Tensor) -> Tensor:
        return end.moved.mT @ inputs if end.up is None else end.up


def most_likely_inputs(blocks: Blocks, workshop: Workshop, steps: int, pool: Pool) -> FloatArray:
    """The trunk's outputs float32 [V, N, P] of the training images, in the order of training sets.

    Args:
        blocks: as seen.
        workshop: prior knowledge.
        steps: of the search.
        pool: for the heads, ten at a time.
    """
    pieces = [blocks.part(slice(begin, begin + _TOGETHER)) for begin in range(0, len(blocks), _TOGETHER)]
    return np.concatenate(pool.map(functools.partial(_run, _Search(workshop, steps)), pieces))


def _coarse(recipe: Recipe) -> Recipe:
    """The same training in fewer and longer steps."""
    if recipe.adaptation is None:
        return recipe
    steps = max(1, recipe.epochs // _COARSE)
    longer = recipe.epochs / steps
    adaptation = replace(recipe.adaptation, learning_rate=longer * recipe.adaptation.learning_rate)
    return replace(recipe, epochs=steps, learning_rate=longer * recipe.learning_rate, adaptation=adaptation)


def _run(search: _Search, blocks: Blocks) -> FloatArray:
    return search.run(blocks)
