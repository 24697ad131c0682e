"""Envelopes as streams of pieces, alike at both ends of a link between the laboratory and a party's process."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages import MAX_ENVELOPE_BYTES
from rhe_parties.messages.frames import MAX_CHUNK_BYTES, Assembler, chunks

__all__ = ["SIZE_LIMITS", "joined", "pieces_of", "setup_pieces"]

#: Options of both ends: no message is larger than a piece of an envelope.
SIZE_LIMITS = (
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES),
    ("grpc.max_send_message_length", MAX_CHUNK_BYTES),
)


def pieces_of(envelope: bytes) -> Iterator[bytes]:
    """The pieces of one envelope.

    Raises:
        MessageError: OVERSIZED; here and not on the thread on which gRPC asks for the pieces.
    """
    pieces = chunks(envelope)
    return itertools.chain((next(pieces),), pieces)


def setup_pieces(setup: bytes) -> Iterator[bytes]:
    """The pieces of a set-up. It holds whole data sets and may be larger than an envelope, so it goes as several."""
    for start in range(0, max(len(setup), 1), MAX_ENVELOPE_BYTES):
        yield from chunks(setup[start : start + MAX_ENVELOPE_BYTES])


def joined(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The envelopes of a stream.

    Raises:
        MessageError: a damaged piece, or a stream that ends within an envelope.
    """
    assembler = Assembler()
    for piece in pieces:
        data = assembler.add(piece)
        if data is not None:
            yield data
    if assembler.held:
        raise MessageError(FailureCode.MALFORMED, f"a stream ended {assembler.held} bytes into an envelope")
