"""The small convolutional network of the default setting: the paper's tiny VGG (arXiv 2505.14323)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FEATURES", "IMAGE_SIZE", "StrokeNet"]

FEATURES = 256
IMAGE_SIZE = 32
_ROWS = 64


class StrokeNet(nn.Module):
    """Eight 3×3 convolutions in three stages, then two dense layers; ReLU after each, also after the last.

    Channels 4, 8 at 32×32; 16, 16, 32, 32 at 16×16; 32, 32 at 8×8; pooled to 4×4 and flattened to 512.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = [1, 4, 8, 16, 16, 32, 32, 32, 32]
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(itertools.pairwise(channels)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            if index in (1, 5, 7):
                layers.append(nn.MaxPool2d(2))
        self.stages = nn.Sequential(*layers)
        self.dense = nn.Sequential(nn.Linear(512, FEATURES), nn.ReLU(), nn.Linear(FEATURES, FEATURES), nn.ReLU())

    def initialise(self, generator: torch.Generator) -> None:
        """Draw Kaiming-normal weights and zero the biases; the generator alone decides the result."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu", generator=generator)
            elif isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu", generator=generator)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @property
    def output_layer(self) -> nn.Linear:
        """The dense layer before the last ReLU: the last block."""
        layer = self.dense[2]
        if not isinstance(layer, nn.Linear):
            raise TypeError("this network has been cut off below its last block")
        return layer

    def with_output(self, weight: Tensor, bias: Tensor) -> StrokeNet:
        """The same network, its other layers shared, with another last layer [256, 256] and [256]."""
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        return self._sharing(nn.Sequential(*self.dense[:2], layer, nn.ReLU()))

    def without_output(self) -> StrokeNet:
        """The same layers without the last one and its ReLU: what is below the last block."""
        return self._sharing(nn.Sequential(*self.dense[:2]))

    def _sharing(self, dense: nn.Sequential) -> StrokeNet:
        network = StrokeNet()
        network.stages, network.dense = self.stages, dense
        return network

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 256] (never negative) of images [B, 1, 32, 32] in [-1, 1]."""
        flat = self.stages(images).flatten(1)
        if torch.is_grad_enabled() or len(flat) == 0:
            features: Tensor = self.dense(flat)
            return features
        # Matrix products of few rows are rounded otherwise than those of many on some processors; always in blocks
        # of the same size, an image's features do not depend on how many are computed with it.
        padded = functional.pad(flat, (0, 0, 0, -len(flat) % _ROWS))
        blocks = padded.view(len(padded) // _ROWS, _ROWS, flat.shape[1])
        return torch.cat([self.dense(block) for block in blocks])[: len(flat)]
