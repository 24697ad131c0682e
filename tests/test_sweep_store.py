"""A sweep's folder: whole files or none, on disk and behind URLs."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest

from rhe_parties.errors import DataError
from rhe_parties.sweep.store import Store, seal, unseal


@pytest.fixture(params=["path", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    place = {"path": f"{tmp_path}/a", "file": f"file://{tmp_path}/a", "memory": f"memory://{uuid.uuid4().hex}"}
    return Store(place[request.param])


def test_what_is_written_is_read(store: Store) -> None:
    store.check_writable()
    assert store.read("cells/x/cell.json") is None
    store.write("cells/x/cell.json", b"one")
    store.write("cells/x/cell.json", b"two")
    assert store.read_all(["cells/x/cell.json", "nothing"]) == [b"two", None]
    assert store.read(".writable") is None


def test_a_seal_shows_what_was_cut_off_or_changed() -> None:
    content: dict[str, Any] = {"name": "α", "numbers": [1.5, 2], "nothing": None}
    data = seal(content)
    assert unseal(data) == content
    assert unseal(None) is None
    assert all(unseal(data[:length]) is None for length in range(len(data) - 2))
    assert unseal(data.replace(b"1.5", b"1.6")) is None


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    store.write("table.jsonl", b"old")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rhe_parties.sweep.store.os.fsync", full)
    with pytest.raises(DataError, match=r"cannot write '.*/table.jsonl': No space left on device"):
        store.write("table.jsonl", b"new, and half of it is on the disk already")
    assert store.read("table.jsonl") == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["table.jsonl"]


def test_unusable_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cannot write '.*/file/sub/.writable': Not a directory"):
        Store(f"{tmp_path}/file/sub").check_writable()
    with pytest.raises(DataError, match=r"cannot use output folder 's4://bucket': .*s4"):
        Store("s4://bucket")
