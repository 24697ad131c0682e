"""Sentences computed from a record's numbers: what leaked, and what the numbers can and cannot show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rhe_parties.metrics.claims import DECIDING
from rhe_parties.report.deeds import above_chance, deed, spoils
from rhe_parties.report.meanings import is_baseline, statistic
from rhe_parties.report.record import AttackRecord, Record, ResultRecord, WorldRecord
from rhe_parties.report.wording import (
    encrypted,
    find,
    format_interval,
    format_value,
    on_members,
    outcome_words,
    party_words,
    printable,
    variant_words,
    world_phrase,
)

__all__ = [
    "BASELINE",
    "PREFERRED",
    "Verdict",
    "control_sentences",
    "deciding_result",
    "error_sentence",
    "headline",
    "is_twin",
    "verdicts",
]

# In this order: what a reader grasps first. Only statistics with a value under chance can decide anything.
PREFERRED = DECIDING
# The control that sees nothing: its number is a floor, never an attack's success.
BASELINE = "prior-only"
MEASURED = ("leaked", "not-leaked")

State = Literal["leaked", "not-leaked", "blocked", "error", "none"]


@dataclass(frozen=True)
class Verdict:
    """One world in one sentence; `attack` and `result` are what it rests on, None without a number."""

    world: WorldRecord
    state: State
    sentence: str
    attack: AttackRecord | None = None
    result: ResultRecord | None = None


def deciding_result(attack: AttackRecord) -> ResultRecord | None:
    """The statistic to show for an attack: the first preferred one above chance, else the first."""
    known = [r for name in PREFERRED if (r := find(attack.results, name)) is not None]
    rest = [r for r in attack.results if r.statistic not in PREFERRED and find([r], r.statistic)]
    rest.sort(key=lambda r: is_baseline(r.statistic))
    above = [r for r in known if above_chance(r)] if attack.outcome == "leaked" else []
    return next(iter([*above, *known, *rest]), None)


def _strength(attack: AttackRecord) -> tuple[bool, int, float]:
    """For max(): a leak first, then the statistic that is understood best, then its distance from chance."""
    result = deciding_result(attack)
    if result is None:
        return (attack.outcome == "leaked", -len(PREFERRED) - 1, 0.0)
    rank = PREFERRED.index(result.statistic) if result.statistic in PREFERRED else len(PREFERRED)
    return (attack.outcome == "leaked", -rank, result.value - (result.chance or 0.0))


def _lead(record: Record) -> str | None:
    """Name of the adversary that did best in any world: the positive control of the other worlds."""
    attacks = [attack for world in record.worlds for attack in world.attacks]
    leaks = [attack for attack in attacks if attack.outcome == "leaked" and attack.adversary != BASELINE]
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
        explained = {v.result.statistic for v in found if v.result is not None}
        found.append(_verdict(record, world, lead, who, explained))
    return found


def _verdict(record: Record, world: WorldRecord, lead: str | None, who: str, explained: set[str]) -> Verdict:
    start = world_phrase(world)
    if world.status == "error":
        return Verdict(world, "error", f"{start} nothing is known: the run broke off ({printable(world.error)}).")
    measured = [a for a in world.attacks if a.outcome in MEASURED and a.adversary != BASELINE]
    if not measured:
        return _unmeasured(world, start)
    same = [attack for attack in measured if attack.adversary == lead]
    leaks = [attack for attack in measured if attack.outcome == "leaked"]
    attack = max(leaks or same or measured, key=_strength)
    result = deciding_result(attack)
    brief = result is not None and result.statistic in explained
    if leaks:
        return Verdict(world, "leaked", f"{start} {who} {deed(result, attack, record, brief)}.", attack, result)
    broken = sum(attack.outcome == "error" for attack in world.attacks)
    caveat = f" {broken} attack{'' if broken == 1 else 's'} failed with an error." if broken else ""
    done = f"{deed(result, attack, record, brief)}{_against(result)}"
    sentence = f"{start} {_same_attack(attack, lead)} {done}.{caveat}"
    return Verdict(world, "not-leaked", sentence, attack, result)


def headline(found: list[Verdict]) -> str:
    """The verdict in a dozen words; the sentences with the numbers follow it."""
    said = []
    leaks = [verdict for verdict in found if verdict.state == "leaked"]
    if leaks:
        said.append(_leaked(leaks, len(found)))
    for state, words in (
        ("not-leaked", "no attack did better than chance"),
        ("blocked", "no attack could start"),
    ):
        worlds = [verdict for verdict in found if verdict.state == state]
        if worlds:
            places = _places(worlds, len(found))
            said.append(f"{places} {words}" if leaks else f"{words} {places}")
    text = "; ".join(said) or "this run measured no attack"
    return f"{text[0].upper()}{text[1:]}."


def _leaked(leaks: list[Verdict], total: int) -> str:
    """What leaked where: each world under what its strongest leak gave away."""
    by_spoils: dict[str, list[Verdict]] = {}
    for verdict in leaks:
        pair = [(verdict.result, verdict.attack)] if verdict.result is not None and verdict.attack is not None else []
        by_spoils.setdefault(spoils(pair), []).append(verdict)
    (first, worlds), *others = by_spoils.items()
    parts = [f"{first} leaked {_places(worlds, total)}"]
    parts += [f"{text[0].lower()}{text[1:]} {_places(worlds, total)}" for text, worlds in others]
    return ", ".join(parts)


def _places(found: list[Verdict], total: int) -> str:
    """Where, in words; counted where naming the worlds would be longer than the message."""
    if len(found) > 2 or (len(found) == 2 and total > 4):
        return f"in {len(found)} of {total} worlds"
    phrases = [world_phrase(verdict.world) for verdict in found]
    parts = [phrase[0].lower() + phrase[1:] for phrase in phrases]
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _unmeasured(world: WorldRecord, start: str) -> Verdict:
    """The verdict on a world of which no attack but the baseline has a number."""
    blocked = [attack for attack in world.attacks if attack.outcome == "blocked"]
    broken = [attack for attack in world.attacks if attack.outcome == "error"]
    if broken:
        return Verdict(
            world,
            "error",
            f"{start} nothing is known: {broken[0].adversary} failed ({outcome_words(broken[0])[1]}).",
        )
    if is_twin(world):
        return Verdict(world, "none", f"{start} nothing is hidden; no attack of this run reads its integers.")
    if blocked:
        missing = printable(", ".join(sorted({item for attack in blocked for item in attack.missing})))
        return Verdict(
            world,
            "blocked",
            f"{start} no attack could start (missing: {missing or 'what they need'}); none was measured.",
        )
    alone = ", only the baseline that sees nothing" if world.attacks else ""
    return Verdict(world, "none", f"{start} no attack was run{alone}.")


def is_twin(world: WorldRecord) -> bool:
    """Whether the world runs the messages of RHE without its encryption, for comparison."""
    return world.defence == "rhe" and not encrypted(world)


def _same_attack(attack: AttackRecord, lead: str | None) -> str:
    where = f", run {variant_words(attack.variant)}," if attack.variant == "ciphertext" else ""
    if attack.adversary == lead:
        return f"the same attack{where}"
    return f"the strongest attack measured ({printable(attack.adversary)}){where}"


def _against(result: ResultRecord | None) -> str:
    if result is None or result.chance is None:
        return ""
    chance = format_value(result.statistic, result.chance)
    if above_chance(result):
        return f", against a chance of {chance}"
    if result.statistic in ("identification_rate", "auc"):
        return f", no better than {'guessing' if result.statistic == 'auc' else f'chance ({chance})'}"
    return ", no better than that"


def control_sentences(record: Record) -> list[str]:
    """What makes a failure of an attack mean something in this run, and what it still does not show."""
    attacks = [(world, attack) for world in record.worlds for attack in world.attacks]
    leaked: dict[str, str] = {}
    for world, attack in attacks:
        if attack.outcome == "leaked" and attack.adversary != BASELINE:
            leaked.setdefault(attack.adversary, world.name)
    sentences = []
    if leaked:
        names = ", ".join(f"{printable(name)} (in world {printable(world)})" for name, world in leaked.items())
        sentences.append(f"Positive control: {names} succeeded, so the same attack failing elsewhere is evidence.")
    elif attacks:
        sentences.append("No positive control: no attack succeeded in any world, so a failure here proves nothing.")
    failed = {a.adversary for _, a in attacks if a.outcome == "not-leaked" and a.adversary != BASELINE}
    if leaked and failed - set(leaked):
        names = ", ".join(map(printable, sorted(failed - set(leaked))))
        sentences.append(f"Without positive control in this run, so no evidence: {names}.")
    twins = [world.name for world in record.worlds if is_twin(world)]
    if twins:
        names = ", ".join(map(printable, twins))
        sentences.append(f"{names}: the twin without encryption, for comparing decisions; it protects nothing.")
    sentences += _prior_sentence(attacks)
    sentences += _multiplicity_sentence(attacks)
    if attacks:
        sentences.append(
            'Brackets are 95 % intervals; "not leaked" means that the interval of the attacks run here reaches '
            "down to chance, not that no attack exists."
        )
    return sentences


def _multiplicity_sentence(attacks: list[tuple[WorldRecord, AttackRecord]]) -> list[str]:
    """Many cells mean some false alarms: how many to expect."""
    cells = sum(attack.outcome in MEASURED for _, attack in attacks)
    if cells < 8:
        return []
    return [
        f"{cells} attacks were measured. Where nothing leaks, at most about one in twenty is called a leak by "
        "accident, so a single narrow one among many should be repeated with another seed."
    ]


def _prior_sentence(attacks: list[tuple[WorldRecord, AttackRecord]]) -> list[str]:
    for _, attack in attacks:
        result = deciding_result(attack)
        if attack.adversary == BASELINE and result is not None:
            value = f"{format_value(result.statistic, result.value)} {format_interval(result)}"
            above = " That is above chance, so being above chance is no sign of a leak in this run."
            tail = above if above_chance(result) else ""
            if result.statistic == "identification_rate":
                return [f"Baseline: an adversary that sees nothing ({BASELINE}) identifies {value}.{tail}"]
            label = statistic(result.statistic, on_members(attack)).label
            return [f"Baseline: an adversary that sees nothing ({BASELINE}) reaches, for {label}, {value}.{tail}"]
    return [f"No baseline ({BASELINE}) was run."] if attacks else []


def error_sentence(record: Record) -> str:
    """One line for a run that failed or never ended: why, and what is kept."""
    messages = record.transcript_messages or sum(m.count for world in record.worlds for m in world.messages)
    reason = printable(record.error) or "no reason was recorded"
    done = sum(world.status == "ok" for world in record.worlds)
    worlds, crossed = "world" if done == 1 else "worlds", "message" if messages == 1 else "messages"
    kept = f"{done} finished {worlds} and {messages:,} {crossed} kept"
    if record.status == "started":
        return f"{printable(record.scenario)}: the run had not ended when this record was written ({kept})"
    return f"{printable(record.scenario)}: the run failed: {reason} ({kept})"
