"""Which coefficients of the key a forged reply reads at which place, and how questions of many replies are asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from rhe_parties.he.malleable import Forge
from rhe_parties.types import IntArray

__all__ = ["Decide", "decided", "note", "places", "shifts"]

#: Given ciphertexts of a reply to so many inputs, the classes that the key holder decides on.
Decide = Callable[[tuple[bytes, ...], int], IntArray]
# Inputs of one question.
_AT_ONCE = 2048


def shifts(forge: Forge) -> list[tuple[int, int]]:
    """(j, n): with X^j the places of the first n inputs read all coefficients of the key at least once.

    Shifts by less than the distance of two inputs move the places over everything between them.
    """
    layout = forge.plan.layout
    width, found = layout.stride, []
    for covered in range(0, forge.plan.degree, width * layout.batch):
        rest = forge.plan.degree - covered
        count = min(layout.batch, -(-rest // width))
        found += [(j - covered, count) for j in range(max(0, width - rest), width)]
    return found


def places(forge: Forge, shift: int, count: int, inner: int) -> IntArray:
    """Which e(n) the class `inner` of a tile reads for each of `count` inputs."""
    layout = forge.plan.layout
    inputs = np.arange(count, dtype=np.int64)
    read: IntArray = inputs * layout.stride + (inner + 1) * layout.tile_width - 1 - shift
    return read


def decided(forge: Forge, made: Iterable[tuple[list[bytes], int]], decide: Decide) -> list[IntArray]:
    """Winners of each request polynomial; as many of those with the same, full number of inputs at once as fit."""
    winners: list[IntArray] = []
    waiting: list[bytes] = []
    held = 0

    def flush() -> None:
        nonlocal waiting, held
        if held:
            batch = forge.plan.batch
            winners.extend(np.split(decide(tuple(waiting), held), range(batch, held, batch)))
        waiting, held = [], 0

    for reply, count in made:
        waiting += reply
        held += count
        # Only the last polynomial of a question may hold fewer inputs than the layout takes.
        if count < forge.plan.batch or held + forge.plan.batch > _AT_ONCE:
            flush()
    flush()
    return winners


def note(key: IntArray, read: IntArray, found: IntArray) -> None:
    """Write values of e at any places `read` into the key's N coefficients."""
    degree = len(key)
    turned = (read // degree) % 2 == 1
    key[read % degree] = np.where(turned, -found, found)
