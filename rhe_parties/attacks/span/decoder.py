"""Features to pixels: a convolutional decoder trained on the adversary's own images.

It is trained on features that went through a shadow head and its inversion, mixed with true ones, so that it knows
which directions the inversion gets wrong. Loss: mean squared error per pixel, whose minimiser is the posterior mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhe_parties.attacks.span.principal import principal_directions
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.rng import torch_stream
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray

__all__ = ["Decoder", "DecoderSize", "train_decoder"]

_DECODE_BLOCK = 10  # images per forward pass: fixed, so that an image's bits do not depend on what is decoded beside it
_MAX_SIDE = 64
_TRUE_SHARE = 0.15  # of the training features that are true ones
_AVERAGE = 0.998  # weight averaging per step
_BLOCKS = 2  # of the dense trunk


@dataclass(frozen=True)
class DecoderSize:
    """Widths of the network: the dense trunk, the convolutional stages (0: none), and the rank of the principal part.

    Without the stages a step costs a fifth, and small images of few pixels' worth of detail lose nothing.
    """

    hidden: int = 512
    channels: int = 32
    rank: int = 64


class _Block(nn.Module):
    """Residual block of the dense trunk."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner, self.outer = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = x + self.outer(F.silu(self.inner(self.norm(x))))
        return moved


class _Network(nn.Module):
    """Dense trunk; then the sum of a linear combination of principal images and a convolutional picture."""

    shift: Tensor
    scale: Tensor
    mean_image: Tensor
    principal: Tensor

    def __init__(self, features: int, shape: tuple[int, int, int], size: DecoderSize) -> None:
        super().__init__()
        channels, height, width = shape
        self.shape = shape
        self.grid = (size.channels, math.ceil(height / 4), math.ceil(width / 4))
        self.register_buffer("shift", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("mean_image", torch.zeros(math.prod(shape)))
        self.register_buffer("principal", torch.zeros(size.rank, math.prod(shape)))
        self.skip = nn.Linear(features, size.rank)
        blocks = [_Block(size.hidden) for _ in range(_BLOCKS)]
        self.trunk = nn.Sequential(nn.Linear(features, size.hidden), nn.SiLU(), *blocks, nn.SiLU())
        self.to_rank = nn.Linear(size.hidden, size.rank)
        if size.channels:
            self.to_grid = nn.Linear(size.hidden, math.prod(self.grid))
            wide, narrow = size.channels, max(8, size.channels // 2)
            self.stage1 = nn.Conv2d(wide, wide, 3, padding=1)
            self.stage2 = nn.Conv2d(wide, narrow, 3, padding=1)
            self.stage3 = nn.Conv2d(narrow + channels, narrow, 3, padding=1)
            self.last = nn.Conv2d(narrow, channels, 3, padding=1)

    def initialise(self, generator: torch.Generator) -> None:
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                fan = layer.weight[0].numel()
                quiet = name in ("last", "skip", "to_rank") or name.endswith("outer")
                gain = 0.1 if quiet else 1.4
                with torch.no_grad():
                    layer.weight.normal_(0.0, gain / math.sqrt(fan), generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        x = (features - self.shift) * self.scale
        hidden = self.trunk(x)
        coarse: Tensor = self.mean_image + (self.skip(x) + self.to_rank(hidden)) @ self.principal
        coarse = coarse.view(-1, *self.shape)
        if self.grid[0] == 0:
            return coarse
        y = F.silu(self.stage1(F.silu(self.to_grid(hidden).view(-1, *self.grid))))
        y = F.interpolate(y, scale_factor=2.0, mode="nearest")
        y = F.interpolate(F.silu(self.stage2(y)), size=self.shape[1:], mode="nearest")
        fine: Tensor = self.last(F.silu(self.stage3(torch.cat([y, coarse], dim=1))))
        return coarse + fine


class Decoder:
    """A trained decoder; build it with `train_decoder` or `Decoder.from_tensors`."""

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], size: DecoderSize) -> None:
        self.shape, self.size = shape, size
        self._network = network.eval().requires_grad_(False)

    def decode(self, features: FloatArray) -> FloatArray:
        """Images float32 [n, C, H, W] in [-1, 1] of features [n, D].

        Raises:
            NumericError: features of another width, or not finite.
        """
        width = self._network.get_buffer("shift").shape[0]
        if features.ndim != 2 or features.shape[1] != width or not np.isfinite(features).all():
            raise NumericError(f"decoder takes finite features [n, {width}], got {features.shape}")
        out = np.empty((len(features), *self.shape), np.float32)
        # On one thread an image's bits do not depend on its place in the block.
        with torch.no_grad(), limited_threads(1):
            for start in range(0, len(features), _DECODE_BLOCK):
                block = torch.zeros((_DECODE_BLOCK, width))
                part = torch.from_numpy(np.ascontiguousarray(features[start : start + _DECODE_BLOCK], np.float32))
                block[: len(part)] = part
                out[start : start + len(part)] = self._network(block)[: len(part)].clamp(-1, 1).numpy()
        return out

    def tensors(self) -> dict[str, Tensor]:
        """Everything needed to rebuild it, as plain tensors (for safetensors or a message)."""
        sizes = torch.tensor([*self.shape, self.size.hidden, self.size.channels, self.size.rank])
        return {"sizes": sizes, **self._network.state_dict()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Decoder:
        """The decoder whose `tensors()` these are.

        Raises:
            DataError: tensors missing, or of other shapes than the sizes say.
        """
        try:
            channels, height, width, hidden, wide, rank = (int(number) for number in tensors["sizes"])
            size = DecoderSize(hidden, wide, rank)
            network = _Network(len(tensors["shift"]), (channels, height, width), size)
            network.load_state_dict({name: value for name, value in tensors.items() if name != "sizes"})
        except (KeyError, ValueError, RuntimeError) as error:
            raise DataError(f"these tensors are no decoder: {str(error).splitlines()[0]}") from error
        return cls(network, (channels, height, width), size)


def train_decoder(
    features: FloatArray,
    images: FloatArray,
    *,
    steps: int,
    seed: int,
    batch_size: int = 128,
    progress: Callable[[float], None] | None = None,
    noisy_features: FloatArray | None = None,
    noisy_images: FloatArray | None = None,
    size: DecoderSize | None = None,
    learning_rate: float = 1e-3,
) -> Decoder:
    """Train a decoder.

    Args:
        features: true features [n, D].
        images: their images float32 [n, C, H, W] in [-1, 1], sides up to 64.
        steps: optimiser steps (AdamW, learning rate falling as a half cosine, weights averaged).
        seed: root seed; with it and the number of threads fixed, the result is always the same.
        batch_size: pairs per step.
        progress: called with the done share in [0, 1] now and then.
        noisy_features: inverted features [m, D] of shadow heads; 85 % of the training pairs come from here.
        noisy_images: their images [m, C, H, W]; None: `noisy_features` go with `images`, one to one.
        size: widths of the network.
        learning_rate: peak learning rate.

    Raises:
        NumericError: arrays that do not fit together or are not finite, or a training that diverged.
        ParameterError: steps or batch size below 1, or an image side above 64.
    """
    own = images if noisy_images is None else noisy_images
    _check(features, images, noisy_features, own, steps, batch_size)
    size = size or DecoderSize()
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    pairs = [(torch.from_numpy(features).float(), torch.from_numpy(images).float())]
    if noisy_features is not None:
        pairs.append((torch.from_numpy(noisy_features).float(), torch.from_numpy(own).float()))
    network = _Network(features.shape[1], shape, size)
    network.initialise(torch_stream(seed, "span-decoder-init"))
    _calibrate(network, pairs[-1][0], pairs[0][1], size.rank)
    average = _descend(
        network, pairs, steps, batch_size, learning_rate, torch_stream(seed, "span-decoder-batches"), progress
    )
    network.load_state_dict(average)
    if not all(bool(torch.isfinite(value).all()) for value in average.values()):
        raise NumericError(f"decoder training diverged with learning_rate = {learning_rate}")
    return Decoder(network, shape, size)


def _calibrate(network: _Network, features: Tensor, images: Tensor, rank: int) -> None:
    """Standardise the inputs, and take the principal images from the training images themselves."""
    spread = features.std(dim=0)
    network.shift.copy_(features.mean(dim=0))
    # A dead feature is constant here and must stay silent later.
    network.scale.copy_(torch.where(spread > 1e-6 * spread.max(), 1 / spread.clamp_min(1e-12), 0.0))
    flat = images.flatten(1)
    mean = flat.mean(dim=0)
    top = torch.from_numpy(principal_directions((flat - mean).numpy(), rank))
    network.mean_image.copy_(mean)
    network.principal[: len(top)].copy_(top)


def _descend(
    network: _Network,
    pairs: list[tuple[Tensor, Tensor]],
    steps: int,
    batch: int,
    rate: float,
    stream: torch.Generator,
    progress: Callable[[float], None] | None,
) -> dict[str, Tensor]:
    """AdamW on minibatches; returns the running average of the weights."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.02, betas=(0.9, 0.99), fused=True)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    true_rows = batch if len(pairs) == 1 else round(_TRUE_SHARE * batch)
    for step in range(steps):
        for group in optimiser.param_groups:
            warm = min(1.0, (step + 1) / (1 + min(100, steps // 10)))
            group["lr"] = rate * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        inputs, targets = [], []
        for (x, y), rows in zip(pairs, (true_rows, batch - true_rows), strict=False):
            chosen = torch.randint(len(x), (rows,), generator=stream)
            inputs.append(x[chosen])
            targets.append(y[chosen])
        error = network(torch.cat(inputs)) - torch.cat(targets)
        loss = error.square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        keep = min(_AVERAGE, (step + 1) / (step + 10))
        with torch.no_grad():
            for name, value in network.named_parameters():
                average[name].lerp_(value, 1 - keep)
        if progress is not None and step % 25 == 0:
            progress(step / steps)
    return average


def _check(
    features: FloatArray,
    images: FloatArray,
    noisy: FloatArray | None,
    own: FloatArray,
    steps: int,
    batch: int,
) -> None:
    if features.ndim != 2 or images.ndim != 4 or len(features) != len(images) or len(images) == 0:
        raise NumericError(
            f"decoder takes features [n, D] and images [n, C, H, W], got {features.shape} and {images.shape}"
        )
    if noisy is not None and (noisy.ndim != 2 or noisy.shape[1] != features.shape[1] or len(noisy) != len(own)):
        raise NumericError(
            f"inverted features {noisy.shape} fit neither features {features.shape} nor images {own.shape}"
        )
    if own.shape[1:] != images.shape[1:]:
        raise NumericError(f"images of inverted features {own.shape} and of true ones {images.shape} differ in shape")
    if not (np.isfinite(features).all() and np.isfinite(images).all()):
        raise NumericError("decoder: features or images hold NaN or infinity")
    if noisy is not None and not np.isfinite(noisy).all():
        raise NumericError("decoder: inverted features hold NaN or infinity")
    if steps < 1 or batch < 1:
        raise ParameterError(f"decoder: steps = {steps} and batch_size = {batch} must be at least 1")
    if max(images.shape[2:]) > _MAX_SIDE:
        raise ParameterError(
            f"decoder: images of {images.shape[2]}×{images.shape[3]} are too large (sides up to {_MAX_SIDE})"
        )
