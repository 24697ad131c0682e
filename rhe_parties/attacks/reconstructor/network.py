"""The reconstructor's network: flat weights in, one image out.

Source: code of v1 of arXiv 2505.14323 (a transposed convolution to 4×4, residual up-blocks, tanh).
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhe_parties.errors import ParameterError

__all__ = ["SIDES", "ReconstructorNet"]

SIDES = {16: 2, 32: 3, 64: 4}
"""Side of the images to the number of up-blocks behind the 4×4 map; the paper has 32 and 64."""

# Rows: positions of a 4-tap kernel of stride 2; columns: taps of a 3-tap kernel on the image doubled by repetition.
_DOUBLED = ((0.0, 0.0, 1.0), (0.0, 1.0, 1.0), (1.0, 1.0, 0.0), (1.0, 0.0, 0.0))


class _UpBlock(nn.Module):
    """BN-ReLU-(nearest ×2)-conv3-BN-ReLU-conv3, beside nearest ×2 and a 1×1 convolution where the widths differ."""

    doubled: Tensor

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(before), nn.BatchNorm2d(after)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.bypass = nn.Conv2d(before, after, 1) if before != after else nn.Identity()
        self.register_buffer("doubled", torch.tensor(_DOUBLED), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # A 3×3 convolution behind nearest ×2 is a transposed one of stride 2 whose kernel sums the taps that meet the
        # same pixel: the same function at 4/9 of the multiplications.
        kernel = torch.einsum("ap,oipq,bq->ioab", self.doubled, self.conv1.weight, self.doubled)
        y = F.conv_transpose2d(F.relu(self.norm1(x)), kernel, self.conv1.bias, stride=2, padding=1)
        y = self.conv2(F.relu(self.norm2(y)))
        # The 1×1 convolution commutes with the doubling; before it, it costs a quarter.
        beside: Tensor = F.interpolate(self.bypass(x), scale_factor=2, mode="nearest")
        out: Tensor = y + beside
        return out


class ReconstructorNet(nn.Module):
    """ConvTranspose(inputs → 4g, kernel 4), up-blocks 4g → 2g → g (→ g …), BN, ReLU, conv3, tanh.

    Args:
        inputs: length of the vector.
        shape: (C, H, W) of the images, square, of a side in `SIDES`.
        width: g; the paper has 256 for MNIST and 512 for CIFAR-10 and CelebA.

    Raises:
        ParameterError: another side, no inputs, or a width below 1.
    """

    def __init__(self, inputs: int, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        channels, height, wide = shape
        if height != wide or height not in SIDES:
            raise ParameterError(f"reconstructor: images of {height}×{wide} are not allowed (sides {_known()})")
        if inputs < 1 or width < 1:
            raise ParameterError(f"reconstructor: {inputs} inputs and width {width} are not allowed: at least 1")
        self.shape, self.width = shape, width
        self.first = nn.ConvTranspose2d(inputs, 4 * width, 4)
        widths = [4 * width, 2 * width, *[width] * (SIDES[height] - 1)]
        self.blocks = nn.Sequential(*(_UpBlock(a, b) for a, b in itertools.pairwise(widths)))
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Conv2d(width, channels, 3, padding=1)

    def initialise(self, generator: torch.Generator) -> None:
        """Kaiming-uniform weights, Xavier-uniform (gain of tanh) in the last layer, zero biases."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                if layer is self.last:
                    nn.init.xavier_uniform_(layer.weight, nn.init.calculate_gain("tanh"), generator=generator)
                elif layer is self.first:
                    # One input pixel: every output sees all inputs once, whatever the kernel's size.
                    bound = math.sqrt(6 / layer.in_channels)
                    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                else:
                    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, vectors: Tensor) -> Tensor:
        """Images [B, C, H, W] in (-1, 1) of vectors [B, inputs]."""
        # On a 1×1 map the transposed convolution is a matrix product, which needs no repacking of its kernel.
        bias = self.first.bias
        x = vectors @ self.first.weight.flatten(1)
        x = x.view(-1, 4 * self.width, 4, 4)
        if bias is not None:
            x = x + bias.view(1, -1, 1, 1)
        drawn: Tensor = torch.tanh(self.last(F.relu(self.norm(self.blocks(x)))))
        return drawn


def _known() -> str:
    return ", ".join(map(str, SIDES))
