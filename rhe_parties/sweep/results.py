"""What lies in a sweep's folder, how it is written and how it is read.

    sweep.json              the grid: scenario, keys and values, every cell by name (sealed, see `store`)
    cells/NAME/record.json  a cell's record, as `rhe run` writes it (`rhe report` reads it)
    cells/NAME/cell.json    how the cell ended, and the record's checksum (sealed); without it the cell is unfinished
    table.jsonl             all of it in rows, made from the finished cells (see `rhe_parties.sweep.table`)

A record depends on its cell's parameters alone, but for what tells of time and place: `seconds`, `stages`, `started`,
`handled_seconds`, `peak_memory_bytes`, `machine`, `versions`, `parameters.data_root`, and notes of strategies about
their own speed; and but for what encryption draws afresh every time: `transcript_sha256`, sizes of compressed
ciphertexts, and what a strategy makes of ciphertexts (variant `ciphertext`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rhe_parties.errors import DataError
from rhe_parties.report.record import Record
from rhe_parties.sweep.grid import Cell
from rhe_parties.sweep.store import Store, seal, unseal

__all__ = [
    "MANIFEST",
    "CellEntry",
    "CellStatus",
    "Manifest",
    "Sweep",
    "SweepCell",
    "load_sweep",
    "manifest_of",
    "read_cells",
    "read_manifest",
    "write_cell",
    "write_manifest",
]

SWEEP_FORMAT = 1
MANIFEST = "sweep.json"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CellEntry(_Strict):
    """One cell of the manifest: its name, the grid's values as written, and the parameters that differ among cells."""

    name: str
    values: dict[str, str]
    parameters: dict[str, Any]


class Manifest(_Strict):
    """What a sweep is: its grid, and each cell that belongs to it. `parameters` are those that all cells share."""

    format: int = SWEEP_FORMAT
    scenario: str
    summary: str
    scenario_sha256: str
    command: str
    grid: dict[str, list[str]]
    given: dict[str, Any]
    parameters: dict[str, Any]
    plugins: dict[str, str]
    cells: list[CellEntry]


class CellStatus(_Strict):
    """How a cell ended. `seconds` is its own time in its worker; `attempts` counts processes that died on it."""

    name: str
    status: Literal["ok", "failed"]
    error: str
    attempts: int
    seconds: float
    record_sha256: str


@dataclass(frozen=True)
class SweepCell:
    """One cell as it is read: `record` is None where there is none, `error` says why a cell failed.

    `values` are the grid's values with their types (lists joined by commas), `parameters` all of the cell's.
    """

    name: str
    values: dict[str, Any]
    parameters: dict[str, Any]
    status: Literal["ok", "failed", "unfinished"] = "unfinished"
    error: str = ""
    attempts: int = 0
    seconds: float = 0.0
    record: Record | None = None

    @property
    def label(self) -> str:
        """The grid's values in one line."""
        return ", ".join(f"{key}={value}" for key, value in self.values.items())


@dataclass(frozen=True)
class Sweep:
    """A sweep as it lies in its folder; `cells` in the order of the grid, unfinished ones among them."""

    place: str
    manifest: Manifest
    cells: list[SweepCell]


def load_sweep(place: Path | str) -> Sweep:
    """Read a sweep, finished or not; only whole and undamaged cells count as finished.

    Args:
        place: its folder, or any URL that fsspec knows.

    Raises:
        DataError: no sweep there, a damaged one, or one of another format.
    """
    store = Store(str(place))
    manifest = read_manifest(store)
    if manifest is None:
        raise DataError(f"no sweep at {str(place)!r}: it has no {MANIFEST}, or a damaged one")
    return Sweep(str(place), manifest, read_cells(store, manifest))


def manifest_of(
    scenario: tuple[str, str, str], command: str, grid: Mapping[str, list[str]], given: Mapping[str, Any],
    cells: list[Cell],
) -> Manifest:  # fmt: skip
    """The manifest of checked cells; `scenario` is its name, summary and the SHA-256 (hex) of its file."""
    dumps = [cell.parameters.model_dump(mode="json") for cell in cells]
    shared = {key: value for key, value in dumps[0].items() if all(other[key] == value for other in dumps)}
    entries = [
        CellEntry(
            name=cell.name,
            values=cell.values,
            parameters={key: value for key, value in dump.items() if key not in shared},
        )
        for cell, dump in zip(cells, dumps, strict=True)
    ]
    plugins = {name: hashlib.sha256(text.encode()).hexdigest() for cell in cells for name, text in cell.sources.items()}
    name, summary, sha256 = scenario
    return Manifest(
        scenario=name,
        summary=summary,
        scenario_sha256=sha256,
        command=command,
        grid=dict(grid),
        given=dict(given),
        parameters=shared,
        plugins=plugins,
        cells=entries,
    )


def write_manifest(store: Store, manifest: Manifest) -> None:
    """Put the manifest there.

    Raises:
        DataError: it cannot be written.
    """
    store.write(MANIFEST, seal(manifest.model_dump(mode="json")))


def read_manifest(store: Store) -> Manifest | None:
    """The manifest; None where there is none, or none that is whole.

    Raises:
        DataError: of another format, or unreachable.
    """
    content = unseal(store.read(MANIFEST))
    if content is None:
        return None
    found = content.get("format") if isinstance(content, dict) else None
    if found != SWEEP_FORMAT:
        raise DataError(
            f"{store.where(MANIFEST)!r} has sweep format {found!r}; this program reads format {SWEEP_FORMAT}"
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{store.where(MANIFEST)!r} is damaged: {error.errors()[0]['msg']}") from error


def write_cell(store: Store, status: CellStatus, record: bytes) -> None:
    """Store how a cell ended: first the record (b"" for none), then the seal that makes it count.

    Raises:
        DataError: it cannot be written.
    """
    if record:
        store.write(_record_file(status.name), record)
    store.write(_status_file(status.name), seal(status.model_dump(mode="json")))


def read_cells(store: Store, manifest: Manifest) -> list[SweepCell]:
    """All cells of the manifest, each with what is stored of it; what is cut off or changed counts as unfinished.

    Raises:
        DataError: unreachable.
    """
    names = [entry.name for entry in manifest.cells]
    statuses = store.read_all(_status_file(name) for name in names)
    records = store.read_all(_record_file(name) for name in names)
    return [
        finished_cell(entry, manifest, _status(data), record or b"")
        for entry, data, record in zip(manifest.cells, statuses, records, strict=True)
    ]


def finished_cell(entry: CellEntry, manifest: Manifest, status: CellStatus | None, record: bytes) -> SweepCell:
    """A cell from its status and its record's bytes; unfinished where they are missing or do not belong together."""
    parameters = manifest.parameters | entry.parameters
    values = {key: _plain(parameters.get(key, text)) for key, text in entry.values.items()}
    cell = SweepCell(entry.name, values, parameters)
    if status is None or status.name != entry.name:
        return cell
    parsed = None
    if status.record_sha256:
        parsed = _record(record) if hashlib.sha256(record).hexdigest() == status.record_sha256 else None
        if parsed is None:
            return cell
    return SweepCell(
        entry.name, values, parameters, status.status, status.error, status.attempts, status.seconds, parsed
    )


def _plain(value: Any) -> Any:
    """A parameter as a table's cell holds it."""
    return ",".join(map(str, value)) if isinstance(value, list) else value


def _status(data: bytes | None) -> CellStatus | None:
    try:
        return CellStatus.model_validate(unseal(data))
    except ValidationError:
        return None


def _record(data: bytes) -> Record | None:
    try:
        return Record.model_validate_json(data)
    except ValidationError:
        return None


def _status_file(name: str) -> str:
    return f"cells/{name}/cell.json"


def _record_file(name: str) -> str:
    return f"cells/{name}/record.json"
