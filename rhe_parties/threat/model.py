"""The threat model is a value: stated before a run, printed with it, stored in its record."""

from __future__ import annotations

from dataclasses import dataclass

from rhe_parties.errors import ParameterError, unknown_name

__all__ = ["ADVERSARY", "DATA_OWNER", "KEY_HOLDER", "LABORATORY", "MODEL_HOST", "PARTIES", "ThreatModel"]

DATA_OWNER = "data-owner"
MODEL_HOST = "model-host"
KEY_HOLDER = "key-holder"
ADVERSARY = "adversary"
# The conductor of a simulation: starts trainings, asks for decisions, and measures. No threat model corrupts it.
LABORATORY = "laboratory"
PARTIES = (DATA_OWNER, MODEL_HOST, KEY_HOLDER)

KNOWLEDGE = ("backbone", "recipe", "auxiliary")


@dataclass(frozen=True)
class ThreatModel:
    """Where the adversary sits and what it knows beforehand.

    Attributes:
        corrupted: parties whose every sent and received envelope the adversary sees.
        tapped_links: (sender, recipient) pairs whose envelopes it sees.
        active: whether it has the corrupted host answer its own requests as it likes.
        query_budget: images that the KeyHolder decides in a run, None for no limit.
        decisions_leak: what the KeyHolder releases, and to whom.
        knows: prior knowledge, out of `backbone`, `recipe`, `auxiliary`, `initial-weights`, `all-but-one` and
            `candidates`.
    """

    corrupted: tuple[str, ...] = (MODEL_HOST,)
    tapped_links: tuple[tuple[str, str], ...] = ()
    active: bool = False
    query_budget: int | None = None
    decisions_leak: str = "classes, to the party that asked; never to the host"
    knows: tuple[str, ...] = KNOWLEDGE

    def __post_init__(self) -> None:
        for party in [*self.corrupted, *(end for link in self.tapped_links for end in link)]:
            if party not in (*PARTIES, LABORATORY):
                raise unknown_name("party", party, PARTIES)
        if LABORATORY in self.corrupted:
            raise ParameterError("the laboratory cannot be corrupted: it holds the ground truth")
        for item in self.knows:
            if item not in _KNOWLEDGE_TEXT:
                raise unknown_name("prior knowledge", item, _KNOWLEDGE_TEXT)
        if self.active and MODEL_HOST not in self.corrupted:
            raise ParameterError(f"an active adversary must sit at the host: corrupted={','.join(self.corrupted)!r}")

    def rows(self) -> list[tuple[str, str]]:
        """The model as (aspect, value) rows for tables and reports."""
        links = ", ".join(f"{a} to {b}" for a, b in self.tapped_links)
        return [
            ("corrupted parties", ", ".join(self.corrupted) or "none"),
            ("tapped links", links or "none"),
            ("behaviour", "active" if self.active else "honest but curious (passive)"),
            ("query budget", "no limit" if self.query_budget is None else f"{self.query_budget} images"),
            ("decisions", self.decisions_leak),
            (
                "adversary knows beforehand",
                ", ".join(_KNOWLEDGE_TEXT[item] for item in self.knows) or "nothing",
            ),
        ]

    def exposes(self, sender: str, recipient: str) -> bool:
        """Whether an envelope from `sender` to `recipient` is seen."""
        ends = {sender, recipient}
        return bool(ends & {*self.corrupted, ADVERSARY}) or (sender, recipient) in self.tapped_links


_KNOWLEDGE_TEXT = {
    "backbone": "the public backbone and its weights",
    "recipe": "the head's training recipe",
    "auxiliary": "labelled images of the same kind, none of them private",
    "initial-weights": "the heads' weights before training",
    "all-but-one": "all training images but one, and that one's class",
    "candidates": "images to judge, half of them training images",
}
