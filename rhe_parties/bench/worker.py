"""One case in a process of its own: fixed threads, its own peak memory, commands as JSON lines.

The parent lets the workers of all cases measure in turn, so that every figure of a run comes from the same minutes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from rhe_parties.errors import RheError

__all__ = ["Worker", "serve"]


class Worker:
    """A child process that serves one case; a context manager.

    Raises:
        RheError: the child could not do what it was told; its own words are in the message.
    """

    def __init__(self, case: str, inputs: Path, batch: int, threads: int) -> None:
        environment = os.environ | {
            name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        }
        command = [sys.executable, "-m", "rhe_parties.bench.worker", case, str(inputs), str(batch)]
        self._name = case
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment)
        if self._process.stdin is None or self._process.stdout is None or self._process.stderr is None:
            raise RheError(f"benchmark case {case}: no pipes to its process")
        self._input, self._output = self._process.stdin, self._process.stdout
        self._errors = self._process.stderr

    def tell(self, **command: object) -> None:
        """Send one command; `answer` waits for what comes back."""
        with contextlib.suppress(BrokenPipeError):  # `answer` says why it is gone
            self._input.write(json.dumps(command) + "\n")
            self._input.flush()

    def answer(self) -> dict[str, Any]:
        """What the child found; see `tell`."""
        line = self._output.readline()
        if not line:
            said = self._errors.read().strip().splitlines()
            raise RheError(f"benchmark case {self._name} failed: {said[-1] if said else 'its process ended'}")
        found: dict[str, Any] = json.loads(line)
        return found

    def ask(self, **command: object) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        self.tell(**command)
        return self.answer()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._input, self._output, self._errors):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def serve(case_name: str, path: Path, batch: int) -> None:
    """The child's side: read commands from standard input until it ends."""
    from rhe_parties.bench.cases import make_case
    from rhe_parties.bench.inputs import load_inputs

    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
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

    actions: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
        "sizes": sizes, "latency": latency, "throughput": throughput, "decide": decide,
    }  # fmt: skip
    for line in sys.stdin:
        command = json.loads(line)
        answers.write(json.dumps(actions[command["do"]](command)) + "\n")
        answers.flush()


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
    serve(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
