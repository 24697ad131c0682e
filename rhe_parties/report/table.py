"""The terminal table of a run, for somebody new to the program; no meaning hangs on colour alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rhe_parties.report.matrix import matrix_of
from rhe_parties.report.meanings import statistic
from rhe_parties.report.record import AttackRecord, Record, WorldRecord
from rhe_parties.report.table_matrix import matrix_table
from rhe_parties.report.verdicts import Verdict, control_sentences, deciding_result, error_sentence, verdicts
from rhe_parties.report.wording import (
    MISSING,
    find,
    format_interval,
    format_value,
    on_members,
    outcome_words,
    printable,
    seconds_text,
    size_text,
    variant_words,
    world_cost,
)

__all__ = ["FULL_WIDTH", "render_error", "render_table"]

_STYLES = {
    "leaked": "bold red",
    "not-leaked": "green",
    "blocked": "yellow",
    "error": "bold magenta",
    "not-applicable": "dim",
    "none": "dim",
}
# Columns that the whole table takes, and what a cell may take of them.
FULL_WIDTH = 116
_REASON_WIDTH = 40
# A matrix of more cells says it all; line by line it would take hundreds of them.
_MOST_CELLS = 60


@dataclass(frozen=True)
class _Column:
    """A statistic in the table: its title in two lines, and whether it is so wide that its interval is left out."""

    statistic: str
    title: str
    interval: bool = True


# In this order, as many as the run measured and the width allows.
_COLUMNS = (
    _Column("identification_rate", "Training images\nidentified"),
    _Column("auc", "Members told\napart (AUC)"),
    _Column("property_accuracy", "Private property\nguessed"),
    _Column("input_identification_rate", "Inputs\nrecognised"),
    _Column("extraction_agreement", "Classifier\ncopied"),
    _Column("tpr_at_fpr_1pct", "Rebuilt (TPR\nat 1 % FPR)"),
    _Column("tpr_at_fpr_10pct", "Recognised at\n10 % FPR"),
    _Column("property_auc", "Property told\napart (AUC)"),
    _Column("mse", "Pixel error\n(MSE)", interval=False),
    _Column("input_mse", "Pixel error\n(MSE)", interval=False),
    _Column("property_mae", "Mean error\nof property", interval=False),
    _Column("epsilon_lower_bound", "Epsilon\nat least", interval=False),
    _Column("queries", "Questions\nper head", interval=False),
)
_EMPTY = (_COLUMNS[0], _COLUMNS[5], _COLUMNS[8])


def render_table(record: Record, report: str = "", width: int = FULL_WIDTH) -> RenderableType:
    """The whole run as something that a rich console prints.

    Args:
        report: where the HTML report lies, for the last line; "" leaves that line out.
        width: columns of the console; below `FULL_WIDTH` the tables leave out what the report shows anyway.
    """
    narrow = width < FULL_WIDTH
    parts: list[RenderableType] = [_header(record)]
    if record.status != "ok":
        parts.append(Text(error_sentence(record), style="bold magenta"))
    if record.threat_model:
        parts += [Text(), _threat(record)]
    if record.worlds:
        matrix = matrix_of(record)
        if matrix is not None:
            parts += [_heading("Who can learn what"), matrix_table(matrix, width)]
        if matrix is None or len(matrix.rows) * len(matrix.columns) <= _MOST_CELLS:
            parts += [_heading("What each adversary learned"), _attacks(record, narrow)]
        parts += [_heading("What it costs"), _costs(record, narrow)]
        parts += [_heading("In words"), _words(record)]
        parts += [Padding(Text(sentence), (0, 0, 0, 2)) for sentence in control_sentences(record)]
    elif record.status == "ok":
        parts.append(Text("No world was run, so nothing was measured.", style="yellow"))
    if report:
        where = Text.assemble("Report: ", (printable(report), "bold"), " (one file, opens offline in any browser)")
        parts += [Text(), where]
    return Group(*parts)


def render_error(record: Record) -> str:
    """One line for a run that failed: its scenario, the reason, and what is kept."""
    return error_sentence(record)


def _header(record: Record) -> Text:
    question = "who can learn what about the private training images?"
    took = f" ({seconds_text(record.seconds)})" if record.seconds else ""
    return Text.assemble((printable(record.scenario), "bold"), ": ", question, (took, "dim"))


def _heading(text: str) -> RenderableType:
    return Padding(Text(text, style="bold underline"), (1, 0, 0, 0))


def _threat(record: Record) -> RenderableType:
    """The threat model in a few lines: the aspects run on, so that all of them take little room."""
    rows = dict(record.threat_model)
    lines = [
        ("Adversary", ["corrupted parties", "behaviour", "tapped links", "query budget"]),
        ("Knows", ["adversary knows beforehand"]),
        ("Released", ["decisions"]),
    ]
    named = {name for _, names in lines for name in names}
    lines.append(("Besides", [name for name in rows if name not in named]))
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    for label, names in lines:
        present = [name for name in names if name in rows]
        if present:
            alone = len(names) == 1 and label != "Besides"
            text = "; ".join(rows[n] if alone else f"{_AT.get(n, n + ':')} {rows[n]}" for n in present)
            table.add_row(label, Text(printable(text)))
    return table


_AT = {
    "corrupted parties": "sits at",
    "behaviour": "is",
    "tapped links": "taps links:",
    "query budget": "queries:",
}


def _columns(record: Record, narrow: bool) -> list[_Column]:
    """Three columns where there is room, those with intervals first, by what this run measured."""
    attacks = [attack for world in record.worlds for attack in world.attacks]
    there = [c for c in _COLUMNS if any(find(attack.results, c.statistic) for attack in attacks)] or list(_EMPTY)
    chosen = sorted(there, key=lambda c: not c.interval)[: 2 if narrow else 3]
    if any(map(on_members, attacks)):
        chosen = [replace(c, title=_MEMBERS.get(c.statistic, c.title)) for c in chosen]
    return chosen


_MEMBERS = {"tpr_at_fpr_1pct": "Recognised at\n1 % FPR"}


def _attacks(record: Record, narrow: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_lines=False)
    table.add_column("World", min_width=5, max_width=6 if narrow else 9, overflow="fold", style="bold")
    room = 14 if narrow else 18
    table.add_column("Adversary", min_width=14, max_width=room, overflow="fold")
    table.add_column("Outcome", min_width=13 if narrow else 18, max_width=16 if narrow else 20, overflow="fold")
    shown = _columns(record, narrow)
    for place, column in enumerate(shown):
        table.add_column(column.title, min_width=(18, 15, 13)[place], no_wrap=True)
    for world in record.worlds:
        if world.status == "error" or not world.attacks:
            reason = printable(world.error) if world.status == "error" else "no attack was run"
            word, style = ("error: ", _STYLES["error"]) if world.status == "error" else ("", _STYLES["none"])
            table.add_row(
                printable(world.name), MISSING, Text(word + _short(reason), style=style), *[MISSING] * len(shown)
            )
        for position, attack in enumerate(world.attacks):
            last = position == len(world.attacks) - 1
            table.add_row(
                printable(world.name) if position == 0 else "", *_attack_cells(attack, shown, room), end_section=last
            )
    return table


def _attack_cells(attack: AttackRecord, shown: list[_Column], room: int) -> list[RenderableType]:
    word, detail = outcome_words(attack)
    result = deciding_result(attack)
    if attack.outcome in ("blocked", "error"):
        # One phrase, cut where the line breaks best: "blocked: missing / plain head weights".
        joined = f"{word}: {_short(detail)}".replace("blocked: missing ", "blocked: missing\n")
        word, detail = joined, ""
    elif result is not None and not any(find(attack.results, column.statistic) for column in shown if column.interval):
        # The columns would leave the outcome without a number.
        words = result.statistic.replace("_", " ")
        detail = f"{words} {format_value(result.statistic, result.value)}"
    cells: list[RenderableType] = [
        _two(_broken(printable(attack.adversary), room), variant_words(attack.variant)),
        _two(word, _short(detail), _STYLES[attack.outcome]),
    ]
    return [*cells, *(_measured(attack, column) for column in shown)]


def _broken(name: str, room: int) -> str:
    """A name too long for its column in two lines, the first of which ends in a hyphen."""
    cut = name.rfind("-", 0, room) + 1
    return name if len(name) <= room or cut == 0 else f"{name[:cut]}\n{name[cut:]}"


def _short(text: str) -> str:
    return text if len(text) <= _REASON_WIDTH else text[: _REASON_WIDTH - 1] + "…"


def _two(first: str, second: str, style: str = "") -> Text:
    cell = Text(first, style=style)
    return cell.append(f"\n{second}", style="dim" if style == "" else style) if second else cell


def _measured(attack: AttackRecord, column: _Column) -> Text:
    name = column.statistic
    result = find(attack.results, name)
    if result is None:
        return Text(MISSING, style="dim")
    value = format_value(name, result.value)
    interval = f" {format_interval(result)}" if column.interval else ""
    words = {"best constant guess": "constant guess"}.get(statistic(name).baseline, statistic(name).baseline)
    return _two(value + interval, f"{words} {format_value(name, result.chance)}" if result.chance is not None else "")


def _costs(record: Record, narrow: bool) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("World", min_width=9, max_width=14, overflow="fold", style="bold")
    table.add_column("Accuracy", no_wrap=True)
    titles = ["One head", "Request per\nprediction", "Reply per\nprediction", "Messages", "Bytes", "Seconds"]
    for title in titles[:3] if narrow else titles:
        table.add_column(title, justify="right", no_wrap=True)
    for world in record.worlds:
        cost = world_cost(world)
        sizes = [MISSING if item is None else size_text(item) for item in (cost.head, cost.request, cost.reply)]
        totals = [f"{cost.messages:,}", size_text(cost.total_bytes), f"{world.seconds:.1f}"]
        table.add_row(printable(world.name), _accuracy(world), *sizes, *([] if narrow else totals))
    return table


def _accuracy(world: WorldRecord) -> str:
    result = find(world.utility, "accuracy")
    if result is not None:
        return f"{format_value('accuracy', result.value)} {format_interval(result)}"
    return format_value("accuracy", world.accuracy)


def _words(record: Record) -> RenderableType:
    return Group(*(_verdict_line(verdict) for verdict in verdicts(record)), Text())


def _verdict_line(verdict: Verdict) -> RenderableType:
    mark = {"leaked": "LEAKED: ", "not-leaked": "not leaked: "}.get(verdict.state, "")
    line = Text.assemble((mark, _STYLES[verdict.state]), verdict.sentence)
    return Padding(line, (0, 0, 0, 2))
