"""Independent jobs spread over Ray: each comes back as soon as it has ended, or when its machine died too often."""

from __future__ import annotations

import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from ray.exceptions import LocalRayletDiedError, OutOfMemoryError, RayError, RayTaskError

from rhe_parties.errors import ParameterError, TransportError
from rhe_parties.transport.jobs import Job, JobEnd
from rhe_parties.transport.ray_cluster import connect, ray_options

__all__ = ["RayJobs"]

A = TypeVar("A")
R = TypeVar("R")

# How often the loop looks whether the cluster has grown.
_LOOK_SECONDS = 2.0


class RayJobs:
    """Runs jobs as Ray tasks, a bounded number at a time; closes only the connection that it opened.

    Args:
        address: a running cluster; None starts one on this machine.
        parallel: most jobs at a time; None: as many as the cluster has cores, also when it grows.
        attempts: how often a job is begun before it is given up because its process or machine died.

    Raises:
        ParameterError: nobody listens at the address.
        TransportError: Ray does not start, or refuses.
    """

    def __init__(self, address: str | None = None, parallel: int | None = None, attempts: int = 4) -> None:
        self._parallel = parallel
        self._attempts = attempts
        self._running: dict[Any, tuple[Job[Any], int]] = {}
        self._address = address
        self._owns_connection = self._connect()

    def _connect(self) -> bool:
        return connect(self._address, f"rhe-{uuid.uuid4().hex[:12]}", self._parallel)

    @property
    def parallel(self) -> int:
        """Most jobs at a time, now."""
        return self._parallel or max(1, int(_resources().get("CPU", 1)))

    def run(self, function: Callable[[A], R], jobs: Iterable[Job[A]]) -> Iterator[JobEnd[R]]:
        """The ends of all jobs, in the order in which they end. `function` must be importable on every machine.

        The next job is begun before an end is handed out, so no core waits for the caller.

        Raises:
            ParameterError: no machine of the cluster has the resources of a job.
            TransportError: Ray itself is gone and does not come back.
        """
        waiting = deque((job, 1) for job in jobs)
        for resources in {tuple(sorted(job.resources.items())) for job, _ in waiting}:
            _check_feasible(dict(resources))
        while waiting or self._running:
            self._begin(function, waiting)
            ready, _ = ray.wait(list(self._running), num_returns=1, timeout=_LOOK_SECONDS)
            ends = []
            for reference in ready:
                job, attempt = self._running.pop(reference)
                outcome = _outcome(reference)
                if outcome.machine_is_gone:
                    self._connect_again(waiting)
                if outcome.died and attempt < self._attempts:
                    waiting.append((job, attempt + 1))
                else:
                    repeatedly = f", {attempt} times out of {attempt}" if outcome.died else ""
                    ends.append(JobEnd(job.name, outcome.result, outcome.lost + repeatedly, attempt))
            self._begin(function, waiting)
            yield from ends

    def _begin(self, function: Callable[[A], R], waiting: deque[tuple[Job[A], int]]) -> None:
        # Lost jobs are begun again here and not by Ray, so that each is counted and a deadly one is given up.
        task: Any = ray.remote(max_retries=0)(function)
        while waiting and len(self._running) < self.parallel:
            job, attempt = waiting.popleft()
            reference = task.options(**ray_options(job.resources)).remote(job.argument)
            self._running[reference] = (job, attempt)

    def _connect_again(self, waiting: deque[tuple[Job[Any], int]]) -> None:
        """After the end of this machine's own Ray: start or join anew; whatever was under way is begun once more."""
        if not self._owns_connection:
            raise TransportError("ray", "Ray on this machine ended")
        for job, attempt in self._running.values():
            waiting.append((job, attempt + 1))
        self._running.clear()
        ray.shutdown()
        self._connect()

    def close(self) -> None:
        """Stop what still runs, and close the connection where this opened it."""
        running, self._running = self._running, {}
        if not ray.is_initialized():
            return
        for reference in running:
            with contextlib.suppress(RayError, ValueError):
                ray.cancel(reference, force=True)
        if self._owns_connection:
            ray.shutdown()


@dataclass(frozen=True)
class _Outcome:
    """What became of one task: its result, or why there is none, and whether its process or machine died."""

    result: Any = None
    lost: str = ""
    died: bool = False
    machine_is_gone: bool = False


def _outcome(reference: Any) -> _Outcome:
    try:
        return _Outcome(ray.get(reference))
    except RayTaskError as error:  # the function is to report its own errors: it could not even be called
        cause = str(error.cause).splitlines()
        return _Outcome(lost=f"{type(error.cause).__name__}: {cause[0] if cause else ''}")
    except LocalRayletDiedError:
        return _Outcome(lost="Ray on this machine ended", died=True, machine_is_gone=True)
    except OutOfMemoryError:
        return _Outcome(lost="Ray ended its process because the machine ran out of memory", died=True)
    except RayError as error:
        return _Outcome(lost=f"its process or machine died ({type(error).__name__})", died=True)


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _check_feasible(resources: Mapping[str, float]) -> None:
    """Refuse what no machine has: Ray would wait for one for ever."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    wanted = {names.get(name, name): amount for name, amount in resources.items()}
    if not any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes):
        said = ", ".join(f"{name}={amount:g}" for name, amount in resources.items())
        raise ParameterError(f"no machine of the Ray cluster has {said} for one cell")
