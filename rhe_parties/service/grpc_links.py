"""Links between served parties: envelopes both ways over one gRPC stream, in pieces, with back-pressure.

Nothing is buffered without a bound: whoever writes to a link waits for room in its queue, or, where it must not wait,
cuts the link of a peer that does not read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from grpc import aio

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.messages.frames import MAX_CHUNK_BYTES, SERVICES, Assembler, chunks
from rhe_parties.service.certificates import Credentials
from rhe_parties.service.identity import Identity

__all__ = ["LINK", "MESSAGE_OPTIONS", "PARTY_KEY", "Link", "accepted", "channel_to", "envelopes", "why"]

#: The method of service `Party`.
LINK = f"/{SERVICES['Party']}/Link"
#: Of every channel and server: nothing larger than a piece is taken, a dead peer is noticed, and one that starts again
#: is found at once (gRPC itself would wait a second and more).
MESSAGE_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_CHUNK_BYTES),
    ("grpc.max_send_message_length", MAX_CHUNK_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
# What gRPC says where the certificate of the other end will not do.
_NOT_THE_ONE = ("CERTIFICATE_VERIFY_FAILED", "Peer name", "Hostname Verification")
#: Metadata under which a caller without a certificate says who it is (plaintext on one machine only), and a server
#: that lets a caller in who serves.
PARTY_KEY = "rhe-party"
# Envelopes that wait to be written to one link, and the bytes from which on no more are taken.
_QUEUED = 512
_QUEUED_BYTES = 64 * 2**20


class Link:
    """One end of an open link.

    Args:
        party: name on envelopes of whoever is at the other end.
        trunk: between the two servers: it carries many requests, and whoever waits for them is not at its other end.
        objection: why this party would not be let in any more by now; "" while it would.
    """

    def __init__(self, party: str, trunk: bool = False, objection: Callable[[], str] = str) -> None:
        self.party, self.trunk, self.objection = party, trunk, objection
        #: Bytes of an envelope that came over this link and is not handled yet, and when the latest of them came.
        self.held = 0
        self.heard = 0.0
        #: Why this end wants the link closed; empty while it does not.
        self.cut = ""
        self.closing = asyncio.Event()
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self._bytes = 0
        # Set while there is room, and while nothing waits to be written.
        self._room, self._empty = asyncio.Event(), asyncio.Event()
        self._room.set()
        self._empty.set()
        #: Set when a request that came over this link was answered.
        self.answered = asyncio.Event()

    async def put(self, data: bytes) -> None:
        """Have an envelope written as soon as there is room; nothing happens on a link that closes."""
        await self._room.wait()
        self._take(data)

    def put_now(self, data: bytes) -> None:
        """Have an envelope written; without room for it the link is cut."""
        if self._room.is_set():
            self._take(data)
        else:
            self.close("it does not read what it is sent")

    def _take(self, data: bytes) -> None:
        if self.closing.is_set():
            return
        self._queue.put_nowait(data)
        self._bytes += len(data)
        self._empty.clear()
        if self._queue.qsize() >= _QUEUED or self._bytes >= _QUEUED_BYTES:
            self._room.clear()

    def close(self, reason: str) -> None:
        """Have the link end; the first reason counts."""
        self.cut = self.cut or reason
        for event in (self.closing, self._room, self._empty, self.answered):
            event.set()

    async def flushed(self) -> None:
        """Wait until everything is written or the link closes."""
        await self._empty.wait()

    async def write_all(self, write: Callable[[bytes], Awaitable[Any]]) -> None:
        """Write what is put, until cancelled; `write` waits while the other end does not read."""
        while True:
            data = await self._queue.get()
            for piece in chunks(data):
                await write(piece)
            self._bytes -= len(data)
            self._room.set()
            if self._queue.empty():
                self._empty.set()


async def envelopes(
    read: Callable[[], Awaitable[Any]], holding: Callable[[int], None] | None = None
) -> AsyncIterator[bytes]:
    """The serialised envelopes of a stream, until its end.

    Args:
        read: gives the next piece.
        holding: called with the bytes of an envelope that came so far, after each piece; what it raises ends this.

    Raises:
        MessageError: pieces that cannot be put together, or an end in the middle of an envelope.
    """
    assembler = Assembler()
    while (piece := await read()) is not aio.EOF:
        data = assembler.add(piece)
        if holding is not None:
            holding(assembler.held if data is None else len(data))
        if data is not None:
            yield data
    if assembler.held:
        raise MessageError(FailureCode.MALFORMED, f"the stream ends {assembler.held} bytes into an envelope")


async def accepted(call: Any) -> None:
    """Wait until the server lets the caller in. Nothing may be written before: that would hide why it does not.

    Raises:
        AioRpcError: it does not, or cannot be reached.
        InvalidStateError: it closed the link without a reason.
    """
    await call.wait_for_connection()
    if PARTY_KEY not in (await call.initial_metadata() or ()):
        await call.read()
        raise asyncio.InvalidStateError("the server closed the link without a reason")


def channel_to(address: str, server: Identity, credentials: Credentials | None) -> aio.Channel:
    """A channel to a server of a deployment; nothing is sent before the first call.

    Args:
        address: host:port.
        server: who must be there: the name in its certificate is checked, wherever it is.
        credentials: of the caller; None: plaintext, for one machine alone.
    """
    if credentials is None:
        return aio.insecure_channel(address, options=MESSAGE_OPTIONS)
    secrets = grpc.ssl_channel_credentials(credentials.authority, credentials.key, credentials.certificate)
    options = [*MESSAGE_OPTIONS, ("grpc.ssl_target_name_override", server.server_name)]
    return aio.secure_channel(address, secrets, options=options)


def why(error: grpc.RpcError) -> str:
    """What a failed call means, in one line."""
    details = str(getattr(error, "details", lambda: "")() or "").splitlines()
    code = getattr(error, "code", lambda: None)()
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time"
    text = details[0] if details else str(code)
    if any(mark in text for mark in _NOT_THE_ONE):
        return f"its certificate is not the one wanted ({text})"
    if code == grpc.StatusCode.UNAVAILABLE:
        return f"it cannot be reached ({text})"
    return text
