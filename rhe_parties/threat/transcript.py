"""The append-only record of the envelopes of a run, in the order of delivery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from rhe_parties.errors import DataError
from rhe_parties.messages import Envelope, decode
from rhe_parties.proto import envelope_pb2

__all__ = ["Transcript", "TranscriptEntry"]

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


class Transcript:
    """Append-only; iterating gives the entries in order."""

    def __init__(self) -> None:
        self._entries: list[TranscriptEntry] = []

    def append(self, entry: TranscriptEntry) -> None:
        """Add one entry at the end."""
        self._entries.append(entry)

    def __iter__(self) -> Iterator[TranscriptEntry]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def world(self, name: str) -> list[TranscriptEntry]:
        """The entries of one world."""
        return [entry for entry in self._entries if entry.world == name]

    def save(self, path: Path) -> None:
        """Write `transcript.binpb` (message `TranscriptFile`); the file appears whole or not at all."""
        message = envelope_pb2.TranscriptFile(version=_FORMAT)
        for entry in self._entries:
            message.entries.add(world=entry.world, envelope=entry.data, handled_seconds=entry.handled_seconds)
        partial = path.with_suffix(".partial")
        partial.write_bytes(message.SerializeToString(deterministic=True))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Transcript:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing, damaged or of another version.
        """
        message = envelope_pb2.TranscriptFile()
        try:
            message.ParseFromString(path.read_bytes())
        except (OSError, DecodeError) as error:
            raise DataError(f"cannot read transcript {str(path)!r}: {error}") from error
        if message.version != _FORMAT:
            raise DataError(f"transcript {str(path)!r} has format {message.version}; this program reads {_FORMAT}")
        transcript = cls()
        for item in message.entries:
            transcript.append(TranscriptEntry(item.world, item.envelope, item.handled_seconds))
        return transcript
