"""Envelopes in pieces: whole at the other end, and every kind of damage noticed before the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.envelope import MAX_ENVELOPE_BYTES
from rhe_parties.messages.frames import CHUNK_BYTES, MAX_CHUNK_BYTES, Assembler, chunks
from rhe_parties.proto import service_pb2
from rhe_parties.rng import numpy_stream


def _data(size: int) -> bytes:
    return numpy_stream(size, "frames").bytes(size)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES + 7])
def test_whole_at_the_other_end(size: int) -> None:
    assembler, data = Assembler(), _data(size)
    for _ in range(2):  # one envelope after the other on the same stream
        pieces = list(chunks(data))
        assert max(map(len, pieces)) <= MAX_CHUNK_BYTES
        assert [assembler.add(piece) for piece in pieces] == [None] * (len(pieces) - 1) + [data]
        assert assembler.held == 0


def _changed(piece: bytes, **fields: object) -> bytes:
    chunk = service_pb2.Chunk.FromString(piece)
    for name, value in fields.items():
        setattr(chunk, name, value)
    return chunk.SerializeToString()


def _flipped(piece: bytes) -> bytes:
    data = bytearray(service_pb2.Chunk.FromString(piece).data)
    data[len(data) // 2] ^= 1
    return _changed(piece, data=bytes(data))


DAMAGE: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "a flipped bit": lambda p: [_flipped(p[0]), *p[1:]],
    "a flipped bit at the end": lambda p: [*p[:-1], _flipped(p[-1])],
    "a missing piece": lambda p: [p[0], *p[2:]],
    "a piece twice": lambda p: [p[0], p[0], *p[1:]],
    "pieces swapped": lambda p: [p[0], p[2], p[1], *p[3:]],
    "an end too early": lambda p: [_changed(p[0], last=True), *p[1:]],
    "an end too late": lambda p: [*p[:-1], _changed(p[-1], last=False)],
    "another size": lambda p: [_changed(p[0], size=5), *p[1:]],
    "a second beginning": lambda p: [p[0], _changed(p[1], size=7), *p[2:]],
    "another hash": lambda p: [_changed(p[0], digest=bytes(32)), *p[1:]],
    "no hash": lambda p: [_changed(p[0], digest=b""), *p[1:]],
    "rubbish": lambda p: [b"\xff\xff\xff", *p[1:]],
    "a piece too long": lambda p: [p[0] + bytes(MAX_CHUNK_BYTES), *p[1:]],
}


def _put_all(assembler: Assembler, pieces: list[bytes]) -> None:
    for piece in pieces:
        assert assembler.add(piece) is None


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_noticed(name: str) -> None:
    pieces = DAMAGE[name](list(chunks(_data(3 * CHUNK_BYTES + 7))))
    assembler = Assembler()
    with pytest.raises(MessageError) as error:
        _put_all(assembler, pieces)
    assert error.value.code == FailureCode.MALFORMED
    assert assembler.held <= 4 * CHUNK_BYTES


def test_too_large_is_refused_before_it_comes() -> None:
    announced = service_pb2.Chunk(data=b"x", size=MAX_ENVELOPE_BYTES + 1).SerializeToString()
    with pytest.raises(MessageError, match="at most") as error:
        Assembler().add(announced)
    assert error.value.code == FailureCode.OVERSIZED
