"""Classification networks of torchvision with their last layer taken off."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rhe_parties.errors import DataError, ParameterError
from rhe_parties.rng import stream_seed

__all__ = ["TorchvisionNet", "build_torchvision", "torchvision_names"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class TorchvisionNet:
    """A network that ends in D features, with its input size and the normalisation for images in [-1, 1]."""

    network: nn.Module
    features: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@cache
def torchvision_names() -> tuple[str, ...]:
    """Names of torchvision's classification networks."""
    import torchvision

    return tuple(sorted(torchvision.models.list_models(module=torchvision.models)))


def build_torchvision(name: str, file: Path | None, seed: int | None) -> TorchvisionNet:
    """Build a network and give it weights: from a file, random (seed), or from torchvision's hub.

    Raises:
        DataError: weights that cannot be fetched or read, or do not fit.
        ParameterError: a network whose last layer is not linear.
    """
    import torchvision

    # torchvision draws initial weights from the global stream: fork it, so that nobody else notices.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(stream_seed(seed if seed is not None else 0, "random-weights", 0))
        network = torchvision.models.get_model(name, weights=None)
        if seed is not None:
            _settle(network.eval())
    layer, features = _last_linear(name, network)
    network.set_submodule(layer, nn.Identity())
    if seed is None:
        state = _read(file) if file is not None else _from_hub(name)
        kept = {key: value for key, value in state.items() if not key.startswith(layer + ".")}
        try:
            network.load_state_dict(kept)
        except (RuntimeError, TypeError) as error:
            text = " ".join(str(error).split())[:200]
            raise DataError(f"weights from {file or 'the hub'} do not fit backbone {name}: {text}") from error
    size, mean, std = _preprocessing(name)
    # Images come in [-1, 1]: (x/2 + 1/2 - mean)/std = (x - (2·mean - 1))/(2·std).
    return TorchvisionNet(network, features, size, tuple(2 * m - 1 for m in mean), tuple(2 * s for s in std))


def _settle(network: nn.Module) -> None:
    """Give random weights the batch statistics of noise: without them signals die out on the way."""
    layers = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in layers]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0
    if layers:
        with torch.no_grad():
            network(torch.randn(8, 3, 96, 96))
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.eval()
        layer.momentum = momentum


def _last_linear(name: str, network: nn.Module) -> tuple[str, int]:
    """Path and input width of the classifier: the last module that is not an auxiliary branch."""
    last = [(path, m) for path, m in network.named_modules() if not path.lower().startswith("aux")][-1]
    if not isinstance(last[1], nn.Linear):
        raise ParameterError(f"backbone {name} does not end in a linear layer and cannot serve as a backbone")
    return last[0], last[1].in_features


def _preprocessing(name: str) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    import torchvision

    preset: Any = torchvision.models.get_model_weights(name)
    default = next((entry for entry in preset if entry is preset.DEFAULT), None)
    if default is None:
        return 224, _IMAGENET_MEAN, _IMAGENET_STD
    wanted = default.transforms()
    return int(wanted.crop_size[0]), tuple(wanted.mean), tuple(wanted.std)


def _from_hub(name: str) -> Mapping[str, Tensor]:
    import torchvision

    preset: Any = torchvision.models.get_model_weights(name)
    try:
        state: Mapping[str, Tensor] = preset.DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"weights of backbone {name} could not be fetched ({error}); "
            f"download {preset.DEFAULT.url} elsewhere and give the file as weights"
        ) from error
    return state


def _read(path: Path) -> Mapping[str, Tensor]:
    """Tensors by name from a .safetensors or .pth file; no code in the file is ever run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the restricted reader of torch raises errors of many unrelated kinds
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"cannot read weights from {path}: {text}") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path} holds no state dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}
