"""What may cross a border: typed payloads, the envelope around them, and their bytes."""

from rhe_parties.messages.envelope import MAX_ENVELOPE_BYTES, PROTOCOL_VERSION, Envelope, decode, encode, peek
from rhe_parties.messages.payloads import PAYLOADS, Payload, payload_kind

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "PAYLOADS",
    "PROTOCOL_VERSION",
    "Envelope",
    "Payload",
    "decode",
    "encode",
    "payload_kind",
    "peek",
]
