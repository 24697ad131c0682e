"""The benchmark of the encrypted head: real cases in processes of their own, small shapes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rhe_parties.bench.cases import CASES, make_case
from rhe_parties.bench.head import bench_head, case_names
from rhe_parties.bench.inputs import load_inputs, make_inputs
from rhe_parties.bench.worker import Worker
from rhe_parties.cli.main import app, guarded
from rhe_parties.errors import ParameterError, RheError


@pytest.mark.parametrize("hidden", [(), (3,)])
def test_every_case_gives_the_logits_of_the_float_head(hidden: tuple[int, ...]) -> None:
    inputs = make_inputs(20, 3, hidden, None, 6)
    real = inputs.logits(inputs.features)
    for name in case_names(hidden):
        case = make_case(name, inputs, 4)
        if name != "return-features":
            error = np.abs(case.logits(inputs.features) - real).max() / np.abs(real).max()
            assert error < 0.01, name
        sizes = case.sizes()
        assert sizes.reply_bytes == case.one(inputs.features[:1]) > 0
        assert (sizes.key_bytes > 0) == (name not in ("plain", "return-features"))


def test_inputs_survive_the_file(tmp_path: Path) -> None:
    inputs = make_inputs(256, 1, (2,), None, 5)
    inputs.save(tmp_path / "x.npz")
    again = load_inputs(tmp_path / "x.npz")
    np.testing.assert_array_equal(again.logits(again.features), inputs.logits(inputs.features))
    assert again.feature_norm == inputs.feature_norm
    assert np.linalg.norm(inputs.features, axis=1).max() <= inputs.feature_norm
    with pytest.raises(ParameterError, match="classes 700 is not allowed here"):
        make_inputs(256, 700, (), None, 5)


@pytest.mark.slow
def test_a_whole_run_compares_with_the_papers_way() -> None:
    said: list[str] = []
    result = bench_head(32, 2, (), 8, None, 30, 2, 1, said.append)
    assert [case.name for case in result.cases] == case_names(())
    ours, peer = result.cases[0], result.cases[2]
    assert (ours.decisions, peer.decisions) == (30, 2)
    assert ours.key_bytes < peer.key_bytes
    assert ours.reply_bytes * 10 < peer.reply_bytes
    assert min(case.latency_ms for case in result.cases) > 0
    assert result.ratios["reply_bytes"] == peer.reply_bytes / ours.reply_bytes
    values = json.loads(json.dumps(result.to_json()))
    wanted = {
        "name", "latency_ms", "throughput_per_s", "key_bytes", "head_bytes", "request_bytes", "reply_bytes",
        "logit_error", "decisions_differing",
    }  # fmt: skip
    assert all(wanted <= set(case) for case in values["cases"])
    assert {"latency", "throughput", "reply_bytes"} <= set(values["ratios"])
    assert set(CASES) >= {case["name"] for case in values["cases"]}
    assert any("round 1 of 1" in text for text in said)


def test_a_failing_case_says_why(tmp_path: Path) -> None:
    with (
        Worker("ours", tmp_path / "missing.npz", 4, 1) as worker,
        pytest.raises(RheError, match=r"ours failed: .*missing"),
    ):
        worker.ask(do="sizes")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "head", "--features", "0"], "features 0"),
        (["bench", "head", "--batch", "2000"], "batch 2000"),
        (["bench", "head", "--hidden", "x"], "hidden 'x'"),
        (["bench", "head", "--rounds", "0"], "rounds 0"),
        (["bench", "head", "--plot", "nowhere/x.png"], "there is no folder 'nowhere'"),
        (["bench", "head", "--data-root", "nowhere"], "nowhere"),
        (["plan", "--features", "5000", "--classes", "10"], "nearest: 4096"),
        (["plan", "--features", "10", "--classes", "10", "--scheme", "bvf"], "did you mean 'bfv'"),
        (["plan", "--features", "10", "--classes", "10", "--logit-error", "1e-9", "--scheme", "bfv"], "nearest"),
    ],
)
def test_mistakes_cost_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: app(args=arguments, standalone_mode=True)) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert len(error.splitlines()) == 1


def test_plan_prints_plan_and_alternatives(capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: app(args=["plan", "--features", "64", "--classes", "3"], standalone_mode=True)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "noise margin" in shown
    assert "chosen" in shown
    assert "slower" in shown
    line = ["plan", "--features", "64", "--classes", "3", "--hidden", "4", "--json"]
    assert guarded(lambda: app(args=line, standalone_mode=True)) == 0
    values = json.loads(capsys.readouterr().out)
    assert values["plan"]["hidden"] == [4]
    assert values["alternatives"][0]["reason"] == ""
    assert all(other["reason"] for other in values["alternatives"][1:])
