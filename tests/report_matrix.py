"""A record as the threat matrix scenario gives it: ten worlds, nine adversaries, invented rates; and its extremes."""

from __future__ import annotations

from functools import cache
from typing import Any

from rhe_parties.report.matrix import Entry
from rhe_parties.report.record import AttackRecord, MessageRecord, Record, ResultRecord, WorldRecord
from tests.report_sample import HOSTILE, attack, examples, hostile, message, rate, sample_record
from tests.report_tasks import membership, private_property, reconstruction

ADVERSARIES = {
    "span-inversion": ("reconstruction", "identification_rate", 0.017),
    "informed": ("reconstruction", "tpr_at_fpr_1pct", 0.01),
    "lira": ("membership", "auc", 0.5),
    "property-inference": ("property", "property_accuracy", 0.5),
    "hard-label": ("extraction", "extraction_agreement", 0.42),
    "soft-label": ("extraction", "extraction_agreement", 0.42),
    "inversion-network": ("inversion", "input_identification_rate", 0.2),
    "key-recovery": ("keys", "key_recovery_rate", 0.0),
    "malicious-host": ("active", "weights_recovered", 0.01),
}
# Leakage from 0 (chance) to 1 (certainty); a word where nothing was measured.
WORLDS: dict[str, tuple[str, float, list[Any]]] = {
    "none": ("none", 0.781, [0.99, 0.71, 0.99, 0.98, "no oracle", "no oracle", 0.6, "n.a.", "n.a."]),
    "dp-sgd:8": ("dp-sgd", 0.702, [0.31, 0.05, 0.4, 0.5, "no oracle", "no oracle", 0.5, "n.a.", "n.a."]),
    "dp-sgd:1": ("dp-sgd", 0.514, [0.03, 0.0, 0.05, 0.1, "no oracle", "no oracle", 0.4, "n.a.", "n.a."]),
    "rhe": ("rhe", 0.781, [0.0, 0.0, 0.0, 0.0, "no oracle", "no oracle", "no scores", "no values", 0.0]),
    "rhe+client": ("rhe", 0.781, [0.0, 0.0, 0.0, 0.0, 0.99, "no scores", "no scores", "no values", 0.0]),
    "rhe+decisions": ("rhe", 0.781, [0.0, 0.0, 0.0, 0.0, 0.99, "no scores", "no scores", "no values", 0.97]),
    "rhe:ckks+client+release=logits": ("rhe", 0.78, [0.0, 0.0, 0.0, 0.0, 0.99, 1.0, 0.6, 1.0, 0.97]),
    "lpa": ("lpa", 0.779, [0.98, 0.7, 0.97, 0.97, 0.98, 0.95, 0.12, "n.a.", "n.a."]),
    "relaxloss": ("relaxloss", 0.768, [0.9, 0.5, 0.3, 0.9, 0.97, 0.99, 0.5, "n.a.", "n.a."]),
    "rhe+client+release=rounded:1": ("rhe", 0.781, [0.0, 0.0, 0.0, 0.0, 0.99, 0.6, 0.3, "error", 0.0]),
}
_MISSING = {"no oracle": "decisions on images of its own", "no scores": "released scores", "no values": "CKKS values"}


@cache
def threat_record() -> Record:
    """Every outcome, two variants, queries, ε, and pictures and curves where they were measured."""
    base = sample_record()
    return base.model_copy(
        update={
            "scenario": "threat_matrix",
            "summary": "Defences against threat models, on digits.",
            "worlds": [_world(name, base) for name in WORLDS],
            "parameters": {"dataset": "digits", "images_per_class": 1, "release": "classes"},
            "command": "rhe run scenarios/threat_matrix.py",
        }
    )


def _world(name: str, base: Record) -> WorldRecord:
    defence, accuracy, levels = WORLDS[name]
    pattern = base.worlds[1 if defence == "rhe" else 0]
    cells = [pattern.attacks[0]]
    for (adversary, known), level in zip(ADVERSARIES.items(), levels, strict=True):
        cells += _cells(adversary, known, level, defence == "rhe")
    epsilon = float(name.removeprefix("dp-sgd:")) if defence == "dp-sgd" else None
    facts = [("ε", f"{epsilon:g}"), ("δ", "1e-5"), ("q", "0.2"), ("steps", "160")] if epsilon else []
    spread = [rate("accuracy", accuracy, accuracy - 0.012, accuracy + 0.011, 0.1, 11_600)]
    return pattern.model_copy(
        update={
            "name": name, "defence": defence, "summary": f"the world {name}", "accuracy": accuracy,
            "utility": spread, "attacks": cells, "epsilon": epsilon, "privacy": facts,
            "messages": [_slowed(m, 2.5 if epsilon else 1.0) for m in pattern.messages],
        }
    )  # fmt: skip


def _slowed(sent: MessageRecord, times: float) -> MessageRecord:
    return sent.model_copy(update={"handled_seconds": sent.handled_seconds * times})


def _cells(adversary: str, known: tuple[str, str, float], level: Any, hidden: bool) -> list[AttackRecord]:
    goal, name, chance = known
    more = {"goal": goal} if goal in ("keys", "active") else {}
    if level == "error":
        return [attack(adversary, "as-is", "error", [], [], error="ran out of memory", **more)]
    if level == "n.a.":
        return [attack(adversary, "as-is", "not-applicable", [], [], missing=["nothing is encrypted"], **more)]
    if isinstance(level, str):
        return [attack(adversary, "as-is", "blocked", [], [], missing=[_MISSING[level]], **more)]
    cell = _measured(adversary, name, chance, level, hidden and goal in ("reconstruction", "membership", "property"))
    cell = cell.model_copy(update=more)
    if cell.variant == "ciphertext":
        return [attack(adversary, "as-is", "blocked", [], [], missing=["plain head weights"]), cell]
    return [cell]


def _measured(adversary: str, name: str, chance: float, level: float, ciphertext: bool) -> AttackRecord:
    value = chance + level * (1 - chance)
    low, high = max(0.0, value - 0.02 - 0.03 * (1 - level)), min(1.0, value + 0.02)
    outcome = "leaked" if low > chance else "not-leaked"
    results = [rate(name, value, low, high, chance)]
    if name.startswith("extraction"):
        results.append(rate("queries", 2000.0, 2000.0, 2000.0, None, 58))
    pattern = _patterns().get(adversary)
    shown = examples("blurred" if outcome == "leaked" else "guess") if adversary == "span-inversion" else []
    cell = attack(adversary, "ciphertext" if ciphertext else "as-is", outcome, results, shown, f"how {adversary} works")
    source = pattern[outcome == "leaked"] if pattern is not None else None
    more = {"curves": source.curves, "histograms": source.histograms} if source is not None else {}
    return cell.model_copy(update=more)


@cache
def _patterns() -> dict[str, tuple[AttackRecord, AttackRecord]]:
    """Curves and histograms of a failure and of a success."""
    made = {"span-inversion": reconstruction(), "lira": membership(), "property-inference": private_property()}
    return {name: (r.worlds[1].attacks[-1], r.worlds[0].attacks[-1]) for name, r in made.items()}


def hostile_matrix() -> Record:
    """Markup, terminal escapes and LaTeX's own characters as names of worlds, adversaries and goals."""
    names = [HOSTILE, "a&b_c%$#{}~^\\", "</style><a href='//x'>"]
    cells = [
        attack(name, "as-is", "leaked", [rate("identification_rate", 0.5, 0.4, 0.6, 0.1)], [], HOSTILE, goal=HOSTILE)
        for name in names
    ]
    lost = [attack(name, "as-is", "blocked", [], [], HOSTILE, missing=names) for name in names]
    base = hostile()
    seen = [message(HOSTILE, HOSTILE, "model-host", 1, 10)]
    worlds = [
        WorldRecord(name=name, defence=name, messages=seen, privacy=[(name, name)], attacks=cells if i else lost)
        for i, name in enumerate(names)
    ]
    return base.model_copy(update={"worlds": worlds})


def broken_matrix() -> Record:
    """A run whose last world broke off, one whose adversary never succeeded, and numbers that are none."""
    record = threat_record()
    nothing = [ResultRecord(statistic="auc", value=float("nan"), low=0, high=1, n=0, heads=0, chance=None)]
    odd = attack("odd", "as-is", "not-leaked", nothing, [])
    never = attack("never", "as-is", "not-leaked", [rate("auc", 0.5, 0.4, 0.6, 0.5)], [])
    first = record.worlds[0].model_copy(update={"attacks": [*record.worlds[0].attacks, odd, never]})
    last = WorldRecord(name="lfp", defence="lfp", status="error", error="model-host died")
    return record.model_copy(update={"worlds": [first, record.worlds[3], last], "status": "error", "error": "died"})


def sweep_entries() -> list[Entry]:
    """A sweep over images per class and a defence's name; one place failed, one is unfinished."""
    record = threat_record()
    entries = []
    for per_class, share in ((1, 1.0), (4, 0.6), (16, 0.25)):
        for mode in ("fast", HOSTILE):
            values = (("images_per_class", per_class), ("mode", mode))
            name = ", ".join(f"{key}={value}" for key, value in values)
            worlds = [_weakened(record.worlds[i], share) for i in (0, 3)]
            entries.append(Entry(name, record.model_copy(update={"worlds": worlds}), "", values))
    entries[3] = Entry(entries[3].name, None, f"{HOSTILE} died", entries[3].values)
    entries[4] = Entry(entries[4].name, None, "", entries[4].values)
    return entries


def _weakened(world: WorldRecord, share: float) -> WorldRecord:
    """The same world with leaks that are nearer to chance."""
    return world.model_copy(update={"attacks": [_nearer(cell, share) for cell in world.attacks[:4]]})


def _nearer(cell: AttackRecord, share: float) -> AttackRecord:
    def near(number: float, chance: float | None) -> float:
        return (chance or 0.0) + share * (number - (chance or 0.0))

    moved = [
        r.model_copy(update={name: near(getattr(r, name), r.chance) for name in ("value", "low", "high")})
        for r in cell.results
    ]
    return cell.model_copy(update={"results": moved})
