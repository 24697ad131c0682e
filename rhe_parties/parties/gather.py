"""Requests that wait for others of the same head: when a batch is full, and when it must go all the same.

A pure state machine without a clock of its own; the caller says what time it is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

__all__ = ["Gatherer"]

T = TypeVar("T")


@dataclass
class _Group(Generic[T]):
    until: float
    inputs: int = 0
    bytes: int = 0
    items: list[T] = field(default_factory=list)


class Gatherer(Generic[T]):
    """Groups of requests by key (the head's name), each in the order of arrival.

    A group goes when it is full, when its oldest request has waited for the delay, or, the oldest group first, when
    more than `max_inputs` inputs or `max_bytes` bytes would be held altogether. A request larger than these goes at
    once. Without a delay nothing is ever held.

    Args:
        delay: seconds that a request may wait.
        max_inputs: most inputs held at a time.
        max_bytes: most bytes held at a time.
    """

    def __init__(self, delay: float, max_inputs: int, max_bytes: int) -> None:
        self.delay, self.max_inputs, self.max_bytes = delay, max_inputs, max_bytes
        # Oldest group first: the delay is the same for all, so it is also the next one due.
        self._groups: OrderedDict[str, _Group[T]] = OrderedDict()
        self._inputs = self._bytes = 0

    @property
    def held(self) -> tuple[int, int]:
        """Inputs and bytes held now."""
        return self._inputs, self._bytes

    def add(self, key: str, item: T, inputs: int, size: int, full: int, now: float) -> list[list[T]]:
        """Take a request of `inputs` inputs and `size` bytes; returns the batches that go because of it.

        Args:
            full: inputs of a full batch of this key; no batch exceeds it, but for a single request that does alone.
        """
        gone: list[list[T]] = []
        group = self._groups.get(key)
        if group is not None and group.inputs + inputs > full:
            gone.append(self.take(key))
            group = None
        while self._groups and (self._inputs + inputs > self.max_inputs or self._bytes + size > self.max_bytes):
            oldest = next(iter(self._groups))
            gone.append(self.take(oldest))
            group = None if oldest == key else group
        if group is None:
            group = self._groups[key] = _Group(now + self.delay)
        group.items.append(item)
        group.inputs, group.bytes = group.inputs + inputs, group.bytes + size
        self._inputs, self._bytes = self._inputs + inputs, self._bytes + size
        beyond = self._inputs > self.max_inputs or self._bytes > self.max_bytes
        if self.delay <= 0 or group.inputs >= full or beyond:
            gone.append(self.take(key))
        return gone

    def due(self, now: float) -> list[list[T]]:
        """The batches whose oldest request has waited for the delay, oldest first."""
        ripe = [key for key, group in self._groups.items() if group.until <= now]
        return [self.take(key) for key in ripe]

    def seconds(self, now: float) -> float | None:
        """Seconds until the next batch is due, 0.0 if one is, None while nothing is held."""
        if not self._groups:
            return None
        return max(next(iter(self._groups.values())).until - now, 0.0)

    def take(self, key: str) -> list[T]:
        """Everything held for `key`, which may be nothing."""
        group = self._groups.pop(key, None)
        if group is None:
            return []
        self._inputs -= group.inputs
        self._bytes -= group.bytes
        return group.items
