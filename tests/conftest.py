"""Fixtures shared by all tests: small parties over real data, and one Ray for the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
if "PYTEST_XDIST_WORKER" in os.environ:
    # Before torch is loaded: several processes with a thread per core each spend most of their time waiting.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Files that take longest, longest first: begun last, one of them would keep one worker busy while the others idle.
_SLOW = (
    "transports", "scenarios", "he_torch", "shadow_factory", "conformance", "cli", "span_pixels", "reuse",
    "sweep_ray", "shadow_dp", "bench_head", "extraction_soft", "plugin_package", "fuzz", "reconstructor_strategy",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Let pytest-xdist keep the order below; its own puts files of few tests last, however slow these are."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first."""
    rank = {f"test_{name}": place for place, name in enumerate(_SLOW)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray on this machine, started once; transports then join it and must leave it running."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=256 * 2**20)
    yield
    ray.shutdown()
