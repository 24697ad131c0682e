"""What a backbone costs on this machine, and which share of a prediction the encrypted head adds."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from rhe_parties.bench.head import BackboneResult
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import make_custody, make_encryptor, make_evaluator
from rhe_parties.model.backbone import load_backbone
from rhe_parties.threads import limited_threads

__all__ = ["bench_backbones"]

_NAMES = ("efficientnet_b0", "wide_resnet50_2")
_REPEATS, _WARM = 15, 3
_CLASSES = 10


def bench_backbones(threads: int, progress: Callable[[str], None]) -> list[BackboneResult]:
    """Latency of one image and of its encrypted head (K=10), measured in turn in this process.

    Weights are random: they do not change the time. The head's time is the host's whole path after the backbone.
    """
    found: list[BackboneResult] = []
    for name in _NAMES:
        progress(f"{name}: loading")
        backbone = load_backbone(name, "random:0")
        plan = plan_head(backbone.features, _CLASSES)
        custody = make_custody(plan)
        rng = np.random.default_rng(0)
        weight = rng.normal(size=(_CLASSES, backbone.features))
        head, _ = make_encryptor(custody.public).encrypt(weight, rng.normal(size=_CLASSES))
        evaluator = make_evaluator(custody.public, head)
        side = backbone.image_size
        images = torch.from_numpy(rng.normal(size=(1, 3, side, side)).astype(np.float32))
        network, heads = [], []
        with limited_threads(threads), torch.inference_mode():
            for turn in range(_REPEATS + _WARM):
                progress(f"{name}: image {turn + 1} of {_REPEATS + _WARM}")
                started = time.perf_counter()
                features = backbone.forward(images).numpy()
                middle = time.perf_counter()
                evaluator.evaluate(features)
                if turn >= _WARM:
                    network.append(middle - started)
                    heads.append(time.perf_counter() - middle)
        slow, fast = statistics.median(network), statistics.median(heads)
        share = fast / (slow + fast)
        found.append(BackboneResult(name, backbone.features, threads, 1000 * slow, 1000 * fast, share))
    return found
