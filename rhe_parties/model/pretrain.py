"""Pretraining of `strokenet` on procedural handwriting: invented characters, no dataset and no private label.

Every step invents fresh characters and asks the network to tell them apart by prototypes (Snell et al. 2017,
"Prototypical Networks for Few-shot Learning"): each sample is compared with the means of unit features, its
own character's mean taken over the other samples. The published weights are the exponential average of the
path.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from rhe_parties.data.strokes import draw_characters, draw_images, draw_samples
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.model.strokenet import StrokeNet
from rhe_parties.rng import torch_stream
from rhe_parties.threads import limited_threads

__all__ = [
    "CALIBRATION_IMAGES",
    "DEFAULT_SEED",
    "DEFAULT_STEPS",
    "FEATURE_NORM",
    "METADATA_KEY",
    "Pretrained",
    "Progress",
    "calibrate",
    "pretrain_strokenet",
    "prototype_loss",
    "save_pretrained",
]

DEFAULT_SEED = 0
DEFAULT_STEPS = 10_000
FEATURE_NORM = 12.6
"""Mean norm that the published gain gives features of procedural handwriting; the paper's recipe fits it."""

METADATA_KEY = "rhe_parties"
"""Name of the file's metadata entry, a JSON object of strings."""

VERSION = "1"
_CLASSES, _SAMPLES, _TEMPERATURE = 40, 4, 12.0
_PEAK_RATE, _WARM_UP, _WEIGHT_DECAY = 2e-3, 200, 1e-4
_EVEN_NORMS = 0.2
CALIBRATION_IMAGES = 8192


@dataclass(frozen=True)
class Progress:
    """State of the training after `step` of `steps`: loss and accuracy (0..1) since the last report."""

    step: int
    steps: int
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Pretrained:
    """Weights by name and the metadata (all strings) that go into the safetensors file."""

    state: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def prototype_loss(features: Tensor, classes: int, temperature: float = _TEMPERATURE) -> tuple[Tensor, Tensor]:
    """Leave-one-out prototypical loss.

    Args:
        features: [classes·samples, D], ordered by class, at least two samples each.
        classes: number of classes.
        temperature: factor on the squared distances between unit features and prototypes.

    Returns:
        The mean cross-entropy and the share of samples nearest to their own prototype.
    """
    unit = F.normalize(features, dim=1).view(classes, -1, features.shape[1])
    samples = unit.shape[1]
    total = unit.sum(dim=1)
    mean = total / samples
    own = (total[:, None] - unit) / (samples - 1)
    flat = unit.flatten(0, 1)
    logits = 2 * flat @ mean.T - mean.square().sum(1)
    mine = (2 * unit * own - own.square()).sum(-1).flatten()
    labels = torch.arange(classes).repeat_interleave(samples)
    # The sample must not be part of its own prototype, or the task would be trivial.
    logits = temperature * logits.scatter(1, labels[:, None], mine[:, None])
    return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().mean()


def _rate(step: int, steps: int) -> float:
    warm = min(_WARM_UP, max(steps // 10, 1))
    if step < warm:
        return _PEAK_RATE * (step + 1) / warm
    return _PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(steps - warm, 1)))


def _batch(seed: int, step: int) -> Tensor:
    generator = torch_stream(seed, "pretrain-strokenet/batch", step)
    images = draw_samples(draw_characters(_CLASSES, generator), _SAMPLES, generator)
    return images.contiguous(memory_format=torch.channels_last)


def pretrain_strokenet(
    seed: int = DEFAULT_SEED,
    steps: int = DEFAULT_STEPS,
    progress: Callable[[Progress], None] | None = None,
    report_every: int = 100,
    calibration_images: int = CALIBRATION_IMAGES,
) -> Pretrained:
    """Train the small backbone from nothing.

    The result is a function of the seed and the number of steps on one kind of processor and one torch
    version (vector instructions decide in which order convolutions add up); elsewhere roundings differ.

    Args:
        seed: root seed of every draw.
        steps: batches of 40 characters × 4 samples.
        progress: called every `report_every` steps and at the end.
        report_every: steps between two reports.
        calibration_images: images that measure the gain (multiples of 256).

    Returns:
        Averaged weights and metadata: gain, seed, steps, version.

    Raises:
        ParameterError: no steps.
    """
    if steps < 1:
        raise ParameterError(f"pretraining takes at least 1 step, got {steps}")
    net = StrokeNet()
    net.initialise(torch_stream(seed, "pretrain-strokenet/weights"))
    net = net.to(memory_format=torch.channels_last)
    average = {name: value.detach().clone() for name, value in net.state_dict().items()}
    optimiser = torch.optim.AdamW(net.parameters(), lr=_PEAK_RATE, weight_decay=_WEIGHT_DECAY)
    seen = torch.zeros(3)
    with limited_threads(1), ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        upcoming = pool.submit(_batch, seed, 0)
        for step in range(steps):
            images = upcoming.result()
            upcoming = pool.submit(_batch, seed, step + 1)
            for group in optimiser.param_groups:
                group["lr"] = _rate(step, steps)
            features = net(images)
            loss, accuracy = prototype_loss(features, _CLASSES)
            norms = features.norm(dim=1)
            # Linear heads weigh an image by the length of its feature, so lengths should say nothing.
            uneven = norms.var() / norms.mean().square().clamp_min(1e-12)
            optimiser.zero_grad(set_to_none=True)
            (loss + _EVEN_NORMS * uneven).backward()
            optimiser.step()
            decay = min(0.999, (1 + step) / (10 + step))
            for name, value in net.state_dict().items():
                average[name].lerp_(value, 1 - decay)
            seen += torch.stack([loss.detach(), accuracy, torch.ones(())])
            if progress is not None and ((step + 1) % report_every == 0 or step + 1 == steps):
                progress(Progress(step + 1, steps, float(seen[0] / seen[2]), float(seen[1] / seen[2])))
                seen.zero_()
        net.load_state_dict(average)
        gain = calibrate(net, seed, calibration_images)
    state = {name: value.detach().contiguous().clone() for name, value in net.state_dict().items()}
    metadata = {
        "format": "rhe_parties/strokenet",
        "version": VERSION,
        "seed": str(seed),
        "steps": str(steps),
        "gain": repr(gain),
    }
    return Pretrained(state, metadata)


def calibrate(net: StrokeNet, seed: int, images: int = CALIBRATION_IMAGES) -> float:
    """The gain that makes the mean norm of features 12.6, measured on procedural handwriting alone.

    Args:
        net: the network.
        seed: root seed of the characters.
        images: how many to draw (in batches of 256).
    """
    generator = torch_stream(seed, "pretrain-strokenet/calibration")
    norms = []
    with torch.no_grad():
        for _ in range(max(1, images // 256)):
            norms.append(net(draw_images(256, generator)).double().norm(dim=1))
    return FEATURE_NORM / max(float(torch.cat(norms).mean()), 1e-12)


def save_pretrained(result: Pretrained, path: Path) -> None:
    """Write weights and metadata as safetensors; the same result gives the same bytes.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One entry, because safetensors writes several in a random order.
        note = json.dumps(dict(result.metadata), sort_keys=True)
        save_file(dict(result.state), path, metadata={METADATA_KEY: note})
    except OSError as error:
        raise DataError(f"cannot write weights to {path}: {error}") from error
