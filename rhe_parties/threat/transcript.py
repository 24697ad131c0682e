"""The append-only record of the envelopes of a run, in the order of delivery."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from rhe_parties.errors import DataError, MessageError
from rhe_parties.messages.transcripts import TranscriptEntry, decode_entries, encode_entries

__all__ = ["Transcript", "TranscriptEntry"]


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

    def save(self, path: Path) -> str:
        """Write `transcript.binpb` and return its SHA-256 (hexadecimal); the file appears whole or not at all."""
        partial = path.with_suffix(".partial")
        digest = hashlib.sha256()
        with partial.open("wb") as file:
            for piece in encode_entries(self._entries):
                digest.update(piece)
                file.write(piece)
        partial.replace(path)
        return digest.hexdigest()

    @classmethod
    def load(cls, path: Path) -> Transcript:
        """Read what `save` wrote.

        Raises:
            DataError: the file is missing, damaged or of another format.
        """
        transcript = cls()
        try:
            entries = decode_entries(path.read_bytes())
        except (OSError, MessageError) as error:
            raise DataError(f"cannot read transcript {str(path)!r}: {error}") from error
        for entry in entries:
            transcript.append(entry)
        return transcript
