"""Stateless fan-out for a strategy's independent pieces; never for parties."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray

__all__ = ["RayPool"]

A = TypeVar("A")
R = TypeVar("R")


def _one_piece(function: Callable[[A], R], piece: A) -> R:
    # Imported here: a party's process that runs no tasks, the KeyHolder's above all, should not load torch.
    from rhe_parties.threads import limited_threads, one_blas_thread

    one_blas_thread()
    with limited_threads(1):
        return function(piece)


class RayPool:
    """Spreads pieces over at most `workers` Ray tasks at a time; results keep the order of the pieces."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def map(self, function: Callable[[A], R], pieces: Sequence[A]) -> list[R]:
        """See `rhe_parties.attacks.base.Pool.map`; the first exception of a piece is raised here."""
        # One worker may die without harm: a piece is a pure function, so it is simply run again.
        task: Any = ray.remote(max_retries=2, num_cpus=1)(_one_piece)
        shared = ray.put(function)
        references: list[Any] = []
        running: deque[Any] = deque()
        for piece in pieces:
            if len(running) >= self.workers:
                ray.wait(list(running), num_returns=1)
                running = deque(r for r in running if not ray.wait([r], timeout=0)[0])
            reference = task.remote(shared, piece)
            references.append(reference)
            running.append(reference)
        return list(ray.get(references))
