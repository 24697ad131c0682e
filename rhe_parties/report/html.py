"""One self-contained HTML page from a record: no script, no reference to anything outside the file."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rhe_parties.report.evidence import curve_figures, interval_plots, null_sentence, rows_of, score_figures
from rhe_parties.report.exposure import LANES, exposure
from rhe_parties.report.figures import eye_svg, sequence_svg
from rhe_parties.report.gallery import STRIP, galleries, gallery_words
from rhe_parties.report.meanings import STATISTICS, is_baseline, statistic
from rhe_parties.report.record import AttackRecord, Record, ResultRecord, WorldRecord
from rhe_parties.report.verdicts import (
    Verdict,
    control_sentences,
    deciding_result,
    error_sentence,
    headline,
    is_twin,
    verdicts,
)
from rhe_parties.report.wording import (
    MISSING,
    WorldCost,
    attack_name,
    encrypted,
    find,
    format_interval,
    format_value,
    kind_words,
    on_members,
    outcome_words,
    party_words,
    printable,
    seconds_text,
    size_text,
    world_cost,
    world_phrase,
    world_release,
)

__all__ = ["render_html"]

# "[98.9, 100]" must not be torn apart at the end of a line.
_INTERVAL = re.compile(r"(\[[-\d.,<>]+,) (?=[-\d.<>]+\])")


def render_html(record: Record) -> str:
    """The report of a run as one HTML page that works offline, in print and without colour."""
    found = verdicts(record)
    return _template().render(
        record=record,
        title=f"{record.scenario}: who can learn what about the private training images?",
        problem=error_sentence(record) if record.status != "ok" else "",
        verdicts=found,
        headline=headline(found),
        controls=control_sentences(record),
        seat=" and ".join(map(party_words, record.corrupted)),
        galleries=galleries(record, found),
        gallery_words=gallery_words(record),
        curves=curve_figures(record),
        scores=score_figures(record),
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
        plots=interval_plots(record),
        utility=_utility_rows(record),
        meanings=_meanings(record),
        utility_meanings=[(s.label, s.meaning) for n, s in STATISTICS.items() if n in _utility_names(record)],
        tables=_setting_tables(record),
        parameters=_parameters(record),
        any_encrypted=any(map(encrypted, record.worlds)),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("rhe_parties.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Control characters have no place in HTML either.
        finalize=lambda value: _clean(value) if type(value) is str else value,
    )
    environment.globals.update(
        eye=eye_svg(),
        MISSING=MISSING,
        STRIP=STRIP,
        find=find,
        deciding_result=deciding_result,
        big=_big_number,
        cost=world_cost,
    )
    environment.filters.update(
        value=lambda result: format_value(result.statistic, result.value),
        interval=format_interval,
        chance=lambda result: format_value(result.statistic, result.chance),
        baseline=lambda result: statistic(result.statistic).baseline,
        label=_label,
        rows=rows_of,
        null=null_sentence,
        size=lambda count: MISSING if count is None else size_text(count),
        seconds=seconds_text,
        party=party_words,
        outcome=outcome_words,
        phrase=world_phrase,
        about=lambda world: "the same messages without encryption, for comparison" if is_twin(world) else world.summary,
        attack_name=attack_name,
        kind=kind_words,
    )
    return environment.get_template("report.html.j2")


def _label(result: ResultRecord, attack: AttackRecord) -> str:
    return statistic(result.statistic, on_members(attack)).label


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


def _clean(text: str) -> str:
    lines = "\n".join(map(printable, text.split("\n")))
    return _INTERVAL.sub("\\1\N{NO-BREAK SPACE}", lines.replace(" %", "\N{NO-BREAK SPACE}%"))


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
