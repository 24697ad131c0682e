"""Grids: what is written, which cells it means, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rhe_parties.errors import ParameterError, PluginError
from rhe_parties.runner.scenario import Scenario
from rhe_parties.sweep.grid import make_cells, parse_grid
from tests.test_registry import GOOD

SCENARIO = Scenario("small", "a test", {"victims": 2, "adversary": ("head-readout",)})


def _cells(*items: str, **given: Any) -> list[Any]:
    return make_cells(SCENARIO, parse_grid(items), given)


def test_commas_separate_values_and_semicolons_values_with_commas() -> None:
    assert parse_grid(["victims=3, 5", "worlds=none,rhe;none,rhe+client", "weights=;random:1"]) == {
        "victims": ("3", "5"),
        "worlds": ("none,rhe", "none,rhe+client"),
        "weights": ("", "random:1"),
    }


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["victims"], "not of the form key=value,value"),
        (["=3"], "not of the form key=value,value"),
        (["victims=3,5", "victims=7"], "-g victims is given twice"),
        (["victims=3,5,3"], "names '3' twice"),
        (["worlds=none,rhe"], r"could mean two things.*-g 'worlds=none,rhe;…'; .*-p worlds=none,rhe"),
        (["address=a,b"], "'address' is not allowed"),
        (["data_root=a,b"], "'data_root' is not allowed"),
        (["transport=local,ray"], "'transport' is not allowed"),
    ],
)
def test_what_is_no_grid_or_could_mean_two_things_is_refused(items: list[str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        parse_grid(items)


def test_cells_are_the_product_with_the_last_key_fastest() -> None:
    cells = _cells("victims=3,5", "seed=0,1", evaluation_images=4)
    assert [cell.label for cell in cells] == [
        "victims=3, seed=0",
        "victims=3, seed=1",
        "victims=5, seed=0",
        "victims=5, seed=1",
    ]
    last = cells[-1].parameters
    assert (last.victims, last.seed, last.evaluation_images, last.adversary) == (5, 1, 4, ("head-readout",))
    assert (last.transport, last.threads) == ("local", 1)
    assert _cells("seed=0", threads="3")[0].parameters.threads == 3


@pytest.mark.parametrize(
    ("items", "given", "message"),
    [
        (["victms=3,5"], {}, "unknown parameter 'victms'; did you mean 'victims'"),
        (["victims=3,x"], {}, r"victims='x' is not allowed.*in cell 'victims=x'"),
        (["dataset=digits,digts"], {}, "did you mean 'digits'"),
        (["backbone=strokenet,strokent"], {}, "did you mean 'strokenet'"),
        (["adversary=head-readout;span-inverson"], {}, "did you mean 'span-inversion'"),
        (["worlds=none,rhe;none,rhee"], {}, "did you mean 'rhe'"),
        (["worlds=none;none,rhe"], {}, "compares at least two"),
        (["scheme=bfv,bvf"], {}, "did you mean 'bfv'"),
        (["corrupted=model-host;model-hots"], {}, "did you mean 'model-host'"),
        (["property=presence:1,presense:1"], {"task": "property"}, "did you mean 'presence'"),
        (["span-inversion.refine_stepz=1,2"], {"adversary": "span-inversion"}, "did you mean 'refine_steps'"),
        (["span-inversion.refine_steps=1,2"], {}, "no adversary of this run"),
        (["hidden=0,4"], {}, "hidden=4 and activation='relu'"),
        (["victims=3,5"], {"victims": "7"}, "both by -g and by -p"),
        (["victims=3,03"], {}, "cells 'victims=3' and 'victims=03' of the grid are the same"),
        (["seed=0,1"], {"transport": "ray"}, "each cell is one process"),
        (["seed=0,1"], {"address": "10.0.0.1:6379"}, "the whole sweep takes --address"),
        ([], {}, "needs a grid"),
        ([f"{key}={','.join(map(str, range(1, 60)))}" for key in ("seed", "victims", "epochs")], {}, "205,379 cells"),
    ],
)
def test_the_whole_grid_is_checked_first(items: list[str], given: dict[str, str], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_cells(SCENARIO, parse_grid(items), given)


def test_options_reach_only_the_cells_of_their_strategy() -> None:
    options = {"span-inversion.refine_steps": "7"}
    first, second = make_cells(SCENARIO, parse_grid(["adversary=head-readout;span-inversion"]), options)
    assert first.parameters.options == {}
    assert second.parameters.options == {"span-inversion": {"refine_steps": "7"}}
    with pytest.raises(ParameterError, match="are the same"):
        _cells("adversary=head-readout;span-inversion", "span-inversion.refine_steps=1,2")


def test_a_cells_name_tells_what_is_computed_and_not_where() -> None:
    names = [cell.name for cell in _cells("seed=0,1")]
    assert names == [cell.name for cell in _cells("seed=0,1", data_root="/elsewhere")]
    assert names == [cell.name for cell in _cells("seed=0,1,2")][:2]
    assert len({*names, *[cell.name for cell in _cells("seed=0,1", victims=3)]}) == 4
    other = Scenario("other", "a test", SCENARIO.parameters)
    assert make_cells(other, {"seed": ("0",)}, {})[0].name != names[0]


def test_plugins_travel_as_text_and_are_part_of_the_name(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    reference = f"{file}:Mine"
    file.write_text(GOOD)
    (cell,) = _cells("seed=0", adversary=reference)
    assert cell.sources == {reference: GOOD}
    file.write_text(GOOD + "# changed\n")
    assert _cells("seed=0", adversary=reference)[0].name != cell.name
    file.unlink()
    with pytest.raises(PluginError, match="cannot read plug-in"):
        _cells("seed=0", adversary=reference)
