"""A served party from start to end: what it lost nothing of is put before it, links are taken, the other server is
dialled, and at the end what was begun is finished."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from rhe_parties.errors import TransportError
from rhe_parties.messages.frames import SERVICES
from rhe_parties.messages.payloads import PublicMaterialRequest
from rhe_parties.parties.base import Party
from rhe_parties.service.certificates import Credentials
from rhe_parties.service.grpc_gate import Gate, check_plaintext, server_credentials
from rhe_parties.service.grpc_links import LINK, MESSAGE_OPTIONS, PARTY_KEY, Link, accepted, channel_to, why
from rhe_parties.service.grpc_server import Limits, PartyServer
from rhe_parties.service.identity import Identity
from rhe_parties.service.telemetry import Telemetry
from rhe_parties.service.turns import Keeper
from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST

__all__ = ["Service", "ServiceOptions"]

_LOG = logging.getLogger("rhe.service")
_PARTY = SERVICES["Party"]
# A host that starts again shall be found at once: half a second is little beside its own start.
_FIRST_RETRY, _LAST_RETRY = 0.1, 0.5

# Calls beside links: health and reflection.
_OTHER_CALLS = 64
# How long a stranger that says nothing may keep its connection.
_HANDSHAKE_MS = 10_000
# File descriptors that connections may not take: without one neither vault nor state is written, nor a key loaded.
_OWN_DESCRIPTORS = 64


@dataclass(frozen=True)
class ServiceOptions:
    """How a party is served.

    Attributes:
        address: host:port to listen at; port 0 takes a free one.
        deployment: name of it, which all envelopes bear.
        credentials: of the party; None: plaintext.
        peer: address of the host, where the key holder is served.
        limits: bounds.
        grace_seconds: how long what was begun may take when the service ends.
    """

    address: str
    deployment: str
    credentials: Credentials | None
    peer: str | None = None
    limits: Limits = field(default_factory=Limits)
    grace_seconds: float = 10.0


class Service:
    """One party behind a port.

    Args:
        party: restored.
        options: see `ServiceOptions`.
        keeper: see `Keeper`.
        gate: who is let in.
        note: called with (event, who, what).
        telemetry: what Prometheus may read.
    """

    def __init__(
        self,
        party: Party,
        options: ServiceOptions,
        keeper: Keeper,
        gate: Gate,
        note: Callable[[str, str, str], None],
        telemetry: Telemetry,
    ) -> None:
        if options.credentials is None:
            check_plaintext(options.address)
        self._options, self._note = options, note
        trunk = KEY_HOLDER if party.name == MODEL_HOST else MODEL_HOST
        self.server = PartyServer(party, gate.admit, keeper, options.limits, trunk, note, telemetry.handled)
        telemetry.watch(lambda: self.server.waiting, lambda: sum(self.server.parties.values()))
        self._health = health.aio.HealthServicer()
        #: The port that is listened at, once it is.
        self.port = 0

    async def serve(self, ready: Callable[[Service], Awaitable[None]] | None = None) -> None:
        """Serve until SIGTERM or SIGINT.

        Raises:
            TransportError: the address cannot be listened at.
        """
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
        grpc_server = await self._listen()
        background = [loop.create_task(self.server.sweep())]
        if self._options.peer is not None:
            background.append(loop.create_task(self._keep_dialled(self._options.peer)))
        try:
            if ready is not None:
                await ready(self)
            await self._say(health_pb2.HealthCheckResponse.SERVING)
            _LOG.info("serving", extra={"party": self.server.party.name, "port": self.port})
            await stopping.wait()
        finally:
            await self._say(health_pb2.HealthCheckResponse.NOT_SERVING)
            left = await self.server.drain(self._options.grace_seconds)
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await grpc_server.stop(1.0)
            _LOG.info("stopped", extra={"party": self.server.party.name, "unanswered": left})

    async def _listen(self) -> aio.Server:
        options, credentials = self._options, self._options.credentials
        calls = options.limits.links + _OTHER_CALLS
        server = aio.server(
            options=[
                *MESSAGE_OPTIONS,
                ("grpc.so_reuseport", 0),
                ("grpc.max_allowed_incoming_connections", _affordable(calls)),
                ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ],
            maximum_concurrent_rpcs=calls,
        )
        server.add_generic_rpc_handlers((self.server.handler(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((_PARTY, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        try:
            if credentials is None:
                self.port = server.add_insecure_port(options.address)
            else:
                self.port = server.add_secure_port(options.address, server_credentials(credentials))
        except RuntimeError as error:
            raise TransportError(self.server.party.name, f"cannot listen at {options.address!r}: {error}") from error
        await server.start()
        return server

    async def _say(self, status: Any) -> None:
        for name in ("", _PARTY):
            await self._health.set(name, status)

    # ---- the other server --------------------------------------------------------------------------------------

    async def _keep_dialled(self, address: str) -> None:
        """Hold a link to the host open, whatever becomes of it."""
        pause, said = _FIRST_RETRY, ""
        while True:
            started, failed = time.monotonic(), ""
            try:
                await self._dial(address)
            except aio.AioRpcError as error:
                failed = why(error)
            except Exception as error:  # whatever it is, without the host nothing is decided ever again
                failed = repr(error)
            if failed and failed != said:  # once, and not twice a second for as long as the host is away
                self._note("link failed", MODEL_HOST, failed)
            said = failed
            # A host that lets nobody stay is not asked again and again.
            pause = _FIRST_RETRY if time.monotonic() - started > _LAST_RETRY else pause
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_RETRY)

    async def _dial(self, address: str) -> None:
        host = Identity(self._options.deployment, MODEL_HOST)
        metadata = ((PARTY_KEY, self.server.party.name),)
        async with channel_to(address, host, self._options.credentials) as channel:
            call: Any = channel.stream_stream(LINK)(metadata=metadata)
            await accepted(call)
            self._note("link opened", MODEL_HOST, address)
            link = Link(MODEL_HOST, trunk=True)
            running = asyncio.create_task(self.server.run(link, call.read, call.write))
            try:
                # The host may have missed a rotation while it was away.
                await self.server.command(MODEL_HOST, PublicMaterialRequest())
                await running
            finally:
                running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
                call.cancel()
            self._note("link closed", MODEL_HOST, link.cut)


def _affordable(connections: int) -> int:
    """How many of these can be open with descriptors left for everything else; the system is asked for enough."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OWN_DESCRIPTORS
    if soft == resource.RLIM_INFINITY:
        return connections
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(min(connections, soft - _OWN_DESCRIPTORS), 1)
