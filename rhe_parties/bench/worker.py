"""One case in a process of its own: fixed threads, its own peak memory.

The parent lets the workers of all cases measure in turn, so that every figure of a run comes from the same minutes.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rhe_parties.bench.child import Child, obey

__all__ = ["Worker", "make_actions"]


class Worker(Child):
    """A child process that serves one case."""

    def __init__(self, case: str, inputs: Path, batch: int, threads: int) -> None:
        arguments = [case, str(inputs), str(batch)]
        super().__init__(f"benchmark case {case}", "rhe_parties.bench.worker", arguments, threads)


def make_actions(case_name: str, path: Path, batch: int) -> dict[str, Callable[[dict[str, Any]], object]]:
    """What the child can be told to do."""
    from rhe_parties.bench.cases import make_case
    from rhe_parties.bench.inputs import load_inputs

    inputs = load_inputs(path)
    _forget_peak()
    started, before = time.perf_counter(), _peak()
    case = make_case(case_name, inputs, batch)
    setup = time.perf_counter() - started
    rows = inputs.features

    def sizes(_: dict[str, Any]) -> dict[str, Any]:
        return asdict(case.sizes()) | {"setup_seconds": setup, "peak_bytes": _peak() - before}

    def latency(command: dict[str, Any]) -> dict[str, Any]:
        chosen = [np.ascontiguousarray(rows[i % len(rows)][None]) for i in range(command["repeats"])]
        return {"seconds": [_timed(partial(case.one, row)) for row in chosen]}

    def throughput(command: dict[str, Any]) -> dict[str, Any]:
        block = np.resize(rows, (command["inputs"], rows.shape[1]))
        return {"per_second": len(block) / _timed(partial(case.many, block))}

    def decide(command: dict[str, Any]) -> dict[str, Any]:
        part = rows[command["start"] : command["start"] + command["count"]]
        got, real = case.logits(part), inputs.logits(part)
        same = (got.argmax(1) == real.argmax(1)) if real.shape[1] > 1 else ((got > 0) == (real > 0))[:, 0]
        return {
            "differing": int((~same).sum()),
            "count": len(part),
            "squared_error": float(np.square(got - real).sum()),
            "squared": float(np.square(real - real.mean(axis=0)).sum()),
        }

    return {"sizes": sizes, "latency": latency, "throughput": throughput, "decide": decide}


def _timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def _forget_peak() -> None:
    """Let Linux measure the peak of resident memory from now on; elsewhere the present size stands in for it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Largest resident size of this process since `_forget_peak`, in bytes."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
    return int(psutil.Process().memory_info().rss)


if __name__ == "__main__":
    obey(partial(make_actions, sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])))
