"""What a key holder knows of heads and of an open rotation, as bytes for itself alone: no payload of any envelope.

Heads' scales and tags are secret; whoever keeps these bytes keeps them encrypted.
"""

from __future__ import annotations

from dataclasses import dataclass

from google.protobuf.message import DecodeError

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.heads import HeadNotice
from rhe_parties.messages.serde import value_from_proto, value_to_proto
from rhe_parties.proto import state_pb2

__all__ = ["KeyHolderState", "OpenRotation", "StoppedHead", "decode_state", "encode_state"]


@dataclass(frozen=True)
class StoppedHead:
    """A head that nothing more is decided on, and why."""

    head_id: str
    reason: str


@dataclass(frozen=True)
class OpenRotation:
    """A rotation of `heads` heads, asked for in envelope number `asked`, that waits until `missing` is empty."""

    asker: str
    asked: int
    old_fingerprint: str
    missing: tuple[str, ...]
    heads: int


@dataclass(frozen=True)
class KeyHolderState:
    """All of it, for the key `key_fingerprint` ("" without encryption).

    `closed`: why nothing is decided under this key any more; empty while it serves.
    """

    run_id: str
    key_fingerprint: str
    heads: tuple[HeadNotice, ...]
    stopped: tuple[StoppedHead, ...] = ()
    closed: str = ""
    rotation: OpenRotation | None = None


def encode_state(state: KeyHolderState) -> bytes:
    """Serialise; equal states give equal bytes."""
    message = state_pb2.KeyHolderState()
    value_to_proto(state, message)
    return message.SerializeToString(deterministic=True)


def decode_state(data: bytes) -> KeyHolderState:
    """Read what `encode_state` wrote.

    Raises:
        MessageError: MALFORMED: damaged bytes.
        ProtocolError: a head notice that fails its own checks.
    """
    message = state_pb2.KeyHolderState()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(FailureCode.MALFORMED, f"{len(data)} bytes are no key holder's state: {error}") from error
    return value_from_proto(message, KeyHolderState)
