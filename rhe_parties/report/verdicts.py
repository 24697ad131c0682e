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

__all__ = [
    "BASELINE",
    "Verdict",
    "control_sentences",
    "deciding_result",
    "error_sentence",
    "headline",
    "is_twin",
    "verdicts",
]

# In this order: what a reader grasps first. Only statistics with a value under chance can decide anything.
_PREFERRED = (
    "identification_rate",
    "tpr_at_fpr_1pct",
    "tpr_at_fpr_0.1pct",
    "head_cosine",
    "extraction_agreement",
    "auc",
)
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


def _above_chance(result: ResultRecord) -> bool:
    return result.chance is not None and result.low > result.chance


def deciding_result(attack: AttackRecord) -> ResultRecord | None:
    """The statistic to show for an attack: the first preferred one above chance, else the first."""
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
        shown_before = any(v.result is not None and v.result.statistic == "identification_rate" for v in found)
        found.append(_verdict(record, world, lead, who, shown_before))
    return found


def _verdict(record: Record, world: WorldRecord, lead: str | None, who: str, brief: bool) -> Verdict:
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
    if leaks:
        return Verdict(world, "leaked", f"{start} {who} {_deed(result, record, brief)}.", attack, result)
    broken = sum(attack.outcome == "error" for attack in world.attacks)
    caveat = f" {broken} attack{'' if broken == 1 else 's'} failed with an error." if broken else ""
    deed = f"{_deed(result, record, brief)}{_against(result)}"
    sentence = f"{start} {_same_attack(attack, lead)} {deed}.{caveat}"
    return Verdict(world, "not-leaked", sentence, attack, result)


def headline(found: list[Verdict]) -> str:
    """The verdict in a dozen words; the sentences with the numbers follow it."""
    said = []
    leaks = [verdict for verdict in found if verdict.state == "leaked"]
    if leaks:
        said.append(f"{_spoils(leaks)} leaked {_places(leaks, len(found))}")
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


def _spoils(leaks: list[Verdict]) -> str:
    statistics = {verdict.result.statistic for verdict in leaks if verdict.result is not None}
    if any(name == _PREFERRED[0] or name.startswith("tpr_at_fpr") for name in statistics):
        return "Private training images"
    return "The head's weights" if statistics == {"head_cosine"} else "Something of the private side"


def _places(found: list[Verdict], total: int) -> str:
    """Where, in words; counted where naming the worlds would be longer than the message."""
    if len(found) > 2:
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


def _deed(result: ResultRecord | None, record: Record, brief: bool) -> str:
    """What was done, as the verb of a sentence."""
    if result is None:
        return "was measured without any statistic"
    value = " ".join(filter(None, (format_value(result.statistic, result.value), format_interval(result))))
    chance = format_value(result.statistic, result.chance)
    if result.statistic == "identification_rate":
        if brief:
            return f"identified {value}" + (f" (chance {chance})" if _above_chance(result) else "")
        tail = f" ({_candidates(result, record)}chance {chance})" if result.chance is not None else ""
        return f"identified {value} of the {result.n:,} private training images of {result.heads:,} heads{tail}"
    if result.statistic.startswith("tpr_at_fpr"):
        return f"rebuilt {value} of {result.n:,} private training images (chance {chance})"
    if result.statistic == "head_cosine":
        return f"matched the head's weights with cosine {value} (another head gives {chance})"
    tail = f" ({statistic(result.statistic).baseline} {chance})" if result.chance is not None else ""
    return f"reached {statistic(result.statistic).label} {value}{tail}"


def _candidates(result: ResultRecord, record: Record) -> str:
    counted = record.dataset.get("candidates_per_class")
    if isinstance(counted, list) and counted and all(isinstance(n, int) for n in counted):
        low, high = min(counted), max(counted)
        return f"each among {low:,}{f' to {high:,}' if high > low else ''} candidates, "
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
    return (
        f", no better than chance ({chance})" if result.statistic == "identification_rate" else ", no better than that"
    )


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
    if attacks:
        sentences.append(
            'Brackets are 95 % intervals; "not leaked" means that the interval of the attacks run here reaches '
            "down to chance, not that no attack exists."
        )
    return sentences


def _prior_sentence(attacks: list[tuple[WorldRecord, AttackRecord]]) -> list[str]:
    for _, attack in attacks:
        result = find(attack.results, "identification_rate")
        if attack.adversary == BASELINE and result is not None:
            value = f"{format_value(result.statistic, result.value)} {format_interval(result)}"
            above = " That is above chance, so being above chance is no sign of a leak in this run."
            tail = above if _above_chance(result) else ""
            return [f"Baseline: an adversary that sees nothing ({BASELINE}) identifies {value}.{tail}"]
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
