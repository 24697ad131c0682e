"""All results of a sweep in rows, as JSON lines: `pandas.read_json("table.jsonl", lines=True)`.

One row per cell, world, attack and statistic. An attack without numbers (blocked, failed) has one row without
statistic, a cell without worlds (failed) one row without attack. Unfinished cells have none. The columns `seconds` (of
the attack) and `cell_seconds` are times; nothing else changes when a sweep is made again, but for numbers of the
variant `ciphertext`, as encryption is random.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from rhe_parties.report.record import AttackRecord, ResultRecord, WorldRecord
from rhe_parties.sweep.results import SweepCell

__all__ = ["COLUMNS", "TIMES", "table_bytes", "table_rows"]

COLUMNS = (
    "cell", "world", "accuracy", "adversary", "variant", "outcome", "missing",
    "statistic", "value", "low", "high", "n", "heads", "chance", "error", "seconds", "cell_seconds",
)  # fmt: skip
TIMES = ("seconds", "cell_seconds")


def table_rows(cell: SweepCell) -> list[dict[str, Any]]:
    """A cell's rows: the grid's values (`grid.adversary` where a key is also a column), then `COLUMNS`."""
    if cell.status == "unfinished":
        return []
    grid = {f"grid.{key}" if key in COLUMNS else key: value for key, value in cell.values.items()}
    common = {"cell": cell.name, "error": cell.error, "cell_seconds": cell.seconds}
    worlds = cell.record.worlds if cell.record is not None else []
    found = [_row(world, attack, result) for world, attack, result in _parts(worlds)] or [{}]
    return [grid | {name: _finite((common | row).get(name)) for name in COLUMNS} for row in found]


def table_bytes(rows: Iterable[dict[str, Any]]) -> bytes:
    """Rows as JSON lines, UTF-8."""
    return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()


def _parts(worlds: list[WorldRecord]) -> Iterator[tuple[WorldRecord, AttackRecord | None, ResultRecord | None]]:
    for world in worlds:
        if not world.attacks:
            yield world, None, None
        for attack in world.attacks:
            if not attack.results:
                yield world, attack, None
            for result in attack.results:
                yield world, attack, result


def _row(world: WorldRecord, attack: AttackRecord | None, result: ResultRecord | None) -> dict[str, Any]:
    row: dict[str, Any] = {"world": world.name, "accuracy": world.accuracy}
    if attack is not None:
        row |= {
            "adversary": attack.adversary,
            "variant": attack.variant,
            "outcome": attack.outcome,
            "missing": ", ".join(attack.missing),
            "error": attack.error,
            "seconds": attack.seconds,
        }
    if result is not None:
        row |= result.model_dump()
    return row


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
