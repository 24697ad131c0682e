"""A grid: what the user wrote, every cell's complete parameters, and all that can be refused before anything runs."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rhe_parties.data.datasets import dataset_catalogue
from rhe_parties.data.properties import parse_property
from rhe_parties.errors import ParameterError, unknown_name
from rhe_parties.model.backbone import backbone_catalogue
from rhe_parties.runner.heads import check_hidden
from rhe_parties.runner.parameters import BASELINE, Parameters, resolve_parameters
from rhe_parties.runner.plan import resolve_attackers, resolve_worlds
from rhe_parties.runner.scenario import Scenario
from rhe_parties.threat.model import ThreatModel

__all__ = ["MAX_CELLS", "Cell", "make_cells", "parse_grid"]

MAX_CELLS = 100_000
#: What a cell has where neither scenario nor user says otherwise: one process, one thread, as many cells side by side.
CELL_DEFAULTS = {"transport": "local", "threads": 1}
# They say where something is and not what is computed, so they are no part of a cell's name.
_PLACES = ("address", "data_root")
_NAME_LENGTH = 16


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    Attributes:
        name: hash of scenario, parameters and plug-ins' texts, and so the same in every session.
        values: the grid's values as they were written, by key.
        given: everything that the user gave for this cell, the grid's values among it.
        parameters: complete.
        sources: text of each plug-in that comes from a file, by its reference.
    """

    name: str
    values: dict[str, str]
    given: dict[str, Any]
    parameters: Parameters
    sources: dict[str, str]

    @property
    def label(self) -> str:
        """The grid's values in one line."""
        return _label(self.values)


def parse_grid(items: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """`["victims=3,5", "worlds=none,rhe;none,rhe+client"]` as values by key.

    Values are separated by commas, or by semicolons as soon as there is one, and then commas belong to the values.
    A parameter that is itself a list (worlds, adversary …) takes semicolons only.

    Raises:
        ParameterError: not of the form key=a,b; a key or value twice; or commas that could mean two things.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise ParameterError(f"-g {item!r} is not of the form key=value,value")
        if key in grid:
            raise ParameterError(f"-g {key} is given twice: put all its values into one, as -g '{key}=a,b'")
        if key in _PLACES or key == "transport":
            raise ParameterError(f"-g {key!r} is not allowed: it says where a cell is computed, not what")
        if ";" not in text and "," in text and _is_list(key):
            raise ParameterError(
                f"-g {item!r} could mean two things, as {key} takes lists: with a semicolon between the grid's values, "
                f"commas belong to the values, as in -g '{item};…'; one list for all cells is -p {item}"
            )
        values = tuple(part.strip() for part in text.split(";" if ";" in text else ","))
        for place, value in enumerate(values):
            if value in values[:place]:
                raise ParameterError(f"-g {item!r} names {value!r} twice")
        grid[key] = values
    return grid


def _is_list(key: str) -> bool:
    field = Parameters.model_fields.get(key)
    return field is not None and isinstance(field.get_default(call_default_factory=True), tuple | dict)


def make_cells(scenario: Scenario, grid: Mapping[str, Sequence[str]], given: Mapping[str, Any]) -> list[Cell]:
    """Every combination of the grid's values, the last key changing fastest, complete and checked.

    Options of strategies (NAME.key) reach only the cells in which that strategy runs.

    Raises:
        ParameterError, PluginError: an unknown key, value or name anywhere in the grid (the nearest is named), a key
            both in the grid and given, cells that are the same, none, or too many.
    """
    if not grid:
        raise ParameterError("a sweep needs a grid: -g key=value,value")
    for key in grid:
        if key in given:
            raise ParameterError(f"{key!r} is given both by -g and by -p; a key is either varied or fixed")
    if given.get("address") is not None:
        raise ParameterError(f"address={given['address']!r} is no parameter of a cell: the whole sweep takes --address")
    count = math.prod(len(values) for values in grid.values())
    if count > MAX_CELLS:
        raise ParameterError(f"the grid has {count:,} cells (allowed: {MAX_CELLS:,})")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    strategies = []
    for values in combinations:
        with _naming(values):
            strategies.append(_strategies(scenario, {**given, **values}))
    everywhere = frozenset().union(*strategies)
    check = functools.cache(_check)
    cells: dict[str, Cell] = {}
    for values, own in zip(combinations, strategies, strict=True):
        mine = {key: value for key, value in {**given, **values}.items() if _owner(key) not in everywhere - own}
        with _naming(values):
            parameters = resolve_parameters(CELL_DEFAULTS, scenario.parameters, mine)
            sources = check(_Names.of(parameters))
        name = _name(scenario.name, parameters, sources)
        if name in cells:
            raise ParameterError(f"cells {cells[name].label!r} and {_label(values)!r} of the grid are the same")
        cells[name] = Cell(name, values, mine, parameters, sources)
    return list(cells.values())


def _label(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())


@contextmanager
def _naming(values: Mapping[str, str]) -> Iterator[None]:
    """Say in which cell something is not allowed."""
    try:
        yield
    except ParameterError as error:
        raise ParameterError(f"{error} (in cell {_label(values)!r})") from error


def _owner(key: str) -> str:
    """The strategy that an option NAME.key belongs to, or ""."""
    return key.rpartition(".")[0] if key not in Parameters.model_fields else ""


def _strategies(scenario: Scenario, layer: Mapping[str, Any]) -> frozenset[str]:
    """Names by which options may speak of the strategies of one cell."""
    plain = {key: value for key, value in layer.items() if not _owner(key) and key != "options"}
    own = {key: value for key, value in scenario.parameters.items() if not _owner(key) and key != "options"}
    names = resolve_parameters(CELL_DEFAULTS, own, plain).adversary
    return frozenset({BASELINE, *names} | {name.rpartition(":")[2] for name in names})


@dataclass(frozen=True)
class _Names:
    """A cell's parameters without those that no name depends on, so that each combination is looked up once."""

    text: str

    @classmethod
    def of(cls, parameters: Parameters) -> _Names:
        return cls(parameters.model_dump_json(exclude={"seed", "victims", "evaluation_images", "data_root"}))


def _check(names: _Names) -> dict[str, str]:
    """Refuse unknown names, and read the texts of plug-ins that come from files."""
    p = Parameters.model_validate_json(names.text)
    if p.transport != "local":
        raise ParameterError(
            f"transport={p.transport!r} is not allowed in a sweep: each cell is one process (allowed: local)"
        )
    datasets = [name for name, _, _ in dataset_catalogue()]
    if not p.dataset.startswith("imagefolder:") and p.dataset not in datasets:
        raise unknown_name("dataset", p.dataset, datasets)
    backbones = [name for name, _, _ in backbone_catalogue()]
    if p.backbone not in backbones:
        raise unknown_name("backbone", p.backbone, backbones)
    if p.task == "property":
        parse_property(p.property, 2**31)  # how many classes there are is known when the data are there
    ThreatModel(corrupted=p.corrupted)
    worlds, attackers = resolve_worlds(p), resolve_attackers(p)
    check_hidden(p, [(world.name, world.defence, world.scheme) for world in worlds])
    found = [(world.reference, world.source) for world in worlds]
    found += [(attacker.reference, attacker.source) for attacker in attackers]
    return {reference: source for reference, source in found if source}


def _name(scenario: str, parameters: Parameters, sources: Mapping[str, str]) -> str:
    content = {
        "scenario": scenario,
        "parameters": parameters.model_dump(mode="json", exclude=set(_PLACES)),
        "plugins": {reference: hashlib.sha256(text.encode()).hexdigest() for reference, text in sources.items()},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_NAME_LENGTH]
