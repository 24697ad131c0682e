"""Where a strategy's independent pieces of work run: here one by one, or on several cores of this machine.

Every pool runs every piece on one thread, so that sums do not depend on the pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar

from rhe_parties.errors import ParameterError
from rhe_parties.threads import limited_threads

__all__ = ["Pool", "SerialPool", "ThreadPool"]

A = TypeVar("A")
R = TypeVar("R")


class Pool(Protocol):
    """Runs a pure function over independent pieces of work; results come back in the order of the pieces."""

    def map(self, function: Callable[[A], R], pieces: Sequence[A]) -> list[R]:
        """`[function(piece) for piece in pieces]`, possibly in several processes."""
        ...

    def stream(self, function: Callable[[A], R], pieces: Iterable[A]) -> Iterator[R]:
        """As `map`, but one result after the other, so that a few at a time are held in memory."""
        ...


class SerialPool:
    """One piece after the other in this process."""

    def map(self, function: Callable[[A], R], pieces: Sequence[A]) -> list[R]:
        """See `Pool.map`; on one thread, as every pool does, so that sums do not depend on the pool."""
        with limited_threads(1):
            return [function(piece) for piece in pieces]

    def stream(self, function: Callable[[A], R], pieces: Iterable[A]) -> Iterator[R]:
        """See `Pool.stream`."""
        for piece in pieces:
            with limited_threads(1):
                result = function(piece)
            yield result


class ThreadPool:
    """Several cores without processes or copies, for code that releases the interpreter's lock: torch, kernels.

    At most 2·workers pieces are under way or waiting.
    """

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
