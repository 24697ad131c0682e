"""`rhe bench shadows`: the shadow factory beside the obvious loop of one torch training per head, in one run."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from rhe_parties.attacks.pools import ThreadPool
from rhe_parties.attacks.shadows.factory import ShadowFactory
from rhe_parties.data.datasets import load_dataset
from rhe_parties.errors import ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.dp import DpMechanism
from rhe_parties.model.head import Recipe
from rhe_parties.rng import numpy_stream
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray

__all__ = ["ShadowBench", "ShadowCase", "bench_shadows"]

Progress = Callable[[str], None]

_CLASSES = 10
_POOL = 3000  # images of the pool
_NORM = 12.6  # mean norm of the features, as the backbones give them
_NOISE = {10: 1.82, 40: 2.75}  # σ of the authors' README for MNIST: ε = 5 by their count
_CLIP = {256: 4.0}  # theirs for MNIST; 1.2 for CIFAR


@dataclass(frozen=True)
class ShadowCase:
    """Figures of one case, medians over the repeats.

    `heads_per_s` is the factory's rate on `workers` threads; `loop_heads_per_s` that of one torch training after the
    other on one thread, where it is fastest; `ratio` is the first over the second, `ratio_per_core` the same over
    the number of workers.
    """

    name: str
    features: int
    images: int
    classes: int
    epochs: int
    heads_per_s: float
    low_heads_per_s: float
    high_heads_per_s: float
    loop_heads_per_s: float
    ratio: float
    ratio_per_core: float
    workers: int
    repeats: int
    source: str


@dataclass
class ShadowBench:
    """All cases of one run."""

    cores: int
    load: float
    cases: list[ShadowCase] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def bench_shadows(
    features: Sequence[int], images: Sequence[int], data_root: Path | None, repeats: int, seconds: float,
    progress: Progress,
) -> ShadowBench:  # fmt: skip
    """Measure factory and loop in turn, repeat after repeat, so that they share the machine's good and bad moments.

    Args:
        features: widths D; 256 is measured on strokenet's features of real images, any other on random ReLU features.
        images: sizes N of the training sets, multiples of 10.
        data_root: where MNIST lies; without it the real images are scikit-learn's digits.
        repeats: how often every case is measured.
        seconds: how long the factory, and at least one head of the loop, run at every repeat.
        progress: is told what is being measured.

    Raises:
        ParameterError: an N that is no multiple of 10, or a number that is too small.
        DataError: no MNIST at the data root, or too few images for N.
    """
    for name, value, allowed, words in (
        ("repeats", repeats, repeats >= 1, "at least 1"),
        ("seconds", seconds, seconds > 0, "above 0"),
        *(("features", width, width >= 1, "at least 1") for width in features),
        *(("images", count, count >= 10 and count % 10 == 0, "a multiple of 10: ten classes") for count in images),
    ):
        if not allowed:
            raise ParameterError(f"{name} = {value} is not allowed ({words})")
    cores = os.cpu_count() or 1
    result = ShadowBench(cores, os.getloadavg()[0])
    for width in features:
        progress(f"d={width}: features")
        table, labels, source = _pool(width, data_root)
        for count in images:
            recipe = Recipe.paper("strokenet" if width == 256 else "other", count // _CLASSES)
            private = DpMechanism(_CLIP.get(width, 1.2), _NOISE.get(count, 2.0))
            for name, trained in (("plain", recipe), ("dp-sgd", replace(recipe, mechanism=private))):
                factory = ShadowFactory(table, labels, _CLASSES, count // _CLASSES, trained, 0, "bench")
                told = _labelled(progress, f"{name}, d={width}, N={count}")
                result.cases.append(_case(name, factory, source, cores, repeats, seconds, told))
    return result


def _labelled(progress: Progress, label: str) -> Progress:
    return lambda text: progress(f"{label}: {text}")


def _case(
    name: str, factory: ShadowFactory, source: str, cores: int, repeats: int, seconds: float, progress: Progress
) -> ShadowCase:
    pool = ThreadPool(cores)
    sets = factory.block(0).sets  # compiles, too
    progress("warming up")
    loop = _loop(factory, sets[:1])
    heads = max(factory.heads_per_block, int(_factory(factory, pool, 2 * cores * factory.heads_per_block) * seconds))
    ours, theirs = [], []
    for turn in range(repeats):
        progress(f"repeat {turn + 1} of {repeats}, factory")
        ours.append(_factory(factory, pool, heads))
        progress(f"repeat {turn + 1} of {repeats}, loop; factory {ours[-1]:,.0f} heads/s")
        theirs.append(_loop(factory, sets[: max(1, min(len(sets), int(loop * seconds)))]))
    rate, slow = statistics.median(ours), statistics.median(theirs)
    width, count = factory.features.shape[1], sets.shape[1]
    return ShadowCase(
        name, width, count, _CLASSES, factory.recipe.epochs, rate, min(ours), max(ours), slow, rate / slow,
        rate / slow / cores, cores, repeats, source,
    )  # fmt: skip


def _pool(width: int, data_root: Path | None) -> tuple[FloatArray, IntArray, str]:
    """Features [n, D] of mean norm 12.6, labels [n], and what they are."""
    if width != 256:
        stream = numpy_stream(0, "bench-shadow-features", width)
        table = np.maximum(stream.standard_normal((_POOL, width), dtype=np.float32), 0)
        labels = (np.arange(_POOL) % _CLASSES).astype(np.int64)
        source = "random ReLU features"
    else:
        dataset = load_dataset("digits") if data_root is None else load_dataset("mnist", data_root)
        rows = numpy_stream(0, "bench-shadow-images").permutation(len(dataset.labels))[:_POOL]
        table, labels = load_backbone("strokenet").extract(dataset.images[rows]), dataset.labels[rows]
        source = f"strokenet features of {'digits' if data_root is None else 'MNIST'}"
    return table * np.float32(_NORM / np.linalg.norm(table, axis=1).mean()), labels, source


def _factory(factory: ShadowFactory, pool: ThreadPool, heads: int) -> float:
    """Heads per second of the factory; blocks are dropped as a consumer drops them."""
    began = time.perf_counter()
    for _ in factory.stream(heads, pool):
        pass
    return heads / (time.perf_counter() - began)


def _loop(factory: ShadowFactory, sets: IntArray) -> float:
    """Heads per second of ordinary training, one head after the other."""
    train = _train_alone if factory.recipe.mechanism is None else _train_alone_privately
    began = time.perf_counter()
    with limited_threads(1):  # a second one makes so small a training slower, on a busy machine many times
        for rows in sets:
            train(torch.from_numpy(factory.features[rows]), torch.from_numpy(factory.labels[rows]), factory)
    return len(sets) / (time.perf_counter() - began)


def _layer(features: int, recipe: Recipe) -> tuple[torch.nn.Linear, torch.optim.Optimizer]:
    layer = torch.nn.Linear(features, _CLASSES)
    torch.nn.init.normal_(layer.weight, std=recipe.init_std)
    torch.nn.init.zeros_(layer.bias)
    return layer, torch.optim.SGD(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)


def _train_alone(x: torch.Tensor, y: torch.Tensor, factory: ShadowFactory) -> None:
    layer, optimiser = _layer(x.shape[1], factory.recipe)
    for _ in range(factory.recipe.epochs):
        optimiser.zero_grad()
        loss: Any = F.cross_entropy(layer(x), y)
        loss.backward()
        optimiser.step()


def _train_alone_privately(x: torch.Tensor, y: torch.Tensor, factory: ShadowFactory) -> None:
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    mechanism = factory.recipe.mechanism
    assert mechanism is not None
    layer, optimiser = _layer(x.shape[1], factory.recipe)
    loader: Any = DataLoader(TensorDataset(x, y), batch_size=len(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of generators that are not cryptographic, once per head
        private, noisy, batches = PrivacyEngine().make_private(
            module=layer, optimizer=optimiser, data_loader=loader,
            noise_multiplier=mechanism.noise_multiplier, max_grad_norm=mechanism.clip,
        )  # fmt: skip
        for _ in range(factory.recipe.epochs):
            for batch, labels in batches:
                noisy.zero_grad()
                loss: Any = F.cross_entropy(private(batch), labels)
                loss.backward()
                noisy.step()
