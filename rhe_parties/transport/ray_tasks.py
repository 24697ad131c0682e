"""Stateless fan-out for a strategy's independent pieces; never for parties."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import ray
from ray.exceptions import RayTaskError

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
        """See `rhe_parties.attacks.pools.Pool.map`; the first exception of a piece is raised here."""
        return [_result(reference) for reference in self._references(function, pieces, ahead=None)]

    def stream(self, function: Callable[[A], R], pieces: Iterable[A]) -> Iterator[R]:
        """See `rhe_parties.attacks.pools.Pool.stream`; at most 2·workers pieces are under way or waiting to be taken.

        The exception of a piece is raised where its result would have come.
        """
        for reference in self._references(function, pieces, ahead=2 * self.workers):
            yield _result(reference)
            del reference  # or the object store would keep one result more than is promised

    def _references(self, function: Callable[[A], R], pieces: Iterable[A], ahead: int | None) -> Iterator[Any]:
        """Results in order, each as soon as it is there; None: all are started before the first is handed out."""
        # One worker may die without harm: a piece is a pure function, so it is simply run again.
        task: Any = ray.remote(max_retries=2, num_cpus=1)(_one_piece)
        shared = ray.put(function)
        waiting: deque[Any] = deque()
        running: list[Any] = []
        feed = iter(pieces)
        exhausted = False
        while not exhausted or waiting:
            while not exhausted and len(running) < self.workers and (ahead is None or len(waiting) < ahead):
                try:
                    piece = next(feed)
                except StopIteration:
                    exhausted = True
                    break
                reference = task.remote(shared, piece)
                waiting.append(reference)
                running.append(reference)
            if running:
                _, running = ray.wait(running, num_returns=1)
            while waiting and (ahead is not None or exhausted) and waiting[0] not in running:
                yield waiting.popleft()


def _result(reference: Any) -> Any:
    """The value, or the piece's own exception in place of Ray's wrapping of it."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if isinstance(error.cause, Exception):
            raise error.cause from error
        raise
