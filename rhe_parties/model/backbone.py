"""Frozen public backbones: images in, features out, differentiable with respect to the images."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from rhe_parties.data.datasets import to_unit
from rhe_parties.errors import DataError, NumericError, ParameterError, unknown_name
from rhe_parties.model.pretrain import METADATA_KEY, calibrate
from rhe_parties.model.strokenet import FEATURES, IMAGE_SIZE, StrokeNet
from rhe_parties.model.torchvision_nets import build_torchvision, torchvision_names
from rhe_parties.rng import torch_stream
from rhe_parties.types import FloatArray, UInt8Array

__all__ = ["Backbone", "backbone_catalogue", "load_backbone", "shipped_weights"]

_LUMA = (0.299, 0.587, 0.114)
_BLOCK = 8


class Backbone:
    """A frozen network without its last layer, with everything that it wants done to images before.

    Attributes:
        name: as given to `load_backbone`.
        features: number of features D.
        image_size: side in pixels that the network works at; other sizes are resized bilinearly.
        channels: 1 (gray) or 3 (colour) that the network takes; images of the other kind are converted.
        gain: public factor on the network's output.
        untrained: weights are random (`weights="random:SEED"`): for tests and timing only.
        metadata: what the weight file says about itself.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        features: int,
        image_size: int,
        *,
        channels: int = 3,
        mean: tuple[float, ...] = (0.0,),
        std: tuple[float, ...] = (1.0,),
        gain: float = 1.0,
        untrained: bool = False,
        metadata: Mapping[str, str] | None = None,
        device: str = "cpu",
    ) -> None:
        self.name, self.features, self.image_size, self.channels = name, features, image_size, channels
        self.gain, self.untrained = gain, untrained
        self.metadata = dict(metadata or {})
        self.device = torch.device(device)
        self._network = network.to(self.device).eval().requires_grad_(False)
        self._mean = torch.tensor(mean, device=self.device).view(1, -1, 1, 1)
        self._std = torch.tensor(std, device=self.device).view(1, -1, 1, 1)
        self.fingerprint = _fingerprint(network, gain)

    def __repr__(self) -> str:
        flag = ", untrained" if self.untrained else ""
        return f"Backbone({self.name!r}, features={self.features}, fingerprint={self.fingerprint[:12]}{flag})"

    def forward(self, images: Tensor) -> Tensor:
        """Features float32 [B, D] of images [B, C, H, W] in [-1, 1] on the backbone's device; differentiable.

        Raises:
            NumericError: not four axes, or neither 1 nor 3 channels.
        """
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise NumericError(f"backbone {self.name} takes images [B, 1 or 3, H, W], got {tuple(images.shape)}")
        if images.shape[1] == 3 and self.channels == 1:
            luma = torch.tensor(_LUMA, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
            images = (images * luma).sum(1, keepdim=True)
        elif images.shape[1] == 1 and self.channels == 3:
            images = images.expand(-1, 3, -1, -1)
        side = (self.image_size, self.image_size)
        if images.shape[2:] != side:
            shrink = max(images.shape[2:]) > self.image_size
            images = F.interpolate(images, size=side, mode="bilinear", align_corners=False, antialias=shrink)
        features: Tensor = self._network((images - self._mean) / self._std)
        return features * self.gain

    __call__ = forward

    def extract(self, images: UInt8Array, batch_size: int = 256, device: str | None = None) -> FloatArray:
        """Features float32 [n, D] of stored images uint8 [n, C, H, W] in the host's memory; see `extract_on_device`."""
        return self.extract_on_device(images, batch_size, device).cpu().numpy()

    def extract_on_device(self, images: UInt8Array, batch_size: int = 256, device: str | None = None) -> Tensor:
        """Features of stored images, without gradient, where the network runs.

        On a CPU an image's `strokenet` features have the same bits whatever else is extracted with it:
        batches are filled up to a multiple of eight, as kernels treat the rows of an odd rest differently.
        Other networks run in eights there, which makes roundings depend on the company less, not never.

        Args:
            images: uint8 [n, C, H, W].
            batch_size: images per step (rounded up to a multiple of 8).
            device: moves the backbone first; None: stays where it is.

        Returns:
            float32 [n, D] on the backbone's device.

        Raises:
            NumericError: images of the wrong type or shape, or features that are not finite.
            ParameterError: a batch size below 1.
        """
        if images.dtype != np.uint8 or images.ndim != 4:
            raise NumericError(f"extract takes uint8 images [n, C, H, W], got {images.dtype} {images.shape}")
        if batch_size < 1:
            raise ParameterError(f"batch_size = {batch_size} is not allowed: at least 1")
        if device is not None:
            self.to(device)
        exact_eights = self.device.type == "cpu" and self.name != "strokenet"
        step = _BLOCK if exact_eights else _rounded_up(batch_size)
        out = torch.empty((len(images), self.features), device=self.device)
        with torch.no_grad():
            for start in range(0, len(images), step):
                part = images[start : start + step]
                filler = np.zeros((_rounded_up(len(part)) - len(part), *part.shape[1:]), np.uint8)
                block = torch.from_numpy(to_unit(np.concatenate([part, filler]))).to(self.device)
                out[start : start + len(part)] = self.forward(block)[: len(part)]
        if not bool(torch.isfinite(out).all()):
            raise NumericError(f"backbone {self.name} gave features that are NaN or infinite")
        return out

    @property
    def network(self) -> nn.Module:
        """The frozen network without what is done to images before."""
        return self._network

    def over(self, network: nn.Module, gain: float) -> Backbone:
        """The same treatment of images before another network with as many features, on the same device."""
        found = Backbone(
            self.name, network, self.features, self.image_size, channels=self.channels, gain=gain,
            untrained=self.untrained, metadata=self.metadata, device=str(self.device),
        )  # fmt: skip
        found._mean, found._std = self._mean, self._std
        return found

    def to(self, device: str) -> Backbone:
        """Move the network; returns itself."""
        self.device = torch.device(device)
        self._network.to(self.device)
        self._mean, self._std = self._mean.to(self.device), self._std.to(self.device)
        return self


def _rounded_up(count: int) -> int:
    return -(-count // _BLOCK) * _BLOCK


def _fingerprint(network: nn.Module, gain: float) -> str:
    """SHA-256 (hex) of names, shapes and little-endian bytes of all weights and buffers, and of the gain."""
    digest = hashlib.sha256(repr(gain).encode())
    for name, value in sorted(network.state_dict().items()):
        array = value.detach().cpu().contiguous().numpy()
        digest.update(f"{name}{array.shape}{array.dtype.name}".encode())
        digest.update(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def shipped_weights() -> Path:
    """Path of the `strokenet` weights inside the installed package."""
    return Path(str(resources.files("rhe_parties.model") / "weights" / "strokenet.safetensors"))


def load_backbone(name: str, weights: Path | str | None = None, device: str = "cpu") -> Backbone:
    """Load a backbone.

    Args:
        name: `strokenet`, or a classification network of torchvision such as `efficientnet_b0`.
        weights: None: those of the package (`strokenet`) or torchvision's hub; a .safetensors or .pth file;
            or `"random:SEED"` for untrained ones (tests, timing).
        device: torch device.

    Returns:
        The backbone, frozen, in evaluation mode.

    Raises:
        ParameterError: an unknown name or a bad seed.
        DataError: weights that are missing, unreadable or do not fit.
    """
    seed = _random_seed(weights)
    file = Path(weights).expanduser() if weights is not None and seed is None else None
    if file is not None and not file.is_file():
        raise DataError(f"weights of backbone {name}: there is no file {file}")
    if name == "strokenet":
        return _load_strokenet(file or shipped_weights(), device) if seed is None else _random_strokenet(seed, device)
    if name not in torchvision_names():
        raise unknown_name("backbone", name, ["strokenet", *torchvision_names()])
    net = build_torchvision(name, file, seed)
    return Backbone(
        name, net.network, net.features, net.image_size,
        mean=net.mean, std=net.std, untrained=seed is not None, device=device,
    )  # fmt: skip


def _random_seed(weights: Path | str | None) -> int | None:
    if not isinstance(weights, str) or not weights.startswith("random:"):
        return None
    text = weights.removeprefix("random:")
    try:
        return int(text)
    except ValueError:
        raise ParameterError(
            f"weights = {weights!r} is not allowed: the seed in random:SEED is a whole number"
        ) from None


def _strokenet(net: StrokeNet, gain: float, device: str, **more: Any) -> Backbone:
    return Backbone(
        "strokenet",
        net,
        FEATURES,
        IMAGE_SIZE,
        channels=1,
        gain=gain,
        device=device,
        **more,
    )


def _random_strokenet(seed: int, device: str) -> Backbone:
    net = StrokeNet()
    net.initialise(torch_stream(seed, "pretrain-strokenet/weights"))
    return _strokenet(net, calibrate(net, seed, images=512), device, untrained=True)


def _load_strokenet(path: Path, device: str) -> Backbone:
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = json.loads((file.metadata() or {})[METADATA_KEY])
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
        gain = float(metadata["gain"])
        net = StrokeNet()
        net.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        text = str(error).splitlines()[0]
        raise DataError(
            f"{path} holds no strokenet weights ({text}); make them with: rhe pretrain strokenet"
        ) from error
    if not (math.isfinite(gain) and gain > 0):
        raise DataError(f"{path}: gain {gain} must be positive")
    return _strokenet(net, gain, device, metadata=metadata)


def backbone_catalogue() -> list[tuple[str, int | None, str]]:
    """(name, features, summary) of the backbones; features None: read off the network when it is loaded."""
    known = [
        ("strokenet", FEATURES, "the paper's tiny VGG, pretrained on procedural handwriting; in the package"),
        ("efficientnet_b0", 1280, "torchvision, ImageNet weights; the paper's CIFAR-10 backbone"),
        ("wide_resnet50_2", 2048, "torchvision, ImageNet weights; the paper's CelebA backbone"),
        ("resnet18", 512, "torchvision, ImageNet weights"),
    ]
    named = {name for name, _, _ in known}
    rest = [(name, None, "torchvision, ImageNet weights") for name in torchvision_names() if name not in named]
    return [*known, *rest]
