"""What a sweep may find in its folder when it starts: nothing, itself, a part of itself, or something else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rhe_parties.errors import DataError
from rhe_parties.runner.session import package_versions
from rhe_parties.sweep.results import Manifest, SweepCell, read_manifest
from rhe_parties.sweep.store import Store

__all__ = ["changes", "check_folder"]


def check_folder(store: Store, manifest: Manifest) -> list[str]:
    """Refuse a folder whose results would not all belong to this sweep.

    A sweep may grow: every cell that the folder's manifest names must be among the new ones.

    Returns:
        what has changed since although all cells are the same, in sentences.

    Raises:
        DataError: the folder holds a single run, or a sweep with other cells; what differs is named.
    """
    before = read_manifest(store)
    if before is None:
        if store.read("record.json") is not None:
            raise DataError(f"{store.place!r} holds a single run, not a sweep: choose another folder with --out")
        return []
    new = {entry.name for entry in manifest.cells}
    gone = [entry for entry in before.cells if entry.name not in new]
    if gone:
        raise DataError(
            f"{store.place!r} holds another sweep: {len(gone)} of its {len(before.cells)} cells are not in this one "
            f"({_difference(before, manifest)}); choose another folder with --out, or keep its values and add to them"
        )
    if before.scenario_sha256 != manifest.scenario_sha256:
        return ["the scenario file has changed since, but not in what it gives these cells"]
    return []


def _difference(before: Manifest, after: Manifest) -> str:
    """The first thing that differs, in words."""
    if before.scenario != after.scenario:
        return f"its scenario is {before.scenario!r}, this one {after.scenario!r}"
    for reference, digest in before.plugins.items():
        if after.plugins.get(reference, digest) != digest:
            return f"plug-in {reference!r} has changed since"
    changed = before.scenario_sha256 != after.scenario_sha256
    suffix = "; the scenario file has changed since" if changed else ""
    old, new = _parameters(before), _parameters(after)
    for key in old[0]:
        had, has = _distinct(cell.get(key) for cell in old), _distinct(cell.get(key) for cell in new)
        if not set(had) <= set(has):
            return f"it has {key}={' and '.join(had)}, this one {key}={' and '.join(has)}{suffix}"
    missing = next(entry for entry in before.cells if entry.name not in {cell.name for cell in after.cells})
    label = ", ".join(f"{key}={value}" for key, value in missing.values.items())
    return f"this one lacks {label}{suffix}"


def _parameters(manifest: Manifest) -> list[dict[str, Any]]:
    places = ("address", "data_root")
    every = [manifest.parameters | entry.parameters for entry in manifest.cells]
    return [{key: value for key, value in cell.items() if key not in places} for cell in every]


def _distinct(values: Iterable[Any]) -> list[str]:
    said = (",".join(map(str, value)) if isinstance(value, list) else f"{value}" for value in values)
    return list(dict.fromkeys(said))


def changes(cells: Iterable[SweepCell], now: Mapping[str, str] | None = None) -> list[str]:
    """In which packages finished cells were made with another version than there is now, in sentences."""
    current = package_versions() if now is None else now
    found: dict[tuple[str, str], int] = {}
    for cell in cells:
        for package, version in (cell.record.versions if cell.record is not None else {}).items():
            if current.get(package, version) != version:
                found[package, version] = found.get((package, version), 0) + 1
    return [
        f"{count} finished {'cell was' if count == 1 else 'cells were'} made with {package} {version}, here is "
        f"{current[package]}; they are kept, so choose another folder to make all with the same"
        for (package, version), count in found.items()
    ]
