"""A third party's package: installed as it would be, found by name, run, and the same text as the README's tutorial."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rhe_parties.attacks.base import ADVERSARIES
from rhe_parties.defences.base import DEFENCES

ROOT = Path(__file__).parent.parent
PACKAGE = Path(__file__).parent / "plugin_package"
IN_README = {"nearest_neighbour.py", "pyproject.toml", "test_nearest_neighbour.py"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plug-in package in it, put there by pip from its own pyproject, without any network."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed here, so no package can be")
    folder = tmp_path_factory.mktemp("plugin")
    shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    where = ["--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    done = subprocess.run([*pip, *where], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def with_plugins(installed: Path, *arguments: str) -> str:
    """What Python says where the plug-in is installed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_not_there_before() -> None:
    assert "nearest-neighbour" not in ADVERSARIES.names()
    assert "sign-weights" not in DEFENCES.names()


def test_installed_plugins_are_listed_with_their_package(installed: Path) -> None:
    code = (
        "import json\n"
        "from rhe_parties.attacks.base import ADVERSARIES\n"
        "from rhe_parties.defences.base import DEFENCES\n"
        "found = [*ADVERSARIES.catalogue(), *DEFENCES.catalogue()]\n"
        "print(json.dumps({entry.name: [entry.summary, entry.source] for entry in found}))"
    )
    entries = json.loads(with_plugins(installed, "-c", code))
    for name in ("nearest-neighbour", "sign-weights"):
        summary, source = entries[name]
        assert source == "nearest-neighbour"
        assert not summary.startswith("cannot be used")


def test_installed_plugins_run_by_name(installed: Path, tmp_path: Path) -> None:
    given = {
        "adversary": "nearest-neighbour",
        "worlds": "none,sign-weights,rhe",
        "victims": "20",
        "evaluation_images": "2",
        "transport": "local",
        "nearest-neighbour.centred": "true",
    }
    pairs = [word for key, value in given.items() for word in ("-p", f"{key}={value}")]
    program = ("-m", "rhe_parties.cli", "run", "scenarios/quickstart.py")
    with_plugins(installed, *program, *pairs, "--out", str(tmp_path))
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["status"] == "ok"
    cells = {
        world["name"]: next(cell for cell in world["attacks"] if cell["adversary"] == "nearest-neighbour")
        for world in record["worlds"]
    }
    assert cells["rhe"]["outcome"] == "blocked"
    assert cells["rhe"]["missing"] == ["plain head weights"]
    for world in ("none", "sign-weights"):
        assert cells[world]["outcome"] in ("leaked", "not-leaked"), cells[world]["error"]
    (rate,) = [r for r in cells["none"]["results"] if r["statistic"] == "identification_rate"]
    # Neighbours are not the images themselves, but they point at them.
    assert rate["low"] > rate["chance"]


def readme_files(text: str) -> dict[str, str]:
    """Code blocks that follow a line `<!-- file: PATH -->`, by path."""
    return dict(re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```\n", text, flags=re.DOTALL))


def test_readme_shows_these_very_files() -> None:
    shown = readme_files((ROOT / "README.md").read_text(encoding="utf-8"))
    prefix = "tests/plugin_package/"
    assert {path.removeprefix(prefix) for path in shown if path.startswith(prefix)} == IN_README
    for path, text in shown.items():
        assert text == (ROOT / path).read_text(encoding="utf-8"), f"{path} and the README differ"
