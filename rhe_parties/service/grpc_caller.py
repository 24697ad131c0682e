"""The caller's side: one party's questions to a server, for commands and for load."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, TypeVar

from grpc import aio

from rhe_parties.errors import FailureCode, ProtocolError, TransportError
from rhe_parties.messages import Envelope, Payload, decode, encode
from rhe_parties.messages.frames import chunks
from rhe_parties.messages.payloads import Failure
from rhe_parties.service.certificates import Credentials
from rhe_parties.service.grpc_links import LINK, PARTY_KEY, accepted, channel_to, envelopes, why
from rhe_parties.service.identity import Identity

__all__ = ["Caller"]

P = TypeVar("P", bound=Payload)


class Caller:
    """A link to a server; an asynchronous context manager. Many questions may be under way at once.

    Args:
        address: host:port of the server.
        server: who must be there.
        caller: who asks.
        credentials: of the caller; None: plaintext.
        seconds: how long any answer may take.
    """

    def __init__(
        self, address: str, server: Identity, caller: Identity, credentials: Credentials | None, seconds: float = 60.0
    ) -> None:
        self._address, self._server, self._caller = address, server, caller
        self._credentials, self._seconds = credentials, seconds
        # A start of its own, so that answers to another process of the same caller are not mistaken for these.
        self._sequence = secrets.randbits(60)
        self._waiting: dict[int, asyncio.Future[Envelope]] = {}
        self._channel: aio.Channel | None = None
        self._call: Any = None
        self._reader: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Caller:
        self._channel = channel_to(self._address, self._server, self._credentials)
        self._call = self._channel.stream_stream(LINK)(metadata=((PARTY_KEY, self._caller.party),))
        try:
            await asyncio.wait_for(accepted(self._call), self._seconds)
        except (aio.AioRpcError, asyncio.InvalidStateError, TimeoutError) as error:
            await self._channel.close()
            raise self._lost(error) from error
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        if self._call is not None:
            self._call.cancel()
        if self._channel is not None:
            await self._channel.close()

    def _lost(self, error: Exception) -> TransportError:
        reason = why(error) if isinstance(error, aio.AioRpcError) else str(error) or "no answer in time"
        return TransportError(self._server.role, f"{self._server.role} at {self._address}: {reason}")

    async def _read(self) -> None:
        error: Exception = ConnectionError("the link was closed")
        try:
            async for data in envelopes(self._call.read):
                envelope = decode(data)
                if (envelope.run_id, envelope.sender) != (self._server.deployment, self._server.party):
                    raise ConnectionError(f"an envelope of {envelope.sender[:64]!r} came")
                waiting = self._waiting.pop(envelope.reply_to, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(envelope)
            code = await self._call.code()
            if code.value[0]:
                error = ConnectionError(f"{await self._call.details()}")
        except (aio.AioRpcError, asyncio.InvalidStateError, ConnectionError, ProtocolError) as failed:
            error = failed
        finally:  # also where the call was given up in the middle of a question: no other may wait for ever
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(self._lost(error))
            self._waiting.clear()

    async def _write(self, data: bytes) -> None:
        async with self._writing:
            for piece in chunks(data):
                await self._call.write(piece)

    async def ask(self, payload: Payload, answer: type[P]) -> P:
        """The answer to one envelope.

        Raises:
            ProtocolError: the server refused; its code and its words.
            TransportError: it cannot be reached, closed the link or gave no answer in time.
        """
        if self._reader is None or self._reader.done():
            raise self._lost(ConnectionError("the link was closed"))
        self._sequence += 1
        sequence = self._sequence
        waiting = self._waiting[sequence] = asyncio.get_running_loop().create_future()
        identity = self._caller
        data = encode(Envelope(identity.deployment, identity.party, self._server.party, sequence, 0, payload))
        try:
            async with asyncio.timeout(self._seconds):
                await self._write(data)
                got = (await waiting).payload
        except TimeoutError as error:
            raise self._lost(error) from error
        except (aio.AioRpcError, asyncio.InvalidStateError, aio.UsageError) as error:
            # The reader knows why the link ended, the writer only that it did.
            await asyncio.wait((waiting,), timeout=1.0)
            failed = waiting.exception() if waiting.done() else None
            raise failed or self._lost(error) from error
        finally:
            self._waiting.pop(sequence, None)
        if isinstance(got, Failure):
            raise ProtocolError(FailureCode(got.code), f"{got.party}: {got.text}")
        if not isinstance(got, answer):
            raise TransportError(self._server.role, f"{self._server.role} answered with {type(got).__name__}")
        return got
