"""The envelope and its bytes."""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.payloads import PAYLOADS, Payload, payload_kind
from rhe_parties.messages.serde import value_from_proto, value_to_proto
from rhe_parties.proto import envelope_pb2

__all__ = ["MAX_ENVELOPE_BYTES", "PROTOCOL_VERSION", "Envelope", "Header", "decode", "encode", "peek"]

PROTOCOL_VERSION = 7
# Largest legitimate message: a batch of images or a head's ciphertexts. Far below protobuf's own limit of 2 GiB, so
# that a hostile sender cannot make a party hold much memory.
MAX_ENVELOPE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Envelope:
    """One message on its way: who, to whom, in which run, as which in the sender's sequence, in answer to what."""

    run_id: str
    sender: str
    recipient: str
    sequence: int
    reply_to: int
    payload: Payload

    @property
    def kind(self) -> str:
        """Name of the payload as in `protos/`."""
        return payload_kind(self.payload)

    def __repr__(self) -> str:
        return f"Envelope({self.sender} -> {self.recipient} #{self.sequence} {self.kind})"


def encode(envelope: Envelope) -> bytes:
    """Serialise; equal envelopes give equal bytes.

    Raises:
        MessageError: the envelope is larger than `MAX_ENVELOPE_BYTES`.
    """
    message = envelope_pb2.Envelope(
        version=PROTOCOL_VERSION,
        run_id=envelope.run_id,
        sender=envelope.sender,
        recipient=envelope.recipient,
        sequence=envelope.sequence,
        reply_to=envelope.reply_to,
    )
    slot = getattr(message, envelope.kind)
    slot.SetInParent()
    value_to_proto(envelope.payload, slot)
    size = message.ByteSize()
    if size > MAX_ENVELOPE_BYTES:
        raise _oversized(size)
    return message.SerializeToString(deterministic=True)


def decode(data: bytes) -> Envelope:
    """Parse and check an envelope.

    Raises:
        MessageError: OVERSIZED, MALFORMED (truncated or no envelope at all), UNKNOWN_VERSION, UNKNOWN_PAYLOAD.
        ProtocolError: the payload's own checks failed.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise _oversized(len(data))
    message = envelope_pb2.Envelope()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(
            FailureCode.MALFORMED, f"{len(data)} bytes are no envelope (truncated or damaged): {error}"
        ) from error
    if message.version != PROTOCOL_VERSION:
        raise MessageError(
            FailureCode.UNKNOWN_VERSION,
            f"envelope of protocol version {message.version}; this program speaks version {PROTOCOL_VERSION}",
        )
    kind = message.WhichOneof("payload")
    if kind is None:
        raise MessageError(
            FailureCode.UNKNOWN_PAYLOAD, f"envelope without a known payload (known: {', '.join(PAYLOADS)})"
        )
    payload = value_from_proto(getattr(message, kind), PAYLOADS[kind])
    return Envelope(message.run_id, message.sender, message.recipient, message.sequence, message.reply_to, payload)


@dataclass(frozen=True)
class Header:
    """What an envelope says of itself where its payload cannot be read."""

    run_id: str
    sender: str
    recipient: str
    sequence: int
    reply_to: int
    kind: str


def peek(data: bytes) -> Header | None:
    """The header of bytes that `decode` refused, so that the refusal finds its sender; None where there is none."""
    message = envelope_pb2.Envelope()
    try:
        if len(data) <= MAX_ENVELOPE_BYTES:
            message.ParseFromString(data)
    except DecodeError:
        return None
    kind = message.WhichOneof("payload") or ""
    return Header(message.run_id, message.sender, message.recipient, message.sequence, message.reply_to, kind)


def _oversized(size: int) -> MessageError:
    return MessageError(FailureCode.OVERSIZED, f"envelope of {size} bytes; at most {MAX_ENVELOPE_BYTES} are allowed")
