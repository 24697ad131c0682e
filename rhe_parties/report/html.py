"""One self-contained HTML page from a record: no script, no reference to anything outside the file."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rhe_parties.report.exposure import LANES, exposure
from rhe_parties.report.figures import IntervalRow, eye_svg, interval_svg, sequence_svg
from rhe_parties.report.record import AttackRecord, ExampleRecord, Record, WorldRecord
from rhe_parties.report.verdicts import (
    BASELINE,
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
    STATISTICS,
    WorldCost,
    attack_name,
    encrypted,
    find,
    format_interval,
    format_value,
    kind_words,
    outcome_words,
    party_words,
    printable,
    seconds_text,
    size_text,
    statistic,
    world_cost,
    world_phrase,
)

__all__ = ["render_html"]

# Anything else in a record's image field could make the page fetch something.
_PNG_URI = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
# "[98.9, 100]" must not be torn apart at the end of a line.
_INTERVAL = re.compile(r"(\[[-\d.,<>]+,) (?=[-\d.<>]+\])")
# Images in one line of a strip, wide enough to be seen on a phone.
STRIP = 5
_PLOTTED = ("identification_rate", "tpr_at_fpr_1pct")


def render_html(record: Record) -> str:
    """The report of a run as one HTML page that works offline, in print and without colour."""
    found = verdicts(record)
    attacks = [attack for world in record.worlds for attack in world.attacks]
    names = sorted({result.statistic for attack in attacks for result in attack.results})
    return _template().render(
        record=record,
        title=f"{record.scenario}: who can learn what about the private training images?",
        problem=error_sentence(record) if record.status != "ok" else "",
        verdicts=found,
        headline=headline(found),
        controls=control_sentences(record),
        seat=" and ".join(map(party_words, record.corrupted)),
        galleries=_galleries(record, found),
        sequences=[(world, sequence_svg(world, record.corrupted)) for world in record.worlds if world.messages],
        exposures=[
            (world, exposure(world, record.corrupted, str(record.parameters.get("release", "classes"))))
            for world in record.worlds
            if world.messages
        ],
        lanes=LANES,
        plots=_plots(record),
        utility=_utility_rows(record),
        meanings=[(statistic(name).label, statistic(name).meaning) for name in names if statistic(name).meaning],
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
        label=lambda result: statistic(result.statistic).label,
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


def _clean(text: str) -> str:
    lines = "\n".join(map(printable, text.split("\n")))
    return _INTERVAL.sub("\\1\N{NO-BREAK SPACE}", lines.replace(" %", "\N{NO-BREAK SPACE}%"))


def _big_number(verdict: Verdict) -> dict[str, Any] | None:
    """The number of a world's card, and where value and chance lie on a scale from 0 to 100 %."""
    result = verdict.result
    if result is None:
        return None
    rate = statistic(result.statistic).unit == "percent"
    numbers = (result.value, result.low, result.high)
    drawn = rate and all(math.isfinite(n) for n in numbers)
    chance = result.chance if result.chance is not None and math.isfinite(result.chance) else None
    return {"result": result, "bar": [_share(n) for n in numbers] if drawn else None,
            "chance": None if chance is None else _share(chance)}  # fmt: skip


def _share(rate: float) -> str:
    return f"{min(max(rate, 0.0), 1.0) * 100:.2f}"


@dataclass(frozen=True)
class Picture:
    """One image: a checked data URI ("" where the record holds none) and the text that stands for it."""

    uri: str
    alt: str


# Rows of one strip of images: (label in a word, how it goes on where there is room) and the pictures.
Strip = list[tuple[tuple[str, str], list[Picture]]]


@dataclass(frozen=True)
class Panel:
    """A world's images of one victim head, or words where there are none."""

    world: WorldRecord
    caption: str
    outcome: str
    word: str
    strips: list[Strip]
    words: str = ""


@dataclass(frozen=True)
class Gallery:
    """One victim head in every world."""

    head_id: str
    panels: list[Panel]


def _chosen_attack(world: WorldRecord, lead: str | None) -> AttackRecord | None:
    """The attack whose images are shown: the leading adversary's, else the strongest that made any."""
    made = [a for a in world.attacks if any(example.claimed for example in a.examples)]

    def rank(attack: AttackRecord) -> tuple[bool, bool, bool, float]:
        error = find(attack.results, "mse")
        gain = (error.chance or 0.0) - error.value if error is not None else -math.inf
        # The baseline knows nothing of a head: its images say least of all.
        return (attack.outcome == "leaked", attack.adversary == lead, attack.adversary != BASELINE, gain)

    return max(made, key=rank) if made else None


def _galleries(record: Record, found: list[Verdict]) -> list[Gallery]:
    leads = [v.attack.adversary for v in found if v.state == "leaked" and v.attack is not None]
    picks = [(world, _chosen_attack(world, leads[0] if leads else None)) for world in record.worlds]
    heads = list(dict.fromkeys(e.head_id for _, attack in picks if attack for e in attack.examples if e.claimed))
    if not heads:
        return []
    return [Gallery(head, [_panel(record, world, attack, head) for world, attack in picks]) for head in heads]


def _panel(record: Record, world: WorldRecord, attack: AttackRecord | None, head: str) -> Panel:
    if attack is None:
        return Panel(world, "", "none", MISSING, [], "No attack made an image in this world.")
    outcome: str = attack.outcome
    caption, word = f"attack: {attack_name(attack)}", outcome_words(attack)[0]
    if attack.adversary == BASELINE:
        # A control has no verdict of its own beside the world's.
        caption, outcome, word = f"{attack_name(attack)} sees nothing; no attack made an image here", "none", "baseline"
    example = next((e for e in attack.examples if e.head_id == head), None)
    if example is None:
        return Panel(world, caption, outcome, word, [], "No image of this head is in the record.")
    return Panel(world, caption, outcome, word, _strips(example, record.dataset.get("classes")))


def _strips(example: ExampleRecord, classes: Any) -> list[Strip]:
    """Strips of one head's images; `classes` are the names of the classes, where the record lists them."""
    rows = [
        (("true", " private image"), "true private image", example.true),
        (("rebuilt", " by the adversary"), "reconstruction", example.claimed),
        (("average", " of the class"), "class average", example.class_average),
    ]
    count = max(len(uris) for _, _, uris in rows)
    strips = []
    for start in range(0, count, STRIP):
        strip: Strip = []
        for label, alt, uris in rows:
            part = uris[start : start + STRIP]
            pictures = [
                Picture(_checked(uri), f"{alt} {_which(start + i, count, classes)}") for i, uri in enumerate(part)
            ]
            strip.append((label, pictures))
        strips.append(strip)
    return strips


def _which(index: int, count: int, classes: Any) -> str:
    """Images are ordered by class, so that an image's place tells its class."""
    number = f"{index + 1} of {count}"
    if not isinstance(classes, list) or not classes or count % len(classes):
        return number
    return f"{number}, class {classes[index * len(classes) // count]}"


def _checked(uri: str) -> str:
    return uri if _PNG_URI.fullmatch(uri) else ""


def _plots(record: Record) -> list[tuple[str, Any]]:
    plots = []
    for name in _PLOTTED:
        rows: list[IntervalRow] = []
        for world in record.worlds:
            cells = [_interval_row(attack, name) for attack in world.attacks]
            shown = [row for row in cells if row is not None]
            rows += [IntervalRow(f"world {printable(world.name)}"), *shown] if shown else []
        if any(row.result is not None for row in rows):
            title = statistic(name).label
            plots.append((title, interval_svg(f"{title}: value and 95 % interval per world and adversary", rows)))
    return plots


def _interval_row(attack: AttackRecord, name: str) -> IntervalRow | None:
    result = find(attack.results, name)
    if result is not None:
        return IntervalRow(attack_name(attack), attack.outcome, result)
    if attack.outcome in ("blocked", "error", "not-applicable"):
        return IntervalRow(attack_name(attack), attack.outcome, None, outcome_words(attack)[0])
    return None


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
