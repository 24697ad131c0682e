"""The secret key from where decryption tips over: by rounding where noise is not checked, by refusals where it is.

An encryption of zero with M·X^j added to its second polynomial has the noise n + M·e in each place: e is a coefficient
of the secret key (-1, 0 or 1), n what any such reply has. M is far below the step of a logit, so no plaintext is
changed, and a tag over plaintexts sees nothing. An offset in the same place takes the noise to an edge:

- without a noise check, half a logit's step: beyond it a logit is rounded to 1, and its class wins over zeros;
- with one, the bound on honest noise: beyond it the reply is refused, which whoever asked is told, and the host too.

How far a place is from the edge is found once, by bisection, as one encryption of zero serves throughout. Then two
looks tell each coefficient: M/2 below the edge it tips over for e = 1 alone, M/2 above it for all but e = -1.

Decryption failures as oracles: Cheon et al. 2024 (ePrint 2024/127); reactions to spoilt ciphertexts: Hall, Goldberg,
Schneier 1999.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.malicious.places import Decide, decided, note, places, shifts
from rhe_parties.he.malleable import Forge
from rhe_parties.types import IntArray

__all__ = ["Refused", "key_by_refusals", "key_by_rounding"]

#: Whether the key holder refuses a reply to one input for its noise.
Refused = Callable[[tuple[bytes, ...]], bool]
# The class whose logit is disturbed; it wins over zeros as soon as it is 1.
_CLASS = 1
# The amplitude M as a share of the edge, and how well the edge is found as a share of M.
_AMPLITUDE, _SHARPNESS = 1 / 8, 1 / 8


@dataclass(frozen=True)
class _Edge:
    """Where a place without noise would tip over, and the amplitude M, in units of q."""

    height: int
    amplitude: int

    @classmethod
    def at(cls, forge: Forge, height: float) -> _Edge:
        # An even number of steps of what goes on the wire: cutting a reply there must not change with M.
        step = 2 << forge.plan.reply_shift
        return cls(int(height), max(1, int(height * _AMPLITUDE) // step) * step)


def key_by_rounding(forge: Forge, decide: Decide) -> IntArray:
    """Coefficients int64 [N] of the key by the classes of a key holder that decrypts whatever the noise."""
    plan = forge.plan
    edge = _Edge.at(forge, plan.prime / (2 * plan.plain_modulus))
    half, looks = edge.amplitude // 2, shifts(forge)
    inputs = max(count for _, count in looks)

    def tips(amplitude: int, asked: Iterable[tuple[int, IntArray]]) -> list[IntArray]:
        """1 where the class wins, for each input of replies (power of X, offsets)."""
        made = ((_reply(forge, amplitude, power, offsets), len(offsets)) for power, offsets in asked)
        return [(winners == _CLASS).astype(np.int64) for winners in decided(forge, made, decide)]

    low, high = np.zeros(inputs, dtype=np.int64), np.full(inputs, 2 * edge.height, dtype=np.int64)
    while int((high - low).max()) > edge.amplitude * _SHARPNESS:
        middle = (low + high) // 2
        over = tips(0, [(0, middle)])[0] == 1
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    place = (low + high) // 2
    below = tips(edge.amplitude, [(shift, place[:count] - half) for shift, count in looks])
    above = tips(edge.amplitude, [(shift, place[:count] + half) for shift, count in looks])
    key = np.zeros(plan.degree, dtype=np.int64)
    for (shift, count), first, second in zip(looks, below, above, strict=True):
        note(key, places(forge, shift, count, _inner(forge)), first + second - 1)
    return key


def key_by_refusals(forge: Forge, refused: Refused) -> IntArray | None:
    """Coefficients int64 [N] of the key by what a key holder refuses that checks noise: one reply for each look.

    None where it takes even a reply that is certainly too noisy.
    """
    plan = forge.plan
    edge = _Edge.at(forge, 2.0**plan.noise_bits)
    half = edge.amplitude // 2

    def tips(amplitude: int, power: int, offset: int) -> bool:
        return refused(tuple(_reply(forge, amplitude, power, np.array([offset], dtype=np.int64))))

    low, high = 0, 2 * edge.height
    if not tips(0, 0, high):
        return None
    while high - low > edge.amplitude * _SHARPNESS:
        middle = (low + high) // 2
        low, high = (low, middle) if tips(0, 0, middle) else (middle, high)
    place = (low + high) // 2
    key = np.zeros(plan.degree, dtype=np.int64)
    for shift in range(plan.degree):
        value = 1 if tips(edge.amplitude, shift, place - half) else int(tips(edge.amplitude, shift, place + half)) - 1
        note(key, places(forge, shift, 1, _inner(forge)), np.array([value], dtype=np.int64))
    return key


def _inner(forge: Forge) -> int:
    """Where the disturbed class stands in its polynomial."""
    return _CLASS % forge.plan.tile_classes


def _reply(forge: Forge, amplitude: int, power: int, offsets: IntArray) -> list[bytes]:
    """A reply of zeros but for the disturbed class's polynomial and, at its place, an offset for each input."""
    plan = forge.plan
    ciphers = [forge.zero] * plan.class_tiles
    ciphers[_CLASS // plan.tile_classes] = forge.disturbed(amplitude, power)
    whole = np.zeros((len(offsets), plan.classes), dtype=np.int64)
    whole[:, _CLASS] = offsets
    return forge.shifted_reply(ciphers, whole)
