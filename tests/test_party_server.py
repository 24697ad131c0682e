"""A served party: envelopes in and out over links, deadlines, back-pressure, what cannot be kept, the end of service.

The links are real; what carries their pieces is a pair of queues in place of a network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from grpc import aio

from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.messages import Envelope, Payload, decode, encode
from rhe_parties.messages.frames import Assembler, chunks
from rhe_parties.messages.payloads import Failure, HealthReport, HealthRequest, PublicMaterialRequest, RotateKey
from rhe_parties.parties.base import Asker, Outgoing, Party
from rhe_parties.service.grpc_links import Link
from rhe_parties.service.grpc_server import Limits, PartyServer
from rhe_parties.service.turns import Keeper, NothingKept

RUN, PARTY, OTHER = "hospital", "key-holder", "model-host"


class _Errands(Party):
    """Answers health itself; for public material it first runs to the other server; `RotateKey` it never answers."""

    def __init__(self) -> None:
        super().__init__(PARTY, RUN)
        self._asked: dict[int, Envelope] = {}
        self._handlers |= {
            PublicMaterialRequest: self._on_errand,
            HealthReport: self._on_report,
            RotateKey: lambda envelope, payload: [],
        }

    def _on_errand(self, envelope: Envelope, _payload: PublicMaterialRequest) -> list[Envelope]:
        sent = self.send(OTHER, HealthRequest(), cause=envelope)
        self._asked[sent.sequence] = envelope
        return [sent]

    def _on_report(self, envelope: Envelope, payload: HealthReport) -> list[Envelope]:
        self.settle(envelope.reply_to)
        asked = self._asked.pop(envelope.reply_to, None)
        return [] if asked is None else [self.answer(asked, payload)]

    def _on_errand_failed(self, sequence: int, asker: Asker) -> None:
        self._asked.pop(sequence, None)


class _End:
    """The other end of a link."""

    def __init__(self, server: PartyServer, party: str, trunk: bool = False) -> None:
        self.party, self.link = party, Link(party, trunk)
        self._in: asyncio.Queue[Any] = asyncio.Queue()
        self._out: asyncio.Queue[bytes] = asyncio.Queue()
        self._assembler = Assembler()
        self._sequence = 0
        self.reads = asyncio.Event()
        self.reads.set()
        self.task = asyncio.create_task(server.run(self.link, self._in.get, self._write))

    async def _write(self, piece: bytes) -> None:
        await self.reads.wait()
        await self._out.put(piece)

    def send(self, payload: Payload, reply_to: int = 0, sender: str = "") -> int:
        self._sequence += 1
        envelope = Envelope(RUN, sender or self.party, PARTY, self._sequence, reply_to, payload)
        for piece in chunks(encode(envelope)):
            self._in.put_nowait(piece)
        return self._sequence

    def put(self, piece: Any) -> None:
        self._in.put_nowait(piece)

    @property
    def unread(self) -> int:
        """Pieces that the server has not taken yet."""
        return self._in.qsize()

    async def next(self) -> Envelope:
        while True:
            data = self._assembler.add(await asyncio.wait_for(self._out.get(), 5))
            if data is not None:
                return decode(data)

    async def failure(self) -> Failure:
        payload = (await self.next()).payload
        assert isinstance(payload, Failure)
        return payload


class _Served:
    def __init__(self, limits: Limits, keeper: Keeper) -> None:
        self.party = _Errands()
        self.notes: list[tuple[str, str, str]] = []
        self.handled: list[str] = []
        self.server = PartyServer(
            self.party, lambda context: Link("x"), keeper, limits, OTHER,
            lambda *note: self.notes.append(note), lambda kind, seconds, outgoing: self.handled.append(kind),
        )  # fmt: skip
        self.sweeping = asyncio.create_task(self.server.sweep())

    def open(self, party: str, trunk: bool = False) -> _End:
        return _End(self.server, party, trunk)


def served(
    test: Callable[[_Served], Awaitable[None]], limits: Limits | None = None, keeper: Keeper | None = None
) -> None:
    async def run() -> None:
        world = _Served(limits or Limits(), keeper or NothingKept())
        await asyncio.wait_for(test(world), 20)
        world.sweeping.cancel()

    asyncio.run(run())


def test_answers_come_back_over_their_link_and_errands_run() -> None:
    async def test(world: _Served) -> None:
        host, alice, bob = world.open(OTHER, trunk=True), world.open("client:alice"), world.open("client:bob")
        number = alice.send(HealthRequest())
        answer = await alice.next()
        assert (answer.reply_to, type(answer.payload)) == (number, HealthReport)
        first, second = alice.send(PublicMaterialRequest()), bob.send(PublicMaterialRequest())
        errands = [await host.next(), await host.next()]
        for errand in reversed(errands):
            host.send(HealthReport(OTHER, 5, 0), reply_to=errand.sequence)
        assert ((await alice.next()).reply_to, (await bob.next()).reply_to) == (first, second)
        assert world.server.waiting == 0
        assert set(world.handled) == {"health_request", "public_material_request", "health_report"}

    served(test)


def test_errands_fail_at_once_without_the_other_server_and_when_its_link_breaks() -> None:
    async def test(world: _Served) -> None:
        alice = world.open("client:alice")
        alice.send(PublicMaterialRequest())
        failure = await alice.failure()
        assert failure.code == FailureCode.UNAVAILABLE
        assert "model-host cannot be reached" in failure.text
        host = world.open(OTHER, trunk=True)
        alice.send(PublicMaterialRequest())
        await host.next()
        host.put(aio.EOF)
        assert "the link to model-host broke" in (await alice.failure()).text
        assert world.server.waiting == 0

    served(test)


def test_no_answer_in_time() -> None:
    async def test(world: _Served) -> None:
        host, alice = world.open(OTHER, trunk=True), world.open("client:alice")
        alice.send(PublicMaterialRequest())
        errand = await host.next()
        failure = await alice.failure()
        assert (failure.code, failure.party) == (FailureCode.UNAVAILABLE, OTHER)
        assert "no answer within 0.3 s" in failure.text
        # What comes too late is nobody's any more, and harms nobody.
        host.send(HealthReport(OTHER, 5, 0), reply_to=errand.sequence)
        # A request that the party itself forgets is ended by the server.
        alice.send(RotateKey())
        assert "key-holder: no answer within 0.3 s" in (await alice.failure()).text
        alice.send(HealthRequest())
        assert isinstance((await alice.next()).payload, HealthReport)

    served(test, Limits(request_seconds=0.3))


def test_a_name_that_is_not_the_links_own_ends_the_link_and_no_other() -> None:
    async def test(world: _Served) -> None:
        mallory, alice = world.open("client:mallory"), world.open("client:alice")
        mallory.send(HealthRequest(), sender="client:alice")
        await asyncio.wait_for(mallory.task, 5)
        assert "an envelope of 'client:alice' came over the link of 'client:mallory'" in mallory.link.cut
        alice.send(HealthRequest())
        assert (await alice.next()).recipient == "client:alice"
        assert world.notes[0][:2] == ("unreadable", "client:mallory")

    served(test)


@pytest.mark.parametrize("piece", [b"\xff\xff", next(chunks(b"no envelope"))])
def test_rubbish_ends_the_link_and_no_other(piece: bytes) -> None:
    async def test(world: _Served) -> None:
        mallory, alice = world.open("client:mallory"), world.open("client:alice")
        mallory.put(piece)
        await asyncio.wait_for(mallory.task, 5)
        assert mallory.link.cut
        alice.send(HealthRequest())
        assert isinstance((await alice.next()).payload, HealthReport)

    served(test)


def test_a_busy_server_makes_its_clients_wait() -> None:
    """A client may have so many requests without an answer; the next one is not read before one is answered."""

    async def test(world: _Served) -> None:
        host, alice, bob = world.open(OTHER, trunk=True), world.open("client:alice"), world.open("client:bob")
        for _ in range(10):
            alice.send(PublicMaterialRequest())
        errands = [await host.next() for _ in range(4)]
        await asyncio.sleep(0.1)
        assert (world.server.waiting, alice.unread) == (4, 6)
        bob.send(HealthRequest())
        assert isinstance((await bob.next()).payload, HealthReport)
        host.send(HealthReport(OTHER, 5, 0), reply_to=errands[0].sequence)
        await alice.next()
        await host.next()
        await asyncio.sleep(0.1)
        assert (world.server.waiting, alice.unread) == (4, 5)

    served(test, Limits(requests_per_link=4))


def test_a_client_that_does_not_read_is_cut_off() -> None:
    async def test(world: _Served) -> None:
        mallory, alice = world.open("client:mallory"), world.open("client:alice")
        mallory.reads.clear()
        for _ in range(600):
            mallory.send(HealthRequest())
        await asyncio.wait_for(mallory.task, 10)
        assert mallory.link.cut == "it does not read what it is sent"
        alice.send(HealthRequest())
        assert isinstance((await alice.next()).payload, HealthReport)

    served(test)


class _FullDisk(NothingKept):
    def __init__(self) -> None:
        self.full = True

    def keep(self, kind: str, received: bytes, outgoing: list[Outgoing]) -> None:
        if self.full and kind != "health_request":
            raise ProtocolError(FailureCode.REFUSED, "the disk is full")


def test_what_cannot_be_kept_is_refused_to_everybody_who_waits() -> None:
    disk = _FullDisk()

    async def test(world: _Served) -> None:
        host, alice = world.open(OTHER, trunk=True), world.open("client:alice")
        alice.send(PublicMaterialRequest())
        assert (await alice.failure()).text == "the disk is full"
        disk.full = False
        number = alice.send(PublicMaterialRequest())
        errand = await host.next()
        disk.full = True
        host.send(HealthReport(OTHER, 5, 0), reply_to=errand.sequence)
        answer = await alice.next()
        assert (answer.reply_to, type(answer.payload)) == (number, Failure)
        assert (await host.failure()).text == "the disk is full"
        alice.send(HealthRequest())
        assert isinstance((await alice.next()).payload, HealthReport)

    served(test, keeper=disk)


def test_the_end_finishes_what_was_begun() -> None:
    async def test(world: _Served) -> None:
        host, alice = world.open(OTHER, trunk=True), world.open("client:alice")
        begun = alice.send(PublicMaterialRequest())
        errand = await host.next()
        draining = asyncio.create_task(world.server.drain(5))
        await asyncio.sleep(0.05)
        alice.send(PublicMaterialRequest())
        refused = await alice.failure()
        assert (refused.code, refused.text) == (FailureCode.UNAVAILABLE, "key-holder is shutting down")
        host.send(HealthReport(OTHER, 5, 0), reply_to=errand.sequence)
        answer = await alice.next()
        assert (answer.reply_to, type(answer.payload)) == (begun, HealthReport)
        assert await draining == 0
        await asyncio.wait_for(asyncio.gather(alice.task, host.task), 5)

    served(test)


def test_the_end_does_not_wait_for_ever() -> None:
    async def test(world: _Served) -> None:
        host, alice = world.open(OTHER, trunk=True), world.open("client:alice")
        alice.send(PublicMaterialRequest())
        await host.next()
        assert await world.server.drain(0.2) == 1

    served(test)


def test_a_caller_that_asks_no_more_still_gets_its_answers() -> None:
    async def test(world: _Served) -> None:
        host, alice = world.open(OTHER, trunk=True), world.open("client:alice")
        number = alice.send(PublicMaterialRequest())
        alice.put(aio.EOF)
        errand = await host.next()
        host.send(HealthReport(OTHER, 5, 0), reply_to=errand.sequence)
        assert (await alice.next()).reply_to == number
        await asyncio.wait_for(alice.task, 5)

    served(test)
