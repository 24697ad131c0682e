"""Parameters: what is refused, and with which hint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rhe_parties.errors import DataError, ParameterError, PluginError, UserError
from rhe_parties.runner.parameters import parse_assignments, read_parameter_file, resolve_parameters
from rhe_parties.runner.plan import prepare, resolve_attackers, resolve_worlds


def test_layers_join_and_later_ones_win() -> None:
    p = resolve_parameters({"victims": 7, "worlds": ("none", "rhe")}, {"victims": "9", "worlds": "none,rhe:plain"})
    assert p.victims == 9
    assert p.worlds == ("none", "rhe:plain")


def test_options_of_strategies() -> None:
    p = resolve_parameters({}, {"span-inversion.decoder_steps": "5"}, {"span-inversion.refine_steps": 2})
    assert p.options == {"span-inversion": {"decoder_steps": "5", "refine_steps": "2"}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"victim": 3}, "unknown parameter 'victim'; did you mean 'victims'"),
        ({"victims": 0}, "victims=0 is not allowed"),
        ({"victims": "many"}, "victims='many' is not allowed"),
        ({"transport": "rai"}, "unknown transport 'rai'; did you mean 'ray'"),
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"worlds": "none"}, "at least two"),
        ({"worlds": "none,none"}, "one world twice"),
        ({"resources": '{"host": {"num_gpus": 1}}'}, "did you mean 'model-host'"),
        ({"resources": "{"}, "must be JSON"),
        ({"span-inversoin.steps": 1}, "did you mean 'span-inversion'"),
        ({"address": "auto", "transport": "local"}, "needs transport=ray"),
    ],
)
def test_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        resolve_parameters(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"worlds": "none,rh"}, "unknown defence 'rh'; did you mean 'rhe'"),
        ({"worlds": "none,rhe:bvf"}, "unknown scheme 'bvf'; did you mean 'bfv'"),
        ({"worlds": "none:bfv,rhe"}, "takes no scheme"),
        ({"scheme": "bvf"}, "unknown scheme 'bvf'; did you mean 'bfv'"),
        ({"adversary": "span"}, "unknown adversary 'span'"),
        ({"adversary": "/nowhere/x.py:X"}, "cannot read plug-in"),
        ({"span-inversion.decoder_step": "5"}, "did you mean 'decoder_steps'"),
        ({"dataset": "digit"}, "unknown dataset 'digit'; did you mean 'digits'"),
        ({"backbone": "strokent"}, "did you mean 'strokenet'"),
        ({"victims": 5000}, "58"),
        ({"images_per_class": 60}, "60|58|59"),
        ({"evaluation_images": 10_000}, "evaluation part has"),
        ({"corrupted": "host"}, "unknown party 'host'; did you mean 'model-host'"),
        ({"corrupted": "laboratory"}, "holds the ground truth"),
    ],
)
def test_refused_before_anything_runs(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare(resolve_parameters(given))
    assert "\n" not in str(caught.value)


def test_missing_dataset_says_where_it_was_sought(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=str(tmp_path)):
        prepare(resolve_parameters({"dataset": "mnist", "data_root": tmp_path}))


def test_a_plugin_that_raises_on_import(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("raise ValueError('no such thing')")
    with pytest.raises(PluginError, match="could not be imported: ValueError: no such thing"):
        resolve_attackers(resolve_parameters({"adversary": f"{file}:X"}))
    with pytest.raises(PluginError, match="could not be imported: ValueError: no such thing"):
        resolve_worlds(resolve_parameters({"worlds": f"none,{file}:X"}))


def test_assignments() -> None:
    assert parse_assignments(["a=1", "b=x=y"]) == {"a": "1", "b": "x=y"}
    for bad in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(ParameterError):
            parse_assignments(bad)


def test_parameter_files(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"victims": 3}))
    (tmp_path / "p.toml").write_text("victims = 4")
    (tmp_path / "record.json").write_text(json.dumps({"parameters_given": {"victims": 5}, "worlds": []}))
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "bad.json").write_text("{")
    assert [read_parameter_file(tmp_path / n)["victims"] for n in ("p.json", "p.toml", "record.json")] == [
        3,
        4,
        5,
    ]
    with pytest.raises(ParameterError, match="one table"):
        read_parameter_file(tmp_path / "list.json")
    for name in ("bad.json", "none.json"):
        with pytest.raises(DataError, match="cannot read parameters"):
            read_parameter_file(tmp_path / name)
