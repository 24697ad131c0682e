"""The benchmark of served heads: two real servers and a load generator, for moments."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from rhe_parties.bench.child import Child
from rhe_parties.bench.serve import LOAD, ServeWishes, bench_serve, bench_soak
from rhe_parties.bench.serve_tables import show_serve_bench, show_serve_soak
from rhe_parties.cli.main import app, guarded
from rhe_parties.errors import RheError
from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST


def _wishes(clients: int, seconds: float, tls: bool) -> ServeWishes:
    return ServeWishes("strokenet", False, 3, 2, 4, 1.0, clients, seconds, 1, tls)


@pytest.fixture
def console() -> Console:
    return Console(highlight=False, width=120, force_terminal=True, color_system=None)


def test_both_heads_are_measured_on_the_same_servers(console: Console, capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []
    result = bench_serve(_wishes(4, 0.4, True), said.append)
    assert [case.name for case in result.cases] == ["plain", "encrypted"]
    assert (result.features, result.decisions, result.errors) == (256, 32, {})
    assert result.decisions_differing <= 2
    for case in result.cases:
        assert case.inputs_per_s == 2 * case.requests_per_s > 0
        assert 0 < case.full["p50_ms"] <= case.full["p95_ms"] <= case.full["p99_ms"]
        assert set(case.cpu_ms) == set(case.busy) == {MODEL_HOST, KEY_HOLDER, LOAD}
        assert 1 <= case.gathered <= 256
        assert case.limit
    plain, ours = result.cases
    assert result.ratios == [ours.requests_per_s / plain.requests_per_s]
    assert result.cpu_ratio == sum(plain.cpu_ms.values()) / sum(ours.cpu_ms.values())
    assert set(result.memory_mb) == {MODEL_HOST, KEY_HOLDER}
    assert json.loads(json.dumps(result.to_json()))["wishes"]["tls"] is True
    assert any("round 1 of 1" in text for text in said)
    show_serve_bench(result, console)
    printed = capsys.readouterr().out
    assert "2 features a request, mutual TLS" in printed
    assert "errors: none" in printed


@pytest.mark.slow
def test_a_soak_counts_refusals_by_budget_apart_from_errors(
    console: Console, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rhe_parties.bench.serve._FEW", 1)
    result = bench_soak(_wishes(10, 1.0, False), lambda _text: None)
    assert result.errors == {}
    assert result.refused_by_budget >= 1
    assert result.links == 10
    assert result.answers > 0
    for size in result.memory_mb.values():
        assert 0 < size["low"] <= size["last"] <= size["high"]
        assert size["spread"] == (size["high"] - size["low"]) / size["low"]
    show_serve_soak(result, console)
    assert "other errors: none" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--clients", "2001"], "clients 2001 is not allowed (allowed: 1 to 2000)"),
        (["--seconds", "601"], "seconds 601 is not allowed (allowed: 0.1 to 600)"),
        (["--batch", "0"], "batch 0 is not allowed"),
        (["--rounds", "0"], "rounds 0 is not allowed"),
        (["--backbone", "efficientnet"], "unknown backbone 'efficientnet'"),
    ],
)
def test_a_wrong_option_is_one_line(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: app(["bench", "serve", *arguments], standalone_mode=True)) == 2
    said = capsys.readouterr().err
    assert text in said
    assert said.strip().count("\n") == 0


def test_a_child_that_fails_says_why() -> None:
    with Child("load", "rhe_parties.bench.serve_load", [], 1) as child, pytest.raises(RheError, match="load failed"):
        child.ask(do="nothing of the kind")
