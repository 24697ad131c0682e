"""What an attack did, as the verb of a sentence, for every statistic that can decide."""

from __future__ import annotations

from rhe_parties.report.meanings import statistic
from rhe_parties.report.record import AttackRecord, Record, ResultRecord
from rhe_parties.report.wording import find, format_interval, format_value, on_members, printable

__all__ = ["above_chance", "deed", "spoils"]


def above_chance(result: ResultRecord) -> bool:
    """Whether the whole 95 % interval lies above what chance or the baseline gives."""
    return result.chance is not None and result.low > result.chance


def spoils(results: list[tuple[ResultRecord, AttackRecord]]) -> str:
    """What leaked, in a few words, by the statistics that show it."""
    names = {result.statistic for result, _ in results}
    rates = [attack for result, attack in results if result.statistic.startswith("tpr_at_fpr")]
    images = "identification_rate" in names or any(not on_members(attack) for attack in rates)
    found = [
        words
        for words, there in (
            ("private training images", images),
            ("membership in the training set", "auc" in names or any(map(on_members, rates))),
            ("a property of the training set", bool(names & {"property_accuracy", "property_auc"})),
            ("the classified images", bool(names & {"input_identification_rate", "input_tpr_at_fpr_1pct"})),
            ("the classifier itself", bool(names & {"extraction_agreement", "extraction_agreement_mixes"})),
            ("the head's weights", "head_cosine" in names),
        )
        if there
    ]
    if not found:
        return "Something of the private side"
    text = found[0] if len(found) == 1 or images else " and ".join(found)
    return text[0].upper() + text[1:]


def deed(result: ResultRecord | None, attack: AttackRecord, record: Record, brief: bool) -> str:
    """What was done, as the verb of a sentence; `brief` where a sentence before it has explained the numbers."""
    if result is None:
        return "was measured without any statistic"
    value = " ".join(filter(None, (format_value(result.statistic, result.value), format_interval(result))))
    chance = format_value(result.statistic, result.chance)
    name, heads = result.statistic, f"{result.heads:,} heads"
    if name == "identification_rate":
        return _identified(result, record, value, chance, brief)
    if name.startswith("tpr_at_fpr"):
        if on_members(attack):
            return f"recognised {value} of the training images of {heads} (chance {chance})"
        return f"rebuilt {value} of {result.n:,} private training images (chance {chance})"
    if name == "auc":
        if brief:
            return f"reached an AUC of {value}{_recognised(attack) if above_chance(result) else ''}"
        scale = "where 0.5 is guessing and 1 is certainty"
        return f"told training images of {heads} from other images with an AUC of {value}, {scale}{_recognised(attack)}"
    if name in ("property_accuracy", "property_auc"):
        return _guessed(result, record, value, chance)
    if name == "input_identification_rate":
        return f"recognised {value} of {result.n:,} classified images by what was released about them (chance {chance})"
    if name.startswith("extraction_agreement"):
        asked = find(attack.results, "queries")
        cost = f", after {format_value('queries', asked.value)} questions per head" if asked is not None else ""
        return (
            f"copied the classifier: the copy decides like it for {value} of fresh images (like others' {chance}){cost}"
        )
    if name == "head_cosine":
        return f"matched the head's weights with cosine {value} (another head gives {chance})"
    words = statistic(name, on_members(attack))
    tail = f" ({words.baseline} {chance})" if result.chance is not None else ""
    return f"reached {words.label} {value}{tail}"


def _identified(result: ResultRecord, record: Record, value: str, chance: str, brief: bool) -> str:
    if brief:
        return f"identified {value}" + (f" (chance {chance})" if above_chance(result) else "")
    tail = f" ({_candidates(result, record)}chance {chance})" if result.chance is not None else ""
    if record.parameters.get("task") == "informed":
        return f"identified for {value} of {result.heads:,} heads the one training image that it did not know{tail}"
    return f"identified {value} of the {result.n:,} private training images of {result.heads:,} heads{tail}"


def _recognised(attack: AttackRecord) -> str:
    """How many training images are recognised at few false alarms, at the lowest rate that was resolved."""
    for rate in ("1", "10"):
        result = find(attack.results, f"tpr_at_fpr_{rate}pct")
        if result is not None:
            return f", and recognised {format_value(result.statistic, result.value)} of them at {rate} % false alarms"
    return ""


def _guessed(result: ResultRecord, record: Record, value: str, chance: str) -> str:
    named = record.parameters.get("property")
    which = f" ({printable(named)})" if isinstance(named, str) and named else ""
    if result.statistic == "property_auc":
        return f"told the two values of the private property{which} apart with an AUC of {value} (guessing {chance})"
    constant = f"always naming the most frequent value: {chance}"
    return f"named the private property{which} right for {value} of {result.heads:,} training sets ({constant})"


def _candidates(result: ResultRecord, record: Record) -> str:
    counted = record.dataset.get("candidates_per_class")
    if isinstance(counted, list) and counted and all(isinstance(n, int) for n in counted):
        low, high = min(counted), max(counted)
        return f"each among {low:,}{f' to {high:,}' if high > low else ''} candidates, "
    per_class = record.parameters.get("images_per_class", 1)
    if not result.chance or not isinstance(per_class, int):
        return ""
    return f"each among about {round(per_class / result.chance):,} candidates, "
