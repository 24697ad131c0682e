"""What the commands of owner, client and operator ask of the servers of a deployment."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from rhe_parties.errors import FailureCode, ProtocolError, TransportError
from rhe_parties.he.scheme import PublicMaterial
from rhe_parties.messages.frames import SERVICES
from rhe_parties.messages.payloads import (
    AskDecisions,
    Decision,
    EncryptedHead,
    HeadInstalled,
    HeadNotice,
    HeadReady,
    HeadRevoked,
    KeyRotated,
    PublicMaterialRequest,
    RevokeHead,
    RotateKey,
)
from rhe_parties.service.certificates import Credentials
from rhe_parties.service.grpc_caller import Caller
from rhe_parties.service.grpc_links import channel_to, why
from rhe_parties.service.identity import Identity
from rhe_parties.threat.model import KEY_HOLDER, MODEL_HOST
from rhe_parties.types import UInt8Array

__all__ = ["Access", "Rotated", "check_health", "decisions", "fetch_public", "install", "revoke", "rotate"]

_HEALTH_SECONDS = 10.0
_ROTATION_SECONDS = 5.0


@dataclass(frozen=True)
class Access:
    """Who asks, and what it shows for that; None: plaintext, on one machine alone."""

    identity: Identity
    credentials: Credentials | None

    def server(self, role: str) -> Identity:
        """Who must be at the other end."""
        return Identity(self.identity.deployment, role)

    def caller(self, role: str, address: str) -> Caller:
        """A link to a server, not opened yet."""
        return Caller(address, self.server(role), self.identity, self.credentials)


@dataclass(frozen=True)
class Rotated:
    """A key was replaced; `heads`: encrypted anew by now, None while the key holder waits for their owner."""

    old: str
    new: str
    heads: int | None


async def check_health(access: Access, role: str, address: str) -> None:
    """Ask a server whether it serves.

    Raises:
        TransportError: it does not, or cannot be reached.
    """
    async with channel_to(address, access.server(role), access.credentials) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICES["Party"])
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            reply = await stub.Check(request, timeout=_HEALTH_SECONDS)
        except aio.AioRpcError as error:
            raise TransportError(role, f"{role} at {address}: {why(error)}") from error
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise TransportError(role, f"{role} at {address}: it does not serve")


async def fetch_public(access: Access, key_holder: str) -> PublicMaterial:
    """The public material of the key of today.

    Raises:
        ProtocolError: the key holder has no key.
        TransportError: it cannot be reached.
    """
    async with access.caller(KEY_HOLDER, key_holder) as caller:
        return await caller.ask(PublicMaterialRequest(), PublicMaterial)


async def install(access: Access, host: str, key_holder: str, head: EncryptedHead, notice: HeadNotice) -> None:
    """Have the host take a head, and then the key holder decide on it.

    Raises:
        ProtocolError: WRONG_KEY where it was encrypted for another key than that of today; BAD_VALUE where the host
            installed something else than it was sent; a refusal of either server.
        TransportError: one of them cannot be reached. Where the host has the head already, nothing is decided on it.
    """
    async with access.caller(KEY_HOLDER, key_holder) as holder:
        today = (await holder.ask(PublicMaterialRequest(), PublicMaterial)).fingerprint
        if today != head.key_fingerprint:
            raise ProtocolError(
                FailureCode.WRONG_KEY,
                f"head {head.head_id!r} was encrypted for key {head.key_fingerprint[:12]!r}; the key is {today[:12]!r}",
            )
        async with access.caller(MODEL_HOST, host) as hosting:
            installed = await hosting.ask(head, HeadInstalled)
        if (installed.head_id, installed.fingerprint) != (head.head_id, notice.fingerprint):
            raise ProtocolError(
                FailureCode.BAD_VALUE,
                f"{MODEL_HOST} installed {installed.fingerprint[:12]!r} as {installed.head_id[:64]!r}, "
                f"{notice.fingerprint[:12]!r} was sent as {head.head_id!r}",
            )
        await holder.ask(notice, HeadReady)


async def revoke(
    access: Access, servers: Mapping[str, str], head_id: str
) -> dict[str, bool | ProtocolError | TransportError]:
    """Have a head served no more; one server that fails does not keep the others from being told.

    Args:
        access: the owner's.
        servers: address by role.
        head_id: id of the head.

    Returns:
        by role, whether the server knew the head, or why it does not know of it being revoked.
    """
    outcomes: dict[str, bool | ProtocolError | TransportError] = {}
    for role, address in servers.items():
        try:
            async with access.caller(role, address) as caller:
                outcomes[role] = (await caller.ask(RevokeHead(head_id), HeadRevoked)).known
        except (ProtocolError, TransportError) as error:
            outcomes[role] = error
    return outcomes


async def decisions(
    access: Access, key_holder: str, head_id: str, batches: Iterable[UInt8Array]
) -> AsyncIterator[Decision]:
    """Decisions on batches of images uint8 [B, C, H, W], one after the other, as they come.

    Raises:
        ProtocolError: the key holder refused a batch, such as where a budget is used up.
        TransportError: it cannot be reached, or its answer is no answer to the question.
    """
    async with access.caller(KEY_HOLDER, key_holder) as caller:
        for images in batches:
            request = AskDecisions(secrets.token_hex(16), head_id, images)
            decision = await caller.ask(request, Decision)
            if (decision.request_id, len(decision.classes)) != (request.request_id, len(images)):
                raise TransportError(KEY_HOLDER, f"{KEY_HOLDER} answered another question than it was asked")
            yield decision


async def rotate(access: Access, key_holder: str, seconds: float = _ROTATION_SECONDS) -> Rotated:
    """Have the key replaced, and wait so long for the heads to be encrypted anew.

    Raises:
        ProtocolError: the key holder refused.
        TransportError: it cannot be reached.
    """
    async with access.caller(KEY_HOLDER, key_holder) as caller:
        old = await caller.ask(PublicMaterialRequest(), PublicMaterial)
        rotating = asyncio.create_task(caller.ask(RotateKey(), KeyRotated))
        try:
            # The key holder takes envelopes in order: this answer tells of the new key, whoever still waits for heads.
            await asyncio.sleep(0)
            new = await caller.ask(PublicMaterialRequest(), PublicMaterial)
            if new.fingerprint == old.fingerprint:  # nothing was replaced: the answer says why
                await rotating
            done, _ = await asyncio.wait((rotating,), timeout=seconds)
            return Rotated(old.fingerprint, new.fingerprint, rotating.result().heads if done else None)
        finally:
            rotating.cancel()
            await asyncio.gather(rotating, return_exceptions=True)
