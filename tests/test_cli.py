"""The command line: exit codes, one-line errors, and results that survive a failure."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rhe_parties.cli.main import main
from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.imagefolder import read_folder
from rhe_parties.report.record import load_record

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = str(ROOT / "scenarios" / "quickstart.py")
SMALL = ["-p", "victims=3", "-p", "evaluation_images=3", "-p", "examples=1"]
QUICK = [*SMALL, "-p", "transport=local"]
LOCAL = [*QUICK, "-p", "adversary=head-readout"]


def _exit_code(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    return int(stop.value.code or 0)


def test_run_writes_everything_and_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert _exit_code(["run", QUICKSTART, *LOCAL, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "head-readout" in text
    assert "prior-only" in text
    assert {p.name for p in out.iterdir()} == {"record.json", "report.html", "transcript.binpb"}
    record = json.loads((out / "record.json").read_text())
    assert record["status"] == "ok"
    assert [w["name"] for w in record["worlds"]] == ["none", "rhe"]
    assert record["parameters_given"]["victims"] == "3"
    assert record["parameters"]["victims"] == 3
    assert record["command"].startswith("rhe run ")


def test_json_output_is_the_record_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["run", QUICKSTART, *LOCAL, "--out", str(tmp_path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "record.json").read_text())


def test_report_is_rendered_again_from_the_record_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(["run", QUICKSTART, *LOCAL, "--out", str(tmp_path)]) == 0
    first = (tmp_path / "report.html").read_text()
    (tmp_path / "report.html").unlink()
    (tmp_path / "transcript.binpb").unlink()
    assert _exit_code(["report", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").read_text() == first


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", QUICKSTART, "-p", "victms=3"], "did you mean 'victims'"),
        (["run", QUICKSTART, "--transport", "grcp", "-p", "transport=ray"], "did you mean 'grpc'"),
        (["run", QUICKSTART, "--transport", "grpc", "--address", "auto"], "needs transport=ray, not 'grpc'"),
        (["run", QUICKSTART, "-p", "victims"], "not of the form key=value"),
        (["run", QUICKSTART, "-p", "dataset=digts"], "did you mean 'digits'"),
        (["run", "nowhere.py"], "no scenario file at 'nowhere.py'"),
        (["report", "nowhere"], "cannot read a record at"),
        (["list", "adversarys"], "did you mean 'adversaries'"),
        (["pretrain", "vgg"], "unknown backbone to pretrain 'vgg'"),
    ],
)
def test_mistakes_cost_exit_code_2_and_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    if arguments[0] == "run":
        arguments = [*arguments, "--out", str(tmp_path / "out")]
    assert _exit_code(arguments) == 2
    errors = capsys.readouterr().err
    lines = [line for line in errors.splitlines() if line.startswith("rhe: ")]
    assert len(lines) == 1
    assert message in lines[0]
    assert "Traceback" not in errors


def test_unwritable_output_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert _exit_code(["run", QUICKSTART, *LOCAL, "--out", str(blocked / "sub")]) == 2
    assert "cannot write to output folder" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["raise RuntimeError('x')", "scenario = 3", ""])
def test_bad_scenario_files(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "s.py"
    file.write_text(text)
    assert _exit_code(["run", str(file)]) == 2
    assert "could not be loaded" in (err := capsys.readouterr().err) or "defines no" in err


BROKEN = """
from rhe_parties.attacks.base import Strategy
class Broken(Strategy):
    name, summary, source = "broken", "raises in the middle", "tests"
    def attack(self, view, prior, context):
        context.progress(0.5, "half way")
        raise ValueError("ran out of luck")
class Liar(Broken):
    def attack(self, view, prior, context):
        from rhe_parties.attacks.base import Claim
        return Claim(head_ids=("somebody",))
"""


@pytest.mark.parametrize(("name", "reason"), [("Broken", "ValueError: ran out of luck"), ("Liar", "names 1 heads")])
def test_a_strategy_that_fails_spoils_its_own_cell_only(
    name: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "broken.py"
    file.write_text(BROKEN)
    out = tmp_path / "out"
    arguments = ["run", QUICKSTART, *QUICK, "-p", f"adversary={file}:{name},head-readout", "--out", str(out)]
    assert _exit_code(arguments) == 1
    record = load_record(out)
    assert record.status == "ok"
    for world in record.worlds:
        cells = {cell.adversary: cell for cell in world.attacks}
        assert cells[f"{file}:{name}"].outcome == "error"
        assert reason in cells[f"{file}:{name}"].error
        assert cells["head-readout"].outcome in ("leaked", "blocked")
    assert "2 attack cells failed" in capsys.readouterr().err


DEADLY = """
import os
from rhe_parties.attacks.base import Strategy
class Deadly(Strategy):
    name, summary, source = "deadly", "takes its process with it", "tests"
    def attack(self, view, prior, context):
        os._exit(3)
"""


def test_a_dying_actor_ends_the_run_with_a_record(tmp_path: Path) -> None:
    file = tmp_path / "deadly.py"
    file.write_text(DEADLY)
    out = tmp_path / "out"
    arguments = [QUICKSTART, *SMALL, "-p", f"adversary=head-readout,{file}:Deadly", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "rhe_parties.cli", "run", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("rhe: ")]
    assert "adversary died" in line
    assert "Traceback" not in done.stderr
    record = load_record(out)
    assert record.status == "error"
    assert "adversary died" in record.error
    # What had been computed is there: the world's utility, the cells before, every message.
    assert record.worlds[0].accuracy is not None
    assert [cell.adversary for cell in record.worlds[0].attacks] == ["prior-only", "head-readout"]
    assert record.transcript_messages > 0
    assert (out / "report.html").stat().st_size > 0


def test_ctrl_c_cleans_up(tmp_path: Path) -> None:
    file = tmp_path / "slow.py"
    marker = tmp_path / "attacking"
    sleep = f"open({str(marker)!r}, 'w').close(); __import__('time').sleep(600)"
    file.write_text(DEADLY.replace("os._exit(3)", sleep))
    out = tmp_path / "out"
    arguments = [QUICKSTART, *SMALL, "-p", f"adversary={file}:Deadly", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "rhe_parties.cli", "run", *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
        # A shell's background jobs ignore Ctrl-C, and so would everything that the tests start there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not marker.exists():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    try:
        _, errors = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 1
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert load_record(out).status == "error"
    assert load_record(out).error == "interrupted by the user"
    deadline = time.monotonic() + 30
    while _alive(process.pid):
        assert time.monotonic() < deadline, "processes were left behind"
        time.sleep(0.5)


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_list_json_has_the_promised_keys(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("adversaries", "defences", "datasets", "backbones", "schemes", "evaluators", "parameters"):
        assert _exit_code(["list", kind, "--json"]) == 0
        rows = json.loads(capsys.readouterr().out)
        assert rows
        assert all({"name", "summary", "source"} <= set(row) for row in rows)
    assert _exit_code(["list"]) == 0
    assert "span-inversion" in capsys.readouterr().out


def test_scenario_file_is_also_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, QUICKSTART, *LOCAL, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert load_record(tmp_path).status == "ok"


def test_pictures_are_written_and_read_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pictures"
    assert _exit_code(["pictures", "digits", "--out", str(out), "--train", "2", "--test", "1"]) == 0
    images, labels, names, test = read_folder(out, 32)
    assert (images.shape, names, list(np.bincount(labels))) == ((30, 1, 32, 32), tuple(map(str, range(10))), [3] * 10)
    assert test is not None
    assert test.sum() == 10
    np.testing.assert_array_equal(images[0], load_dataset("digits").images[load_dataset("digits").labels == 0][0])
    for arguments, text in (
        (["--out", str(out)], "is not empty"),
        (["--out", str(tmp_path / "many"), "--train", "200"], "has 178 images from 0 on, not 200"),
        (["--out", str(tmp_path / "none"), "--test", "0"], "test = 0"),
    ):
        capsys.readouterr()
        assert _exit_code(["pictures", "digits", *arguments]) == 2
        assert text in capsys.readouterr().err


def test_the_command_line_does_not_wait_for_torch() -> None:
    code = (
        "import sys, rhe_parties.cli.main; print([m for m in ('torch', 'scipy', 'ray', 'tenseal') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
