"""`build_view` is the only door from a transcript to a strategy."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from rhe_parties.messages import Envelope, Payload, decode
from rhe_parties.messages.payloads import (
    ClassifyRequest,
    ClientAdmitted,
    Decision,
    EncryptedHead,
    PlainHead,
    PublicMaterial,
    TwoLayerHead,
)
from rhe_parties.threat.model import ThreatModel
from rhe_parties.threat.transcript import TranscriptEntry

__all__ = ["AdversaryView", "Observation", "build_view"]

P = TypeVar("P", bound=Payload)


class Observation(StrEnum):
    """What a view can hold; strategies state their needs in these words."""

    PLAIN_HEAD = "plain head weights"
    TWO_LAYER_HEAD = "plain two-layer head"
    ENCRYPTED_HEAD = "encrypted head"
    PUBLIC_KEY = "public key material"
    QUERIES = "classify requests"
    DECISIONS = "decisions"
    RELEASED_SCORES = "released scores"
    # A client of the key holder may ask for decisions on images of its own choice.
    ORACLE = "answers to images of its own choice"
    ORACLE_SCORES = "scores for images of its own choice"
    # What the laboratory's challenge adds to the view; see `rhe_parties.messages.adversarial.Challenge`.
    CANDIDATES = "candidate images to judge"
    KNOWN_IMAGES = "all training images but one"
    INITIAL_WEIGHTS = "initial weights"
    PROPERTY = "a property to infer"


_EVIDENCE: dict[Observation, type[Payload]] = {
    Observation.PLAIN_HEAD: PlainHead,
    Observation.TWO_LAYER_HEAD: TwoLayerHead,
    Observation.ENCRYPTED_HEAD: EncryptedHead,
    Observation.PUBLIC_KEY: PublicMaterial,
    Observation.QUERIES: ClassifyRequest,
    Observation.DECISIONS: Decision,
    Observation.ORACLE: ClientAdmitted,
}


@dataclass(frozen=True)
class AdversaryView:
    """Envelopes exactly as they crossed a border that the threat model exposes; nothing else."""

    data: tuple[bytes, ...]

    @functools.cached_property
    def envelopes(self) -> tuple[Envelope, ...]:
        """The envelopes, parsed from their bytes."""
        return tuple(decode(item) for item in self.data)

    def of_kind(self, kind: type[P]) -> list[P]:
        """All seen payloads of one class, in order."""
        return [e.payload for e in self.envelopes if isinstance(e.payload, kind)]

    def plain_heads(self) -> dict[str, PlainHead]:
        """Linear heads seen in the clear, by id."""
        return {head.head_id: head for head in self.of_kind(PlainHead)}

    def two_layer_heads(self) -> dict[str, TwoLayerHead]:
        """Heads with a hidden layer seen in the clear, by id."""
        return {head.head_id: head for head in self.of_kind(TwoLayerHead)}

    def encrypted_heads(self) -> dict[str, EncryptedHead]:
        """Heads seen encrypted, by id."""
        return {head.head_id: head for head in self.of_kind(EncryptedHead)}

    def public_material(self) -> PublicMaterial | None:
        """The latest public key material that was seen."""
        seen = self.of_kind(PublicMaterial)
        return seen[-1] if seen else None

    def holds(self) -> frozenset[Observation]:
        """What is really there, decided from the content alone."""
        kinds = {type(envelope.payload) for envelope in self.envelopes}
        held = {what for what, kind in _EVIDENCE.items() if kind in kinds}
        if any(decision.logits.size for decision in self.of_kind(Decision)):
            held.add(Observation.RELEASED_SCORES)
        if any(grant.release != "classes" for grant in self.of_kind(ClientAdmitted)):
            held.add(Observation.ORACLE_SCORES)
        return frozenset(held)


def build_view(transcript: Iterable[TranscriptEntry], threat_model: ThreatModel) -> AdversaryView:
    """What the adversary of `threat_model` sees of `transcript`: whole envelopes, bytes unchanged, in order."""
    seen = []
    for entry in transcript:
        envelope = entry.envelope
        if threat_model.exposes(envelope.sender, envelope.recipient):
            seen.append(entry.data)
    return AdversaryView(tuple(seen))
