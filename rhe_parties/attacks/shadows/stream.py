"""Blocks of shadow heads as a stream: in order, bit-equal for any pool, and a bounded number of them in memory."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from rhe_parties.attacks.pools import Pool
from rhe_parties.errors import DataError, ParameterError

__all__ = ["BlockSource"]

B = TypeVar("B", bound=tuple[Any, ...])


class BlockSource(ABC, Generic[B]):
    """Something that makes block i of shadow heads as a pure function of (what it was made from, i).

    A block is a named tuple of arrays whose first axis counts the heads.

    Attributes:
        heads_per_block: B, of every block but the last of a finite source.
        limit: how many heads there are; None: as many as anybody wants.
    """

    heads_per_block: int
    limit: int | None = None

    @abstractmethod
    def block(self, index: int) -> B:
        """Block `index` from 0 on."""

    @abstractmethod
    def provenance(self) -> dict[str, str]:
        """Everything that a block depends on besides its index, by name."""

    def stream(self, heads: int, pool: Pool, progress: Callable[[float, str], None] | None = None) -> Iterator[B]:
        """The first `heads` shadow heads, block by block.

        Args:
            heads: how many; the last block is cut to fit.
            pool: where the blocks are made.
            progress: is called after every block with the share that is done and a text of rate and time left.

        Raises:
            ParameterError: fewer than one head.
            DataError: more heads than there are.
        """
        if heads < 1:
            raise ParameterError(f"shadow heads = {heads} is not allowed: at least 1")
        if self.limit is not None and heads > self.limit:
            raise DataError(f"{heads} shadow heads are wanted, but only {self.limit} training sets are given")
        return self._blocks(heads, pool, progress)

    def _blocks(self, heads: int, pool: Pool, progress: Callable[[float, str], None] | None) -> Iterator[B]:
        done, began = 0, time.monotonic()
        for block in pool.stream(self.block, range(-(-heads // self.heads_per_block))):
            left = heads - done
            cut = block if len(block[0]) <= left else type(block)(*(array[:left] for array in block))
            done += len(cut[0])
            if progress is not None:
                progress(done / heads, _pace(done, heads - done, time.monotonic() - began))
            yield cut

    def take(self, heads: int, pool: Pool, progress: Callable[[float, str], None] | None = None) -> B:
        """The first `heads` shadow heads at once; errors as in `stream`."""
        blocks = list(self.stream(heads, pool, progress))
        return type(blocks[0])(*(np.concatenate(arrays) for arrays in zip(*blocks, strict=True)))


def _pace(done: int, left: int, seconds: float) -> str:
    rate = done / max(seconds, 1e-9)
    wait = left / rate
    remaining = f"{wait:.0f} s" if wait < 100 else f"{wait / 60:.0f} min"
    return f"{rate:,.0f} heads/s, {remaining} left"
