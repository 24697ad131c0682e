"""Ring, packing, expected bytes, error and time of the levelled CKKS path for heads with square activation.

Pure arithmetic, so that a planner needs no SEAL; `levelled` does the work.

Slots are a grid of w blocks of m slots, m the power of two that holds the first hidden layer. The first layer lies
in A = ⌈(D+1)/w⌉ ciphertexts: slot (b, i) of the a-th holds weight W1[i, a·w + b] (the bias is the weight of a
constant feature). Products with the plain features are added up over a without any rotation, and over b by
log2 w rotations, after which every block holds the hidden values u_0 … u_(m-1): all later layers read them from there.

Two layers: slot (k, i) of one ciphertext holds V[k, i]; log2 m rotations add up over i, and logit k is in slot
(k, 0). The other slots then hold partial sums, which the host masks.

Three layers: W2[l, ·] is repeated over a run of R consecutive blocks, so the same log2 m rotations leave z_l in all
slots of the run but the last block's. There V[k, l] waits at offset k of run l, and rotations by whole runs add
up over l: logit k is in slot k, and no partial sum is anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rhe_parties.errors import ParameterError
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.security import check_security
from rhe_parties.he.sizes import polynomial_bytes

__all__ = [
    "LevelledLayout",
    "LevelledSize",
    "levelled_layout",
    "levelled_milliseconds",
    "levelled_parameters",
    "levelled_size",
    "scale_bits",
]

_RINGS = {1: (8192, (52, 35, 35, 35, 58)), 2: (16384, (56, 40, 40, 40, 40, 40, 60))}
"""Ring degree and sizes of primes by number of hidden layers: three and five products one after the other."""
_ERROR_PROXY = 10.5  # variance of SEAL's errors, as in `noise`


@dataclass(frozen=True, slots=True)
class LevelledLayout:
    """Where everything lies; see the module's text.

    Attributes:
        degree: ring degree N; there are N/2 slots.
        block: m, slots of one block.
        blocks: w.
        input_tiles: A, ciphertexts of the first layer.
        run: R, blocks for each unit of the second hidden layer; 0 with one hidden layer.
        class_step: distance of two logits' slots.
        tile_classes: classes whose logits lie in one reply ciphertext.
        class_tiles: reply ciphertexts per input.
    """

    degree: int
    block: int
    blocks: int
    input_tiles: int
    run: int
    class_step: int
    tile_classes: int
    class_tiles: int

    @property
    def dot_rotations(self) -> tuple[int, ...]:
        """Steps that add up the first layer's products."""
        return tuple(self.block << s for s in range(_log2(self.blocks)))

    @property
    def unit_rotations(self) -> tuple[int, ...]:
        """Steps that add up over the first hidden layer."""
        return tuple(1 << s for s in range(_log2(self.block)))

    @property
    def run_rotations(self) -> tuple[int, ...]:
        """Steps that add up over the second hidden layer."""
        return tuple(step for step in self.dot_rotations if self.run and step >= self.run * self.block)

    @property
    def head_ciphertexts(self) -> int:
        """First layer, weights and bias of a second hidden layer, weights and bias of each class tile."""
        return self.input_tiles + (2 if self.run else 0) + 2 * self.class_tiles


@dataclass(frozen=True, slots=True)
class LevelledSize:
    """Expected bytes of keys, head and reply on the wire, and of the head in memory."""

    key_bytes: int
    evaluation_key_bytes: int
    head_bytes: int
    head_memory_bytes: int
    reply_bytes: int
    error: float
    """Expected root mean square error of a logit, in units of the largest one that an input can give."""


def levelled_parameters(features: int, classes: int, hidden: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Ring degree N and primes, at 128-bit security, in SEAL's order (the last one for keys only).

    Two layers: N = 8192, 52 + 3·35 + 58 bits of 218. Three: N = 16384, 56 + 5·40 + 60 of 438.

    Raises:
        ParameterError: no or more than two hidden layers, or layers too wide for the slots.
    """
    if len(hidden) not in _RINGS:
        raise ParameterError(f"hidden {tuple(hidden)} is not allowed: the levelled path takes one or two widths")
    degree, bits = _RINGS[len(hidden)]
    check_security(degree, sum(bits))
    levelled_layout(features, classes, hidden, degree)
    return degree, ntt_primes(degree, bits)


def scale_bits(primes: tuple[int, ...]) -> int:
    """log2 of the scale: the size of the primes between the first and the last one."""
    return primes[1].bit_length()


def levelled_layout(features: int, classes: int, hidden: tuple[int, ...], degree: int) -> LevelledLayout:
    """The packing of a head with D features, K classes and one or two hidden widths.

    Raises:
        ParameterError: fewer than one feature, class or unit, or layers too wide for the slots.
    """
    if min(features, classes, *hidden) < 1 or len(hidden) not in _RINGS:
        text = f"a head {features} → {tuple(hidden)} → {classes} is not allowed"
        raise ParameterError(f"{text} (allowed: positive numbers, one or two hidden layers)")
    slots, block = degree // 2, _power(hidden[0])
    if block > slots:
        raise ParameterError(f"hidden width {hidden[0]} is not allowed (allowed: 1 to {slots} at ring degree {degree})")
    blocks, run = slots // block, 0
    if len(hidden) == 2:
        run = blocks // _power(hidden[1])
        if run < 2:
            most = slots // 2
            raise ParameterError(
                f"hidden widths {tuple(hidden)} are not allowed: rounded up to powers of two, their product may be "
                f"{most} at most at ring degree {degree}"
            )
    step, held = (1, (run - 1) * block + 1) if run else (block, blocks)
    tiles = -(-classes // held)
    return LevelledLayout(degree, block, blocks, -(-(features + 1) // blocks), run, step, held, tiles)


def levelled_size(
    features: int, classes: int, hidden: tuple[int, ...], degree: int, primes: tuple[int, ...]
) -> LevelledSize:
    """Expected sizes and error of a head with D features, K classes and the hidden widths."""
    layout, data = levelled_layout(features, classes, hidden, degree), primes[:-1]
    key = polynomial_bytes(degree, primes, 2)
    rotations = len({*layout.dot_rotations, *layout.unit_rotations})
    levels = [len(data)] * layout.input_tiles
    if layout.run:
        levels += [len(data) - 2, len(data) - 3]
    levels += [2, 1] * layout.class_tiles
    return LevelledSize(
        key_bytes=key,
        evaluation_key_bytes=(rotations + 1) * len(data) * key,
        head_bytes=sum(polynomial_bytes(degree, data[:level], 2) for level in levels),
        head_memory_bytes=sum(16 * degree * level for level in levels),
        reply_bytes=layout.class_tiles * polynomial_bytes(degree, data[:1], 2),
        error=_error(layout, primes),
    )


def _error(layout: LevelledLayout, primes: tuple[int, ...]) -> float:
    """The error of the rotated dot product, doubled by a square.

    A key switch adds (N/π)·|e(ζ)|·q_0/P in the first slot (`noise.ckks_error`, with the special prime P larger than the
    first one), every rescaling the rounding r0 + r1·s. What the layers behind the first square add and what averaging
    over units takes away is left out: measured errors lie between a tenth of this figure and all of it.
    """
    degree, scale = layout.degree, 2.0 ** scale_bits(primes)
    switch = degree / math.pi * math.sqrt(_ERROR_PROXY * degree) * primes[0] / primes[-1]
    rounding = math.sqrt(degree * (1 + 2 * degree / 3) / 12)
    dot = math.hypot(math.sqrt(len(layout.dot_rotations)) * switch, 2 * rounding) / scale
    return 2 * dot


def levelled_milliseconds(
    features: int, classes: int, hidden: tuple[int, ...], degree: int, primes: tuple[int, ...]
) -> float:
    """Predicted time of one input on one core of a 2020s server, for the comparison of plans.

    Counted in transforms (NTT modulo one prime, N·log2 N steps of 0.68 ns): a key switch over n primes takes n inverse
    and n² forward transforms of digits, and 2·(n + 2) to divide by the special prime, which its multiplications and
    loads raise by a half; encoding takes n and a complex transform that costs as much as four.
    """
    layout, top = levelled_layout(features, classes, hidden, degree), len(primes) - 1

    def switch(level: int) -> float:
        return 1.5 * (level + level * level + 2 * (level + 2))

    def rescale(level: int) -> float:
        return 2.0 * level + 1

    transforms = layout.input_tiles * (top + 5.0) + rescale(top)
    transforms += len(layout.dot_rotations) * switch(top - 1)
    level = top - 1
    for later in range(len(hidden)):
        tiles = layout.class_tiles if later == len(hidden) - 1 else 1
        transforms += switch(level) + 1 + rescale(level)
        level -= 1
        transforms += tiles * (switch(level) + 1 + rescale(level))
        level -= 1
        steps = layout.run_rotations if later else layout.unit_rotations
        transforms += tiles * len(steps) * switch(level)
    transforms += layout.class_tiles * (0 if layout.run else 6)
    return transforms * degree * math.log2(degree) * 0.68e-6


def _power(width: int) -> int:
    """The smallest power of two that is not below."""
    return 1 << (width - 1).bit_length()


def _log2(power: int) -> int:
    return power.bit_length() - 1
