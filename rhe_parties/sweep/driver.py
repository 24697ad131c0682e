"""The one process that hands out cells and stores what comes back; workers need no disk in common with it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rhe_parties.errors import DataError, RheError, TransportError
from rhe_parties.runner.progress import Reporter, Update
from rhe_parties.runner.scenario import Scenario, repeat_command
from rhe_parties.sweep.grid import CELL_DEFAULTS, Cell, make_cells
from rhe_parties.sweep.results import (
    CellStatus,
    Manifest,
    SweepCell,
    finished_cell,
    manifest_of,
    read_cells,
    write_cell,
    write_manifest,
)
from rhe_parties.sweep.resume import changes, check_folder
from rhe_parties.sweep.store import Store
from rhe_parties.sweep.table import table_bytes, table_rows
from rhe_parties.sweep.worker import CellOrder, CellResult, run_cell
from rhe_parties.transport import Job, make_jobs

__all__ = ["TABLE", "Interrupted", "SweepRequest", "SweepSummary", "sweep"]

TABLE = "table.jsonl"
# The table is written anew while the sweep runs, but not for more than this share of the time.
_TABLE_SHARE, _TABLE_SECONDS = 0.02, 5.0
# Cells may take minutes: the time left is told from the pace of the last hour.
_PACE_SECONDS = 3600.0


class Interrupted(RheError):
    """The user stopped a sweep; the text says what is kept."""


@dataclass(frozen=True)
class SweepRequest:
    """What to sweep over, where to put the results, and where to compute.

    Attributes:
        file: the scenario's file, for the record's command and to notice when it changes; None for none.
        grid: the values of each varied parameter, as text.
        given: parameters that all cells share.
        out: folder or fsspec URL; with a sweep that this one continues or extends, or without any.
        address: a running Ray cluster; None starts Ray on this machine.
        parallel: most cells at a time; None: as many as the cluster has cores.
        command: how it was asked.
        note: told what the user should know before the first cell.
    """

    scenario: Scenario
    file: Path | None
    grid: Mapping[str, Sequence[str]]
    given: Mapping[str, Any]
    out: str
    address: str | None = None
    parallel: int | None = None
    command: str = ""
    quiet: bool = False
    note: Callable[[str], None] = field(default=lambda _text: None)


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep came to.

    `finished` and `failed` count cells, `kept` those finished in an earlier session; `seconds` and
    `compute_seconds` (of all workers together) are of this session.
    """

    cells: list[SweepCell]
    kept: int
    seconds: float
    compute_seconds: float
    parallel: int
    table: str

    @property
    def finished(self) -> int:
        """Cells with a result and without an error."""
        return sum(cell.status == "ok" for cell in self.cells)

    @property
    def failed(self) -> list[SweepCell]:
        """Cells that ended with an error."""
        return [cell for cell in self.cells if cell.status == "failed"]


def sweep(request: SweepRequest) -> SweepSummary:
    """Run every cell that the folder does not hold yet, and store each as soon as it has ended.

    Raises:
        UserError: a mistake in the grid, a folder of something else (nothing has run); a folder that can no longer be
            written (what was stored before is kept).
        TransportError: Ray does not start, or is gone.
        Interrupted: by the user, after the table has been written.
    """
    started = time.perf_counter()
    cells = {cell.name: cell for cell in make_cells(request.scenario, request.grid, request.given)}
    manifest = _manifest(request, list(cells.values()))
    store = Store(request.out)
    notes = check_folder(store, manifest)
    store.check_writable()
    session = _Session(store, manifest, {cell.name: cell for cell in read_cells(store, manifest)})
    for note in [*notes, *changes(session.cells.values())]:
        request.note(note)
    write_manifest(store, manifest)
    kept = session.count("ok")
    waiting = [cells[name] for name, cell in session.cells.items() if cell.status != "ok"]
    if kept:
        request.note(f"{kept} of {len(cells)} cells are finished already; {len(waiting)} to go")
    with session.accounted():
        parallel = _run(request, session, waiting) if waiting else 0
        session.write_table()
    return SweepSummary(
        list(session.cells.values()),
        kept,
        time.perf_counter() - started,
        session.compute_seconds,
        parallel,
        store.where(TABLE),
    )


class _Session:
    """What is stored and known so far."""

    def __init__(self, store: Store, manifest: Manifest, cells: dict[str, SweepCell]) -> None:
        self.cells = cells
        self.compute_seconds = 0.0
        self._store = store
        self._manifest = manifest
        self._entries = {entry.name: entry for entry in manifest.cells}
        self._rows = {name: table_rows(cell) for name, cell in cells.items()}
        self._next_table = 0.0

    def count(self, status: str) -> int:
        return sum(cell.status == status for cell in self.cells.values())

    def store(self, name: str, result: CellResult, attempts: int) -> None:
        """Keep what became of a cell, before anything else is done."""
        digest = hashlib.sha256(result.record).hexdigest() if result.record else ""
        ended: dict[str, Any] = {"name": name, "attempts": attempts, "seconds": result.seconds}
        status = CellStatus(
            status="failed" if result.error else "ok", error=result.error, record_sha256=digest, **ended
        )
        cell = finished_cell(self._entries[name], self._manifest, status, result.record)
        if cell.status == "unfinished":
            status = CellStatus(status="failed", error="its record cannot be read again", record_sha256="", **ended)
            cell = finished_cell(self._entries[name], self._manifest, status, b"")
        write_cell(self._store, status, result.record)
        self.cells[name], self._rows[name] = cell, table_rows(cell)
        self.compute_seconds += result.seconds
        if time.monotonic() >= self._next_table:
            self.write_table()

    def write_table(self) -> None:
        began = time.monotonic()
        self._store.write(TABLE, table_bytes(row for rows in self._rows.values() for row in rows))
        now = time.monotonic()
        self._next_table = now + max(_TABLE_SECONDS, (now - began) / _TABLE_SHARE)

    @contextlib.contextmanager
    def accounted(self) -> Iterator[None]:
        """Whatever ends the sweep early, say what is kept."""
        try:
            yield
        except KeyboardInterrupt:
            with contextlib.suppress(DataError):
                self.write_table()
            raise Interrupted(f"interrupted; {self._kept()}") from None
        except DataError as error:
            raise DataError(f"{error}; {self._kept()}; the same command goes on") from error
        except TransportError as error:
            raise TransportError(error.party, f"{error}; {self._kept()}; the same command goes on") from error

    def _kept(self) -> str:
        return f"{self.count('ok')} of {len(self.cells)} cells are finished and kept in {self._store.place!r}"


def _run(request: SweepRequest, session: _Session, waiting: list[Cell]) -> int:
    """Run cells and store their results; returns how many at a time it began with.

    Until it is closed Ray reports dead processes on standard output, which is the summary's alone; the bar counts them.
    """
    scenario = request.scenario
    with Reporter(request.quiet, _PACE_SECONDS) as reporter, contextlib.redirect_stdout(io.StringIO()):
        with reporter.stage("starting Ray" if request.address is None else "joining the Ray cluster", 1.0):
            jobs = make_jobs(request.address, request.parallel)
        parallel = jobs.parallel
        try:
            orders = [Job(cell.name, _order(scenario, request.file, cell), _resources(cell)) for cell in waiting]
            with reporter.stage("cells", len(waiting)) as update:
                progress = _Progress(update, len(waiting))
                for end in jobs.run(run_cell, orders):
                    result = end.result if end.result is not None else CellResult(b"", end.lost, 0.0)
                    session.store(end.name, result, end.attempts)
                    progress.ended(result, end.attempts)
            return parallel
        finally:
            jobs.close()


class _Progress:
    """The line beside the bar."""

    def __init__(self, update: Update, total: int) -> None:
        self._update = update
        self._total = total
        self._started = time.monotonic()
        self._done = self._failed = self._again = 0
        self._show()

    def ended(self, result: CellResult, attempts: int) -> None:
        self._done += 1
        self._again += attempts - 1
        self._failed += bool(result.error)
        self._show()

    def _show(self) -> None:
        minutes = (time.monotonic() - self._started) / 60
        text = f"{self._done} of {self._total}"
        if self._done:
            text += f", {self._done / minutes:.3g} per minute"
        if self._failed:
            text += f", {self._failed} failed"
        if self._again:
            text += f", {self._again} retried"
        self._update(self._done, text)


def _manifest(request: SweepRequest, cells: list[Cell]) -> Manifest:
    scenario = request.scenario
    digest = hashlib.sha256(request.file.read_bytes()).hexdigest() if request.file is not None else ""
    grid = {key: list(values) for key, values in request.grid.items()}
    given = json.loads(json.dumps(dict(request.given), default=str))
    return manifest_of((scenario.name, scenario.summary, digest), request.command, grid, given, cells)


def _order(scenario: Scenario, file: Path | None, cell: Cell) -> CellOrder:
    parameters = cell.parameters
    if parameters.data_root is not None:  # another machine's working folder is another
        parameters = parameters.model_copy(update={"data_root": parameters.data_root.expanduser().absolute()})
    return CellOrder(
        scenario.name,
        scenario.summary,
        parameters.model_dump_json(),
        json.dumps(cell.given, default=str),
        cell.sources,
        repeat_command(file, {**CELL_DEFAULTS, **cell.given}) if file is not None else "",
    )


def _resources(cell: Cell) -> dict[str, float]:
    """What one cell reserves of a machine: a core, or what all its parties are given together."""
    total: dict[str, float] = {}
    for wanted in cell.parameters.resources.values():
        for name, amount in wanted.items():
            total[name] = total.get(name, 0.0) + amount
    return {"num_cpus": 1.0} | total
