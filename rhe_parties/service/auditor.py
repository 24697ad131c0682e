"""What a key holder did, read off the envelopes that it sends, and written down before any of them goes out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rhe_parties.errors import FailureCode
from rhe_parties.messages.payloads import (
    ClientAdmitted,
    Decision,
    Failure,
    HeadReady,
    HeadRevoked,
    KeyRotated,
    PublicMaterial,
)
from rhe_parties.parties.base import Outgoing
from rhe_parties.parties.recent import id_hash
from rhe_parties.service.ledger import AuditEvent, Event, Ledger
from rhe_parties.threat.model import DATA_OWNER, LABORATORY, MODEL_HOST

__all__ = ["Auditor", "events_of"]

_MAX_TEXT = 300


class Auditor:
    """A keeper (`rhe_parties.service.turns.Keeper`) of a key holder: one row for each decision and refusal.

    Args:
        ledger: where the rows go.
        closures: `KeyHolder.closures`, of one that was restored already.
    """

    def __init__(self, ledger: Ledger, closures: Callable[[], dict[str, str]]) -> None:
        self._ledger, self._closures = ledger, closures
        self._closed = closures()

    def keep(self, kind: str, received: bytes, outgoing: list[Outgoing]) -> None:
        """See `Keeper.keep`.

        Raises:
            ProtocolError: REFUSED where the ledger cannot be written.
        """
        del received
        closed = self._closures()
        news = [_closure(head_id, reason) for head_id, reason in closed.items() - self._closed.items()]
        events = [*events_of(kind, outgoing), *news]
        if not events:
            self._closed = closed
            return
        with self._ledger.transaction():
            before = self._closed
            self._ledger.if_undone(lambda: self._tell_again(before))
            self._ledger.record_all(events)
            self._closed = closed

    def _tell_again(self, closed: dict[str, str]) -> None:
        self._closed = closed


def events_of(kind: str, outgoing: Sequence[Outgoing]) -> list[Event]:
    """What an audit log tells of a key holder's answers to an envelope of this kind."""
    events = []
    for item in outgoing:
        payload, recipient = item.envelope.payload, item.envelope.recipient
        if isinstance(payload, Decision):
            facts: dict[str, object] = {"head": payload.head_id, "images": len(payload.classes), "used": payload.used}
            facts["request"] = id_hash(payload.request_id).hex()
            events.append(Event(AuditEvent.DECISION, recipient, facts))
        elif isinstance(payload, Failure):
            events.append(_refusal(payload, recipient))
        elif isinstance(payload, HeadReady):
            events.append(Event(AuditEvent.HEAD_REGISTERED, recipient, {"head": payload.head_id}))
        elif isinstance(payload, HeadRevoked):
            facts = {"head": payload.head_id, "was known": payload.known}
            events.append(Event(AuditEvent.HEAD_REVOKED, recipient, facts))
        elif isinstance(payload, ClientAdmitted) and recipient == LABORATORY:
            facts = {"client": payload.client, "budget": payload.budget, "release": payload.release}
            events.append(Event(AuditEvent.CLIENT_ADMITTED, recipient, facts))
        elif isinstance(payload, PublicMaterial) and kind == "rotate_key" and recipient == DATA_OWNER:
            events.append(Event(AuditEvent.KEY_ROTATED, LABORATORY, {"key": payload.fingerprint}))
        elif isinstance(payload, KeyRotated):
            facts = {"key": payload.new_fingerprint, "replaced": payload.old_fingerprint, "heads": payload.heads}
            events.append(Event(AuditEvent.HEADS_RENEWED, recipient, facts))
    return events


def _closure(head_id: str, reason: str) -> Event:
    if head_id:
        return Event(AuditEvent.HEAD_STOPPED, MODEL_HOST, {"head": head_id, "reason": reason[:_MAX_TEXT]})
    return Event(AuditEvent.KEY_CLOSED, MODEL_HOST, {"reason": reason[:_MAX_TEXT]})


def _refusal(payload: Failure, recipient: str) -> Event:
    """What a host is told of its reply says what was wrong with it; nobody else's text is kept."""
    code = FailureCode(payload.code).name if payload.code in set(FailureCode) else str(payload.code)
    if recipient == MODEL_HOST:
        return Event(AuditEvent.REPLY_REFUSED, recipient, {"code": code, "text": payload.text[:_MAX_TEXT]})
    return Event(AuditEvent.REFUSAL, recipient, {"code": code, "by": payload.party})
