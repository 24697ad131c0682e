"""A scenario: a name, a sentence, and the parameters in which it differs from the defaults."""

from __future__ import annotations

import datetime as dt
import runpy
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rhe_parties.errors import DataError, ParameterError
from rhe_parties.report.record import Record
from rhe_parties.runner.parameters import Parameters, resolve_parameters
from rhe_parties.runner.session import RunRequest, run

__all__ = ["Scenario", "default_folder", "load_scenario", "repeat_command"]


@dataclass(frozen=True)
class Scenario:
    """What a scenario file defines under the name `scenario`.

    Args:
        name: short name, also of the output folder.
        summary: one sentence for `rhe list` and the report.
        parameters: where the scenario differs from `Parameters`' defaults.
    """

    name: str
    summary: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def resolve(self, given: Mapping[str, Any]) -> Parameters:
        """The complete parameters with the user's own on top.

        Raises:
            ParameterError: unknown key or value; the nearest valid one is named.
        """
        return resolve_parameters(self.parameters, given)

    def run(self, out: Path | str | None = None, command: str = "", quiet: bool = False, **given: Any) -> Record:
        """Run from Python: `scenario.run(out="results", victims=60)`.

        Raises:
            UserError: before anything was computed.
            RheError: after the record with status `error` has been written.
        """
        folder = Path(out) if out is not None else default_folder(self.name)
        parameters = self.resolve(given)
        return run(RunRequest(self.name, self.summary, parameters, dict(given), folder, command, quiet))


def default_folder(name: str) -> Path:
    """A new folder below `runs/` that no earlier run wrote to."""
    return Path("runs") / f"{name}-{dt.datetime.now().strftime('%Y%m%d-%H%M%S')}"


def repeat_command(file: Path | str, given: Mapping[str, Any]) -> str:
    """The command that repeats a run, every given parameter spelled out."""
    parts = ["rhe", "run", str(file)]
    for key, value in given.items():
        text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        parts += ["-p", f"{key}={text}"]
    return shlex.join(parts)


def load_scenario(path: Path) -> Scenario:
    """The `scenario` that a file defines.

    Raises:
        DataError: no such file.
        ParameterError: the file raised, or defines no `scenario`.
    """
    if not path.is_file():
        raise DataError(f"no scenario file at {str(path)!r}")
    try:
        names = runpy.run_path(str(path), run_name="rhe_scenario")
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ParameterError(f"scenario {str(path)!r} could not be loaded: {reason}") from error
    scenario = names.get("scenario")
    if not isinstance(scenario, Scenario):
        raise ParameterError(f"{str(path)!r} defines no `scenario = Scenario(…)`")
    return scenario
