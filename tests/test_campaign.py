"""Campaigns: parts with tasks of their own, one record of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rhe_parties.cli.main import main
from rhe_parties.errors import ParameterError, RheError
from rhe_parties.report.record import load_record
from rhe_parties.runner.scenario import load_scenario
from rhe_parties.sweep.campaign import Campaign, joined
from tests.report_sample import sample_record
from tests.sweep_tools import SerialJobs, write_images

CAMPAIGN = Campaign(
    name="two",
    summary="two parts",
    parameters={"victims": 2, "evaluation_images": 3, "worlds": ("none", "rhe"), "examples": 0},
    parts={
        "weights": {"adversary": ("head-readout",)},
        "members": {"task": "membership", "adversary": ("span-membership",), "span-membership.iterations": 2},
    },
)


def test_parameters_reach_all_parts_one_part_or_a_strategys_part() -> None:
    given = {"seed": "7", "members.victims": "3", "span-membership.iterations": "3"}
    parts = CAMPAIGN.resolve_parts(given)
    assert [(name, p.seed, p.victims, p.task) for name, p in parts.items()] == [
        ("weights", 7, 2, "reconstruction"), ("members", 7, 3, "membership"),
    ]  # fmt: skip
    assert parts["members"].options == {"span-membership": {"iterations": "3"}}
    assert parts["weights"].options == {}
    assert {p.transport for p in parts.values()} == {"local"}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sed": "7"}, "did you mean 'seed'"),
        ({"member.victims": "3"}, "did you mean 'members'"),
        ({"members.victms": "3"}, "did you mean 'victims'"),
        ({"span-membership.iteration": "3"}, "iterations"),
        ({"worlds": "none,dp-sdg"}, "dp-sgd"),
        ({"adversary": "head-readuot"}, "head-readout"),
    ],
)
def test_a_mistake_is_refused_before_anything_runs(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=words):
        CAMPAIGN.run(out=tmp_path / "run", quiet=True, **given)
    assert not (tmp_path / "run").exists()


def test_records_of_parts_become_one() -> None:
    one, two = sample_record(), sample_record()
    two.worlds[1].attacks = [cell for cell in two.worlds[1].attacks if cell.adversary != "head-readout"]
    two.worlds[0].status, two.worlds[0].error = "error", "it broke"
    two.worlds.append(two.worlds[1].model_copy(deep=True, update={"name": "rhe+client"}))
    whole = joined([one, two], "all", "of them")
    assert (whole.scenario, whole.summary) == ("all", "of them")
    assert [world.name for world in whole.worlds] == [*(world.name for world in one.worlds), "rhe+client"]
    baselines = [cell for world in whole.worlds for cell in world.attacks if cell.adversary == "prior-only"]
    assert len(baselines) == len(whole.worlds), "once for each world"
    assert len(whole.worlds[0].attacks) == 2 * len(one.worlds[0].attacks) - 1
    assert whole.worlds[0].error == "it broke"
    assert one.worlds[0].error == "", "what is joined is left as it was"
    assert joined([], "none", "").worlds == []


def test_parts_are_tasks_and_a_failure_stays_in_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rhe_parties.sweep.campaign.make_jobs", lambda *_: SerialJobs())
    write_images(tmp_path / "images")
    tiny = {"dataset": f"imagefolder:{tmp_path / 'images'}", "worlds": "none,none+decisions"}
    good = tmp_path / "good"
    record = CAMPAIGN.run(out=good, quiet=True, **tiny)
    assert record.status == "ok"
    (world, _) = record.worlds
    cells = [(cell.adversary, cell.outcome) for cell in world.attacks if cell.variant == "as-is"]
    assert [name for name, _ in cells] == ["prior-only", "head-readout", "span-membership"]
    assert cells[1] == ("head-readout", "leaked")
    assert load_record(good).model_dump() == record.model_dump()
    assert sorted(path.name for path in (good / "parts").iterdir()) == ["members.json", "weights.json"]
    assert "span-membership" in (good / "report.html").read_text(encoding="utf-8")
    # More images than there are: only that part fails, and the record says which.
    with pytest.raises(RheError, match="part 'members' failed"):
        CAMPAIGN.run(out=tmp_path / "bad", quiet=True, **tiny, **{"members.images_per_class": 100})
    half = load_record(tmp_path / "bad")
    assert half.status == "error"
    assert "part 'members' failed" in half.error
    assert [cell.adversary for cell in half.worlds[0].attacks] == ["prior-only", "head-readout"]


def test_the_shipped_matrix_is_sound_and_no_grid(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(__file__).parent.parent / "scenarios" / "threat_matrix.py"
    matrix = load_scenario(file)
    assert isinstance(matrix, Campaign)
    parts = matrix.resolve_parts({})
    assert {"reconstruction", "membership", "property", "informed", "inversion"} <= {p.task for p in parts.values()}
    assert all(len(p.worlds) >= 10 for p in parts.values())
    assert main_code(["sweep", str(file), "-g", "seed=1,2"]) == 2
    assert "use rhe run" in capsys.readouterr().err


def main_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)
