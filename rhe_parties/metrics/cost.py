"""What a world costs: messages, bytes and seconds per message kind, from the transcript alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rhe_parties.messages.payloads import Elided
from rhe_parties.threat.transcript import TranscriptEntry

__all__ = ["MessageCost", "message_costs"]


@dataclass(frozen=True)
class MessageCost:
    """All messages of one kind between two parties, in the order in which the first of them was sent."""

    kind: str
    sender: str
    recipient: str
    count: int
    total_bytes: int
    handled_seconds: float


def message_costs(entries: Iterable[TranscriptEntry]) -> list[MessageCost]:
    """Group a world's transcript by kind, sender and recipient."""
    totals: dict[tuple[str, str, str], list[float]] = {}
    for entry in entries:
        envelope = entry.envelope
        payload = envelope.payload
        kind, size = (payload.kind, payload.size) if isinstance(payload, Elided) else (envelope.kind, len(entry.data))
        total = totals.setdefault((kind, envelope.sender, envelope.recipient), [0, 0, 0.0])
        total[0] += 1
        total[1] += size
        total[2] += entry.handled_seconds
    return [MessageCost(*key, int(n), int(size), seconds) for key, (n, size, seconds) in totals.items()]
