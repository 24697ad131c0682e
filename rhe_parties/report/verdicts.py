"""Sentences computed from a record's numbers: what leaked, and what the numbers can and cannot show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rhe_parties.report.record import AttackRecord, Record, ResultRecord, WorldRecord
from rhe_parties.report.wording import (
    encrypted,
    find,
    format_interval,
    format_value,
    outcome_words,
    party_words,
    printable,
    statistic,
    variant_words,
    world_phrase,
)

__all__ = ["Verdict", "control_sentences", "deciding_result", "error_sentence", "verdicts"]

# In this order: what a reader grasps first. Only statistics with a value under chance can decide anything.
_PREFERRED = ("identification_rate", "tpr_at_fpr_1pct", "tpr_at_fpr_0.1pct", "head_cosine", "extraction_agreement", "auc")
MEASURED = ("leaked", "not-leaked")

State = Literal["leaked", "not-leaked", "blocked", "error", "none"]


@dataclass(frozen=True)
class Verdict:
    """One world in one sentence; `attack` and `result` are what it is based on, None where nothing was measured."""

    world: WorldRecord
    state: State
    sentence: str
    attack: AttackRecord | None = None
    result: ResultRecord | None = None


def _above_chance(result: ResultRecord) -> bool:
    return result.chance is not None and result.low > result.chance


def deciding_result(attack: AttackRecord) -> ResultRecord | None:
    """The statistic to show for an attack: the first preferred one above chance, else the first one there is."""
    known = [r for name in _PREFERRED if (r := find(attack.results, name)) is not None]
    rest = [r for r in attack.results if r.statistic not in _PREFERRED and find([r], r.statistic)]
    above = [r for r in known if _above_chance(r)] if attack.outcome == "leaked" else []
    return next(iter([*above, *known, *rest]), None)


def _strength(attack: AttackRecord) -> tuple[bool, int, float]:
    """For max(): a leak first, then the statistic that is understood best, then its distance from chance."""
    result = deciding_result(attack)
    if result is None:
        return (attack.outcome == "leaked", -len(_PREFERRED) - 1, 0.0)
    rank = _PREFERRED.index(result.statistic) if result.statistic in _PREFERRED else len(_PREFERRED)
    return (attack.outcome == "leaked", -rank, result.value - (result.chance or 0.0))


def _lead(record: Record) -> str | None:
    """Name of the adversary that did best in any world: the positive control of the others."""
    leaks = [attack for world in record.worlds for attack in world.attacks if attack.outcome == "leaked"]
    return max(leaks, key=_strength).adversary if leaks else None


def verdicts(record: Record) -> list[Verdict]:
    """One verdict per world, in order.

    A world's strongest leak is shown wherever there is one; a world without leak shows what the adversary that
    succeeded elsewhere got there, so that the comparison is between equals.
    """
    lead = _lead(record)
    seat = " and ".join(map(party_words, record.corrupted))
    who = f"the adversary at the {seat}" if seat else "the adversary"
    found: list[Verdict] = []
    for world in record.worlds:
        shown_before = any(v.result is not None and v.result.statistic == "identification_rate" for v in found)
        found.append(_verdict(record, world, lead, who, shown_before))
    return found


def _verdict(record: Record, world: WorldRecord, lead: str | None, who: str, brief: bool) -> Verdict:
    start = world_phrase(world)
    if world.status == "error":
        return Verdict(world, "error", f"{start} nothing is known: the run broke off ({printable(world.error)}).")
    measured = [attack for attack in world.attacks if attack.outcome in MEASURED]
    if not measured:
        return _unmeasured(world, start)
    same = [attack for attack in measured if attack.adversary == lead]
    leaks = [attack for attack in measured if attack.outcome == "leaked"]
    attack = max(leaks or same or measured, key=_strength)
    result = deciding_result(attack)
    if leaks:
        return Verdict(world, "leaked", f"{start} {who} {_deed(result, record, brief)}.", attack, result)
    sentence = f"{start} {_same_attack(attack, lead)} {_deed(result, record, brief)}{_against(result)}."
    return Verdict(world, "not-leaked", sentence, attack, result)


def _unmeasured(world: WorldRecord, start: str) -> Verdict:
    blocked = [attack for attack in world.attacks if attack.outcome == "blocked"]
    broken = [attack for attack in world.attacks if attack.outcome == "error"]
    if broken:
        return Verdict(
            world, "error", f"{start} nothing is known: {broken[0].adversary} failed ({outcome_words(broken[0])[1]})."
        )
    if blocked:
        missing = printable(", ".join(sorted({item for attack in blocked for item in attack.missing})))
        return Verdict(
            world, "blocked", f"{start} no attack could start (missing: {missing or 'what they need'}); none was measured."
        )
    return Verdict(world, "none", f"{start} no attack was run.")


def _same_attack(attack: AttackRecord, lead: str | None) -> str:
    where = f", run {variant_words(attack.variant)}," if attack.variant == "ciphertext" else ""
    if attack.adversary == lead:
        return f"the same attack{where}"
    return f"the strongest attack measured ({printable(attack.adversary)}){where}"


def _deed(result: ResultRecord | None, record: Record, brief: bool) -> str:
    """What was done, as the verb of a sentence."""
    if result is None:
        return "was measured without any statistic"
    value = " ".join(filter(None, (format_value(result.statistic, result.value), format_interval(result))))
    chance = format_value(result.statistic, result.chance)
    if result.statistic == "identification_rate":
        if brief:
            return f"named {value}" + (f" (chance {chance})" if _above_chance(result) else "")
        tail = f" ({_candidates(result, record)}chance {chance})" if result.chance is not None else ""
        return f"named {value} of the {result.n:,} private training images of {result.heads:,} heads{tail}"
    if result.statistic.startswith("tpr_at_fpr"):
        return f"rebuilt {value} of {result.n:,} private training images (chance {chance})"
    if result.statistic == "head_cosine":
        return f"recovered the head's weights with cosine {value} (another head gives {chance})"
    tail = f" ({statistic(result.statistic).baseline} {chance})" if result.chance is not None else ""
    return f"reached {statistic(result.statistic).label} {value}{tail}"


def _candidates(result: ResultRecord, record: Record) -> str:
    per_class = record.parameters.get("images_per_class", 1)
    if not result.chance or not isinstance(per_class, int):
        return ""
    return f"each among about {round(per_class / result.chance):,} candidates, "


def _against(result: ResultRecord | None) -> str:
    if result is None or result.chance is None:
        return ""
    chance = format_value(result.statistic, result.chance)
    if _above_chance(result):
        return f", against a chance of {chance}"
    return f", no better than chance ({chance})" if result.statistic == "identification_rate" else ", no better than that"


def control_sentences(record: Record) -> list[str]:
    """What makes a failure of an attack mean something in this run, and what it still does not show."""
    attacks = [(world, attack) for world in record.worlds for attack in world.attacks]
    leaked: dict[str, str] = {}
    for world, attack in attacks:
        if attack.outcome == "leaked":
            leaked.setdefault(attack.adversary, world.name)
    sentences = []
    if leaked:
        names = ", ".join(f"{printable(name)} (in world {printable(world)})" for name, world in leaked.items())
        sentences.append(f"Positive control: {names} succeeded, so the same attack failing elsewhere is evidence.")
    elif attacks:
        sentences.append("No positive control: no attack succeeded in any world, so a failure here proves nothing.")
    failed = {a.adversary for _, a in attacks if a.outcome == "not-leaked" and a.adversary != "prior-only"}
    if leaked and failed - set(leaked):
        names = ", ".join(map(printable, sorted(failed - set(leaked))))
        sentences.append(f"Without positive control in this run, so no evidence: {names}.")
    sentences += _prior_sentence(attacks)
    if attacks:
        sentences.append(
            "Brackets are 95 % intervals; \"not leaked\" means that the interval of the attacks run here reaches down "
            "to chance, not that no attack exists."
        )
    return sentences


def _prior_sentence(attacks: list[tuple[WorldRecord, AttackRecord]]) -> list[str]:
    for _, attack in attacks:
        result = find(attack.results, "identification_rate")
        if attack.adversary == "prior-only" and result is not None:
            value = f"{format_value(result.statistic, result.value)} {format_interval(result)}"
            return [f"Baseline: an adversary that sees nothing (prior-only) names {value}."]
    return ["No prior-only baseline was run."] if attacks else []


def error_sentence(record: Record) -> str:
    """One line for a run that failed: why, and what is kept."""
    messages = record.transcript_messages or sum(m.count for world in record.worlds for m in world.messages)
    reason = printable(record.error) or "no reason was recorded"
    done = sum(world.status == "ok" for world in record.worlds)
    kept = f"{done} finished world{'' if done == 1 else 's'} and {messages:,} message{'' if messages == 1 else 's'} kept"
    return f"{printable(record.scenario)}: the run failed: {reason} ({kept})"


def protected(record: Record) -> bool:
    """Whether any world of the run encrypts its heads."""
    return any(encrypted(world) for world in record.worlds)
