"""Plug-ins: by name, by file, and what a bad one gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from rhe_parties.attacks.base import ADVERSARIES
from rhe_parties.attacks.prior_only import PriorOnly
from rhe_parties.defences.base import DEFENCES
from rhe_parties.errors import ParameterError, PluginError
from rhe_parties.registry import parse_options

GOOD = """
from dataclasses import dataclass
from rhe_parties.attacks.base import Strategy, Claim

class Mine(Strategy):
    name, summary, source = "mine", "a test", "tests"

    @dataclass(frozen=True)
    class Options:
        strength: float = 1.0
        rounds: int = 3
        loud: bool = False

    def attack(self, view, prior, context):
        return Claim(head_ids=())
"""


def test_own_plugins_are_registered() -> None:
    assert {"prior-only", "head-readout", "span-inversion"} <= set(ADVERSARIES.names())
    assert {"none", "rhe"} <= set(DEFENCES.names())
    assert ADVERSARIES.load("prior-only") is PriorOnly
    for entry in [*ADVERSARIES.catalogue(), *DEFENCES.catalogue()]:
        assert entry.summary
        assert not entry.summary.startswith("cannot be used")


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(ParameterError, match="unknown adversary 'span-inverson'; did you mean 'span-inversion'"):
        ADVERSARIES.load("span-inverson")


def test_plugin_from_a_file_and_from_its_text(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    assert ADVERSARIES.load(f"{file}:Mine").name == "mine"
    # On another machine only the text is there.
    assert ADVERSARIES.load("/nowhere/mine.py:Mine", GOOD).name == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise RuntimeError('boom')", "could not be imported: RuntimeError: boom"),
        ("x = (", "could not be imported: SyntaxError"),
        ("class Other: pass", "no class 'Mine'.*it defines: Other"),
        ("class Mine: pass", "must be a class derived from rhe_parties.attacks.base.Strategy"),
    ],
)
def test_bad_plugins_get_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(PluginError, match=message) as caught:
        ADVERSARIES.load(f"{file}:Mine")
    assert "\n" not in str(caught.value)


def test_missing_plugin_file() -> None:
    with pytest.raises(PluginError, match="cannot read plug-in"):
        ADVERSARIES.load("/nowhere/mine.py:Mine")


def test_options_are_typed(tmp_path: Path) -> None:
    cls = ADVERSARIES.load("x/mine.py:Mine", GOOD)
    options = parse_options("adversary", cls, {"strength": "0.5", "rounds": "7", "loud": "true"})
    assert (options.strength, options.rounds, options.loud) == (0.5, 7, True)
    with pytest.raises(ParameterError, match="did you mean 'rounds'"):
        parse_options("adversary", cls, {"round": "7"})
    with pytest.raises(ParameterError, match=r"mine\.rounds='x' is no int"):
        parse_options("adversary", cls, {"rounds": "x"})
    with pytest.raises(ParameterError, match="must be true or false"):
        parse_options("adversary", cls, {"loud": "yes"})
