"""`rhe bench shadows` at toy size: every case is measured, the contract's keys are there, wrong wishes are named."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from rhe_parties.bench.shadows import bench_shadows
from rhe_parties.cli.main import app, guarded
from rhe_parties.errors import ParameterError


def test_all_cases_are_measured_in_one_run() -> None:
    told: list[str] = []
    result = bench_shadows([16], [10], None, 2, 0.02, told.append)
    assert [(case.name, case.features, case.images) for case in result.cases] == [("plain", 16, 10), ("dp-sgd", 16, 10)]
    for case in result.cases:
        assert case.ratio == pytest.approx(case.heads_per_s / case.loop_heads_per_s)
        assert case.low_heads_per_s <= case.heads_per_s <= case.high_heads_per_s
        assert case.ratio > 3
    assert any("repeat 2 of 2" in text for text in told)


def test_the_command_prints_the_contract() -> None:
    done = CliRunner().invoke(
        app,
        ["bench", "shadows", "--features", "256", "--images", "10", "--repeats", "1", "--seconds", "0.02", "--json"],
    )
    assert done.exit_code == 0, done.output
    cases = json.loads(done.stdout)["cases"]
    assert [case["name"] for case in cases] == ["plain", "dp-sgd"]
    for case in cases:
        assert {"name", "features", "images", "heads_per_s", "loop_heads_per_s", "ratio"} <= set(case)
        assert case["source"] == "strokenet features of digits"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--images", "15", "images = 15 is not allowed"),
        ("--images", "ten", "images = 'ten' is not allowed"),
        ("--features", "0", "features = 0 is not allowed"),
        ("--repeats", "0", "repeats = 0 is not allowed"),
        ("--seconds", "-1", "seconds = -1.0 is not allowed"),
    ],
)
def test_wrong_wishes_are_named(option: str, value: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = guarded(lambda: app(["bench", "shadows", option, value], standalone_mode=True))
    assert code == 2
    assert words in capsys.readouterr().err


def test_a_size_that_no_class_can_fill_is_named() -> None:
    with pytest.raises(ParameterError, match="images = 5"):
        bench_shadows([16], [5], None, 1, 0.1, lambda _text: None)
