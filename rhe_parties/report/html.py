"""One self-contained HTML page from a record: no script, no reference to anything outside the file."""

from __future__ import annotations

import json
import math
from typing import Any

from rhe_parties.report.evidence import curve_figures, interval_plots, score_figures
from rhe_parties.report.exposure import LANES, exposure
from rhe_parties.report.figures import sequence_svg
from rhe_parties.report.gallery import galleries, gallery_words
from rhe_parties.report.goals import acting
from rhe_parties.report.matrix import Matrix, matrix_of
from rhe_parties.report.matrix_words import matrix_context
from rhe_parties.report.meanings import STATISTICS, is_baseline, statistic
from rhe_parties.report.page import template
from rhe_parties.report.record import AttackRecord, Record, WorldRecord
from rhe_parties.report.verdicts import BASELINE, Verdict, control_sentences, error_sentence, headline, verdicts
from rhe_parties.report.wording import (
    MISSING,
    WorldCost,
    encrypted,
    find,
    format_interval,
    format_value,
    on_members,
    party_words,
    seconds_text,
    size_text,
    world_cost,
    world_release,
)

__all__ = ["render_html"]


def render_html(record: Record) -> str:
    """The report of a run as one HTML page that works offline, in print and without colour."""
    found = verdicts(record)
    matrix = matrix_of(record)
    controls = control_sentences(record)
    return template("report.html.j2").render(
        record=record,
        title=f"{record.scenario}: who can learn what about the private training images?",
        problem=error_sentence(record) if record.status != "ok" else "",
        verdicts=found,
        headline=headline(found),
        **matrix_context(matrix, controls),
        seat=" and ".join(map(party_words, record.corrupted)),
        galleries=galleries(record, found),
        gallery_words=gallery_words(record),
        # A line per world is too many for one plot where there is a matrix: its cells show their own.
        curves=curve_figures(record) if matrix is None else [],
        scores=score_figures(record) if matrix is None else [],
        listed=[(world, _listed(world, matrix)) for world in record.worlds],
        sequences=[(world, sequence_svg(world, record.corrupted)) for world in record.worlds if world.messages],
        exposures=[
            (
                world,
                exposure(
                    world, record.corrupted, world_release(world, str(record.parameters.get("release", "classes")))
                ),
            )
            for world in record.worlds
            if world.messages
        ],
        lanes=LANES,
        big=_big_number,
        plots=interval_plots(record),
        utility=_utility_rows(record),
        meanings=_meanings(record),
        utility_meanings=[(s.label, s.meaning) for n, s in STATISTICS.items() if n in _utility_names(record)],
        tables=_setting_tables(record),
        parameters=_parameters(record),
        acting=acting(record),
        any_encrypted=any(map(encrypted, record.worlds)),
    )


def _listed(world: WorldRecord, matrix: Matrix | None) -> list[AttackRecord]:
    """The attacks whose numbers stand under their world: beside a matrix, only the one that is not in it."""
    return [attack for attack in world.attacks if matrix is None or attack.adversary == BASELINE]


def _meanings(record: Record) -> list[tuple[str, str]]:
    """(label, meaning) of every statistic that the attacks of this run gave."""
    used = {
        (result.statistic, on_members(attack))
        for world in record.worlds
        for attack in world.attacks
        for result in attack.results
        if not is_baseline(result.statistic)
    }
    known = list(STATISTICS)
    ordered = sorted(used, key=lambda item: (known.index(item[0]) if item[0] in known else len(known), item))
    words = [statistic(name, members) for name, members in ordered]
    return list(dict.fromkeys((w.label, w.meaning) for w in words if w.meaning))


def _big_number(verdict: Verdict) -> dict[str, Any] | None:
    """The number of a world's card, and where value and chance lie on a scale from 0 to 100 %."""
    result = verdict.result
    if result is None:
        return None
    rate = statistic(result.statistic).unit == "percent" or result.statistic in ("auc", "property_auc")
    numbers = (result.value, result.low, result.high)
    drawn = rate and all(math.isfinite(n) for n in numbers)
    chance = result.chance if result.chance is not None and math.isfinite(result.chance) else None
    return {"result": result, "bar": [_share(n) for n in numbers] if drawn else None,
            "chance": None if chance is None else _share(chance)}  # fmt: skip


def _share(rate: float) -> str:
    return f"{min(max(rate, 0.0), 1.0) * 100:.2f}"


def _utility_names(record: Record) -> list[str]:
    return list(dict.fromkeys(result.statistic for world in record.worlds for result in world.utility))


def _utility_rows(record: Record) -> list[tuple[str, list[str]]]:
    """What the classifier is worth and what it costs: (what, one cell per world)."""
    worlds = record.worlds
    rows: list[tuple[str, list[str]]] = []
    for name in _utility_names(record) or ["accuracy"]:
        rows.append((statistic(name).label, [_utility_cell(world, name) for world in worlds]))
    costs = list(map(world_cost, worlds))
    rows += [
        ("one head, as sent to the host", [_size(cost.head) for cost in costs]),
        ("request", [_each(cost.request, cost) for cost in costs]),
        ("reply", [_each(cost.reply, cost) for cost in costs]),
        ("host's and key holder's work on one image", [_time(cost.answering) for cost in costs]),
        ("data owner's work on one head", [_time(cost.training) for cost in costs]),
        ("all messages", [f"{cost.messages:,} ({size_text(cost.total_bytes)})" for cost in costs]),
        ("inputs scaled down to the public norm", [f"{world.saturated_inputs:,}" for world in worlds]),
        ("time", [seconds_text(world.seconds) for world in worlds]),
    ]
    return rows


def _utility_cell(world: WorldRecord, name: str) -> str:
    result = find(world.utility, name)
    if result is not None:
        return f"{format_value(name, result.value)} {format_interval(result)}"
    return format_value(name, world.accuracy) if name == "accuracy" else MISSING


def _size(count: float | None) -> str:
    return MISSING if count is None else size_text(count)


def _time(seconds: float | None) -> str:
    return MISSING if seconds is None else seconds_text(seconds)


def _each(count: float | None, cost: WorldCost) -> str:
    return MISSING if count is None else f"{size_text(count)} per {'prediction' if cost.predictions else 'message'}"


def _show(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _parameters(record: Record) -> list[tuple[str, str, bool]]:
    """(name, value, whether the user set it)."""
    merged = {**record.parameters_given, **record.parameters}
    return [(name, _show(value), name in record.parameters_given) for name, value in sorted(merged.items())]


def _setting_tables(record: Record) -> list[tuple[str, list[tuple[str, str]]]]:
    """The small name and value tables under "how to repeat"."""
    named: list[tuple[str, dict[str, Any]]] = [
        ("Data", record.dataset),
        ("Backbone", record.backbone),
        ("Seeds", dict(record.seeds)),
        ("Versions", dict(record.versions)),
        ("Machine", dict(record.machine)),
    ]
    tables = [(title, [(key, _show(value)) for key, value in rows.items()]) for title, rows in named if rows]
    run = [("started", record.started), ("took", seconds_text(record.seconds)), ("status", record.status)]
    if record.peak_memory_bytes is not None:
        run.append(("peak memory", size_text(record.peak_memory_bytes)))
    if record.transcript_sha256:
        run.append(("transcript SHA-256", record.transcript_sha256))
        run.append(("transcript", f"{record.transcript_messages:,} messages"))
    return [("Run", [(key, value) for key, value in run if value]), *tables]
