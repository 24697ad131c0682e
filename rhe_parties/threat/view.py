"""`build_view` is the only door from a transcript to a strategy."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from rhe_parties.messages import Envelope, Payload, decode
from rhe_parties.messages.payloads import (
    AdaptedBlock,
    ClassifyRequest,
    ClassifyResponse,
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
    # The backbone's last block as trained along with a head; see `rhe_parties.model.last_block`.
    ADAPTED_BLOCK = "adapted backbone block"
    PUBLIC_KEY = "public key material"
    QUERIES = "classify requests"
    REPLIES = "the host's replies"
    DECISIONS = "decisions"
    RELEASED_SCORES = "released scores"
    RAW_VALUES = "raw decoded values"
    # Scores or raw values, seen or to be had for images of its own choice.
    VALUES = "any values beside the classes"
    # A client of the key holder may ask for decisions on images of its own choice.
    ORACLE = "answers to images of its own choice"
    ORACLE_SCORES = "scores for images of its own choice"
    # What an active adversary's host replies is the adversary's to choose.
    HOST_CONTROL = "control of the host's answers"
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
    Observation.REPLIES: ClassifyResponse,
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

    def encrypted_heads(self, key: str = "") -> dict[str, EncryptedHead]:
        """Heads seen encrypted, by id: under the key with this fingerprint, or the latest."""
        return {head.head_id: head for head in self.of_kind(EncryptedHead) if key in ("", head.key_fingerprint)}

    def adapted_blocks(self) -> dict[str, AdaptedBlock]:
        """Blocks of the backbone seen in the clear, by the id of the head that they belong to."""
        heads: list[PlainHead | EncryptedHead] = [*self.of_kind(PlainHead), *self.of_kind(EncryptedHead)]
        return {head.head_id: head.block for head in heads if head.block is not None}

    def public_material(self) -> PublicMaterial | None:
        """The latest public key material that was seen."""
        seen = self.public_materials()
        return seen[-1] if seen else None

    def public_materials(self) -> list[PublicMaterial]:
        """Public key material as often as it was replaced, in order."""
        return list({material.fingerprint: material for material in self.of_kind(PublicMaterial)}.values())

    def holds(self) -> frozenset[Observation]:
        """What is really there, decided from the content alone."""
        kinds = {type(envelope.payload) for envelope in self.envelopes}
        held = {what for what, kind in _EVIDENCE.items() if kind in kinds}
        if self.adapted_blocks():
            held.add(Observation.ADAPTED_BLOCK)
        if any(decision.logits.size for decision in self.of_kind(Decision)):
            held.add(Observation.RELEASED_SCORES)
        grants = {grant.release.partition(":")[0] for grant in self.of_kind(ClientAdmitted)}
        if grants - {"classes", "raw"}:
            held.add(Observation.ORACLE_SCORES)
        if "raw" in grants or any(decision.raw.size for decision in self.of_kind(Decision)):
            held.add(Observation.RAW_VALUES)
        if held & {Observation.RELEASED_SCORES, Observation.ORACLE_SCORES, Observation.RAW_VALUES}:
            held.add(Observation.VALUES)
        return frozenset(held)


def build_view(transcript: Iterable[TranscriptEntry], threat_model: ThreatModel) -> AdversaryView:
    """What the adversary of `threat_model` sees of `transcript`: whole envelopes, bytes unchanged, in order."""
    seen = []
    for entry in transcript:
        envelope = entry.envelope
        if threat_model.exposes(envelope.sender, envelope.recipient):
            seen.append(entry.data)
    return AdversaryView(tuple(seen))
