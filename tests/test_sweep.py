"""Sweeps from grid to table: resumed, extended, refused, and broken in every way; cells run here, without Ray."""

from __future__ import annotations

import csv
import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from rhe_parties.cli.main import main
from rhe_parties.cli.reporting import show_report
from rhe_parties.errors import DataError
from rhe_parties.report.record import load_record
from rhe_parties.runner.scenario import load_scenario
from rhe_parties.sweep.driver import sweep
from rhe_parties.sweep.results import Sweep, SweepCell, load_sweep
from rhe_parties.sweep.resume import changes
from rhe_parties.sweep.store import Store
from rhe_parties.sweep.table import table_bytes, table_rows
from rhe_parties.transport import JobEnd
from tests.report_sample import blocked_only
from tests.sweep_tools import SerialJobs, request, timeless, write_scenario

MOODY = """
from pathlib import Path
from rhe_parties.attacks.head_readout import HeadReadout

class Moody(HeadReadout):
    name, summary, source = "moody", "fails for as long as a file is there", "tests"
    def attack(self, view, prior, context):
        if Path(%r).exists():
            raise ValueError("out of luck")
        return super().attack(view, prior, context)
"""


@pytest.fixture(scope="module")
def scenario_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scenario of tiny cells."""
    return write_scenario(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> SerialJobs:
    """Cells run in this process, and are listed."""
    serial = SerialJobs()
    monkeypatch.setattr("rhe_parties.sweep.driver.make_jobs", lambda address, parallel: serial)
    return serial


@pytest.fixture(scope="module")
def finished(scenario_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two cells."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rhe_parties.sweep.driver.make_jobs", lambda address, parallel: SerialJobs())
        sweep(request(load_scenario(scenario_file), scenario_file, out, {"seed": ("0", "1")}))
    return out


def _copy(finished: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(finished, tmp_path / "out"))


def _again(file: Path, out: Path | str, *seeds: str, **given: Any) -> Any:
    return sweep(request(load_scenario(file), file, out, {"seed": seeds or ("0", "1")}, given=given))


def test_every_cell_has_its_record_and_its_rows(finished: Path) -> None:
    found = load_sweep(finished)
    assert [(cell.values, cell.status, cell.attempts) for cell in found.cells] == [
        ({"seed": 0}, "ok", 1),
        ({"seed": 1}, "ok", 1),
    ]
    assert all(cell.parameters["victims"] == 1 and cell.seconds > 0 for cell in found.cells)
    record = load_record(finished / "cells" / found.cells[1].name)
    assert record == found.cells[1].record
    assert record.parameters["seed"] == 1
    assert record.command.startswith("rhe run ")
    assert "-p seed=1" in record.command
    rows = [json.loads(line) for line in (finished / "table.jsonl").read_text().splitlines()]
    statistics = [len(attack.results) or 1 for world in record.worlds for attack in world.attacks]
    assert len(rows) == 2 * sum(statistics)
    first = rows[0]
    assert list(first)[:2] == ["seed", "cell"]
    assert (first["seed"], first["world"], first["adversary"], first["n"]) == (0, "none", "prior-only", 2)
    assert first["accuracy"] == found.cells[0].record.worlds[0].accuracy  # type: ignore[union-attr]
    assert not list(finished.rglob("*.partial"))


def test_finished_cells_are_not_repeated(finished: Path, tmp_path: Path, scenario_file: Path, jobs: SerialJobs) -> None:
    out = _copy(finished, tmp_path)
    (out / "table.jsonl").unlink()
    summary = _again(scenario_file, out)
    assert (jobs.done, summary.kept, summary.finished) == ([], 2, 2)
    assert (out / "table.jsonl").read_bytes() == (finished / "table.jsonl").read_bytes()


@pytest.mark.parametrize("damage", ["cut record", "changed record", "cut seal", "no seal", "seal of another"])
def test_what_is_half_there_is_made_again(
    damage: str, finished: Path, tmp_path: Path, scenario_file: Path, jobs: SerialJobs
) -> None:
    out = _copy(finished, tmp_path)
    whole = load_sweep(out)
    folder, other = (out / "cells" / cell.name for cell in whole.cells)
    record, seal = folder / "record.json", folder / "cell.json"
    if damage == "cut record":
        record.write_bytes(record.read_bytes()[:-100])
    elif damage == "changed record":
        record.write_text(record.read_text().replace('"value": 0', '"value": 1', 1))
    elif damage == "cut seal":
        seal.write_bytes(seal.read_bytes()[:-10])
    elif damage == "no seal":
        seal.rename(folder / "cell.json.partial")
    else:
        seal.write_bytes((other / "cell.json").read_bytes())
    damaged = load_sweep(out)
    assert [cell.status for cell in damaged.cells] == ["unfinished", "ok"]
    _again(scenario_file, out)
    assert jobs.done == [whole.cells[0].name]
    assert timeless(load_sweep(out)) == timeless(whole)


def test_a_sweep_grows_in_its_folder(finished: Path, tmp_path: Path, scenario_file: Path, jobs: SerialJobs) -> None:
    out = _copy(finished, tmp_path)
    summary = _again(scenario_file, out, "0", "1", "2")
    assert (len(jobs.done), summary.kept, summary.finished) == (1, 2, 3)
    assert [cell.values["seed"] for cell in load_sweep(out).cells] == [0, 1, 2]


def test_a_folder_with_other_cells_is_refused_and_left_alone(
    finished: Path, tmp_path: Path, scenario_file: Path, jobs: SerialJobs
) -> None:
    out = _copy(finished, tmp_path)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(DataError, match=r"2 of its 2 cells are not in this one \(it has victims=1, this one victims=2"):
        _again(scenario_file, out, victims=2)
    with pytest.raises(DataError, match=r"1 of its 2 cells .*it has seed=0 and 1, this one seed=0 and 5"):
        _again(scenario_file, out, "0", "5")
    changed = tmp_path / "tiny.py"
    changed.write_text(scenario_file.read_text().replace('"victims": 1', '"victims": 2'))
    with pytest.raises(DataError, match="victims=1, this one victims=2; the scenario file has changed since"):
        _again(changed, out)
    (tmp_path / "single").mkdir()
    (tmp_path / "single" / "record.json").write_text("{}")
    with pytest.raises(DataError, match="holds a single run, not a sweep"):
        _again(scenario_file, tmp_path / "single")
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert jobs.done == []


def test_what_changed_without_changing_the_cells_is_said(
    finished: Path, tmp_path: Path, scenario_file: Path, jobs: SerialJobs
) -> None:
    notes: list[str] = []
    same = tmp_path / "tiny.py"
    same.write_text(scenario_file.read_text() + "# a comment\n")
    grid = {"seed": ("0", "1")}
    sweep(request(load_scenario(same), same, _copy(finished, tmp_path), grid, note=notes.append))
    assert notes == [
        "the scenario file has changed since, but not in what it gives these cells",
        "2 of 2 cells are finished already; 0 to go",
    ]
    (note,) = changes(load_sweep(finished).cells, {"rhe-parties": "99"})
    assert note.startswith("2 finished cells were made with rhe-parties ")


def test_a_cell_that_fails_keeps_its_error_and_is_tried_again(
    scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], jobs: SerialJobs
) -> None:
    """One cell raises, one has a strategy that raises, one is fine."""
    marker, plugin, out = tmp_path / "unlucky", tmp_path / "moody.py", tmp_path / "out"
    plugin.write_text(MOODY % str(marker))
    marker.write_text("")
    arguments = ["sweep", str(scenario_file), "-g", f"adversary=head-readout;{plugin}:Moody", "-g", "victims=1,60"]
    arguments += ["-p", "seed=4", "--out", str(out), "--json"]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    said = capsys.readouterr()
    summary = json.loads(said.out)
    assert (summary["status"], summary["cells"], summary["finished"], summary["failed"]) == ("error", 4, 1, 3)
    assert summary["table"] == f"{out}/table.jsonl"
    assert "rhe: 3 of 4 cells failed: first adversary=head-readout, victims=60: " in said.err
    assert "Traceback" not in said.err
    cells = {(cell.values["adversary"].rpartition(":")[2], cell.values["victims"]): cell for cell in _cells(out)}
    assert cells["head-readout", 1].status == "ok"
    assert "victims = 60 is not allowed: 1 to 8" in cells["head-readout", 60].error
    assert cells["head-readout", 60].record is None
    moody = cells["Moody", 1]
    assert "in world none: ValueError: out of luck (and 1 more)" in moody.error
    assert moody.record is not None  # what the others found is kept
    marker.unlink()
    jobs.done.clear()
    with pytest.raises(SystemExit):
        main(arguments)
    assert sorted(jobs.done) == sorted(cell.name for cell in cells.values() if cell.status == "failed")
    assert json.loads(capsys.readouterr().out)["failed"] == 2
    rows = [json.loads(line) for line in (out / "table.jsonl").read_text().splitlines()]
    (unlucky,) = [row for row in rows if row["cell"] == cells["head-readout", 60].name]
    assert (unlucky["outcome"], unlucky["error"]) == (None, cells["head-readout", 60].error)
    assert {row["error"] for row in rows if row["cell"] == moody.name} == {""}
    plugin.write_text(plugin.read_text() + "# better\n")
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert f"(plug-in '{plugin}:Moody' has changed since)" in capsys.readouterr().err


def _cells(out: Path) -> Any:
    return load_sweep(out).cells


def test_a_full_disk_ends_the_sweep_with_one_line_and_keeps_what_was_done(
    scenario_file: Path, tmp_path: Path, jobs: SerialJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "out", Store.write

    def full(store: Store, name: str, data: bytes) -> None:
        if len(jobs.done) == 2 and name.endswith("record.json"):
            raise DataError(f"cannot write {store.where(name)!r}: No space left on device")
        write(store, name, data)

    monkeypatch.setattr(Store, "write", full)
    with pytest.raises(
        DataError, match=r"No space left on device; 1 of 3 cells are finished and kept in .*; the same command goes on"
    ):
        _again(scenario_file, out, "0", "1", "2")
    assert [cell.status for cell in load_sweep(out).cells] == ["ok", "unfinished", "unfinished"]
    monkeypatch.setattr(Store, "write", write)
    assert _again(scenario_file, out, "0", "1", "2").kept == 1


def test_an_interrupt_leaves_a_table_and_says_how_to_go_on(
    scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(SerialJobs):
        def run(self, function: Any, jobs: Any) -> Any:
            for number, end in enumerate(super().run(function, jobs)):
                if number:
                    raise KeyboardInterrupt
                yield end

    monkeypatch.setattr("rhe_parties.sweep.driver.make_jobs", lambda address, parallel: Interrupted())
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(scenario_file), "-g", "seed=0,1", "--out", str(out)])
    assert stop.value.code == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("rhe: ")]
    assert f"interrupted; 1 of 2 cells are finished and kept in '{out}'; go on with: rhe sweep " in line
    assert f"-g seed=0,1 --out {out}" in line
    assert {json.loads(row)["seed"] for row in (out / "table.jsonl").read_text().splitlines()} == {0}


def test_a_cell_whose_processes_died_is_failed(
    scenario_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Deadly(SerialJobs):
        def run(self, function: Any, jobs: Any) -> Any:
            yield from (JobEnd(job.name, None, "its process died, 4 times in 4 attempts", 4) for job in jobs)

    monkeypatch.setattr("rhe_parties.sweep.driver.make_jobs", lambda address, parallel: Deadly())
    assert len(_again(scenario_file, tmp_path / "out", "0").failed) == 1
    (cell,) = load_sweep(tmp_path / "out").cells
    assert (cell.status, cell.attempts, cell.error) == ("failed", 4, "its process died, 4 times in 4 attempts")


def test_results_may_lie_behind_a_url(finished: Path, scenario_file: Path, jobs: SerialJobs) -> None:
    place = f"memory://{uuid.uuid4().hex}/sweep"
    summary = _again(scenario_file, place)
    assert summary.table == f"{place}/table.jsonl"
    found: Sweep = load_sweep(place)
    assert timeless(found) == timeless(load_sweep(finished))
    jobs.done.clear()
    assert _again(scenario_file, place).kept == 2
    assert jobs.done == []


def test_no_sweep_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no sweep at"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-g", "victims=1,x"], "victims='x' is not allowed"),
        (["-g", "victms=1,2"], "did you mean 'victims'"),
        (["-g", "seed=0,1", "--out", "s4://bucket"], "cannot use output folder 's4://bucket'"),
        (["-g", "seed=0,1", "--parallel", "0"], "parallel 0 is not allowed"),
        ([], "a sweep needs a grid"),
    ],
)
def test_mistakes_cost_exit_code_2_and_one_line(
    arguments: list[str], message: str, scenario_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    jobs: SerialJobs, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(scenario_file), *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rhe: ")
    assert message in line
    assert not list(tmp_path.iterdir())


def test_rows_of_cells_without_numbers() -> None:
    grid = {"adversary": "span-inversion", "victims": 3}
    cell = SweepCell("0" * 16, grid, {}, "ok", record=blocked_only(), seconds=2.0)
    rows = table_rows(cell)
    blocked = [row for row in rows if row["outcome"] == "blocked"]
    assert blocked
    for row in blocked:
        assert (row["missing"], row["statistic"], row["value"]) == ("plain head weights", None, None)
        assert (row["grid.adversary"], row["victims"], row["cell_seconds"]) == ("span-inversion", 3, 2.0)
    (lost,) = table_rows(SweepCell("0" * 16, grid, {}, "failed", error="no luck"))
    assert (lost["error"], lost["world"], lost["adversary"]) == ("no luck", None, None)
    assert table_rows(SweepCell("0" * 16, grid, {})) == []
    assert len(table_bytes([*rows, lost]).splitlines()) == len(rows) + 1


def test_a_sweep_is_reported_and_exported_as_a_whole(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = _copy(finished, tmp_path)
    show_report(str(out), False, tmp_path / "files")
    printed = capsys.readouterr().out
    assert "2 of 2 places of the grid have a record" in printed
    assert str(out / "report.html") in printed.replace("\n", "")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(words in page for words in ("seed=0", "seed=1", "head-readout", "What changes with the grid"))
    rows = list(csv.DictReader((tmp_path / "files" / "matrix.csv").open(encoding="utf-8")))
    assert {row["setting"] for row in rows} == {"seed=0", "seed=1"}
    show_report(str(out), True)
    assert len(capsys.readouterr().out.splitlines()) == len((out / "table.jsonl").read_text().splitlines())


def test_a_page_of_a_sweep_behind_a_url_lies_beside_it(finished: Path) -> None:
    place = f"memory://{finished.name}-report"
    for file in (path for path in finished.rglob("*") if path.is_file()):
        Store(place).write(str(file.relative_to(finished)), file.read_bytes())
    show_report(place, True)
    assert b"head-readout" in (Store(place).read("report.html") or b"")
