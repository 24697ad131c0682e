"""What a user may say about Ray; kept apart so that saying it does not import Ray."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["RayOptions"]


@dataclass(frozen=True)
class RayOptions:
    """How to use Ray.

    Attributes:
        address: a running cluster (`auto`, `host:port`, `ray://…`); None starts one on this machine for the run.
        workers: Ray tasks that a strategy's independent pieces are spread over; 1 runs them at the adversary's seat.
        resources: per party `num_cpus`, `num_gpus` or custom resources of its actor.
    """

    address: str | None = None
    workers: int = 1
    resources: dict[str, dict[str, float]] = field(default_factory=dict)
