"""The decoder of Yang et al. 2019: transposed convolutions from a score vector to an image."""

from __future__ import annotations

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray

__all__ = ["InversionNetwork"]

_BLOCK = 64  # images per forward pass: fixed, so that a picture does not depend on what is decoded beside it
_MAX_SIDE = 64


class InversionNetwork(nn.Module):
    """Score inputs [B, F] to images [B, C, H, W] in [-1, 1].

    ConvT(F → wide, kernel 4) to 4×4; then ConvT(4, stride 2, padding 1), each with half the channels of the one before
    and batch norm and tanh after, until the image's side is reached; the last one ends in a sigmoid. The public code is
    for 64 pixels; each block less halves the side, and other sides are resized bilinearly at the end.

    Raises:
        ParameterError: sides beyond 64 pixels, or a width below 1.
    """

    def __init__(self, inputs: int, shape: tuple[int, int, int], width: int = 32) -> None:
        super().__init__()
        channels, height, wide = shape
        if max(height, wide) > _MAX_SIDE or min(shape) < 1 or width < 1:
            raise ParameterError(
                f"inversion network: images {shape} and width = {width} are not allowed "
                f"(sides 1 to {_MAX_SIDE}, width at least 1)"
            )
        self.shape, self.inputs = shape, inputs
        doublings = max(1, math.ceil(math.log2(max(height, wide, 8) / 4)))
        widths = [width * 2 ** (doublings - 1 - i) for i in range(doublings)]
        layers: list[nn.Module] = [nn.ConvTranspose2d(inputs, widths[0], 4), nn.BatchNorm2d(widths[0]), nn.Tanh()]
        for before, after in itertools.pairwise(widths):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.BatchNorm2d(after), nn.Tanh()]
        layers += [nn.ConvTranspose2d(widths[-1], channels, 4, 2, 1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def initialise(self, generator: torch.Generator) -> None:
        """Draw all weights: uniform within 1/√fan-in, torch's own default for these layers."""
        for layer in self.modules():
            if isinstance(layer, nn.ConvTranspose2d):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                with torch.no_grad():
                    layer.weight.uniform_(-bound, bound, generator=generator)
                    layer.bias.uniform_(-bound, bound, generator=generator)  # type: ignore[union-attr]

    def forward(self, inputs: Tensor) -> Tensor:
        """See the class."""
        images: Tensor = self.layers(inputs[:, :, None, None])
        if images.shape[2:] != self.shape[1:]:
            images = F.interpolate(images, size=self.shape[1:], mode="bilinear", align_corners=False)
        return images * 2 - 1

    def decode(self, inputs: Tensor) -> FloatArray:
        """Images float32 [n, C, H, W] of any number of inputs [n, F], without gradient, in evaluation mode.

        Raises:
            NumericError: inputs of another width.
        """
        if inputs.ndim != 2 or inputs.shape[1] != self.inputs:
            raise NumericError(f"inversion network takes inputs [n, {self.inputs}], got {tuple(inputs.shape)}")
        self.eval()
        device = next(self.parameters()).device
        out = np.empty((len(inputs), *self.shape), np.float32)
        with torch.no_grad(), limited_threads(1):
            for start in range(0, len(inputs), _BLOCK):
                part = inputs[start : start + _BLOCK].float().to(device)
                block = torch.zeros((_BLOCK, self.inputs), device=device)
                block[: len(part)] = part
                out[start : start + len(part)] = self(block)[: len(part)].cpu().numpy()
        return out
