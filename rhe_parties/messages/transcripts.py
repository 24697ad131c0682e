"""The file format of a transcript: message `TranscriptFile`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.envelope import Envelope, decode
from rhe_parties.proto import envelope_pb2

__all__ = ["TranscriptEntry", "decode_entries", "encode_entries"]

_FORMAT = 1


@dataclass(frozen=True)
class TranscriptEntry:
    """One delivered envelope: its bytes, the world it belongs to and how long the recipient took over it."""

    world: str
    data: bytes
    handled_seconds: float

    @property
    def envelope(self) -> Envelope:
        """The envelope, parsed anew from its bytes."""
        return decode(self.data)


def encode_entries(entries: Iterable[TranscriptEntry]) -> Iterator[bytes]:
    """The bytes of `transcript.binpb`, piece by piece.

    Serialised messages of one type may be concatenated (protobuf merges repeated fields), so that a long transcript
    is never held in memory a second time.
    """
    yield envelope_pb2.TranscriptFile(version=_FORMAT).SerializeToString(deterministic=True)
    for entry in entries:
        piece = envelope_pb2.TranscriptFile()
        piece.entries.add(world=entry.world, envelope=entry.data, handled_seconds=entry.handled_seconds)
        yield piece.SerializeToString(deterministic=True)


def decode_entries(data: bytes) -> list[TranscriptEntry]:
    """Read what `encode_entries` gave.

    Raises:
        MessageError: damaged, or of another format.
    """
    message = envelope_pb2.TranscriptFile()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(FailureCode.MALFORMED, f"no transcript: {error}") from error
    if message.version != _FORMAT:
        raise MessageError(
            FailureCode.UNKNOWN_VERSION, f"transcript format {message.version}; this program reads {_FORMAT}"
        )
    return [TranscriptEntry(item.world, item.envelope, item.handled_seconds) for item in message.entries]
