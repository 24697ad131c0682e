"""Words and number formats that the terminal table and the HTML report share."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rhe_parties.report.meanings import statistic
from rhe_parties.report.record import AttackRecord, MessageRecord, ResultRecord, WorldRecord

__all__ = [
    "MISSING",
    "WorldCost",
    "attack_name",
    "encrypted",
    "find",
    "format_interval",
    "format_value",
    "kind_words",
    "on_members",
    "outcome_words",
    "party_words",
    "printable",
    "seconds_text",
    "size_text",
    "variant_words",
    "world_cost",
    "world_phrase",
    "world_release",
]

MISSING = "–"


def printable(text: str) -> str:
    """The text without control characters, so that no name in a record can steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _percent(value: float) -> str:
    scaled = value * 100
    text = f"{scaled:.1f}"
    if text == "100.0":
        return "100" if value >= 1 else ">99.9"
    if text == "0.0" and value > 0:
        return f"{scaled:.2g}" if scaled >= 0.001 else "<0.001"
    return "0" if text in ("0.0", "-0.0") else text


def _plain(value: float, unit: str) -> str:
    if not math.isfinite(value):
        return MISSING
    if unit == "percent":
        return _percent(value)
    if unit == "count":
        return f"{round(value):,}"
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"


def format_value(name: str, value: float | None) -> str:
    """A value of statistic `name` with its unit; a dash for what is not there or not finite."""
    if value is None or not math.isfinite(value):
        return MISSING
    unit = statistic(name).unit
    return _plain(value, unit) + (" %" if unit == "percent" else "")


def format_interval(result: ResultRecord) -> str:
    """The 95 % interval in brackets, without unit: `[98.9, 100]`; empty when it is not finite."""
    if not (math.isfinite(result.low) and math.isfinite(result.high)):
        return ""
    unit = statistic(result.statistic).unit
    return f"[{_plain(result.low, unit)}, {_plain(result.high, unit)}]"


def find(results: list[ResultRecord], name: str) -> ResultRecord | None:
    """The result of a statistic, if it was measured and is a number."""
    return next((r for r in results if r.statistic == name and math.isfinite(r.value)), None)


def on_members(attack: AttackRecord) -> bool:
    """Whether the attack judged who was a training image: its true-positive rates are then about that."""
    return any(result.statistic == "auc" for result in attack.results)


def size_text(count: float) -> str:
    """Bytes for a reader: `152 B`, `10.6 kB`, `3.42 MB`, `1.20 GB` (decimal units)."""
    if not math.isfinite(count):
        return MISSING
    for limit, scale, text in ((1e3, 1.0, "{:.0f} B"), (1e6, 1e3, "{:.1f} kB"), (1e9, 1e6, "{:.2f} MB")):
        if count < limit:
            return text.format(count / scale)
    return f"{count / 1e9:.2f} GB"


def seconds_text(seconds: float) -> str:
    """`12.3 s`, `48 ms` or `3 min 20 s`."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 0.1:
        return f"{seconds * 1e3:.3g} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{int(seconds // 60)} min {int(seconds % 60)} s"


def party_words(name: str) -> str:
    """`model-host` as a person says it."""
    return printable(name.replace("-", " "))


def variant_words(variant: str) -> str:
    """What the strategy was run on."""
    return "on ciphertexts" if variant == "ciphertext" else ""


def attack_name(attack: AttackRecord) -> str:
    """`span-inversion` or `span-inversion, on ciphertexts`."""
    return ", ".join(filter(None, (printable(attack.adversary), variant_words(attack.variant))))


def outcome_words(attack: AttackRecord) -> tuple[str, str]:
    """(word, detail): the word alone carries the meaning, the detail says what is missing or broke."""
    if attack.outcome == "blocked":
        return "blocked", "missing " + (printable(", ".join(attack.missing)) or "what it needs")
    if attack.outcome == "error":
        return "error", printable(attack.error) or "no reason given"
    return {"leaked": "LEAKED", "not-leaked": "not leaked", "not-applicable": "n.a."}[attack.outcome], ""


def encrypted(world: WorldRecord) -> bool:
    """Whether heads reached the host encrypted in this world: by its messages or, without any, its defence."""
    if world.scheme == "plain":
        # The integer twin travels in the same messages and hides nothing.
        return False
    kinds = {message.kind for message in world.messages}
    if kinds & {"plain_head", "two_layer_head", "encrypted_head"}:
        return "encrypted_head" in kinds
    return world.defence == "rhe" or world.scheme != ""


_KINDS = {
    "train_head": "order: train a head",
    "public_material_request": "asks for the public key",
    "public_material": "public key, encryption plan",
    "plain_head": "trained head, weights in clear",
    "two_layer_head": "trained two-layer head, weights in clear",
    "encrypted_head": "trained head, weights encrypted",
    "head_installed": "head is installed",
    "head_notice": "fingerprint and scale of the head",
    "head_ready": "head is ready for use",
    "ask_decisions": "test images to decide on",
    "classify_request": "input images, in clear",
    "decision": "decisions released",
    "rotate_key": "order: a new key",
    "key_rotated": "the key is replaced",
    "heads_renewed": "which heads are encrypted anew",
    "failure": "failure: could not do it",
    "admit_client": "order: let a client ask",
    "client_admitted": "the client may ask",
    "host_order": "the adversary's order to its host",
    "elided": "messages left out of the record",
    "health_request": "are you there?",
    "health_report": "yes, here",
    "attack_request": "the adversary's view",
    "claim_report": "the adversary's claim",
}


def kind_words(message: MessageRecord, world: WorldRecord) -> str:
    """What a message is, in plain words."""
    if message.kind == "encrypted_head" and not encrypted(world):
        return "trained head, integers in clear"
    if message.kind == "classify_response":
        return "logits, encrypted" if encrypted(world) else "logits, in clear"
    return _KINDS.get(message.kind) or printable(message.kind.replace("_", " "))


def world_phrase(world: WorldRecord) -> str:
    """How a sentence about this world begins."""
    phrase = {"none": "Without protection", "rhe": "With the encrypted head"}.get(world.defence)
    if world.defence == "rhe" and not encrypted(world):
        phrase = "With the unencrypted twin"
    phrase = phrase or f"With {printable(world.defence)}"
    base, *modifiers = world.name.split("+")
    words = [] if base == world.defence else [base]
    words += [_modifier_words(modifier) for modifier in modifiers]
    return f"{phrase} ({printable('; '.join(words))})" if words else phrase


def _modifier_words(modifier: str) -> str:
    """What `+client` or `+release=POLICY` in a world's name changes."""
    if modifier == "client":
        return "the adversary may ask as a client"
    if modifier == "tag":
        return "replies carry a secret tag"
    if modifier == "malicious":
        return "the host answers it as it likes"
    if modifier.startswith("canaries="):
        return "canaries among the requests"
    if modifier == "fine-tuned" or modifier.partition("=")[0] == "lora":
        how = modifier.replace("lora", "LoRA").replace("=", ", rank ")
        return f"the backbone's last block trained too ({how}), in clear"
    if modifier == "rotated":
        return "the key is replaced afterwards"
    if modifier.startswith("noise-check="):
        return f"noise check: {modifier.removeprefix('noise-check=')}"
    if modifier.startswith("release="):
        policy = modifier.removeprefix("release=")
        return "only classes released" if policy == "classes" else f"{policy.replace(':', ' ')} released"
    return modifier


def world_release(world: WorldRecord, default: str) -> str:
    """The key holder's release policy in this world: its own where its name sets one, else the run's."""
    policies = [m.removeprefix("release=") for m in world.name.split("+")[1:] if m.startswith("release=")]
    return policies[-1] if policies else default


@dataclass(frozen=True)
class WorldCost:
    """Bytes of one head and, per decided image, of request and reply; None where no such message was sent.

    `answering` are the seconds that host and key holder work on one decided image, the backbone included; `training`
    those that the data owner works on one head, its encryption included. `predictions` is None where the record does
    not say how many images were decided; then request and reply are per message, and nobody knows `answering`.
    """

    messages: int
    total_bytes: int
    predictions: int | None
    head: float | None
    request: float | None
    reply: float | None
    answering: float | None
    training: float | None


def world_cost(world: WorldRecord) -> WorldCost:
    """What a world's messages cost."""
    accuracy = find(world.utility, "accuracy")
    predictions = accuracy.n if accuracy is not None and accuracy.n > 0 else None

    def mean(kinds: tuple[str, ...], per: int | None) -> float | None:
        chosen = [m for m in world.messages if m.kind in kinds]
        parts = per if per is not None else sum(m.count for m in chosen)
        return sum(m.total_bytes for m in chosen) / parts if chosen and parts else None

    def seconds(kinds: tuple[str, ...], per: int | None) -> float | None:
        spent = sum(m.handled_seconds for m in world.messages if m.kind in kinds)
        return spent / per if per and spent > 0 else None

    return WorldCost(
        messages=sum(m.count for m in world.messages),
        total_bytes=sum(m.total_bytes for m in world.messages),
        predictions=predictions,
        head=mean(("plain_head", "two_layer_head", "encrypted_head"), None),
        request=mean(("classify_request",), predictions),
        reply=mean(("classify_response",), predictions),
        answering=seconds(("classify_request", "classify_response"), predictions),
        training=seconds(("train_head",), sum(m.count for m in world.messages if m.kind == "train_head")),
    )
