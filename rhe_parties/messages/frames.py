"""Serialised envelopes in pieces, each with the hash of all that came so far: damage shows before the end.

A large head or batch never needs one large message, and whoever reads holds no more than has arrived.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.envelope import MAX_ENVELOPE_BYTES
from rhe_parties.proto import service_pb2

__all__ = ["CHUNK_BYTES", "MAX_CHUNK_BYTES", "SERVICES", "Assembler", "chunks"]

#: Bytes of an envelope in one piece: large enough that most requests are one.
CHUNK_BYTES = 2**20
#: Of a serialised piece: what a transport has to let through.
MAX_CHUNK_BYTES = CHUNK_BYTES + 256
#: Full names of the services of `protos/`, as gRPC and its reflection call them.
SERVICES = {service.name: service.full_name for service in service_pb2.DESCRIPTOR.services_by_name.values()}


def chunks(data: bytes) -> Iterator[bytes]:
    """The serialised pieces of one envelope, in order; at least one.

    Raises:
        MessageError: OVERSIZED.
    """
    if len(data) > MAX_ENVELOPE_BYTES:
        raise _oversized(len(data))
    digest = hashlib.sha256()
    for start in range(0, max(len(data), 1), CHUNK_BYTES):
        piece = data[start : start + CHUNK_BYTES]
        digest.update(piece)
        yield service_pb2.Chunk(
            data=piece,
            size=0 if start else len(data),
            digest=digest.copy().digest(),
            last=start + CHUNK_BYTES >= len(data),
        ).SerializeToString()


class Assembler:
    """Puts the pieces of one stream together, one envelope after the other."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._size = 0
        self._begun = False
        self._digest = hashlib.sha256()

    @property
    def held(self) -> int:
        """Bytes of an envelope that is not complete."""
        return len(self._data)

    def add(self, piece: bytes) -> bytes | None:
        """Take the next serialised piece; returns the envelope's bytes when it was the last of them.

        Raises:
            MessageError: OVERSIZED, or MALFORMED where pieces are damaged, missing or out of order. The stream cannot
                be read any further then.
        """
        if len(piece) > MAX_CHUNK_BYTES:
            raise _malformed(f"a piece of {len(piece)} bytes; at most {MAX_CHUNK_BYTES} are allowed")
        chunk = service_pb2.Chunk()
        try:
            chunk.ParseFromString(piece)
        except DecodeError as error:
            raise _malformed(f"{len(piece)} bytes are no piece of an envelope: {error}") from error
        if not self._begun:
            self._begin(chunk.size)
        elif chunk.size:
            raise _malformed("an envelope begins before the one before it has ended")
        elif not chunk.data:
            raise _malformed("an empty piece in the middle of an envelope")
        self._data += chunk.data
        self._digest.update(chunk.data)
        if self.held > self._size or chunk.last != (self.held == self._size):
            raise _malformed(f"{self.held} bytes of an envelope came where {self._size} were announced")
        if self._digest.copy().digest() != chunk.digest:
            raise _malformed(f"the first {self.held} bytes of an envelope do not match their hash")
        if not chunk.last:
            return None
        data = bytes(self._data)
        self._data, self._begun = bytearray(), False
        return data

    def _begin(self, size: int) -> None:
        if size > MAX_ENVELOPE_BYTES:
            raise _oversized(size)
        self._size, self._digest, self._begun = size, hashlib.sha256(), True


def _malformed(text: str) -> MessageError:
    return MessageError(FailureCode.MALFORMED, text)


def _oversized(size: int) -> MessageError:
    return MessageError(FailureCode.OVERSIZED, f"an envelope of {size} bytes; at most {MAX_ENVELOPE_BYTES} are allowed")
