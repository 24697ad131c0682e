"""All cores of this machine for kernels that release the interpreter's lock, without processes or copies."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from rhe_parties.errors import ParameterError
from rhe_parties.threads import limited_threads

__all__ = ["ThreadPool"]

A = TypeVar("A")
R = TypeVar("R")


class ThreadPool:
    """A `rhe_parties.attacks.base.Pool` of threads; at most 2·workers pieces are under way or waiting."""

    def __init__(self, workers: int) -> None:
        if workers < 1:
            raise ParameterError(f"workers = {workers} is not allowed: at least 1")
        self.workers = workers

    def map(self, function: Callable[[A], R], pieces: Sequence[A]) -> list[R]:
        """See `Pool.map`."""
        return list(self.stream(function, pieces))

    def stream(self, function: Callable[[A], R], pieces: Iterable[A]) -> Iterator[R]:
        """See `Pool.stream`; the exception of a piece is raised where its result would have come."""
        waiting: deque[Future[R]] = deque()
        # torch's thread count belongs to the process: it is one for as long as the stream is open.
        with limited_threads(1), ThreadPoolExecutor(self.workers) as executor:
            try:
                for piece in pieces:
                    waiting.append(executor.submit(function, piece))
                    if len(waiting) >= 2 * self.workers:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
