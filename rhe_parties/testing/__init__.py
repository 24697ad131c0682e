"""For those who write strategies: a small world to try them in, and the suite that every strategy should pass.

    from rhe_parties.testing import StrategyConformance

    class TestMine(StrategyConformance):
        strategy = Mine

is a complete test file for pytest; see `rhe_parties.testing.conformance`.
"""

from __future__ import annotations

from rhe_parties.testing.conformance import StrategyConformance
from rhe_parties.testing.world import play, seat_adversary, small_laboratory

__all__ = ["StrategyConformance", "play", "seat_adversary", "small_laboratory"]
