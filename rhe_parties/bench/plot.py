"""What the encrypted head costs as D, K and the batch grow: measured, and drawn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import make_custody, make_encryptor, make_evaluator

__all__ = ["Cost", "draw_costs", "measure_costs"]

_FEATURES = (64, 128, 256, 512, 1280, 2048, 4096)
_CLASSES = (2, 5, 10, 30, 100, 300, 1000)
_BATCHES = (1, 4, 16, 64, 256, 1000)
_REPEATS = 9


@dataclass(frozen=True)
class Cost:
    """Host's microseconds and reply bytes per prediction for D, K and a batch."""

    features: int
    classes: int
    batch: int
    microseconds: float
    reply_bytes: float


def measure_costs(progress: Callable[[str], None]) -> dict[str, list[Cost]]:
    """Three sweeps around D=1280, K=10, one input; one thread."""
    sweeps = {
        "features": [(d, 10, 1) for d in _FEATURES],
        "classes": [(1280, k, 1) for k in _CLASSES],
        "batch": [(1280, 10, b) for b in _BATCHES],
    }
    found: dict[str, list[Cost]] = {}
    for name, shapes in sweeps.items():
        found[name] = []
        for shape in shapes:
            progress(f"cost of {name}: D={shape[0]}, K={shape[1]}, batch {shape[2]}")
            found[name].append(_measure(*shape))
    return found


def _measure(features: int, classes: int, batch: int) -> Cost:
    plan = plan_head(features, classes, batch=batch)
    custody = make_custody(plan)
    rng = np.random.default_rng(0)
    head, _ = make_encryptor(custody.public).encrypt(rng.normal(size=(classes, features)), rng.normal(size=classes))
    evaluator = make_evaluator(custody.public, head)
    rows = rng.normal(size=(batch, features)).astype(np.float32)
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        reply, _ = evaluator.evaluate(rows)
        times.append(time.perf_counter() - started)
    size = sum(map(len, reply.ciphertexts))
    return Cost(features, classes, batch, 1e6 * statistics.median(times) / batch, size / batch)


def draw_costs(costs: dict[str, list[Cost]], path: Path) -> None:
    """Three panels: time and bytes per prediction against D, K and the batch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    title = "Encrypted head: host's time and reply per prediction (one core; D=1280, K=10, one input unless varied)"
    figure.suptitle(title, fontsize=11)
    labels = {"features": "features D", "classes": "classes K", "batch": "inputs asked for at once"}
    axes = figure.subplots(1, 3)
    for axis, (name, points) in zip(axes, costs.items(), strict=True):
        x = [getattr(point, name) for point in points]
        axis.loglog(x, [p.microseconds for p in points], "o-", color="#1f5fa8", label="time (µs)")
        axis.loglog(x, [p.reply_bytes for p in points], "s--", color="#c8641e", label="reply (bytes)")
        axis.set_xlabel(labels[name])
        axis.set_xticks(x, [str(value) for value in x], rotation=45)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=130)
