"""Training of the inversion network on shadow pairs, and what it is worth on auxiliary images it never saw."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rhe_parties.attacks.inversion_network.inputs import Bound, NetworkInputs
from rhe_parties.attacks.inversion_network.network import InversionNetwork
from rhe_parties.attacks.inversion_network.pairs import PairBatch, ShadowPairs
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.rng import torch_stream
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray

__all__ = ["HeldOut", "Inverter", "TrainingSettings", "train_inverter"]

_HELD_OUT_PAIRS = 512
_MEAN_PAIRS = 4096
_CHECKS = 8  # times that the held-out error is looked at; the best state is kept, as in the public code


@dataclass(frozen=True)
class TrainingSettings:
    """How the network is trained.

    Attributes:
        steps: Adam steps.
        batch: pairs per step (public code: 128).
        width: channels of the last hidden block; the one before has twice as many, and so on (public code: 128).
        learning_rate: first step size; it falls as a half cosine. The public code keeps 2e-4 for 100 epochs; the
            default is for a hundredth of that time.
        semantic: weight of the semantic loss, the divergence between the given confidences and those that the shadow
            head gives to the reconstruction (arXiv 2306.13965); 0: pixels alone.
    """

    steps: int = 1200
    batch: int = 128
    width: int = 24
    learning_rate: float = 5e-3
    semantic: float = 0.0

    def __post_init__(self) -> None:
        for name, low in (("steps", 1), ("batch", 2), ("width", 1), ("semantic", 0)):
            value = getattr(self, name)
            if not (value >= low and math.isfinite(value)):
                raise ParameterError(f"inversion network: {name} = {value} is not allowed: at least {low}")
        if not 0 < self.learning_rate < math.inf:
            raise ParameterError(f"inversion network: learning_rate = {self.learning_rate} is not allowed: above 0")


@dataclass(frozen=True)
class HeldOut:
    """Mean squared pixel error ([-1, 1]) on pairs of unseen auxiliary images and unseen shadow heads.

    Attributes:
        network: of the network.
        class_mean: of the mean image of the class that the head decided on: all that a class-only release allows.
        gain: class_mean - network.
        half_width: of the 95 % interval of the gain, from the spread over images (the clusters).
        images: how many images that is.
    """

    network: float
    class_mean: float
    gain: float
    half_width: float
    images: int

    def describe(self) -> str:
        """One line for the report."""
        return (
            f"{self.network:.4f} against {self.class_mean:.4f} of the decided class's mean image; "
            f"gain {self.gain:.4f} ± {self.half_width:.4f} (95 %, {self.images} unseen images)"
        )


class Inverter:
    """A trained network with its pre-map: released logits in, images out."""

    def __init__(self, network: InversionNetwork, inputs: NetworkInputs, held_out: HeldOut) -> None:
        self.network, self.inputs, self.held_out = network, inputs, held_out

    def decode(
        self, logits: FloatArray, weight: FloatArray | None = None, bias: FloatArray | None = None
    ) -> FloatArray:
        """Images float32 [V, B, C, H, W] in [-1, 1] of released logits [V, B, K]; B may be 0.

        Args:
            logits: scores of V heads.
            weight: the heads [V, K, D], where the inputs need to know them.
            bias: theirs [V, K].

        Raises:
            NumericError: scores of another width, or not finite.
        """
        heads, count, classes = logits.shape
        device = next(self.network.parameters()).device
        known = [
            np.zeros((heads, classes, 1)) if weight is None else weight,
            np.zeros((heads, classes)) if bias is None else bias,
        ]
        bound = self.inputs.bind(
            *(torch.from_numpy(np.ascontiguousarray(part, np.float32)).to(device) for part in known)
        )
        given = torch.from_numpy(np.ascontiguousarray(logits, np.float32)).reshape(-1, classes).to(device)
        index = torch.arange(heads, device=device).repeat_interleave(count)
        return self.network.decode(bound(given, index)).reshape(heads, count, *self.network.shape)


def train_inverter(
    pairs: ShadowPairs,
    held_out: ShadowPairs,
    inputs: NetworkInputs,
    settings: TrainingSettings,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Inverter:
    """Train a network and keep the state with the lowest held-out pixel error.

    With the seed fixed the result is always the same, on one thread, which is what this function takes.

    Args:
        pairs: what to train on.
        held_out: pairs of images, and best of heads too, that are not among `pairs`; its augmentation is not used.
        inputs: what the network is fed.
        settings: effort and losses.
        seed: root seed.
        progress: called with the done share in [0, 1] now and then.

    Raises:
        NumericError: pairs of different shapes, or a training that diverged.
        ParameterError: images that the network is not made for.
    """
    if pairs.images.shape[1:] != held_out.images.shape[1:] or pairs.classes != held_out.classes:
        raise NumericError(
            f"inversion network: images {tuple(pairs.images.shape)} and held-out ones {tuple(held_out.images.shape)}, "
            f"{pairs.classes} and {held_out.classes} classes, differ"
        )
    channels, height, wide = (int(side) for side in pairs.images.shape[1:])
    network = InversionNetwork(inputs.width, (channels, height, wide), settings.width)
    network.initialise(torch_stream(seed, "inversion-network-init"))
    network.to(pairs.images.device)
    with limited_threads(1):
        bound = inputs.bind(pairs.weight, pairs.bias)
        drawn = held_out.draw(_HELD_OUT_PAIRS, torch_stream(seed, "inversion-network-held-out"), nudged=False)
        test = _Test(inputs.bind(held_out.weight, held_out.bias)(drawn.logits, drawn.heads), drawn)
        network.load_state_dict(_descend(network, pairs, bound, test, settings, seed, progress))
        report = _judge(network, pairs, test, seed)
    return Inverter(network.eval().requires_grad_(False), inputs, report)


class _Test(NamedTuple):
    """Held-out pairs and their network inputs."""

    inputs: Tensor
    pairs: PairBatch


def _descend(
    network: InversionNetwork,
    pairs: ShadowPairs,
    bound: Bound,
    test: _Test,
    settings: TrainingSettings,
    seed: int,
    progress: Callable[[float], None] | None,
) -> dict[str, Tensor]:
    """Adam (0.5, 0.999) with amsgrad, as in the public code; returns the best state by held-out error."""
    network.requires_grad_(True)
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate, betas=(0.5, 0.999), amsgrad=True)
    stream = torch_stream(seed, "inversion-network-pairs")
    every = max(1, settings.steps // _CHECKS)
    best, lowest = copy.deepcopy(network.state_dict()), math.inf
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
        network.train()
        batch = pairs.draw(settings.batch, stream)
        loss = _loss(network(bound(batch.logits, batch.heads)), batch, pairs, settings.semantic)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if (step + 1) % every == 0 or step + 1 == settings.steps:
            error = float(_errors(network, test).mean())
            if error < lowest:
                best, lowest = copy.deepcopy(network.state_dict()), error
            if progress is not None:
                progress((step + 1) / settings.steps)
    if not math.isfinite(lowest):
        raise NumericError(f"inversion network diverged with learning_rate = {settings.learning_rate}")
    return best


def _loss(images: Tensor, batch: PairBatch, pairs: ShadowPairs, semantic: float) -> Tensor:
    loss = F.mse_loss(images, batch.images)
    if semantic > 0:
        again = torch.log_softmax(pairs.logits(batch.heads, pairs.backbone.forward(images)), dim=1)
        loss = loss + semantic * F.kl_div(
            again, torch.log_softmax(batch.logits, dim=1), reduction="batchmean", log_target=True
        )
    return loss


def _errors(network: InversionNetwork, test: _Test) -> Tensor:
    """Mean squared pixel error of each held-out pair [B]."""
    images = torch.from_numpy(network.decode(test.inputs)).to(test.inputs.device)
    return (images - test.pairs.images).square().mean(dim=(1, 2, 3))


def _judge(network: InversionNetwork, pairs: ShadowPairs, test: _Test, seed: int) -> HeldOut:
    own, (logits, images, _) = _errors(network, test), test.pairs
    means = _decided_means(pairs, seed)
    by_mean = (means[logits.argmax(dim=1)] - images).square().mean(dim=(1, 2, 3))
    gain = (by_mean - own).cpu().double().numpy()
    flat = images.flatten(1).cpu().numpy()
    _, cluster = np.unique(flat, axis=0, return_inverse=True)
    cluster = cluster.reshape(-1)
    count = int(cluster.max()) + 1
    # Pairs of one image share its difficulty: the interval counts images, not pairs.
    sums = np.bincount(cluster, weights=gain - gain.mean(), minlength=count)
    spread = math.sqrt(float(np.square(sums).sum()) * count / max(1, count - 1)) / len(gain)
    return HeldOut(float(own.mean()), float(by_mean.mean()), float(gain.mean()), 1.96 * spread, count)


def _decided_means(pairs: ShadowPairs, seed: int) -> Tensor:
    """Mean image [K, C, H, W] of the pairs that heads decide on as each class; of all pairs where there are none."""
    batch = pairs.draw(_MEAN_PAIRS, torch_stream(seed, "inversion-network-means"), nudged=False)
    decided = batch.logits.argmax(dim=1)
    overall = batch.images.mean(dim=0)
    found = [batch.images[decided == label] for label in range(pairs.classes)]
    return torch.stack([images.mean(dim=0) if len(images) else overall for images in found])
