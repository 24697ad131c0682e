"""`rhe list`: what can be named in a scenario."""

from __future__ import annotations

import dataclasses
import json as json_module
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rhe_parties.errors import RheError, unknown_name
from rhe_parties.registry import CatalogueEntry

__all__ = ["list_command"]


def _adversaries() -> list[CatalogueEntry]:
    from rhe_parties.attacks.base import ADVERSARIES

    return ADVERSARIES.catalogue()


def _defences() -> list[CatalogueEntry]:
    from rhe_parties.defences.base import DEFENCES

    return DEFENCES.catalogue()


def _scenarios() -> list[CatalogueEntry]:
    """The scenario files below ./scenarios."""
    from rhe_parties.runner.scenario import load_scenario

    entries = []
    for path in sorted(Path("scenarios").glob("*.py")):
        try:
            entries.append(CatalogueEntry(str(path), load_scenario(path).summary, "file"))
        except RheError as error:
            entries.append(CatalogueEntry(str(path), f"cannot be used: {error}", "file"))
    return entries


def _datasets() -> list[CatalogueEntry]:
    from rhe_parties.data.datasets import dataset_catalogue

    return [CatalogueEntry(*entry) for entry in dataset_catalogue()]


def _backbones() -> list[CatalogueEntry]:
    from rhe_parties.model.backbone import backbone_catalogue

    return [
        CatalogueEntry(name, f"{features or 'see its last layer'} features", source)
        for name, features, source in backbone_catalogue()
    ]


def _schemes() -> list[CatalogueEntry]:
    from rhe_parties.he.scheme import scheme_catalogue

    return [CatalogueEntry(name, summary, "rhe-parties") for name, summary in scheme_catalogue().items()]


def _evaluators() -> list[CatalogueEntry]:
    from rhe_parties.he.evaluators import BACKENDS

    return [CatalogueEntry(name, summary, "rhe-parties") for name, summary in BACKENDS.items()]


def _parameters() -> list[CatalogueEntry]:
    """What `-p` takes: the parameters of every scenario, and the options of the registered adversaries."""
    from rhe_parties.attacks.base import ADVERSARIES
    from rhe_parties.runner.parameters import Parameters

    entries = []
    for name, item in Parameters.model_fields.items():
        default = item.get_default(call_default_factory=True)
        text = ",".join(default) if isinstance(default, tuple) else str(default)
        if name != "options":
            entries.append(CatalogueEntry(name, item.description or "", f"default {text or 'empty'}"))
    for adversary in ADVERSARIES.names():
        for option in dataclasses.fields(ADVERSARIES.load(adversary).Options):
            entries.append(
                CatalogueEntry(f"{adversary}.{option.name}", f"option of {adversary}", f"default {option.default}")
            )
    return entries


_KINDS: dict[str, Callable[[], list[CatalogueEntry]]] = {
    "adversaries": _adversaries,
    "defences": _defences,
    "scenarios": _scenarios,
    "datasets": _datasets,
    "backbones": _backbones,
    "schemes": _schemes,
    "evaluators": _evaluators,
    "parameters": _parameters,
}


def list_command(
    kind: Annotated[str | None, typer.Argument(help="One of: " + ", ".join(_KINDS) + "; default: all.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print a list of {name, summary, source}.")] = False,
) -> None:
    """List adversaries, defences, scenarios, datasets, backbones, schemes, evaluators and parameters."""
    if kind is not None and kind not in _KINDS:
        raise unknown_name("kind", kind, _KINDS)
    kinds = [kind] if kind is not None else list(_KINDS)
    found = {name: _KINDS[name]() for name in kinds}
    if json:
        rows = [
            {"name": e.name, "summary": e.summary, "source": e.source} | ({} if kind else {"kind": name})
            for name, entries in found.items()
            for e in entries
        ]
        typer.echo(json_module.dumps(rows, indent=1, ensure_ascii=False))
        return
    _print(found)


def _print(found: dict[str, list[CatalogueEntry]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for name, entries in found.items():
        table = Table(title=name, title_justify="left", title_style="bold", show_edge=False, expand=False)
        for column in ("name", "summary", "source"):
            table.add_column(column, overflow="fold")
        for entry in entries:
            table.add_row(entry.name, entry.summary, entry.source)
        console.print(table)
        console.print()
