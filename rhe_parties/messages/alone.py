"""One payload as bytes of its own, without an envelope: what is kept in a file until it is sent."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.envelope import MAX_ENVELOPE_BYTES
from rhe_parties.messages.payloads import PAYLOADS, Payload, payload_kind
from rhe_parties.messages.serde import value_from_proto, value_to_proto
from rhe_parties.proto import envelope_pb2

__all__ = ["payload_from", "payload_to"]

P = TypeVar("P", bound=Payload)
_KINDS: dict[type[Any], str] = {cls: kind for kind, cls in PAYLOADS.items()}


def payload_to(payload: Payload) -> bytes:
    """The serialised message of a payload; equal payloads give equal bytes."""
    message = _message(payload_kind(payload))
    value_to_proto(payload, message)
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def payload_from(data: bytes, kind: type[P]) -> P:
    """Read what `payload_to` wrote of a payload of this class.

    Raises:
        MessageError: OVERSIZED, or MALFORMED where it is none, or holds anything besides it.
        ProtocolError: the payload's own checks failed.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise MessageError(FailureCode.OVERSIZED, f"{len(data)} bytes; at most {MAX_ENVELOPE_BYTES} are allowed")
    message = _message(_KINDS[kind])
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(FailureCode.MALFORMED, f"{len(data)} bytes are no {_KINDS[kind]}: {error}") from error
    payload = value_from_proto(message, kind)
    if payload_to(payload) != data:
        raise MessageError(FailureCode.MALFORMED, f"it holds something besides the {_KINDS[kind]}")
    return payload


def _message(kind: str) -> Any:
    return getattr(envelope_pb2.Envelope(), kind)
