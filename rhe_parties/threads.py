"""One place that fixes how many threads numerical code uses: sums change with it, so results would too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["limited_threads", "set_threads"]


def set_threads(threads: int) -> None:
    """Let torch and the BLAS behind NumPy use exactly `threads` threads in this process from now on."""
    torch.set_num_threads(threads)
    threadpool_limits(limits=threads, user_api="blas")


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """The same for the length of a `with` block."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(limits=threads, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)
