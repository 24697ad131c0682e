"""One place that fixes how many threads numerical code uses: sums change with it, so results would too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import threadpool_limits

__all__ = ["limited_threads", "one_blas_thread"]


def one_blas_thread() -> None:
    """Let the BLAS behind NumPy use one thread in this process from now on; its matrices here are small."""
    threadpool_limits(limits=1, user_api="blas")


@contextmanager
def limited_threads(threads: int) -> Iterator[None]:
    """Let torch use exactly `threads` threads inside a `with` block.

    One is right for small matrices: a second thread mostly waits there, and on a busy machine for long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
