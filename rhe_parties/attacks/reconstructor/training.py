"""Training on a stream of shadow heads as they are made; memory does not grow with their number.

Source: code of v1 of arXiv 2505.14323: Adam 2e-4, batches of 32 heads, no schedule; in the conditional variant one
random class per head, whose images are the target set, in the unconditional one the set is all images of the head.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rhe_parties.attacks.reconstructor.loss import softmin_set_loss
from rhe_parties.attacks.reconstructor.network import ReconstructorNet
from rhe_parties.attacks.reconstructor.reconstructor import Reconstructor, network_inputs
from rhe_parties.attacks.reconstructor.standardise import Moments, Standardiser
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.rng import numpy_stream, torch_stream
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["FlatShadows", "ReconstructorSettings", "Training", "train_reconstructor"]

_CHECK_EVERY = 50  # steps between looks at the loss


class FlatShadows(NamedTuple):
    """Some shadow heads: flat weights float32 [B, P] and their training images, int64 [B, N] indices by group."""

    flat: FloatArray
    sets: IntArray


@dataclass(frozen=True)
class ReconstructorSettings:
    """What the paper varies, and the effort.

    Attributes:
        conditional: one image per class, the class given to the network; else one image per head.
        width: g of the network. The paper has 256 (MNIST) and 512 (CIFAR-10, CelebA), for days of a GPU; in minutes
            of a CPU a narrow one, which makes more steps, learns more.
        batch, learning_rate, alpha: heads per step, Adam's step size, sharpness of the soft minimum. The paper's step
            size is 2e-4, for a million steps; for thousands a larger one learns more.
        uses: how often a head is trained on before it is thrown away.
        statistics_heads: first heads of the stream, from which mean and deviation are taken.
    """

    conditional: bool = True
    width: int = 16
    batch: int = 32
    learning_rate: float = 2e-3
    alpha: float = 100.0
    uses: int = 1
    statistics_heads: int = 4096

    def __post_init__(self) -> None:
        for name, least in (("width", 1), ("batch", 2), ("uses", 1), ("statistics_heads", 2)):
            if getattr(self, name) < least:
                raise ParameterError(f"reconstructor: {name} = {getattr(self, name)} is not allowed: at least {least}")
        if not (0 < self.learning_rate < math.inf):
            raise ParameterError(f"reconstructor: learning_rate = {self.learning_rate} is not allowed: above 0")
        if not (0 <= self.alpha < math.inf):
            raise ParameterError(f"reconstructor: alpha = {self.alpha} is not allowed: 0 or more")


class Training:
    """A training that can be carried on: `advance` as far as wanted, look at `reconstructor`, advance again.

    On a CPU with one thread the result depends on stream, settings, seed and number of steps alone.

    Args:
        stream: shadow heads; every block may have another size. It is read as the training goes on.
        images: uint8 [n, C, H, W] that the sets' indices point into.
        groups: G, the classes of images that sets are ordered by, N/G images each. They are the head's classes, or for
            a binary head on odd and even digits still the ten digits.
        settings: see there.
        seed: root seed of initial weights, drawn classes and order.
        device: torch device of the network.

    Raises:
        DataError: an empty or too short stream, no images, or heads that are all the same.
        NumericError: weights, sets and images that do not fit together or are not finite.
        ParameterError: an image size that the network has no form for, or fewer than one group.
    """

    def __init__(
        self,
        stream: Iterable[FlatShadows],
        images: UInt8Array,
        groups: int,
        settings: ReconstructorSettings,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if images.dtype != np.uint8 or images.ndim != 4 or len(images) == 0:
            raise DataError(
                f"reconstructor: images must be uint8 [n, C, H, W], n > 0, got {images.dtype} {images.shape}"
            )
        if groups < 1:
            raise ParameterError(f"reconstructor: {groups} groups are not allowed: at least 1")
        started = time.perf_counter()
        self.settings, self.groups, self.steps, self.heads, self.seconds = settings, groups, 0, 0, 0.0
        self._seed, self._device = seed, torch.device(device)
        self._images = torch.tensor(images, device=self._device)
        first, moments = _first_blocks(stream := iter(stream), settings.statistics_heads)
        self.standardiser = Standardiser.fit(moments)
        self._blocks = _chained(first, stream)
        shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
        inputs = len(self.standardiser.kept) + (groups if settings.conditional else 0)
        self._network = ReconstructorNet(inputs, shape, settings.width)
        self._network.initialise(torch_stream(seed, "reconstructor-init"))
        self._network.to(self._device).train()
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=settings.learning_rate, fused=True)
        self._batches = self._cut()
        self.loss = math.nan
        self.seconds += time.perf_counter() - started

    def advance(
        self, steps: int = 0, seconds: float = 0.0, progress: Callable[[float, str], None] | None = None
    ) -> None:
        """Train on until `steps` steps or `seconds` seconds *in all* are reached, or the stream ends (0: no limit).

        Raises:
            ParameterError: a negative limit.
            NumericError: the training diverged.
        """
        if steps < 0 or not seconds >= 0:
            raise ParameterError(f"reconstructor: {steps} steps and {seconds} seconds (or minutes) must be at least 0")
        begun, before = time.perf_counter(), self.seconds
        while (steps <= 0 or self.steps < steps) and (seconds <= 0 or self.seconds < seconds):
            batch = next(self._batches, None)
            if batch is None:
                break  # a finite stream is used up
            loss = self._step(*batch)
            if self.steps % _CHECK_EVERY == 0:
                self.loss = float(loss)
                if not math.isfinite(self.loss):
                    rate = self.settings.learning_rate
                    raise NumericError(f"reconstructor: training diverged with learning_rate = {rate}")
            self.seconds = before + time.perf_counter() - begun
            if progress is not None:
                progress(*self._told(steps, seconds))

    def reconstructor(self) -> Reconstructor:
        """What has been learnt so far; later training does not change it."""
        network = copy.deepcopy(self._network).eval().requires_grad_(False)
        return Reconstructor(network, self.standardiser, self.groups if self.settings.conditional else 0)

    def _step(self, flat: FloatArray, sets: IntArray, chosen: IntArray) -> Tensor:
        """One step on heads [B, P], image indices [B, S] of the target sets, and groups [B] (-1: unconditional)."""
        given = torch.from_numpy(chosen) if self.settings.conditional else None
        vectors = network_inputs(torch.from_numpy(self.standardiser.apply(flat)), given, self.groups)
        targets = self._images[torch.from_numpy(sets).to(self._device)].float() / 127.5 - 1
        loss = softmin_set_loss(self._network(vectors.to(self._device)), targets, self.settings.alpha).mean()
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self.steps += 1
        return loss.detach()

    def _cut(self) -> Iterator[tuple[FloatArray, IntArray, IntArray]]:
        """Batches of exactly `batch` heads: each block shuffled (`uses` times), its rest carried into the next."""
        held: list[FlatShadows] = []
        size = self.settings.batch
        for index, block in enumerate(self._blocks):
            _check_sets(block, self.groups, len(self._images))
            rng = numpy_stream(self._seed, "reconstructor-batches", index)
            order = np.concatenate([rng.permutation(len(block.flat)) for _ in range(self.settings.uses)])
            held.append(FlatShadows(block.flat[order], block.sets[order]))
            self.heads += len(block.flat)
            flat, sets = (np.concatenate(parts) for parts in zip(*held, strict=True))
            chosen = rng.integers(self.groups, size=len(flat))
            per_group = sets.shape[1] // self.groups
            targets = sets
            if self.settings.conditional:
                targets = sets.reshape(-1, self.groups, per_group)[np.arange(len(sets)), chosen]
            whole = len(flat) // size * size
            for start in range(0, whole, size):
                part = slice(start, start + size)
                yield flat[part], targets[part], chosen[part]
            held = [FlatShadows(flat[whole:], sets[whole:])]

    def _told(self, steps: int, seconds: float) -> tuple[float, str]:
        """Share done, and rate, loss and time left in words."""
        by_steps = self.steps / steps if steps > 0 else 0.0
        by_time = self.seconds / seconds if seconds > 0 else 0.0
        share = min(max(by_steps, by_time), 1.0)
        left = self.seconds * (1 - share) / share if share > 0 else math.inf
        rate = self.steps * self.settings.batch / max(self.seconds, 1e-9)
        return share, f"reconstructor: step {self.steps:,}, {rate:,.0f} heads/s, {left:,.0f} s left"


def train_reconstructor(
    stream: Iterable[FlatShadows],
    images: UInt8Array,
    groups: int,
    settings: ReconstructorSettings,
    seed: int,
    *,
    steps: int = 0,
    minutes: float = 0.0,
    device: str = "cpu",
    progress: Callable[[float, str], None] | None = None,
) -> Reconstructor:
    """Train until `steps` steps, `minutes` minutes or the end of the stream; arguments and errors as in `Training`."""
    training = Training(stream, images, groups, settings, seed, device)
    training.advance(steps, 60 * minutes, progress)
    if training.steps == 0:
        raise DataError(f"reconstructor: the stream ended before one batch of {settings.batch} heads")
    return training.reconstructor()


def _first_blocks(stream: Iterator[FlatShadows], wanted: int) -> tuple[list[FlatShadows], Moments]:
    moments, blocks = Moments(), []
    while moments.count < wanted and (block := next(stream, None)) is not None:
        moments.add(block.flat)
        blocks.append(block)
    return blocks, moments


def _chained(first: list[FlatShadows], rest: Iterator[FlatShadows]) -> Iterator[FlatShadows]:
    """The blocks kept for the statistics, let go one by one, then the others."""
    while first:
        yield first.pop(0)
    yield from rest


def _check_sets(block: FlatShadows, groups: int, images: int) -> None:
    sets = block.sets
    if sets.ndim != 2 or len(sets) != len(block.flat) or sets.shape[1] == 0 or sets.shape[1] % groups:
        raise NumericError(
            f"reconstructor: sets {sets.shape} of heads {block.flat.shape} must be [B, N], N a multiple of {groups}"
        )
    if len(sets) and (sets.min() < 0 or sets.max() >= images):
        raise DataError(f"reconstructor: sets point at images {sets.min()}..{sets.max()}, there are {images}")
