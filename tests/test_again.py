"""`rhe attack`: a recorded run attacked again gives what the run itself would have given; others are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rhe_parties.cli.main import app
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.report.record import Record, load_record
from rhe_parties.runner.again import attack_again
from rhe_parties.runner.scenario import Scenario

STRATEGY = str(Path(__file__).parent / "asking_strategy.py") + ":Asking"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    given = {"victims": 3, "evaluation_images": 2, "transport": "local", "worlds": "none,rhe+client"}
    Scenario("small", "A small run.").run(out=folder, quiet=True, adversary="head-readout", **given)
    return folder


def results(record: Record, adversary: str) -> list[object]:
    return [a.results for w in record.worlds for a in w.attacks if a.adversary == adversary]


def test_same_strategy_gives_the_same_numbers_offline(run: Path) -> None:
    before = (run / "record.json").read_bytes()
    attack_again(run, "head-readout", {}, quiet=True)
    again, old = load_record(run / "attacks" / "head-readout"), load_record(run)
    assert results(again, "head-readout") == results(old, "head-readout")
    assert results(again, "prior-only") == results(old, "prior-only")
    assert again.transcript_sha256 == old.transcript_sha256
    assert [w.accuracy for w in again.worlds] == [w.accuracy for w in old.worlds]
    assert (run / "record.json").read_bytes() == before
    folder = run / "attacks" / "head-readout"
    assert load_record(folder).status == "ok"
    assert "<html" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_recording_answers_no_questions(run: Path) -> None:
    again = attack_again(run, STRATEGY, {}, quiet=True)
    cells = [a for w in again.worlds for a in w.attacks if a.adversary == STRATEGY]
    assert [c.outcome for c in cells] == ["blocked", "blocked"]
    assert cells[1].missing == ["answers to images of its own choice"]


def test_command_line(run: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["attack", str(run), "--adversary", "prior-only", "--out", str(tmp_path), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert {a["adversary"] for w in record["worlds"] for a in w["attacks"]} == {"prior-only"}
    assert (tmp_path / "record.json").exists()


def test_other_parameters_are_another_run(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only the adversary, its options and where things run may differ"):
        attack_again(run, "prior-only", {"seed": "1"}, tmp_path, quiet=True)
    with pytest.raises(ParameterError, match="unknown adversary 'prior-onl'; did you mean 'prior-only'"):
        attack_again(run, "prior-onl", {}, tmp_path, quiet=True)


def test_damaged_recordings_are_refused(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    transcript = copy / "transcript.binpb"
    transcript.write_bytes(transcript.read_bytes()[:-100])
    with pytest.raises(DataError, match="transcript"):
        attack_again(copy, "prior-only", {}, quiet=True)
    transcript.unlink()
    with pytest.raises(DataError, match=r"cannot read transcript"):
        attack_again(copy, "prior-only", {}, quiet=True)
    with pytest.raises(DataError, match="cannot read a record"):
        attack_again(tmp_path / "nowhere", "prior-only", {}, quiet=True)
