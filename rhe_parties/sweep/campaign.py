"""One scenario in several parts, each a run with a task of its own, all on the same worlds, and one record of all."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rhe_parties.errors import DataError, ParameterError, RheError, unknown_name
from rhe_parties.report.html import render_html
from rhe_parties.report.record import AttackRecord, Record, ResultRecord, WorldRecord, save_record
from rhe_parties.runner.parameters import BASELINE, Parameters, resolve_parameters
from rhe_parties.runner.progress import Reporter
from rhe_parties.runner.scenario import Scenario, default_folder
from rhe_parties.sweep.grid import CELL_DEFAULTS, check_names
from rhe_parties.sweep.worker import CellOrder, CellResult, run_cell
from rhe_parties.transport import Job, JobEnd, make_jobs

__all__ = ["Campaign", "joined"]


@dataclass(frozen=True)
class Campaign(Scenario):
    """Parts are Ray tasks; each runs all worlds with its own adversaries, and their cells make one matrix.

    Args:
        parts: by name, where each part differs from `parameters`. `-p PART.key=value` sets a parameter of one part,
            `-p key=value` of all of them.
    """

    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))

    def resolve_parts(self, given: Mapping[str, Any]) -> dict[str, Parameters]:
        """The complete parameters of every part.

        Options of strategies reach the parts in which that strategy runs.

        Raises:
            ParameterError, PluginError: an unknown part, key, value or name (the nearest is named).
        """
        general = {key: value for key, value in given.items() if key.partition(".")[0] not in self.parts}
        own = {
            part: {key.partition(".")[2]: value for key, value in given.items() if key.partition(".")[0] == part}
            for part in self.parts
        }
        options = {key for key in general if "." in key}
        plain = {key: value for key, value in general.items() if key not in options}
        found, used = {}, set()
        for part, difference in self.parts.items():
            layers: tuple[Mapping[str, Any], ...] = (
                CELL_DEFAULTS, self.parameters, difference, plain, own[part],
            )  # fmt: skip
            named = resolve_parameters(*({k: v for k, v in layer.items() if "." not in k} for layer in layers))
            running = (BASELINE, *named.adversary)
            # What the scenario says of a strategy that the user left out says nothing any more.
            layers = (*(_about(layer, running) for layer in layers[:3]), *layers[3:])
            mine = {key for key in options if key.rpartition(".")[0] in _spoken(running)}
            used |= mine
            found[part] = resolve_parameters(*layers, {key: general[key] for key in mine})
        for key in sorted(options - used):
            names = sorted({name for p in found.values() for name in p.adversary} | set(self.parts))
            raise unknown_name("part or adversary", key.rpartition(".")[0], names)
        return found

    def run(self, out: Path | str | None = None, command: str = "", quiet: bool = False, **given: Any) -> Record:
        """Run every part, side by side where there are cores, and join their records; see `Scenario.run`.

        A part that fails leaves its error in the joined record, and the others go on.

        Raises:
            UserError: before anything was computed.
            RheError: parts failed; everything else is in the record.
        """
        folder = Path(out) if out is not None else default_folder(self.name)
        address = given.pop("address", None)
        parts = self.resolve_parts(given)
        orders = [_order(self, part, p, given, command) for part, p in parts.items()]
        _make(folder)
        started = time.perf_counter()
        ended: dict[str, CellResult] = {}
        try:
            with Reporter(quiet) as reporter:
                with reporter.stage("starting Ray" if address is None else "joining the Ray cluster", 1.0):
                    jobs = make_jobs(address, None)
                try:
                    text = f"{', '.join(parts)}"
                    with reporter.stage("parts", len(parts)) as update, contextlib.redirect_stdout(io.StringIO()):
                        update(0, text)
                        for end in jobs.run(run_cell, orders):
                            ended[end.name] = _kept(folder, end)
                            self._write(folder, command, given, parts, ended, time.perf_counter() - started)
                            update(len(ended), f"{end.name} done; {', '.join(set(parts) - set(ended)) or 'all'}")
                finally:
                    jobs.close()
        finally:
            record = self._write(folder, command, given, parts, ended, time.perf_counter() - started)
        if record.status == "error":
            raise RheError(f"{record.error}; everything else is in {str(folder)!r}")
        return record

    def _write(
        self,
        folder: Path,
        command: str,
        given: Mapping[str, Any],
        parts: Mapping[str, Parameters],
        ended: Mapping[str, CellResult],
        seconds: float,
    ) -> Record:
        """Record and report of what there is."""
        records = {
            part: Record.model_validate_json(ended[part].record)
            for part in parts
            if part in ended and ended[part].record
        }
        failed = {part: ended[part].error for part in parts if part in ended and not ended[part].record}
        record = joined(list(records.values()), self.name, self.summary)
        record.command, record.parameters_given = command, {key: str(value) for key, value in given.items()}
        record.parameters = {part: p.model_dump(mode="json") for part, p in parts.items()}
        record.seconds = seconds
        record.stages = [(part, ended[part].seconds) for part in parts if part in ended]
        missing = [part for part in parts if part not in ended]
        record.status = "error" if failed or missing else "ok"
        said = [f"part {part!r} failed: {error}" for part, error in failed.items()]
        if missing:
            said.append(f"unfinished: {', '.join(missing)}")
        record.error = "; ".join(said)
        save_record(record, folder / "record.json")
        try:
            (folder / "report.html").write_text(render_html(record), encoding="utf-8")
        except OSError as error:
            raise DataError(f"cannot write {str(folder / 'report.html')!r}: {error.strerror}") from error
        return record


def joined(records: Sequence[Record], name: str, summary: str) -> Record:
    """One record of runs on the same worlds: utility, messages and facts of the first, attacks of all.

    The claim of an adversary that saw nothing stands once for each world, with its statistics from every run.
    """
    if not records:
        return Record(scenario=name, summary=summary)
    first = records[0].model_copy(deep=True)
    worlds = {world.name: world for world in first.worlds}
    for record in records[1:]:
        for world in record.worlds:
            held = worlds.setdefault(world.name, world.model_copy(deep=True, update={"attacks": []}))
            if held not in first.worlds:
                first.worlds.append(held)
            _add(held, world)
    first.scenario, first.summary = name, summary
    first.peak_memory_bytes = max((record.peak_memory_bytes or 0 for record in records), default=0) or None
    return first


def _add(held: WorldRecord, world: WorldRecord) -> None:
    baselines = {cell.adversary: cell for cell in held.attacks if cell.adversary == BASELINE}
    for cell in world.attacks:
        if cell.adversary in baselines:
            _extend(baselines[cell.adversary], cell)
        else:
            held.attacks.append(cell)
    held.seconds += world.seconds
    if world.status == "error" and held.status == "ok":
        held.status, held.error = world.status, world.error


def _extend(cell: AttackRecord, other: AttackRecord) -> None:
    known = {result.statistic for result in cell.results}
    more: list[ResultRecord] = [result for result in other.results if result.statistic not in known]
    cell.results.extend(more)
    cell.seconds += other.seconds


def _about(layer: Mapping[str, Any], running: Sequence[str]) -> dict[str, Any]:
    """A layer without options of strategies that do not run."""
    return {key: value for key, value in layer.items() if "." not in key or key.rpartition(".")[0] in _spoken(running)}


def _spoken(names: Sequence[str]) -> set[str]:
    """Names by which options may speak of strategies."""
    return {*names, *(name.rpartition(":")[2] for name in names)}


def _order(campaign: Campaign, part: str, p: Parameters, given: Mapping[str, Any], command: str) -> Job[CellOrder]:
    try:
        sources = check_names(p)
    except ParameterError as error:
        raise ParameterError(f"{error} (in part {part!r})") from error
    if p.data_root is not None:  # another machine's working folder is another
        p = p.model_copy(update={"data_root": p.data_root.expanduser().absolute()})
    order = CellOrder(
        f"{campaign.name}-{part}", campaign.summary, p.model_dump_json(), json.dumps(dict(given), default=str),
        sources, command,
    )  # fmt: skip
    return Job(part, order, {"num_cpus": 1.0})


def _make(folder: Path) -> None:
    try:
        (folder / "parts").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot write to output folder {str(folder)!r}: {error.strerror}") from error


def _kept(folder: Path, end: JobEnd[CellResult]) -> CellResult:
    """A part's result, its record stored under its name as soon as it is there."""
    result = end.result if end.result is not None else CellResult(b"", end.lost, 0.0)
    if result.record:
        save_record(Record.model_validate_json(result.record), folder / "parts" / f"{end.name}.json")
    return result
