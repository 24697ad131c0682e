"""The pictures of the page: what the adversary made, between the truth and what anybody could have drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rhe_parties.report.record import AttackRecord, ExampleRecord, Record, WorldRecord
from rhe_parties.report.verdicts import BASELINE, Verdict
from rhe_parties.report.wording import MISSING, attack_name, find, outcome_words, printable

__all__ = ["STRIP", "Gallery", "Panel", "cell_panels", "galleries", "gallery_words"]

# Anything else in a record's image field could make the page fetch something.
_PNG_URI = re.compile(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}")
# Images in one line of a strip, wide enough to be seen on a phone.
STRIP = 5
# Pictures of one head that are shown at once; an attack on hundreds of inputs would drown the page.
_MOST = 40


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
    """One victim head, or several of which each has one image, in every world."""

    title: str
    panels: list[Panel]


def gallery_words(record: Record) -> tuple[str, str]:
    """Heading and explanation of the pictures, by what they show."""
    examples = [e for world in record.worlds for attack in world.attacks for e in attack.examples]
    reading = (
        "Middle row: what the adversary made of its view. Bottom row: the average of public images of the same class, "
        "which anybody can draw. A leak is a middle row that looks like the top row and not like the bottom row."
    )
    if any(example.subject == "inputs" for example in examples):
        return (
            "The classified images, and what the adversary made of the answers",
            "Top row: an image that was sent in to be classified. The adversary saw only what the key holder released "
            f"about it. {reading}",
        )
    if examples and all(len(example.true) == 1 for example in examples):
        return (
            "The one image that the adversary did not know",
            "The adversary knew every training image of a head but one. Top row: that one image, never sent to "
            f"anybody; each column is another head. {reading}",
        )
    return (
        "The private images, and what the adversary made of them",
        f"Top row: an image that the data owner trained on and never sent to anybody. {reading}",
    )


def _chosen_attack(world: WorldRecord, lead: str | None) -> AttackRecord | None:
    """The attack whose images are shown: the leading adversary's, else the strongest that made any."""
    made = [a for a in world.attacks if any(example.claimed for example in a.examples)]

    def rank(attack: AttackRecord) -> tuple[bool, bool, bool, float]:
        error = find(attack.results, "mse") or find(attack.results, "input_mse")
        gain = (error.chance or 0.0) - error.value if error is not None else -math.inf
        # The baseline knows nothing of a head: its images say least of all.
        return (attack.outcome == "leaked", attack.adversary == lead, attack.adversary != BASELINE, gain)

    return max(made, key=rank) if made else None


def galleries(record: Record, found: list[Verdict]) -> list[Gallery]:
    """The pictures head by head; heads with a single image each stand side by side in one gallery."""
    leads = [v.attack.adversary for v in found if v.state == "leaked" and v.attack is not None]
    picks = [(world, _chosen_attack(world, leads[0] if leads else None)) for world in record.worlds]
    shown = [example for _, attack in picks if attack for example in attack.examples if example.claimed]
    heads = list(dict.fromkeys(example.head_id for example in shown))
    if len(heads) > 1 and all(len(example.true) == 1 for example in shown):
        title = f"{len(heads)} heads, one image each"
        return [Gallery(title, [_panel(record, world, attack, heads) for world, attack in picks])]
    return [
        Gallery(f"Head {head}", [_panel(record, world, attack, [head]) for world, attack in picks]) for head in heads
    ]


def cell_panels(record: Record, world: WorldRecord, attacks: Sequence[AttackRecord]) -> list[Panel]:
    """The pictures of one adversary in one world, a panel per variant: one head, or every head with a single image."""
    panels = []
    for attack in attacks:
        shown = [example for example in attack.examples if example.claimed]
        heads = list(dict.fromkeys(example.head_id for example in shown))
        if heads:
            alone = all(len(example.true) == 1 for example in shown)
            panels.append(_panel(record, world, attack, heads if alone else heads[:1]))
    return panels


def _panel(record: Record, world: WorldRecord, attack: AttackRecord | None, heads: list[str]) -> Panel:
    if attack is None:
        return Panel(world, "", "none", MISSING, [], "No attack made an image in this world.")
    outcome: str = attack.outcome
    caption, word = f"attack: {attack_name(attack)}", outcome_words(attack)[0]
    if attack.adversary == BASELINE:
        # A control has no verdict of its own beside the world's.
        caption, outcome, word = f"{attack_name(attack)} sees nothing; no attack made an image here", "none", "baseline"
    chosen = [e for head in heads for e in attack.examples if e.head_id == head]
    if not chosen:
        return Panel(world, caption, outcome, word, [], "No image of this head is in the record.")
    strips, words = _strips(chosen, record.dataset.get("classes"))
    return Panel(world, caption, outcome, word, strips, words)


def _strips(examples: list[ExampleRecord], classes: Any) -> tuple[list[Strip], str]:
    """Strips of one head's images, or of several heads' single ones, and words on what was left out.

    `classes` are the names of the dataset's classes, where the record lists them.
    """
    inputs = examples[0].subject == "inputs"
    rows = [
        (
            ("true", " input" if inputs else " private image"),
            "true input" if inputs else "true private image",
            [uri for e in examples for uri in e.true],
        ),
        (("rebuilt", " by the adversary"), "reconstruction", [uri for e in examples for uri in e.claimed]),
        (("average", " of the class"), "class average", [uri for e in examples for uri in e.class_average]),
    ]
    total = max(len(uris) for _, _, uris in rows)
    count = min(total, _MOST)
    strips = []
    for start in range(0, count, STRIP):
        strip: Strip = []
        for label, alt, uris in rows:
            part = uris[start : min(start + STRIP, count)]
            strip.append(
                (
                    label,
                    [
                        Picture(_checked(uri), f"{alt} {_which(examples, start + i, total, classes)}")
                        for i, uri in enumerate(part)
                    ],
                )
            )
        strips.append(strip)
    return strips, f"The first {count} of {total} images." if count < total else ""


def _which(examples: list[ExampleRecord], index: int, count: int, classes: Any) -> str:
    """Which image it is, of which class and head; images are ordered by class unless the record names the classes."""
    several = len(examples) > 1
    example = examples[min(index, len(examples) - 1)] if several else examples[0]
    number = f"{index + 1} of {count}"
    named = example.classes[:1] if several else example.classes[index : index + 1]
    head = f", head {example.head_id}"
    if named:
        return f"{number}, class {printable(named[0])}{head}"
    if several or not isinstance(classes, list) or not classes or count % len(classes):
        return number + head
    return f"{number}, class {classes[index * len(classes) // count]}{head}"


def _checked(uri: str) -> str:
    return uri if _PNG_URI.fullmatch(uri) else ""
