"""`rhe bench head`: the encrypted head beside its peers in one run, at one security level, with the same weights."""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rhe_parties.bench.inputs import BenchInputs, make_inputs
from rhe_parties.bench.worker import Worker

__all__ = ["BackboneResult", "CaseResult", "HeadBench", "Progress", "bench_head", "case_names"]

Progress = Callable[[str], None]

_FAST = ("ours", "plain", "return-features")
_REPEATS, _BLOCK = 100, 2  # inputs per round of the fast cases, and of the others
_DECIDE_STEP = 500


@dataclass
class CaseResult:
    """Figures of one case; times are medians over all rounds.

    `latency_ms` is the host's time for one input on one thread, `throughput_per_s` its rate per core for whole
    batches, `throughput_all_per_s` that of one process per core at once.
    """

    name: str
    latency_ms: float = 0.0
    latency_low_ms: float = 0.0
    latency_high_ms: float = 0.0
    throughput_per_s: float = 0.0
    throughput_all_per_s: float = 0.0
    key_bytes: int = 0
    head_bytes: int = 0
    request_bytes: int = 0
    reply_bytes: int = 0
    batch_reply_bytes: float = 0.0
    peak_bytes: int = 0
    setup_seconds: float = 0.0
    logit_error: float = 0.0
    decisions_differing: int = 0
    decisions: int = 0
    learns: str = ""


@dataclass(frozen=True)
class BackboneResult:
    """One image's way through a backbone and through the encrypted head behind it, medians."""

    name: str
    features: int
    threads: int
    backbone_ms: float
    head_ms: float
    head_share: float


@dataclass
class HeadBench:
    """All cases of one run, and the ratios that say what ours is worth."""

    features: int
    classes: int
    hidden: tuple[int, ...]
    batch: int
    inputs: str
    cores: int
    plan: dict[str, object]
    batch_plan: dict[str, object]
    cases: list[CaseResult] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    backbones: list[BackboneResult] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


def case_names(hidden: Sequence[int]) -> list[str]:
    """The cases that apply to the head."""
    return ["ours", "plain", "tenseal-square" if hidden else "tenseal-dot", "encrypted-input", "return-features"]


def bench_head(
    features: int, classes: int, hidden: tuple[int, ...], batch: int, data_root: Path | None,
    decisions: int, peer_decisions: int, rounds: int, progress: Progress,
) -> HeadBench:  # fmt: skip
    """Measure all cases in turn, round after round, each in a process of its own.

    Args:
        features: D.
        classes: K.
        hidden: widths of hidden square layers.
        batch: inputs that are asked for at once in throughput.
        data_root: where MNIST lies; without it the inputs are scikit-learn's digits.
        decisions: real inputs on which ours is compared with the float head.
        peer_decisions: the same for the slow peers.
        rounds: how often every case is measured; medians are taken.
        progress: is told what is being measured.

    Raises:
        ParameterError: a shape that the planner or the data cannot serve.
        RheError: a case failed.
    """
    from rhe_parties.bench.cases import LEARNS
    from rhe_parties.he.planner import plan_head

    for size in (1, batch):
        plan_head(features, classes, hidden, size)  # an impossible wish costs no waiting
    progress("features of real images")
    inputs = make_inputs(features, classes, hidden, data_root, decisions)
    one, many = (
        plan_head(features, classes, hidden, size, feature_norm=inputs.feature_norm).to_dict() for size in (1, batch)
    )
    cores = os.cpu_count() or 1
    result = HeadBench(features, classes, hidden, batch, inputs.source, cores, one, many)
    names = case_names(hidden)
    with tempfile.TemporaryDirectory(prefix="rhe-bench-") as folder, ExitStack() as stack:
        path = Path(folder) / "inputs.npz"
        inputs.save(path)
        teams: dict[str, list[Worker]] = {}
        for name in names:
            progress(f"{name}: keys and encryption")
            teams[name] = [stack.enter_context(Worker(name, path, batch, 1)) for _ in range(cores)]
            for worker in teams[name]:
                worker.tell(do="sizes")
            answers = [worker.answer() for worker in teams[name]]
            result.cases.append(CaseResult(name, learns=LEARNS[name], **answers[0]))
        _measure(result.cases, teams, batch, rounds, progress)
        _decide(result.cases, teams, inputs, peer_decisions, progress)
    result.ratios = _ratios(result.cases)
    return result


def _measure(
    cases: list[CaseResult], teams: dict[str, list[Worker]], batch: int, rounds: int, progress: Progress
) -> None:
    """Latency and throughput, all cases within every round, so that they share the machine's good and bad moments."""
    latencies: dict[str, list[float]] = {case.name: [] for case in cases}
    alone: dict[str, list[float]] = {case.name: [] for case in cases}
    together: dict[str, list[float]] = {case.name: [] for case in cases}
    for turn in range(rounds + 1):
        for case in cases:
            progress(f"{case.name}: round {turn} of {rounds}" if turn else f"{case.name}: warming up")
            fast, team = case.name in _FAST, teams[case.name]
            block = batch if fast else _BLOCK
            seconds = team[0].ask(do="latency", repeats=_REPEATS if fast else _BLOCK)["seconds"]
            rate = team[0].ask(do="throughput", inputs=block)["per_second"]
            for worker in team:
                worker.tell(do="throughput", inputs=block)
            rates = [worker.answer()["per_second"] for worker in team]
            if turn:  # the first round only warms up
                latencies[case.name] += seconds
                alone[case.name].append(rate)
                together[case.name].append(sum(rates))
    for case in cases:
        times = sorted(1000 * value for value in latencies[case.name])
        case.latency_ms = statistics.median(times)
        case.latency_low_ms, case.latency_high_ms = times[len(times) // 20], times[-1 - len(times) // 20]
        case.throughput_per_s = statistics.median(alone[case.name])
        case.throughput_all_per_s = statistics.median(together[case.name])


def _decide(
    cases: list[CaseResult], teams: dict[str, list[Worker]], inputs: BenchInputs, peers: int, progress: Progress
) -> None:
    """Decisions and logits beside the float head's, on real inputs."""
    for case in cases:
        if case.name == "return-features":
            case.decisions = len(inputs.features)  # the key holder applies the float head itself
            continue
        wanted = len(inputs.features) if case.name in _FAST else min(peers, len(inputs.features))
        squared, error = 0.0, 0.0
        for start in range(0, wanted, _DECIDE_STEP):
            progress(f"{case.name}: decision {start:,} of {wanted:,}")
            count = min(_DECIDE_STEP, wanted - start)
            found = teams[case.name][0].ask(do="decide", start=start, count=count)
            case.decisions_differing += found["differing"]
            case.decisions += found["count"]
            squared, error = squared + found["squared"], error + found["squared_error"]
        case.logit_error = (error / squared) ** 0.5 if squared > 0 else 0.0


def _ratios(cases: list[CaseResult]) -> dict[str, float]:
    """How many times ours is better than the paper's way."""
    ours = next(case for case in cases if case.name == "ours")
    peer = next(case for case in cases if case.name.startswith("tenseal"))
    return {
        "latency": peer.latency_ms / ours.latency_ms,
        "throughput": ours.throughput_per_s / peer.throughput_per_s,
        "throughput_all": ours.throughput_all_per_s / peer.throughput_all_per_s,
        "reply_bytes": peer.reply_bytes / ours.reply_bytes,
        "batch_reply_bytes": peer.batch_reply_bytes / ours.batch_reply_bytes,
    }
