"""`rhe bench serve`: what encryption costs a deployment that serves, beside a plain head on the same two servers."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rhe_parties.bench.serve_load import BUDGET, LoadGenerator
from rhe_parties.bench.serve_servers import ENCRYPTED, PLAIN, Deployment, Memory, Served
from rhe_parties.errors import ParameterError
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.parties.budgets import MAX_CLIENTS
from rhe_parties.threads import limited_threads, one_blas_thread
from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST

__all__ = ["LOAD", "MAX_SECONDS", "MAX_SERVED_CLIENTS", "ServeBench", "ServeCase", "ServeSoak", "ServeWishes",
           "bench_serve", "bench_soak"]  # fmt: skip

Progress = Callable[[str], None]

#: Bounds of the load.
MAX_SERVED_CLIENTS, MAX_SECONDS, MAX_INPUTS = 2000, 600.0, 4096
#: What the load generator's process is called beside the servers'.
LOAD = "load"
_LINKS = 8
_GRAY, _COLOUR = (1, 28, 28), (3, 32, 32)
# Length of features that are sent as such, at most, and images that show how long those of images are.
_NORM, _CALIBRATION = 16.0, 32
# In a soak: identities that share the links, how many of them have few images to ask about, and how few.
_IDENTITIES, _SHORT_OF, _FEW = 250, 10, 10


@dataclass(frozen=True)
class ServeWishes:
    """What is asked for.

    `batch`: inputs in one request; `gather`: inputs that the encrypted head's layout is made for, which the host
    gathers; `clients`: requests under way at full load; `seconds`: of each measurement.
    """

    backbone: str
    images: bool
    classes: int
    batch: int
    gather: int
    gather_ms: float
    clients: int
    seconds: float
    rounds: int
    tls: bool

    def __post_init__(self) -> None:
        for name, value, least, most in (
            ("classes", self.classes, 2, 4096), ("batch", self.batch, 1, MAX_INPUTS),
            ("gather", self.gather, 1, MAX_INPUTS), ("gather-ms", self.gather_ms, 0, 1000),
            ("clients", self.clients, 1, MAX_SERVED_CLIENTS), ("seconds", self.seconds, 0.1, MAX_SECONDS),
            ("rounds", self.rounds, 1, 1000),
        ):  # fmt: skip
            if not least <= value <= most:
                raise ParameterError(f"{name} {value:g} is not allowed (allowed: {least:g} to {most:g})")


@dataclass
class ServeCase:
    """Figures of one head, medians over the rounds.

    `full` and `half`: rate of answers a second and times in ms at full load and at half the highest rate. `cpu_ms`:
    CPU time of one request at full load by process; `busy`: shares of one core that each process used then; `gathered`:
    inputs that the host answered at once then.
    """

    name: str
    requests_per_s: float = 0.0
    inputs_per_s: float = 0.0
    full: dict[str, float] = field(default_factory=dict)
    half: dict[str, float] = field(default_factory=dict)
    tail: float = 0.0
    cpu_ms: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)
    gathered: float = 0.0
    limit: str = ""


@dataclass
class ServeBench:
    """One run. `ratio` is the encrypted head's rate of requests over the plain one's, by round in `ratios`.

    `cpu_ratio`: CPU time of a plain request over that of an encrypted one, the rates' ratio where the cores are the
    limit; other programs on the machine disturb it less.
    """

    wishes: ServeWishes
    features: int
    cores: int
    decisions: int = 0
    decisions_differing: int = 0
    cases: list[ServeCase] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    ratio: float = 0.0
    ratio_low: float = 0.0
    ratio_high: float = 0.0
    cpu_ratio: float = 0.0
    memory_mb: dict[str, dict[str, float]] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


@dataclass
class ServeSoak:
    """Many clients, each with a link of its own, on the encrypted head.

    `memory_mb` by server: first, last, lowest and highest resident memory after the first third, and `spread`, the
    difference of these two over the lowest. `refused_by_budget` are refusals that were to come, `errors` all others.
    """

    wishes: ServeWishes
    links: int
    answers: int
    requests_per_s: float
    times: dict[str, float]
    refused_by_budget: int
    errors: dict[str, int]
    texts: dict[str, str]
    memory_mb: dict[str, dict[str, float]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


class _Bench:
    """A deployment under load."""

    def __init__(self, deployment: Deployment, load: LoadGenerator) -> None:
        self.deployment, self.load = deployment, load
        self.processes = {**deployment.processes, LOAD: psutil.Process(load.pid)}

    def measure(self, **command: object) -> dict[str, Any]:
        """What the load generator found; beside it CPU seconds by process and the seconds that it took."""
        (inputs, replies), before = self.deployment.gathered(), _cpu(self.processes)
        started = time.perf_counter()
        found = self.load.ask(**command)
        found["took"] = time.perf_counter() - started
        found["cpu"] = {name: seconds - before[name] for name, seconds in _cpu(self.processes).items()}
        after = self.deployment.gathered()
        found["gathered"] = (after[0] - inputs) / max(after[1] - replies, 1)
        return found


def _cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    found = {}
    for name, process in processes.items():
        times = process.cpu_times()
        found[name] = times.user + times.system
    return found


def _longest(backbone: Backbone, shape: tuple[int, ...]) -> float:
    """Public bound of the length of features of images like those that are sent: longer ones would be scaled down."""
    images = np.random.default_rng(1).integers(0, 256, (_CALIBRATION, *shape), dtype=np.uint8)
    return 1.5 * float(np.linalg.norm(backbone.extract(images).astype(np.float64), axis=1).max())


@contextmanager
def _served(wishes: ServeWishes, clients: dict[str, int], links: int, progress: Progress) -> Iterator[_Bench]:
    """Both servers with both heads, and a load generator with so many links to them."""
    progress("backbone")
    weights = "" if wishes.backbone == "strokenet" else "random:0"  # they do not change the time
    one_blas_thread()
    with limited_threads(os.cpu_count() or 1):  # random weights are scaled by what is computed, as in the host
        backbone = load_backbone(wishes.backbone, weights or None)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rhe-serve-")))
        load = stack.enter_context(LoadGenerator())
        progress("certificates, vault, servers, heads")
        shape = (_COLOUR if backbone.channels == 3 else _GRAY) if wishes.images else (backbone.features,)
        norm = _longest(backbone, shape) if wishes.images else _NORM
        served = Served(backbone, weights, wishes.classes, wishes.gather, wishes.gather_ms, clients, wishes.tls, norm)
        deployment = stack.enter_context(Deployment(folder, served))
        progress(f"{links} links")
        load.ask(
            do="connect", deployment=deployment.name, certificates=deployment.certificates, address=deployment.address,
            names=list(clients), links=links, batch=wishes.batch, shape=shape, norm=norm,
        )  # fmt: skip
        yield _Bench(deployment, load)


def bench_serve(wishes: ServeWishes, progress: Progress) -> ServeBench:
    """Measure both heads in turn, round after round, on the same two servers.

    Raises:
        UserError: a backbone that cannot be loaded, or a shape that the planner cannot serve.
        RheError: a server or the load generator failed.
    """
    with _served(wishes, {"load": 0}, _LINKS, progress) as bench, Memory(bench.deployment.processes, 0.2) as memory:
        progress("warming up")
        checked = bench.load.ask(do="check", heads=[PLAIN, ENCRYPTED])
        result = ServeBench(wishes, bench.deployment.features, os.cpu_count() or 1)
        result.decisions, result.decisions_differing = checked["decisions"], checked["differing"]
        runs: dict[str, list[tuple[dict[str, Any], dict[str, Any]]]] = {PLAIN: [], ENCRYPTED: []}
        for turn in range(wishes.rounds + 1):
            order = (PLAIN, ENCRYPTED) if turn % 2 else (ENCRYPTED, PLAIN)
            for head in order:
                progress(f"{head}: " + (f"round {turn} of {wishes.rounds}" if turn else "warming up"))
                seconds = wishes.seconds if turn else min(wishes.seconds, 2.0)
                full = bench.measure(do="closed", head=head, clients=wishes.clients, seconds=seconds)
                if turn:  # the first round only warms up
                    rate = max(full["per_second"] / 2, 1 / seconds)
                    runs[head].append((full, bench.measure(do="open", head=head, rate=rate, seconds=seconds)))
    result.cases = [_case(head, runs[head], wishes.batch, result.cores) for head in (PLAIN, ENCRYPTED)]
    result.errors = dict(
        sum((Counter(run["errors"]) for pairs in runs.values() for p in pairs for run in p), Counter())
    )
    rates = zip(runs[ENCRYPTED], runs[PLAIN], strict=True)
    result.ratios = [new[0]["per_second"] / (old[0]["per_second"] or float("inf")) for new, old in rates]
    result.ratio = statistics.median(result.ratios)
    plain, ours = (sum(case.cpu_ms.values()) for case in result.cases)
    result.cpu_ratio = plain / ours if ours else 0.0
    result.ratio_low, result.ratio_high = min(result.ratios), max(result.ratios)
    result.memory_mb = {name: _sizes(samples) for name, samples in memory.samples.items()}
    return result


def _case(name: str, runs: list[tuple[dict[str, Any], dict[str, Any]]], batch: int, cores: int) -> ServeCase:
    full, half = ([run[index] for run in runs] for index in (0, 1))
    case = ServeCase(name)
    case.full, case.half = _times(full), _times(half)
    case.requests_per_s = case.full["per_second"]
    case.inputs_per_s = batch * case.requests_per_s
    case.tail = statistics.median(run["p99_ms"] / run["p50_ms"] if run["p50_ms"] else 0.0 for run in half)
    for process in (MODEL_HOST, KEY_HOLDER, LOAD):
        case.cpu_ms[process] = statistics.median(1000 * r["cpu"][process] / max(r["answers"], 1) for r in full)
        case.busy[process] = statistics.median(run["cpu"][process] / run["took"] for run in full)
    case.gathered = statistics.median(run["gathered"] for run in full)
    case.limit = _limit(case.busy, cores)
    return case


def _times(runs: list[dict[str, Any]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in ("per_second", "p50_ms", "p95_ms", "p99_ms")}


def _limit(busy: dict[str, float], cores: int) -> str:
    """What keeps the rate from being higher, as far as CPU times tell."""
    whole, (name, most) = sum(busy.values()) / cores, max(busy.items(), key=lambda item: item[1])
    if whole > 0.85:
        return f"the {cores} cores ({100 * whole:.0f} % used)"
    if most > 0.85:
        return f"{name} ({100 * most:.0f} % of a core)"
    return f"nothing of these ({100 * whole:.0f} % of the cores used): too few clients, the disk, or other processes"


def _sizes(samples: list[int]) -> dict[str, float]:
    """First, last, lowest and highest of samples in MB, and the spread of these two over the lowest."""
    kept = [sample / 1e6 for sample in samples[len(samples) // 3 :]] or [0.0]
    low, high = min(kept), max(kept)
    return {
        "first": kept[0], "last": kept[-1], "low": low, "high": high, "spread": (high - low) / low if low else 0.0
    }  # fmt: skip


def bench_soak(wishes: ServeWishes, progress: Progress) -> ServeSoak:
    """Let all clients, each with a link of its own, ask for so many seconds; the servers' memory every second.

    Raises:
        UserError: see `bench_serve`.
        RheError: see `bench_serve`.
    """
    names = [f"load-{number}" for number in range(min(wishes.clients, _IDENTITIES, MAX_CLIENTS))]
    short = len(names) // _SHORT_OF
    budgets = {name: _FEW * wishes.batch if number < short else 0 for number, name in enumerate(names)}
    with _served(wishes, budgets, wishes.clients, progress) as bench:
        progress("warming up")
        bench.load.ask(do="check", heads=[ENCRYPTED])
        progress(f"{wishes.clients} clients for {wishes.seconds:g} s")
        with Memory(bench.deployment.processes, min(1.0, wishes.seconds / 30)) as memory:
            found = bench.measure(do="closed", head=ENCRYPTED, clients=wishes.clients, seconds=wishes.seconds)
    errors = dict(found["errors"])
    refused = errors.pop(BUDGET, 0)
    times = _times([found])
    soak = ServeSoak(
        wishes, wishes.clients, found["answers"], times["per_second"], times, refused, errors, found["texts"]
    )
    soak.memory_mb = {name: _sizes(samples) for name, samples in memory.samples.items()}
    return soak
