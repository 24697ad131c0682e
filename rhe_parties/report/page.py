"""The environment in which pages are rendered: filters, globals, and the rule that everything is escaped."""

from __future__ import annotations

import re
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rhe_parties.report.cells import row_name
from rhe_parties.report.evidence import null_sentence, rows_of
from rhe_parties.report.figures import eye_svg
from rhe_parties.report.gallery import STRIP
from rhe_parties.report.matrix import STATES
from rhe_parties.report.matrix_words import STATE_MEANINGS, row_facts, spoken
from rhe_parties.report.meanings import statistic
from rhe_parties.report.record import AttackRecord, ResultRecord
from rhe_parties.report.verdicts import deciding_result, is_twin
from rhe_parties.report.wording import (
    MISSING,
    attack_name,
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
)

__all__ = ["template"]

# "[98.9, 100]" must not be torn apart at the end of a line.
_INTERVAL = re.compile(r"(\[[-\d.,<>]+,) (?=[-\d.<>]+\])")


@cache
def template(name: str) -> Template:
    """A page's template by its file name in `templates/`."""
    return _environment().get_template(name)


@cache
def _environment() -> Environment:
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
        STATES=STATES,
        STATE_MEANINGS=STATE_MEANINGS,
        row_name=row_name,
        row_facts=row_facts,
        spoken=spoken,
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
    return environment


def _label(result: ResultRecord, attack: AttackRecord) -> str:
    return statistic(result.statistic, on_members(attack)).label


def _clean(text: str) -> str:
    lines = "\n".join(map(printable, text.split("\n")))
    return _INTERVAL.sub("\\1\N{NO-BREAK SPACE}", lines.replace(" %", "\N{NO-BREAK SPACE}%"))
