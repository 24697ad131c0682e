"""What a Ray task of a sweep does: one cell, from parameters to the bytes of its record. It writes nothing."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from rhe_parties.errors import RheError
from rhe_parties.registry import carried_sources
from rhe_parties.report.record import Record
from rhe_parties.runner.parameters import Parameters
from rhe_parties.runner.session import RunRequest, reason, run

__all__ = ["CellOrder", "CellResult", "run_cell"]


@dataclass(frozen=True)
class CellOrder:
    """Everything that a machine needs besides the package and the data: no file of the user's travels by name only.

    `parameters` and `given` are JSON; `sources` are the texts of plug-ins by reference.
    """

    scenario: str
    summary: str
    parameters: str
    given: str
    sources: dict[str, str]
    command: str


@dataclass(frozen=True)
class CellResult:
    """A cell's record as JSON (b"" where it ended with an exception), why it failed ("" where not), and its seconds."""

    record: bytes
    error: str
    seconds: float


def run_cell(order: CellOrder) -> CellResult:
    """Run one cell in this process; whatever goes wrong in it is its result."""
    started = time.perf_counter()
    try:
        given: dict[str, Any] = json.loads(order.given)
        parameters = Parameters.model_validate_json(order.parameters)
        request = RunRequest(order.scenario, order.summary, parameters, given, None, order.command, quiet=True)
        with carried_sources(order.sources):
            record = run(request)
        data = record.model_dump_json(indent=1).encode() + b"\n"
        error = _failures(record)
    except Exception as exception:
        data, error = b"", reason(exception)
        if isinstance(exception, RheError):
            error = " ".join(error.split())
    return CellResult(data, error, time.perf_counter() - started)


def _failures(record: Record) -> str:
    """What strategies failed in a run that went through, or ""."""
    failed = [(world, cell) for world in record.worlds for cell in world.attacks if cell.outcome == "error"]
    if not failed:
        return ""
    world, first = failed[0]
    more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{first.adversary} in world {world.name}: {first.error}{more}"
