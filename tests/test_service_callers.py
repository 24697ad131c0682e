"""Callers beside servers that misbehave, and what a gate lets in: real gRPC in one process."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import aio

from rhe_parties.errors import ProtocolError, TransportError
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.frames import CHUNK_BYTES, SERVICES, chunks
from rhe_parties.messages.payloads import Failure, HealthReport, HealthRequest
from rhe_parties.parties.base import Party
from rhe_parties.proto import service_pb2
from rhe_parties.service.authority import new_deployment, revoke
from rhe_parties.service.certificates import load_identity
from rhe_parties.service.grpc_caller import Caller
from rhe_parties.service.grpc_gate import Gate
from rhe_parties.service.grpc_links import LINK, MESSAGE_OPTIONS, PARTY_KEY
from rhe_parties.service.grpc_server import Limits
from rhe_parties.service.grpc_service import Service, ServiceOptions
from rhe_parties.service.identity import CLIENT, Identity
from rhe_parties.service.telemetry import Telemetry
from rhe_parties.service.turns import NothingKept
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST

HOSPITAL = "hospital"
ALICE = Identity(HOSPITAL, CLIENT, "alice")
Behaviour = Callable[[Any], Awaitable[None]]


# ---- callers ---------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def misbehaving(behaviour: Behaviour) -> AsyncIterator[str]:
    """A server whose links do as `behaviour` says; its address."""

    async def link(_requests: Any, context: Any) -> None:
        await context.send_initial_metadata(((PARTY_KEY, KEY_HOLDER),))  # lets the caller in
        await behaviour(context)

    server = aio.server(options=MESSAGE_OPTIONS)
    method = grpc.stream_stream_rpc_method_handler(link)
    name = LINK.rpartition("/")[2]
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICES["Party"], {name: method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)


async def _write(context: Any, data: bytes) -> None:
    for piece in chunks(data):
        await context.write(piece)


def _answer(request: bytes, sender: str = KEY_HOLDER, run_id: str = HOSPITAL) -> bytes:
    asked = decode(service_pb2.Chunk.FromString(request).data)
    return encode(Envelope(run_id, sender, ALICE.party, 1, asked.sequence, HealthReport(sender, 1, 0)))


async def _die(context: Any) -> None:
    piece = service_pb2.Chunk.FromString(next(chunks(_answer(await context.read()))))
    piece.size += 1
    piece.last = False
    await context.write(piece.SerializeToString())  # and no more of it


async def _rubbish(context: Any) -> None:
    await context.read()
    await context.write(b"\xff" * 50)
    await asyncio.sleep(30)


async def _no_envelope(context: Any) -> None:
    await context.read()
    await _write(context, b"\xff" * 50)
    await asyncio.sleep(30)


async def _bad_payload(context: Any) -> None:
    asked = _answer(await context.read())
    await _write(context, asked[:-2] + b"\xff\x7f")
    await asyncio.sleep(30)


async def _stranger(context: Any) -> None:
    await _write(context, _answer(await context.read(), MODEL_HOST))
    await asyncio.sleep(30)


async def _of_another_run(context: Any) -> None:
    await _write(context, _answer(await context.read(), run_id="clinic"))
    await asyncio.sleep(30)


async def _silent(context: Any) -> None:
    await asyncio.sleep(30)


async def _endless(context: Any) -> None:
    """An envelope without end: as much as is announced at most, and then more."""
    await context.read()
    piece = service_pb2.Chunk(data=bytes(CHUNK_BYTES), size=2**40)
    while True:
        await context.write(piece.SerializeToString())


async def _drip(context: Any) -> None:
    """An envelope of empty pieces, which never grows and never ends."""
    await context.read()
    piece = service_pb2.Chunk.FromString(next(chunks(b"")))
    piece.size, piece.last = 10, False
    await context.write(piece.SerializeToString())
    piece.size = 0
    while True:
        await context.write(piece.SerializeToString())


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (_die, "the stream ends .* bytes into an envelope"),
        (_rubbish, "no piece of an envelope"),
        (_no_envelope, "no envelope"),
        (_bad_payload, "no envelope|Failure|malformed"),
        (_stranger, "an envelope of 'model-host' came"),
        (_of_another_run, "an envelope of 'key-holder' came"),
        (_silent, "no answer in time"),
        (_endless, "at most .* are allowed"),
        (_drip, "an empty piece"),
    ],
)
def test_a_caller_never_waits_longer_than_it_said_and_says_why(behaviour: Behaviour, message: str) -> None:
    async def test() -> None:
        async with misbehaving(behaviour) as address:
            started = time.monotonic()
            async with Caller(address, Identity(HOSPITAL, KEY_HOLDER), ALICE, None, 1.0) as caller:
                asked = [asyncio.ensure_future(caller.ask(HealthRequest(), HealthReport)) for _ in range(3)]
                failures = await asyncio.gather(*asked, return_exceptions=True)
                assert all(isinstance(failed, TransportError) for failed in failures), failures
                # Who was still writing knows only that the link ended.
                assert any(re.search(message, str(failed)) for failed in failures), failures
            assert time.monotonic() - started < 10

    asyncio.run(asyncio.wait_for(test(), 30))


def test_a_server_that_does_not_read_does_not_hold_a_caller_for_ever() -> None:
    async def test() -> None:
        async with (
            misbehaving(_silent) as address,
            Caller(address, Identity(HOSPITAL, KEY_HOLDER), ALICE, None, 1.0) as caller,
        ):
            large = Failure("x", 1, "x" * (32 * CHUNK_BYTES))
            asked = [asyncio.ensure_future(caller.ask(large, HealthReport)) for _ in range(2)]
            for failed in await asyncio.gather(*asked, return_exceptions=True):
                assert isinstance(failed, TransportError), failed

    asyncio.run(asyncio.wait_for(test(), 30))


# ---- the gate --------------------------------------------------------------------------------------------------------


class _Health(Party):
    """Answers nothing but how it is."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployments") / HOSPITAL
    new_deployment(HOSPITAL, folder, ["alice", "bob"])
    return folder


def gated(certificates: Path, role: str, test: Callable[[str, list[tuple[str, str, str]]], Awaitable[None]],
          deployment: str = HOSPITAL, limits: Limits | None = None) -> None:  # fmt: skip
    """Run `test` with the address of a server behind its gate, and the list of its notes."""

    async def run() -> None:
        notes: list[tuple[str, str, str]] = []

        def note(*what: str) -> None:
            notes.append(what)  # type: ignore[arg-type]

        gate = Gate(role, deployment, False, certificates / "authority" / "revoked.txt", note)
        options = ServiceOptions(
            "127.0.0.1:0", deployment, load_identity(certificates / role), None, limits or Limits(), 0.1
        )
        service = Service(_Health(role, HOSPITAL), options, NothingKept(), gate, note, Telemetry())
        ready = asyncio.Event()

        async def started(_service: Service) -> None:
            ready.set()

        serving = asyncio.create_task(service.serve(started))
        await ready.wait()
        try:
            await test(f"127.0.0.1:{service.port}", notes)
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    asyncio.run(asyncio.wait_for(run(), 60))


def _caller(certificates: Path, address: str, server: str, folder: str) -> Caller:
    credentials = load_identity(certificates / folder)
    return Caller(address, Identity(credentials.identity.deployment, server), credentials.identity, credentials, 10.0)


async def _refused(caller: Caller, message: str = "^key-holder at") -> None:
    """When it opens its link or with the first question, whichever comes first."""
    with pytest.raises(TransportError, match=message):
        async with caller:
            await caller.ask(HealthRequest(), HealthReport)


def test_nobody_but_owner_and_key_holder_links_to_a_host(certificates: Path) -> None:
    async def test(address: str, notes: list[tuple[str, str, str]]) -> None:
        for folder in ("data-owner", "key-holder"):
            async with _caller(certificates, address, MODEL_HOST, folder) as caller:
                assert await caller.ask(HealthRequest(), HealthReport)
        for folder in ("client-alice", "operator", "model-host"):
            caller = _caller(certificates, address, MODEL_HOST, folder)
            await _refused(caller, r"may not link to model-host \(allowed: key-holder, data-owner\)")
        assert [note[0] for note in notes].count("connection refused") == 3

    gated(certificates, MODEL_HOST, test)


def test_a_certificate_of_another_deployment_is_refused_by_the_gate_and_by_tls(
    certificates: Path, tmp_path: Path
) -> None:
    new_deployment(HOSPITAL, tmp_path / "same-name", ["alice"])

    async def test(address: str, notes: list[tuple[str, str, str]]) -> None:
        caller = _caller(certificates, address, KEY_HOLDER, "client-alice")
        await _refused(caller, "the certificate is for deployment 'hospital'")
        await _refused(_caller(tmp_path / "same-name", address, KEY_HOLDER, "client-alice"))

    gated(certificates, KEY_HOLDER, test, "clinic")


def test_a_link_ends_when_its_certificate_is_revoked_and_others_go_on(certificates: Path) -> None:
    async def test(address: str, notes: list[tuple[str, str, str]]) -> None:
        async with (
            _caller(certificates, address, KEY_HOLDER, "client-alice") as alice,
            _caller(certificates, address, KEY_HOLDER, "client-bob") as bob,
        ):
            assert await alice.ask(HealthRequest(), HealthReport)
            assert await bob.ask(HealthRequest(), HealthReport)
            revoke(certificates, "client-bob")
            deadline = time.monotonic() + 10
            while not any(note[0] == "link cut" for note in notes):
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            with pytest.raises(TransportError, match=r"was revoked|the link was closed"):
                await bob.ask(HealthRequest(), HealthReport)
            again = _caller(certificates, address, KEY_HOLDER, "client-bob")
            await _refused(again, "the certificate of client:bob was revoked")
            assert await alice.ask(HealthRequest(), HealthReport)
        assert ("link cut", "client:bob", "the certificate of client:bob was revoked") in notes

    gated(certificates, KEY_HOLDER, test)


def test_nobody_takes_all_links(certificates: Path) -> None:
    async def test(address: str, notes: list[tuple[str, str, str]]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                caller = await stack.enter_async_context(_caller(certificates, address, KEY_HOLDER, "client-alice"))
                assert await caller.ask(HealthRequest(), HealthReport)
            third = _caller(certificates, address, KEY_HOLDER, "client-alice")
            await _refused(third, "2 links of client:alice are open, no more are taken")
            owner = await stack.enter_async_context(_caller(certificates, address, KEY_HOLDER, DATA_OWNER))
            assert await owner.ask(HealthRequest(), HealthReport)

    gated(certificates, KEY_HOLDER, test, limits=Limits(links_per_party=2))


def test_who_stops_in_the_middle_of_an_envelope_is_cut_and_what_one_party_has_under_way_is_bounded(
    certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rhe_parties.service import grpc_server

    monkeypatch.setattr(grpc_server, "MAX_ENVELOPE_BYTES", 3 * CHUNK_BYTES)

    async def test(address: str, notes: list[tuple[str, str, str]]) -> None:
        async with contextlib.AsyncExitStack() as stack:
            halves = [
                await stack.enter_async_context(_caller(certificates, address, KEY_HOLDER, "client-alice"))
                for _ in range(2)
            ]
            pieces = list(chunks(bytes(3 * CHUNK_BYTES)))
            for half in halves:
                for piece in pieces[:2]:
                    await half._call.write(piece)
            owner = await stack.enter_async_context(_caller(certificates, address, KEY_HOLDER, DATA_OWNER))
            deadline = time.monotonic() + 10
            while len(notes) < 2:
                assert time.monotonic() < deadline, notes
                assert await owner.ask(HealthRequest(), HealthReport)
                await asyncio.sleep(0.05)
        assert notes[0][:2] == ("unreadable", ALICE.party)
        assert "are under way; at most 3145728 may be" in notes[0][2]
        assert notes[1] == ("link cut", ALICE.party, "it stopped in the middle of an envelope")

    gated(certificates, KEY_HOLDER, test, limits=Limits(request_seconds=0.5))


def test_what_is_for_another_party_or_run_is_refused_to_its_sender(certificates: Path) -> None:
    async def test(address: str, notes: list[tuple[str, str, str]]) -> None:
        async with _caller(certificates, address, KEY_HOLDER, "client-alice") as caller:
            caller._server = Identity(HOSPITAL, MODEL_HOST)  # on its envelopes; answers then come from somebody else
            with pytest.raises(TransportError, match="an envelope of 'key-holder' came"):
                await caller.ask(HealthRequest(), HealthReport)
        async with _caller(certificates, address, KEY_HOLDER, "client-alice") as caller:
            data = encode(Envelope("clinic", ALICE.party, KEY_HOLDER, 7, 0, HealthRequest()))
            waiting = caller._waiting[7] = asyncio.get_running_loop().create_future()
            await caller._write(data)
            refused = (await asyncio.wait_for(waiting, 5)).payload
            assert isinstance(refused, Failure)
            assert "this is key-holder of 'hospital'" in refused.text
            with pytest.raises(ProtocolError, match="takes no health_report"):
                await caller.ask(HealthReport("x", 1, 1), HealthReport)

    gated(certificates, KEY_HOLDER, test)
