"""One named, stateful Ray actor per party, in a namespace of the run's own.

Actors of one cluster share machines: they are a way to place and scale the parties, *not* an isolation boundary
against whoever administers the cluster.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from rhe_parties.errors import RheError, TransportError
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER, MODEL_HOST
from rhe_parties.transport.base import ProgressCallback, Transport
from rhe_parties.transport.options import RayOptions
from rhe_parties.transport.ray_cluster import connect, ray_options

__all__ = ["RayTransport"]

# Parties mostly wait for each other, so by default they reserve no core and all four fit on the smallest machine.
_DEFAULT_RESOURCES: dict[str, dict[str, float]] = {
    role: {"num_cpus": 0.0} for role in (DATA_OWNER, MODEL_HOST, KEY_HOLDER, ADVERSARY)
}
_HOST_GPU_SHARE = 0.5
_POLL_SECONDS = 0.25


class _PartyActor:
    """The shell around a party: everything it does is in `rhe_parties.parties`."""

    def __init__(self, workers: int) -> None:
        from rhe_parties.parties.base import Party

        self._workers = workers
        self._party: Party | None = None

    def seat(self, setup: bytes) -> None:
        from rhe_parties.parties import build_party
        from rhe_parties.transport.ray_tasks import RayPool

        self._party = None
        self._party = build_party(setup, RayPool(self._workers) if self._workers > 1 else None)

    def deliver(self, data: bytes) -> list[bytes]:
        if self._party is None:
            raise RuntimeError("no party is seated in this actor")
        return self._party.handle_bytes(data)

    def collect(self) -> tuple[list[bytes], float | None]:
        if self._party is None:
            raise RuntimeError("no party is seated in this actor")
        return self._party.collect(), self._party.due()

    def pid(self) -> int:
        """Process id on the actor's machine."""
        return os.getpid()

    @ray.method(concurrency_group="control")
    def progress(self) -> tuple[float, str]:
        """Answered beside `deliver`, in a concurrency group of its own."""
        state = getattr(self._party, "progress", None)
        return (state.fraction, state.text) if state is not None else (0.0, "")


class RayTransport(Transport):
    """Starts Ray where it is not running, and closes only what it opened."""

    name = "ray"

    def __init__(self, options: RayOptions) -> None:
        self._options = options
        self._namespace = f"rhe-{uuid.uuid4().hex[:12]}"
        self._actors: dict[str, Any] = {}
        self._owns_connection = connect(options.address, self._namespace)

    def seat(self, party: str, setup: bytes, timeout_seconds: float) -> None:
        """See `Transport.seat`; a party seated again keeps its process and loses everything else."""
        self.seat_all({party: setup}, timeout_seconds)

    def seat_all(
        self, setups: Mapping[str, bytes], timeout_seconds: float, seated: Callable[[str], None] | None = None
    ) -> None:
        """See `Transport.seat_all`; processes that are new start side by side."""
        for party in setups:
            if party not in self._actors:
                resources = _DEFAULT_RESOURCES.get(party, {}) | self._host_share(party)
                resources |= self._options.resources.get(party, {})
                self._actors[party] = _start_actor(party, self._namespace, resources, self._options.workers)
        under_way = {party: self._actors[party].seat.remote(setup) for party, setup in setups.items()}
        for party, reference in under_way.items():
            self._wait(party, reference, timeout_seconds, None)
            if seated is not None:
                seated(party)

    def _host_share(self, party: str) -> dict[str, float]:
        """A share of a GPU for the host, where the cluster has one."""
        if party == MODEL_HOST and _cluster_gpus() > 0:
            return {"num_gpus": _HOST_GPU_SHARE}
        return {}

    def deliver(
        self, party: str, data: bytes, timeout_seconds: float, progress: ProgressCallback | None = None
    ) -> list[bytes]:
        """See `Transport.deliver`."""
        reference = self._seated(party).deliver.remote(data)
        replies: list[bytes] = self._wait(party, reference, timeout_seconds, progress)
        return replies

    def collect(self, party: str, timeout_seconds: float) -> tuple[list[bytes], float | None]:
        """See `Transport.collect`."""
        held: tuple[list[bytes], float | None] = self._wait(
            party, self._seated(party).collect.remote(), timeout_seconds, None
        )
        return held

    def _seated(self, party: str) -> Any:
        if party not in self._actors:
            raise TransportError(party, f"no party {party!r} is seated (seated: {', '.join(self._actors) or 'none'})")
        return self._actors[party]

    def _wait(self, party: str, reference: Any, timeout_seconds: float, progress: ProgressCallback | None) -> Any:
        deadline = time.monotonic() + timeout_seconds
        try:
            while True:
                left = deadline - time.monotonic()
                step = min(_POLL_SECONDS, max(left, 0.0)) if progress is not None else max(left, 0.0)
                ready, _ = ray.wait([reference], timeout=step)
                if ready:
                    return ray.get(reference)
                if time.monotonic() >= deadline:
                    raise TransportError(party, f"{party} did not answer within {timeout_seconds:g} s")
                if progress is not None:
                    self._poll(party, progress)
        except RayTaskError as error:
            raise _cause(party, error) from None
        except RayActorError:
            raise TransportError(party, f"{party} died: its process ended while it was at work") from None
        except RayError as error:
            raise TransportError(party, f"{party} cannot be reached: {str(error).splitlines()[0]}") from None

    def _poll(self, party: str, progress: ProgressCallback) -> None:
        # A seat too busy to report its progress is not an error; if it died, the next wait says so.
        with contextlib.suppress(GetTimeoutError, RayActorError):
            fraction, text = ray.get(self._actors[party].progress.remote(), timeout=5)
            progress(fraction, text)

    def close(self) -> None:
        """Kill the run's actors; leave a cluster that was running before as it was."""
        actors, self._actors = self._actors, {}
        if ray.is_initialized():
            for actor in actors.values():
                with contextlib.suppress(RayError, ValueError):
                    ray.kill(actor)
            if self._owns_connection:
                ray.shutdown()

    def describe(self) -> str:
        """See `Transport.describe`."""
        where = f"the Ray cluster at {self._options.address}" if self._options.address else "Ray on this machine"
        return f"one actor per party on {where}"


def _cluster_gpus() -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("GPU", 0.0)


def _start_actor(party: str, namespace: str, resources: dict[str, float], workers: int) -> Any:
    # A party holds state and keys: it is never restarted or retried behind the laboratory's back.
    make: Any = ray.remote(max_restarts=0, max_task_retries=0, concurrency_groups={"control": 1})  # type: ignore[call-overload]
    actor = make(_PartyActor).options(name=party, namespace=namespace, **ray_options(resources))
    return actor.remote(workers)


def _cause(party: str, error: RayTaskError) -> Exception:
    cause = error.cause
    if isinstance(cause, RheError):
        return cause
    return TransportError(
        party, f"{party} failed: {type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"
    )
