"""The small world that the package offers for tests, under the name by which these tests know it."""

from __future__ import annotations

from rhe_parties.testing.world import TIMEOUT, play, seat_adversary, small_laboratory

__all__ = ["TIMEOUT", "play", "seat_adversary", "small_laboratory"]
