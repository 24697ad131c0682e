"""What the page shows beside the sentences: intervals, ROC curves, histograms, and the rows of the number tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rhe_parties.report.figures import IntervalRow, interval_svg
from rhe_parties.report.meanings import is_baseline, statistic
from rhe_parties.report.plots import Line, drawable, histogram_svg, rate_at, roc_svg, swatch_svg
from rhe_parties.report.record import AttackRecord, CurveRecord, Record, ResultRecord, WorldRecord
from rhe_parties.report.verdicts import BASELINE, PREFERRED
from rhe_parties.report.wording import (
    attack_name,
    find,
    format_interval,
    format_value,
    on_members,
    outcome_words,
    printable,
    world_phrase,
)

__all__ = [
    "CurveFigure",
    "cell_curves",
    "cell_scores",
    "curve_figures",
    "interval_plots",
    "null_sentence",
    "rows_of",
    "score_figures",
]

# Rates that mean most to a reader, each with a plot of its own where the run measured it.
_PLOTTED = (
    "identification_rate",
    "tpr_at_fpr_1pct",
    "auc",
    "property_accuracy",
    "extraction_agreement",
    "input_identification_rate",
)


@dataclass(frozen=True)
class _Kind:
    name: str
    title: str
    across: str
    up: str
    reading: str


_KINDS = (
    _Kind(
        "roc",
        "Rebuilding training images",
        "false alarms: images of other heads that pass",
        "rebuilt training images that pass",
        "A claimed image passes for a true one when its pixel error is below a threshold. Moving the threshold trades "
        "rebuilt training images (up) against false alarms on images of other heads (right).",
    ),
    _Kind(
        "membership_roc",
        "Recognising training images",
        "false alarms: other images called training images",
        "training images recognised",
        "An image is called a training image when its score is above a threshold. Moving the threshold trades "
        "recognised training images (up) against false alarms (right).",
    ),
    _Kind(
        "property_roc",
        "Telling the private property",
        "false alarms: heads with the first value",
        "heads with the second value recognised",
        "A head is said to have the second value of the property when its score is above a threshold.",
    ),
    _Kind(
        "input_roc",
        "Rebuilding classified images",
        "false alarms: other inputs of the class that pass",
        "rebuilt inputs that pass",
        "A claimed input passes for the true one when its pixel error is below a threshold.",
    ),
)
_PAPER = _Kind(
    "np_roc",
    "The paper's own test: true heads against random heads",
    "random heads' claims accepted",
    "true heads' claims accepted",
    "Claims made from true heads are told from claims made from random ones, by the likelihood ratio of two normal "
    "distributions of the (transformed) pixel error, fitted on one half of the heads and counted on the other.",
)


@dataclass(frozen=True)
class CurveFigure:
    """A plot with its words: `legend` are (swatch, text) of its lines; `folded` ones are not shown at first."""

    title: str
    reading: str
    drawing: Markup
    legend: list[tuple[Markup, str]]
    folded: bool = False


def _curve(attack: AttackRecord, name: str) -> CurveRecord | None:
    return next((curve for curve in attack.curves if curve.name == name and drawable(curve)), None)


def _strongest(world: WorldRecord, name: str) -> tuple[AttackRecord, CurveRecord] | None:
    """The attack of a world whose curve is shown: a leak first, never the baseline if another has one."""
    found = [(attack, curve) for attack in world.attacks if (curve := _curve(attack, name)) is not None]
    if not found:
        return None
    return max(
        found,
        key=lambda pair: (pair[0].outcome == "leaked", pair[0].adversary != BASELINE, rate_at(pair[1], 0.01) or 0.0),
    )


def _figure(kind: _Kind, rows: list[tuple[str, str, CurveRecord]], folded: bool = False) -> CurveFigure:
    """A figure of (label, state, curve) rows; letters are given in order."""
    lines = [Line(chr(ord("A") + i % 26), state, curve) for i, (_, state, curve) in enumerate(rows)]
    legend = []
    for i, (line, (label, _, curve)) in enumerate(zip(lines, rows, strict=True)):
        rate = rate_at(curve, 0.01)
        at = "" if rate is None else f": {format_value('tpr_at_fpr_1pct', rate)} at 1 % false alarms"
        legend.append((swatch_svg(line.letter, line.state, i), label + at))
    words = "; ".join(f"{line.letter}, {text}" for line, (_, text) in zip(lines, legend, strict=True))
    drawing = roc_svg(f"{kind.title}, true against false positives. {words}", lines, kind.across, kind.up)
    return CurveFigure(kind.title, kind.reading, drawing, legend, folded)


def curve_figures(record: Record) -> list[CurveFigure]:
    """One figure per kind of curve with the strongest attack of every world in it, and its null control."""
    figures = []
    for kind in _KINDS:
        rows: list[tuple[str, str, CurveRecord]] = []
        control: tuple[str, str, CurveRecord] | None = None
        for world in record.worlds:
            pair = _strongest(world, kind.name)
            if pair is not None:
                attack, curve = pair
                rows.append((f"{world_phrase(world)}, {attack_name(attack)}", _state(attack), curve))
                null = _curve(attack, f"null_{kind.name}")
                if null is not None and (control is None or attack.outcome == "leaked"):
                    control = (f"Control: {attack_name(attack)} given an empty input", "null", null)
        if rows:
            figures.append(_figure(kind, rows + ([control] if control else [])))
    return figures + _paper_figures(record)


def _paper_figures(record: Record) -> list[CurveFigure]:
    """The paper's curves of each world's strongest attack, folded away."""
    pairs = [(world, _strongest(world, "np_roc")) for world in record.worlds]
    return [_paper_figure(record, world, pair[0]) for world, pair in pairs if pair is not None]


def _paper_figure(record: Record, world: WorldRecord, attack: AttackRecord) -> CurveFigure:
    names = [("np_roc", "all classes, counted"), ("np_roc_by_class", "fits for each class, counted")]
    names.append(("np_roc_analytic", "read off the fits"))
    classes = [c.name for c in attack.curves if c.name.startswith("np_roc_class_")]
    names += [(name, f"class {_class_name(record, name)}") for name in classes]
    rows = [(label, _state(attack), curve) for name, label in names if (curve := _curve(attack, name)) is not None]
    title = f"{_PAPER.title} ({world_phrase(world)[0].lower()}{world_phrase(world)[1:]}, {attack_name(attack)})"
    return _figure(_Kind(_PAPER.name, title, _PAPER.across, _PAPER.up, _PAPER.reading), rows, True)


def _class_name(record: Record, curve: str) -> str:
    number = curve.removeprefix("np_roc_class_")
    names = record.dataset.get("classes")
    if isinstance(names, list) and number.isdigit() and int(number) < len(names):
        return printable(str(names[int(number)]))
    return printable(number)


def score_figures(record: Record) -> list[tuple[str, Markup]]:
    """Histograms of the scores of each world's strongest attack: (caption, drawing)."""
    figures = []
    for world in record.worlds:
        figures += _histograms(world.attacks, f"{world_phrase(world)}, ")
    return figures


def _histograms(attacks: Sequence[AttackRecord], where: str) -> list[tuple[str, Markup]]:
    """One histogram of each kind, of the strongest of the attacks that has it."""
    figures = []
    for name, filled, outline in (
        ("membership", "training images of the head", "other images"),
        ("property", "heads with the second value", "heads with the first value"),
    ):
        shown = [(a, h) for a in attacks for h in a.histograms if h.name == name]
        if not shown:
            continue
        attack, data = max(shown, key=lambda pair: (pair[0].outcome == "leaked", pair[0].adversary != BASELINE))
        title = f"{where}{attack_name(attack)}: scores of {filled} and of {outline}"
        drawing = histogram_svg(title, data, _state(attack))
        if drawing is not None:
            figures.append((f"{where}{attack_name(attack)}. Filled: {filled}. Outline: {outline}.", drawing))
    return figures


def cell_scores(attacks: Sequence[AttackRecord]) -> list[tuple[str, Markup]]:
    """Histograms of the scores of one adversary in one world: (caption, drawing)."""
    return _histograms(attacks, "")


def cell_curves(
    record: Record,
    world: WorldRecord,
    attacks: Sequence[AttackRecord],
    control: tuple[str, AttackRecord] | None = None,
) -> list[CurveFigure]:
    """One figure per kind of curve with every variant of one adversary in one world; the paper's are folded.

    Args:
        attacks: the variants.
        control: words for, and the attack of, the same adversary where it succeeded.
    """
    figures = []
    for kind in _KINDS:
        rows: list[tuple[str, str, CurveRecord]] = []
        for attack in attacks:
            if (curve := _curve(attack, kind.name)) is not None:
                rows.append((f"Here, {attack_name(attack)}", _state(attack), curve))
        if not rows:
            continue
        if control is not None and (best := _curve(control[1], kind.name)) is not None:
            rows.append((f"Positive control, {control[0]}", _state(control[1]), best))
        nulls = [null for attack in attacks if (null := _curve(attack, f"null_{kind.name}")) is not None]
        rows += [("Control: given an empty input", "null", null) for null in nulls[:1]]
        figures.append(_figure(kind, rows))
    papers = [_paper_figure(record, world, attack) for attack in attacks if _curve(attack, "np_roc") is not None]
    return figures + papers


def _state(attack: AttackRecord) -> str:
    return "leaked" if attack.outcome == "leaked" else "not-leaked"


def interval_plots(record: Record) -> list[tuple[str, Markup]]:
    """(title, drawing) of the rates that this run measured, per world and adversary."""
    plots = []
    for name in _PLOTTED:
        rows: list[IntervalRow] = []
        members = False
        for world in record.worlds:
            cells = [row for attack in world.attacks if (row := _interval_row(attack, name)) is not None]
            members = members or any(on_members(attack) for attack in world.attacks)
            if cells:
                rows += [IntervalRow(f"world {printable(world.name)}"), *cells]
        if any(row.result is not None for row in rows):
            title = statistic(name, members).label
            drawing = interval_svg(
                f"{title}: value and 95 % interval per world and adversary",
                rows,
                "rate" if statistic(name).unit == "percent" else "number",
            )
            plots.append((title, drawing))
    return plots


def _interval_row(attack: AttackRecord, name: str) -> IntervalRow | None:
    result = find(attack.results, name)
    if result is not None:
        return IntervalRow(attack_name(attack), attack.outcome, result)
    if attack.outcome in ("blocked", "error", "not-applicable"):
        return IntervalRow(attack_name(attack), attack.outcome, None, outcome_words(attack)[0])
    return None


def rows_of(attack: AttackRecord) -> tuple[list[ResultRecord], list[ResultRecord]]:
    """The attack's own results, the deciding statistics first, and apart from them its baselines and controls."""

    def rank(result: ResultRecord) -> int:
        return PREFERRED.index(result.statistic) if result.statistic in PREFERRED else len(PREFERRED)

    own = [result for result in attack.results if not is_baseline(result.statistic)]
    return sorted(own, key=rank), [result for result in attack.results if is_baseline(result.statistic)]


def null_sentence(attack: AttackRecord) -> str:
    """What the attack makes of an input that holds nothing; "" where that was not measured."""
    for name in PREFERRED:
        result, real = find(attack.results, f"null_{name}"), find(attack.results, name)
        if result is None or real is None:
            continue
        value = f"{format_value(name, result.value)} {format_interval(result)}".strip()
        label = statistic(name, on_members(attack)).label
        text = f"Null control, the same attack on an input that holds nothing: {label} {value}"
        if result.chance is not None and result.low > result.chance:
            return f"{text}, which is above chance, so this statistic is no evidence of a leak"
        return text
    return ""
