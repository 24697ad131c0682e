"""Peers that speak the link's own language and mean no good: a host in the middle, and whoever sends spoilt frames."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections import Counter
from typing import Any

import grpc
import numpy as np
from grpc import aio

from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.frames import SERVICES, Assembler, chunks
from rhe_parties.messages.payloads import ClassifyResponse, Failure, HeadNotice, HealthRequest
from rhe_parties.parties.mutations import Mutator
from rhe_parties.service.grpc_links import LINK, MESSAGE_OPTIONS, PARTY_KEY, channel_to, envelopes
from rhe_parties.service.identity import Identity
from rhe_parties.testing.service import DEPLOYMENT, Deployment, KnownHead
from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST

# Mutations of a piece, which is no envelope.
_OF_BYTES = ("bit flips", "truncation", "extension", "splice of two messages", "bytes moved", "replay")


class HostileHost:
    """Stands between a key holder and its real host, and spoils the answers of every four requests.

    Args:
        port: of the real host.
        listen: port that the key holder dials.
        how: what it does to answers.
    """

    def __init__(self, port: int, listen: int, how: str) -> None:
        self._address, self._listen, self._how = f"127.0.0.1:{port}", listen, how
        self.linked = asyncio.Event()
        self.spoilt = 0
        self._held: list[bytes] = []
        self._earlier: list[ClassifyResponse] = []

    async def __aenter__(self) -> HostileHost:
        self._server = aio.server(options=MESSAGE_OPTIONS)
        method = grpc.stream_stream_rpc_method_handler(self._link)
        name = LINK.rpartition("/")[2]
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICES["Party"], {name: method}),)
        )
        self._server.add_insecure_port(f"127.0.0.1:{self._listen}")
        await self._server.start()
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self._server.stop(0)

    async def _link(self, _requests: Any, context: Any) -> None:
        await context.send_initial_metadata(((PARTY_KEY, MODEL_HOST),))  # lets the key holder in
        async with channel_to(self._address, Identity(DEPLOYMENT, MODEL_HOST), None) as channel:
            call: Any = channel.stream_stream(LINK)(metadata=((PARTY_KEY, KEY_HOLDER),))

            async def onward() -> None:
                async for data in envelopes(context.read):
                    for piece in chunks(data):
                        await call.write(piece)

            going = asyncio.create_task(onward())
            self.linked.set()
            try:
                async for data in envelopes(call.read):
                    for spoilt in self._spoil(data):
                        for piece in chunks(spoilt):
                            await context.write(piece)
            finally:
                going.cancel()

    def _spoil(self, data: bytes) -> list[bytes]:
        envelope = decode(data)
        response = envelope.payload
        if not isinstance(response, ClassifyResponse):
            return [data]
        self._earlier.append(response)
        if self._how == "twice":
            self.spoilt += 1
            return [data, data]
        if self._how == "out of order":
            self._held.append(data)
            if len(self._held) + self.spoilt < 12:
                return []
            self.spoilt += len(self._held)
            held, self._held = self._held, []
            return held[::-1]
        if len(self._earlier) % 2:
            return [data]
        self.spoilt += 1
        if self._how == "dropped":
            return []
        if self._how == "rubbish":
            return [data[: len(data) // 2] + os.urandom(64)]
        other = self._earlier[0]
        if self._how == "mixed up":
            other = dataclasses.replace(response, ciphertexts=other.ciphertexts)
        return [encode(dataclasses.replace(envelope, payload=other))]


async def flood(
    deployment: Deployment, role: str, who: Identity, head: KnownHead, frames: int, seed: int, seen: Counter[str]
) -> None:
    """Send spoilt frames over one link after the other: spoilt pieces, and envelopes that are spoilt inside.

    Args:
        role: to whom.
        who: of the deployment; plaintext.
        frames: how many.
        seen: counts what became of them.
    """
    rng = np.random.default_rng(seed)
    mutator = Mutator(rng)
    honest = [
        head.question("never-asked", 0),
        HealthRequest(),
        HeadNotice("nobody's", "0" * 64, False, 0.0, 3),
        Failure(who.party, int(FailureCode.INTERNAL), "nothing"),
    ]
    texts = [
        encode(Envelope(DEPLOYMENT, who.party, role, 10_000 + place, 0, payload))
        for place, payload in enumerate(honest)
    ]
    left = frames
    async with channel_to(f"127.0.0.1:{deployment.port(role)}", Identity(DEPLOYMENT, role), None) as channel:
        while left:
            call: Any = channel.stream_stream(LINK)(metadata=((PARTY_KEY, who.party),))
            reader = asyncio.create_task(_read(call, seen))
            while left and not reader.done():
                data, other = texts[rng.integers(len(texts))], texts[rng.integers(len(texts))]
                pieces = list(chunks(data))
                if rng.integers(8):
                    pieces = list(chunks(mutator.draw(data, other).data))
                else:
                    pieces[0] = mutator.draw(pieces[0], data, _OF_BYTES).data
                try:
                    for piece in pieces:
                        await call.write(piece)
                except (aio.AioRpcError, asyncio.InvalidStateError, aio.UsageError):
                    break
                left -= 1
                seen["frames"] += 1
            await call.done_writing()
            await asyncio.wait((reader,), timeout=0.02)
            call.cancel()
            await asyncio.gather(reader, return_exceptions=True)


async def _read(call: Any, seen: Counter[str]) -> None:
    assembler = Assembler()
    try:
        while (piece := await call.read()) is not aio.EOF:
            data = assembler.add(piece)
            if data is not None:
                seen["refused" if isinstance(decode(data).payload, Failure) else "answered"] += 1
        seen["link ended"] += 1
    except aio.AioRpcError:
        seen["link cut"] += 1
    except ProtocolError as error:
        seen[f"unreadable answer: {error.text}"] += 1
