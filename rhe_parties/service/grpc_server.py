"""A party behind gRPC: links in, envelopes to the party, its envelopes out to whom they are for.

The party is handled by one thread, an envelope at a time, as over every other transport. What it wants kept is kept
before anything goes out, together for all envelopes that came while the thread was busy. A link's next envelope is read
when the one before it has been handled, so a server that is busy makes its clients wait, and holds nothing for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.messages import MAX_ENVELOPE_BYTES, Envelope, encode
from rhe_parties.messages.envelope import Header
from rhe_parties.messages.frames import SERVICES
from rhe_parties.messages.payloads import Payload
from rhe_parties.parties.base import Asker, Outgoing, Party
from rhe_parties.service.desk import Desk, Ticket
from rhe_parties.service.grpc_links import LINK, PARTY_KEY, Link, envelopes, why
from rhe_parties.service.turns import Handled, Keeper, Note, Turns

__all__ = ["Limits", "PartyServer", "Stranger"]

_LOG = logging.getLogger("rhe.service")
# How often requests are looked through for those that wait too long.
_SWEEP_SECONDS = 0.25
# How often links are looked through for those that must not go on.
_LOOK_SECONDS = 1.0


class Stranger(Exception):
    """Whoever called is not let in; the text says why and goes back to it."""


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        request_seconds: how long a request may wait for its answer.
        requests_per_link: requests of one client that may wait at a time.
        links: open at a time.
        links_per_party: of these, so that nobody takes the places of all others.
    """

    request_seconds: float = 30.0
    requests_per_link: int = 64
    links: int = 4096
    links_per_party: int = 256


class PartyServer:
    """Serves one party.

    Args:
        party: already restored to what it was.
        admit: the name on envelopes of whoever opened a link, and whether it is the other server; raises `Stranger`.
        keeper: see `rhe_parties.service.turns.Keeper`.
        limits: bounds.
        trunk: name of the other server, without which nothing can be decided.
        note, handled: see `rhe_parties.service.turns.Turns`.
    """

    def __init__(
        self,
        party: Party,
        admit: Callable[[aio.ServicerContext[Any, Any]], Link],
        keeper: Keeper,
        limits: Limits,
        trunk: str,
        note: Note,
        handled: Callable[[str, float, list[Outgoing]], None],
    ) -> None:
        self.party, self.limits = party, limits
        # Answers to the process before this one, which died, must not be taken for answers to this one.
        party.number_from(secrets.randbits(60))
        self._admit, self._trunk, self._note = admit, trunk, note
        self._desk: Desk[Link] = Desk(party.run_id, party.name)
        self._turns = Turns(party, keeper, self._desk, trunk, note, handled)
        self._links: dict[str, list[Link]] = {}
        self._deadlines: deque[tuple[float, Ticket[Link]]] = deque()
        self._due: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- links -------------------------------------------------------------------------------------------------

    def handler(self) -> grpc.GenericRpcHandler:
        """What a gRPC server is given."""
        method: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(self._accept)
        return grpc.method_handlers_generic_handler(SERVICES["Party"], {LINK.rpartition("/")[2]: method})

    async def _accept(self, _requests: Any, context: aio.ServicerContext[Any, Any]) -> None:
        try:
            link = self._admit(context)
            if sum(map(len, self._links.values())) >= self.limits.links:
                raise Stranger(f"{self.limits.links} links are open, no more are taken")
            if len(self._links.get(link.party, ())) >= self.limits.links_per_party:
                raise Stranger(f"{self.limits.links_per_party} links of {link.party} are open, no more are taken")
        except Stranger as error:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, str(error))
        await context.send_initial_metadata(((PARTY_KEY, self.party.name),))
        await self.run(link, context.read, context.write)
        if link.cut:
            await context.abort(grpc.StatusCode.ABORTED, link.cut)

    async def run(self, link: Link, read: Callable[[], Any], write: Callable[[bytes], Any]) -> None:
        """Serve an open link until either end closes it."""
        self._links.setdefault(link.party, []).append(link)
        writer = asyncio.create_task(link.write_all(write))
        reader = asyncio.create_task(self._read(link, read))
        closing = asyncio.create_task(link.closing.wait())
        try:
            await asyncio.wait((writer, reader, closing), return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                link.close("the link broke")
            elif reader.done():
                await link.flushed()
        finally:
            for task in (writer, reader, closing):
                task.cancel()
            await asyncio.gather(writer, reader, closing, return_exceptions=True)
            self._closed(link)

    def _closed(self, link: Link) -> None:
        link.close("the link was closed")
        self._links[link.party].remove(link)
        if not self._links[link.party]:
            del self._links[link.party]
            if link.trunk:
                for data in self._desk.unreachable(link.party, f"the link to {link.party} broke"):
                    self._spawn(self.put_own(data))
        self._desk.leave(link)

    async def _read(self, link: Link, read: Callable[[], Any]) -> None:
        try:
            async for data in envelopes(read, functools.partial(self._holding, link)):
                await self._received(link, data)
            await self._fewer_waiting(link, 1)  # the other end asks no more, but waits
        except ProtocolError as error:
            self._note("unreadable", link.party, error.text)
            link.close(error.text)
        except aio.AioRpcError as error:
            link.close(f"the link broke: {why(error)}")
        except (asyncio.InvalidStateError, aio.UsageError):
            link.close("the link broke")
        except Exception as error:  # a defect of ours costs this link and no other
            self._note("link failed", link.party, repr(error))
            link.close("the link broke")

    def _holding(self, link: Link, size: int) -> None:
        link.held, link.heard = size, time.monotonic()
        held = sum(one.held for one in self._links[link.party])
        if held > MAX_ENVELOPE_BYTES:
            raise ProtocolError(
                FailureCode.OVERSIZED,
                f"{held} bytes of {link.party} are under way; at most {MAX_ENVELOPE_BYTES} may be",
            )

    def _look_after(self, now: float) -> None:
        """Cut links that stopped in the middle of an envelope, and those of parties that are let in no more."""
        for link in [link for links in self._links.values() for link in links]:
            stopped = link.held and now - link.heard > self.limits.request_seconds
            reason = "it stopped in the middle of an envelope" if stopped else link.objection()
            if reason and not link.closing.is_set():
                self._note("link cut", link.party, reason)
                link.close(reason)

    # ---- envelopes ---------------------------------------------------------------------------------------------

    async def _received(self, link: Link, data: bytes) -> None:
        link.heard = math.inf  # all of it is there; that it waits for its turn is not its fault
        handled = await self._turns.received(link.party, link.trunk, data)
        ticket, link.held = None, 0
        # Whatever is no failure may be answered, and what it says that it answers is for its sender to choose.
        if handled.header is not None and not link.trunk and handled.header.kind != "failure":
            ticket = self._opened(link, handled.header)
        await self._send(handled, ticket, wait=not link.trunk)
        await self._fewer_waiting(link, self.limits.requests_per_link)

    async def _fewer_waiting(self, link: Link, than: int) -> None:
        while self._desk.waiting(link) >= than and not link.closing.is_set():
            link.answered.clear()
            await link.answered.wait()

    def _opened(self, link: Link, header: Header) -> Ticket[Link]:
        asker = Asker(header.sender, header.sequence)
        ticket = self._desk.open(asker, link)
        self._deadlines.append((time.monotonic() + self.limits.request_seconds, ticket))
        return ticket

    async def put_own(self, data: bytes) -> None:
        """Put an envelope before the party that this server made itself, and send what comes of it."""
        await self._send(await self._turns.own(data))

    async def command(self, sender: str, payload: Payload) -> None:
        """`put_own` of a payload in the name of `sender`."""
        await self.put_own(encode(self._desk.own(sender, payload)))

    async def _send(self, handled: Handled, ticket: Ticket[Link] | None = None, wait: bool = False) -> None:
        self._set_timer(handled.due)
        for link, item in self._desk.sort(ticket, handled.outgoing):
            if link is not None:
                link.answered.set()
            target = link if link is not None else self._link_of(item.envelope.recipient)
            if target is None:
                await self._undeliverable(item.envelope)
            elif target.trunk and wait:
                await target.put(item.data)
            else:
                target.put_now(item.data)

    def _link_of(self, party: str) -> Link | None:
        open_links = self._links.get(party)
        return open_links[-1] if open_links else None

    async def _undeliverable(self, envelope: Envelope) -> None:
        """An errand to the other server fails at once; what is for anybody else who is not there is forgotten."""
        if envelope.recipient != self._trunk or not self._desk.runs(envelope.recipient, envelope.sequence):
            return
        text = f"{envelope.recipient} cannot be reached: it has no link to {self.party.name}"
        await self.put_own(self._desk.failure(envelope.recipient, envelope.sequence, text))

    # ---- time --------------------------------------------------------------------------------------------------

    def _set_timer(self, seconds: float | None) -> None:
        """Have what the party holds back collected when it is due."""
        if seconds is not None and self._due is None:
            self._due = asyncio.get_running_loop().call_later(seconds, self._collect_due)

    def _collect_due(self) -> None:
        self._due = None
        self._spawn(self._release_due())

    async def _release_due(self) -> None:
        await self._send(await self._turns.due())

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def sweep(self) -> None:
        """End requests that wait too long, and links that must not go on, until cancelled."""
        look = 0.0
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            if now >= look:
                self._look_after(now)
                look = now + _LOOK_SECONDS
            while self._deadlines and (self._deadlines[0][0] <= now or not self._desk.waits(self._deadlines[0][1])):
                _, ticket = self._deadlines.popleft()
                await self._end(ticket)

    async def _end(self, ticket: Ticket[Link]) -> None:
        text = f"no answer within {self.limits.request_seconds:g} s"
        for data in self._desk.overdue(ticket, text):
            await self.put_own(data)
        if self._desk.waits(ticket):
            error = ProtocolError(FailureCode.UNAVAILABLE, f"{self.party.name}: {text}")
            await self._send(await self._turns.refusal(ticket.asker, error))

    async def drain(self, seconds: float) -> int:
        """Take no new requests and answer those that wait, for so long at most; returns how many still wait."""
        self._turns.draining = f"{self.party.name} is shutting down"
        deadline = time.monotonic() + seconds
        while len(self._desk) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for link in [link for links in self._links.values() for link in links]:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.flushed(), max(deadline - time.monotonic(), 0.1))
            link.close(self._turns.draining)
        return len(self._desk)

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._desk)

    @property
    def parties(self) -> dict[str, int]:
        """Open links by the party at their other end."""
        return {party: len(links) for party, links in self._links.items()}
