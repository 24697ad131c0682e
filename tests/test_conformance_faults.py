"""The conformance suite finds each fault that it is there for, and none where there is none."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from rhe_parties.attacks.base import Strategy
from rhe_parties.testing import StrategyConformance
from tests import faulty_strategies as faulty

CLAIMS = "test_it_claims_something_of_every_victim"
FAULTS = [
    (faulty.Moody, "test_the_same_seed_gives_the_same_claim_from_any_pool", "weights differs"),
    (faulty.Hasty, "test_the_same_seed_gives_the_same_claim_from_any_pool", "weights differs"),
    (faulty.Vandal, CLAIMS, "read-only"),
    (faulty.Stubborn, "test_victims_keep_the_order_in_which_they_are_named", "victim-000"),
    (faulty.Boastful, "test_progress_is_a_fraction", "progress of"),
    (faulty.Blurred, CLAIMS, "leaves"),
    (faulty.Lost, CLAIMS, "NaN"),
    (faulty.Narrow, CLAIMS, "shape"),
    (faulty.TenClasses, "test_it_survives_the_smallest_world", "reshape"),
    (faulty.Silent, CLAIMS, "nothing is claimed"),
    (faulty.Changeable, "test_options_parse_from_text", "not frozen"),
    (faulty.Nameless, "test_it_introduces_itself", "command line"),
]


def suite_of(cls: type[Strategy]) -> StrategyConformance:
    made = type(f"Suite{cls.__name__}", (StrategyConformance,), {"strategy": cls})
    suite: StrategyConformance = made()
    return suite


@pytest.mark.parametrize(("cls", "check", "words"), FAULTS, ids=[cls.__name__ for cls, _, _ in FAULTS])
def test_faults_are_found(cls: type[Strategy], check: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        getattr(suite_of(cls), check)()


@pytest.mark.parametrize("check", sorted({check for _, check, _ in FAULTS}))
def test_nothing_is_found_in_a_sound_strategy(check: str) -> None:
    getattr(suite_of(faulty.Sound), check)()


def test_slow_strategies_are_found() -> None:
    suite = suite_of(faulty.Sound)
    type(suite).seconds = 0.0
    with pytest.raises(AssertionError):
        suite.test_it_is_done_in_time()


def test_imports_that_lead_to_the_truth_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one module further on."""
    (tmp_path / "peeking").mkdir()
    (tmp_path / "peeking" / "__init__.py").write_text("from .mine import Mine\n")
    (tmp_path / "peeking" / "help.py").write_text("import rhe_parties.metrics.truth\n")
    mine = "from tests.faulty_strategies import Sound\nfrom . import help\n\nclass Mine(Sound):\n    pass\n"
    (tmp_path / "peeking" / "mine.py").write_text(mine)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    module = importlib.import_module("peeking")
    try:
        with pytest.raises(AssertionError, match="must not see"):
            suite_of(module.Mine).test_it_imports_nothing_that_leads_to_the_truth()
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "peeking"]:
            del sys.modules[name]
