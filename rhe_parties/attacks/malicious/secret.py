"""The secret key itself by decisions: what the host adds to a ciphertext's second polynomial comes back times the key.

An encryption of zero with Δ·X^j added to c1 decrypts to X^j·s, s the secret key, with no more noise than any fresh
ciphertext: a textbook chosen-ciphertext attack, which bfv was never meant to stand. Of that the key holder tells
classes alone, and they suffice. Let e be the key's coefficients continued by e(n+N) = -e(n). In a reply made of it, the
logit of each class is one of them.

- Where a reply has three polynomials or more, one class of the first gets the constant 0, one of the second 2e + 1, one
  of the third 4e: the winner says whether e is -1, 0 or 1.
- Where all classes share a polynomial, classes 0 and 1 read e(n) and e(n+w), w apart. Three comparisons against
  constants give their difference. The differences along n, n+w, n+2w, … to -e(n), half a turn away, add up to 2·e(n).

Nothing of it depends on a head: one key opens every head that was encrypted under it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from rhe_parties.attacks.malicious.places import Decide, decided, note, places, shifts
from rhe_parties.he.malleable import Forge
from rhe_parties.types import AnyArray, IntArray

__all__ = ["key_decisions", "read_key", "readable"]


def read_key(forge: Forge, decide: Decide) -> IntArray | None:
    """Coefficients int64 [N] that the decisions say; None where they contradict each other.

    Args:
        forge: of a plan whose replies have three polynomials, or two classes in one (`readable`).
    """
    if forge.plan.class_tiles >= 3:
        return _directly(forge, decide)
    return _by_differences(forge, decide)


def readable(forge: Forge) -> bool:
    """Whether the layout lets the key be read; two classes in polynomials of their own do not."""
    return forge.plan.class_tiles >= 3 or forge.plan.tile_classes >= 2


def key_decisions(forge: Forge) -> int:
    """Decisions that `read_key` asks for."""
    rounds = 1 if forge.plan.class_tiles >= 3 else 3
    return rounds * sum(count for _, count in shifts(forge))


def _directly(forge: Forge, decide: Decide) -> IntArray:
    plan, looks = forge.plan, shifts(forge)

    def requests() -> Iterator[tuple[list[bytes], int]]:
        for shift, count in looks:
            constants = _constants(forge, count)
            constants[:, 0], constants[:, plan.tile_classes], constants[:, 2 * plan.tile_classes] = 0, 1, 0
            ciphers = [forge.zero] * plan.class_tiles
            ciphers[1], ciphers[2] = forge.with_secret(2, shift), forge.with_secret(4, shift)
            yield forge.reply(ciphers, constants), count

    key = np.zeros(plan.degree, dtype=np.int64)
    for (shift, count), winners in zip(looks, decided(forge, requests(), decide), strict=True):
        note(key, places(forge, shift, count, 0), winners // plan.tile_classes - 1)
    return key


def _constants(forge: Forge, count: int) -> IntArray:
    """Constants [count, K] that keep every class out of the race."""
    return np.full((count, forge.plan.classes), -(forge.plan.plain_modulus // 4), dtype=np.int64)


def _by_differences(forge: Forge, decide: Decide) -> IntArray | None:
    """e(n) - e(n+w) by bisection among its five values, then the sums of half a turn."""
    degree, width = forge.plan.degree, forge.plan.tile_width
    looks = shifts(forge)
    low = [np.full(count, -2, dtype=np.int64) for _, count in looks]
    high = [np.full(count, 2, dtype=np.int64) for _, count in looks]
    for _ in range(3):
        middle = [-(-(a + b) // 2) for a, b in zip(low, high, strict=True)]
        answers = decided(forge, _comparisons(forge, looks, middle), decide)
        for place, winners in enumerate(answers):
            above = winners == 0
            low[place] = np.where(above, middle[place], low[place])
            high[place] = np.where(above, high[place], np.maximum(middle[place] - 1, low[place]))
    differences = np.zeros(2 * degree, dtype=np.int64)
    for (shift, count), found in zip(looks, low, strict=True):
        read = places(forge, shift, count, 0) % (2 * degree)
        differences[read], differences[(read + degree) % (2 * degree)] = found, -found
    steps = degree // math.gcd(width, degree)
    path = np.arange(degree)[:, None] + width * np.arange(steps)[None, :]
    doubled: AnyArray = differences[path % (2 * degree)].sum(axis=1)
    if (doubled % 2).any() or np.abs(doubled).max() > 2:
        return None
    key: IntArray = doubled // 2
    return key


def _comparisons(
    forge: Forge, looks: list[tuple[int, int]], thresholds: list[IntArray]
) -> Iterator[tuple[list[bytes], int]]:
    """Replies in which class 0 wins where e(n) - e(n+w) is at least the threshold, and class 1 elsewhere."""
    for (shift, count), threshold in zip(looks, thresholds, strict=True):
        constants = _constants(forge, count)
        constants[:, 0], constants[:, 1] = 1, 2 * threshold
        ciphers = [forge.with_secret(2, shift)] + [forge.zero] * (forge.plan.class_tiles - 1)
        yield forge.reply(ciphers, constants), count
