"""The file of a transcript: read back as written, hashed as written, and refused when it is none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rhe_parties.errors import DataError
from rhe_parties.messages.transcripts import TranscriptEntry
from rhe_parties.proto import envelope_pb2
from rhe_parties.threat.transcript import Transcript


def _transcript() -> Transcript:
    transcript = Transcript()
    for index in range(5):
        transcript.append(TranscriptEntry("none" if index < 3 else "rhe", bytes([index]) * index, index / 8))
    return transcript


def test_round_trip_and_hash(tmp_path: Path) -> None:
    path = tmp_path / "transcript.binpb"
    digest = _transcript().save(path)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(Transcript.load(path)) == list(_transcript())
    assert [e.data for e in Transcript.load(path).world("rhe")] == [b"\3\3\3", b"\4\4\4\4"]
    assert [p.name for p in tmp_path.iterdir()] == ["transcript.binpb"]


def test_file_is_one_ordinary_protobuf_message(tmp_path: Path) -> None:
    path = tmp_path / "transcript.binpb"
    _transcript().save(path)
    message = envelope_pb2.TranscriptFile.FromString(path.read_bytes())
    assert message.version == 1
    assert len(message.entries) == 5
    assert message.SerializeToString(deterministic=True) == path.read_bytes()


def test_what_is_no_transcript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "transcript.binpb"
    _transcript().save(path)
    whole = path.read_bytes()
    for data, message in ((whole[:-1], "no transcript"), (b"\xff\xff", "no transcript"), (b"", "format 0")):
        path.write_bytes(data)
        with pytest.raises(DataError, match=message):
            Transcript.load(path)
    with pytest.raises(DataError, match="cannot read transcript"):
        Transcript.load(tmp_path / "none")
