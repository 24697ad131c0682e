"""The suite that every strategy should pass, on this package's own."""

from nearest_neighbour import NearestNeighbour

from rhe_parties.testing import StrategyConformance


class TestNearestNeighbour(StrategyConformance):
    """Conformance of nearest-neighbour."""

    strategy = NearestNeighbour
