"""Axes of plots: from values to positions, and the round values that are written beside them."""

from __future__ import annotations

import math

__all__ = ["Scale", "span", "ticks"]


class Scale:
    """Positions in a picture, `start` to `end`, of values from `low` to `high`; others lie at the nearer end."""

    def __init__(self, low: float, high: float, start: float, end: float, logarithmic: bool = False) -> None:
        self.logarithmic = logarithmic
        self._low, self._high = self._on(low), self._on(high)
        self._start, self._end = start, end

    def _on(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value

    def at(self, value: float) -> float:
        """Where a value lies."""
        share = (self._on(value) - self._low) / (self._high - self._low)
        return self._start + min(max(share, 0.0), 1.0) * (self._end - self._start)


def span(values: list[float], logarithmic: bool) -> tuple[float, float]:
    """Ends of an axis that holds all values with some room beside them; positive ones where it is logarithmic."""
    low, high = min(values), max(values)
    if logarithmic:
        return low / 1.6, high * 1.6
    room = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    return low - room, high + room


def ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round values between the ends, two to a dozen."""
    if logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1, 2, 5) if math.log10(high / low) < 2.2 else (1,)
        found = [m * 10.0**d for d in decades for m in steps]
    if not logarithmic or sum(low <= value <= high for value in found) < 2:
        step = 10.0 ** math.floor(math.log10(high - low))
        step = next((step / k for k in (1, 2, 5) if (high - low) * k / step >= 3), step / 10)
        found = [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return [value for value in found if low <= value <= high]
