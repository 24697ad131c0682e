"""Which images each shadow head is trained on, as a function of (seed, number of the head) alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np

from rhe_parties.errors import DataError, ParameterError
from rhe_parties.rng import numpy_stream
from rhe_parties.types import AnyArray, IntArray

__all__ = ["BalancedSets", "GivenSets", "SetsRule", "array_digest", "make_rule", "rule_provenance"]

SetsRule = Callable[[int], IntArray]
"""From the number of a block to its sets, int64 [B, N]; a pure function."""


class BalancedSets:
    """Random class-balanced sets, ordered by class; none of a class serves twice before all have.

    As in the authors' code each class is permuted and cut into consecutive sets of S images. When a class is used up
    it is permuted anew: permutation r of class k comes from a stream of (seed, purpose, k, r), so that any block
    can be drawn without the blocks before it.
    """

    def __init__(self, labels: IntArray, classes: int, per_class: int, seed: int, purpose: str, block: int) -> None:
        """Pools of the classes 0..K-1 in `labels`; blocks of `block` sets of S = `per_class` images a class.

        Raises:
            DataError: a class with fewer than S images.
            ParameterError: S below 1.
        """
        if per_class < 1:
            raise ParameterError(f"images_per_class = {per_class} is not allowed: at least 1")
        self._pools = [np.flatnonzero(labels == label) for label in range(classes)]
        for label, pool in enumerate(self._pools):
            if len(pool) < per_class:
                raise DataError(
                    f"class {label} has {len(pool)} auxiliary images, {per_class} are needed for a shadow head"
                )
        self.per_class, self._seed, self._purpose, self._block = per_class, seed, purpose, block
        self._kept: dict[int, tuple[int, IntArray]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_kept": {}}

    def __call__(self, index: int) -> IntArray:
        """Sets [B, K·S] of block `index`."""
        heads = np.arange(index * self._block, (index + 1) * self._block)
        columns = [self._column(label, heads) for label in range(len(self._pools))]
        return np.concatenate(columns, axis=1)

    def _column(self, label: int, heads: IntArray) -> IntArray:
        turns = len(self._pools[label]) // self.per_class  # sets until the class is used up
        rounds = heads // turns
        slots = (heads % turns)[:, None] * self.per_class + np.arange(self.per_class)
        chosen = np.empty(slots.shape, np.int64)
        for number in range(int(rounds[0]), int(rounds[-1]) + 1):
            now = rounds == number
            chosen[now] = self._permutation(label, number)[slots[now]]
        return chosen

    def _permutation(self, label: int, number: int) -> IntArray:
        kept = self._kept.get(label)
        if kept is None or kept[0] != number:
            rng = numpy_stream(self._seed, f"{self._purpose}-sets", label, number)
            kept = self._kept[label] = (number, rng.permutation(self._pools[label]).astype(np.int64))
        return kept[1]


class GivenSets:
    """Sets that somebody else chose, int64 [V, N], in blocks of `block`."""

    def __init__(self, sets: IntArray, block: int) -> None:
        """Raises DataError where there is no set or a set is empty, or the array is not [V, N]."""
        if sets.ndim != 2 or sets.size == 0:
            raise DataError(f"given sets {sets.shape} must be [V, N] with at least one head and one image")
        self.sets, self._block = np.ascontiguousarray(sets, np.int64), block

    def __call__(self, index: int) -> IntArray:
        """Sets [B, N] of block `index`; the last block may be shorter."""
        return self.sets[index * self._block : (index + 1) * self._block]


def make_rule(
    sets: IntArray | SetsRule | None,
    labels: IntArray,
    classes: int,
    images_per_class: int,
    seed: int,
    purpose: str,
    block: int,
) -> SetsRule:
    """The rule that a factory's argument `sets` stands for: balanced, an array, or somebody else's function."""
    if sets is None:
        return BalancedSets(labels, classes, images_per_class, seed, purpose, block)
    return GivenSets(sets, block) if isinstance(sets, np.ndarray) else sets


def rule_provenance(rule: SetsRule) -> str:
    """What tells one rule from another, labels, seed, purpose and block aside.

    Raises:
        ParameterError: a function, of which nobody can tell whether it is the same one.
    """
    if isinstance(rule, GivenSets):
        return f"given:{array_digest(rule.sets)}"
    if isinstance(rule, BalancedSets):
        return f"balanced:{rule.per_class}"
    raise ParameterError("shadow heads whose sets come from a function have no provenance: give them as an array")


def array_digest(array: AnyArray) -> str:
    """SHA-256 (hex) over kind, shape and little-endian bytes of an array."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    digest = hashlib.sha256(f"{plain.dtype.str}{plain.shape}".encode())
    digest.update(plain.tobytes())
    return digest.hexdigest()
