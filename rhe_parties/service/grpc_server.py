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
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import grpc
from grpc import aio

from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.messages import MAX_ENVELOPE_BYTES, Envelope, encode, peek
from rhe_parties.messages.envelope import Header
from rhe_parties.messages.frames import SERVICES
from rhe_parties.messages.payloads import Payload
from rhe_parties.parties.base import Asker, Outgoing, Party
from rhe_parties.service.desk import Desk, Ticket
from rhe_parties.service.grpc_links import LINK, PARTY_KEY, Link, envelopes, why

__all__ = ["Keeper", "Limits", "NothingKept", "PartyServer", "Stranger"]

_LOG = logging.getLogger("rhe.service")
# How often requests are looked through for those that wait too long.
_SWEEP_SECONDS = 0.25
# How often links are looked through for those that must not go on.
_LOOK_SECONDS = 1.0
# Turns of the party that what they want kept is kept together for, at most.
_MAX_TURNS = 64


class Keeper(Protocol):
    """Keeps what a party must not lose, before anybody is told that it is done."""

    def together(self) -> AbstractContextManager[object]:
        """Around the handling of several envelopes; only after its end is what was kept inside kept for good.

        Raises:
            ProtocolError: at the end: nothing of it is kept.
        """

    def keep(self, kind: str, received: bytes, outgoing: list[Outgoing]) -> None:
        """Called in the party's thread after it handled `received`, an envelope of this kind.

        Raises:
            ProtocolError: it cannot be kept; whoever asked is told so in place of the answer.
        """


class NothingKept:
    """A keeper for a party that has nothing to lose."""

    def together(self) -> AbstractContextManager[object]:
        """See `Keeper.together`."""
        return contextlib.nullcontext()

    def keep(self, kind: str, received: bytes, outgoing: list[Outgoing]) -> None:
        """See `Keeper.keep`."""


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


@dataclass(frozen=True)
class _Handled:
    """What came of one turn of the party, and in how many seconds it must have another."""

    outgoing: list[Outgoing]
    due: float | None
    header: Header | None = None


class PartyServer:
    """Serves one party.

    Args:
        party: already restored to what it was.
        admit: the name on envelopes of whoever opened a link, and whether it is the other server; raises `Stranger`.
        keeper: see `Keeper`.
        limits: bounds.
        trunk: name of the other server, without which nothing can be decided.
        note: called with (event, who, what) for what an operator wants to know of.
        handled: called in the party's thread with (kind, seconds, what went out) after each envelope, and with "" as
            the kind after what was held back.
    """

    def __init__(
        self,
        party: Party,
        admit: Callable[[aio.ServicerContext[Any, Any]], Link],
        keeper: Keeper,
        limits: Limits,
        trunk: str,
        note: Callable[[str, str, str], None],
        handled: Callable[[str, float, list[Outgoing]], None],
    ) -> None:
        self.party = party
        self._handled = handled
        self.limits = limits
        # Answers to the process before this one, which died, must not be taken for answers to this one.
        party.number_from(secrets.randbits(60))
        self._admit, self._keeper, self._trunk, self._note = admit, keeper, trunk, note
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=party.name)
        # What the thread is to do next, and whether it is at work.
        self._turns: deque[tuple[Callable[[], _Handled], asyncio.Future[_Handled]]] = deque()
        self._working = False
        self._desk: Desk[Link] = Desk(party.run_id, party.name)
        self._links: dict[str, list[Link]] = {}
        self._deadlines: deque[tuple[float, Ticket[Link]]] = deque()
        self._due: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        #: Why no new requests are taken; empty while they are.
        self.draining = ""

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
        handled = await self._in_worker(self._handle, link, data)
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

    def _handle(self, link: Link, data: bytes) -> _Handled:
        header = peek(data)
        if header is None:
            raise ProtocolError(FailureCode.MALFORMED, f"{len(data)} bytes are no envelope")
        if header.sender != link.party:
            raise ProtocolError(
                FailureCode.REFUSED, f"an envelope of {header.sender[:64]!r} came over the link of {link.party!r}"
            )
        asker = Asker(header.sender, header.sequence)
        if (header.run_id, header.recipient) != (self.party.run_id, self.party.name):
            text = f"this is {self.party.name} of {self.party.run_id!r}; the envelope is for another"
            return self._refusal(asker, ProtocolError(FailureCode.UNEXPECTED, text), header)
        if self.draining and not link.trunk:
            return self._refusal(asker, ProtocolError(FailureCode.UNAVAILABLE, self.draining), header)
        started = time.perf_counter()
        outgoing = self.party.respond(data)
        error = self._not_kept(header.kind, header.sender, data, outgoing)
        if error is not None:
            return self._instead(outgoing, error, header)
        self._handled(header.kind, time.perf_counter() - started, outgoing)
        return _Handled(outgoing, self.party.due(), header)

    def _not_kept(self, kind: str, who: str, data: bytes, outgoing: list[Outgoing]) -> ProtocolError | None:
        """Have it kept; what went wrong, if anything did."""
        try:
            self._keeper.keep(kind, data, outgoing)
        except Exception as error:
            told = error if isinstance(error, ProtocolError) else ProtocolError(FailureCode.INTERNAL, repr(error))
            self._note("not kept", who, told.text)
            return told
        return None

    def _refusal(self, asker: Asker, error: ProtocolError, header: Header | None = None) -> _Handled:
        failure = self.party.refuse(asker, error)
        return _Handled([Outgoing(failure, encode(failure))], self.party.due(), header)

    def _instead(self, outgoing: list[Outgoing], error: ProtocolError, header: Header | None) -> _Handled:
        """What could not be kept must not go out: whoever would have got an answer is told so, and who asked too."""
        told: list[Outgoing] = []
        for item in outgoing:
            if item.envelope.recipient == self._trunk and not item.envelope.reply_to:
                # The party shall not wait for an answer to what does not go out; it refuses whoever asked.
                failed = self._desk.failure(self._trunk, item.envelope.sequence, error.text, error.code)
                told += self.party.respond(failed)
        waiting = [Asker(item.envelope.recipient, item.envelope.reply_to) for item in outgoing]
        refused = dict.fromkeys(one for one in waiting if one.sequence)
        if header is not None:
            refused[Asker(header.sender, header.sequence)] = None
        for done in told:
            refused.pop(Asker(done.envelope.recipient, done.envelope.reply_to), None)
        failures = [self.party.refuse(one, error) for one in refused]
        told += [Outgoing(failure, encode(failure)) for failure in failures]
        return _Handled(told, self.party.due(), header)

    async def put_own(self, data: bytes) -> None:
        """Put an envelope before the party that this server made itself, and send what comes of it."""
        await self._send(await self._in_worker(self._handle_own, data))

    def _handle_own(self, data: bytes) -> _Handled:
        outgoing, header = self.party.respond(data), peek(data)
        self._not_kept("" if header is None else header.kind, self.party.name, data, outgoing)
        return _Handled(outgoing, self.party.due())

    async def command(self, sender: str, payload: Payload) -> None:
        """`put_own` of a payload in the name of `sender`."""
        await self.put_own(encode(self._desk.own(sender, payload)))

    async def _send(self, handled: _Handled, ticket: Ticket[Link] | None = None, wait: bool = False) -> None:
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

    # ---- the party's thread --------------------------------------------------------------------------------------

    async def _in_worker(self, function: Callable[..., _Handled], *arguments: Any) -> _Handled:
        turn: asyncio.Future[_Handled] = asyncio.get_running_loop().create_future()
        self._turns.append((partial(function, *arguments), turn))
        if not self._working:
            self._working = True
            self._spawn(self._work_off())
        return await turn

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while self._turns:
            taken = [self._turns.popleft() for _ in range(min(len(self._turns), _MAX_TURNS))]
            try:
                done = await loop.run_in_executor(self._worker, self._together, [action for action, _ in taken])
            except Exception as error:  # a defect costs these turns and not those that follow
                self._note("defect", self.party.name, repr(error))
                done = [error] * len(taken)
            for (_, turn), result in zip(taken, done, strict=True):
                if turn.done():  # whoever waited for it is gone
                    continue
                if isinstance(result, Exception):
                    turn.set_exception(result)
                else:
                    turn.set_result(result)
        self._working = False

    def _together(self, actions: list[Callable[[], _Handled]]) -> list[_Handled | Exception]:
        """The results of turns, or what they raised, once all that they want kept is kept."""
        results: list[_Handled | Exception] = []
        try:
            with self._keeper.together():
                for action in actions:
                    try:
                        results.append(action())
                    except Exception as error:
                        results.append(error)
        except ProtocolError as error:
            self._note("not kept", self.party.name, error.text)
            return [r if isinstance(r, Exception) else self._instead(r.outgoing, error, r.header) for r in results]
        return results

    # ---- time --------------------------------------------------------------------------------------------------

    def _set_timer(self, seconds: float | None) -> None:
        """Have what the party holds back collected when it is due."""
        if seconds is not None and self._due is None:
            self._due = asyncio.get_running_loop().call_later(seconds, self._collect_due)

    def _collect_due(self) -> None:
        self._due = None
        self._spawn(self._release_due())

    async def _release_due(self) -> None:
        await self._send(await self._in_worker(self._handle_due))

    def _handle_due(self) -> _Handled:
        started = time.perf_counter()
        outgoing = self.party.release_due()
        self._handled("", time.perf_counter() - started, outgoing)
        return _Handled(outgoing, self.party.due())

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
            await self._send(await self._in_worker(self._refusal, ticket.asker, error))

    async def drain(self, seconds: float) -> int:
        """Take no new requests and answer those that wait, for so long at most; returns how many still wait."""
        self.draining = f"{self.party.name} is shutting down"
        deadline = time.monotonic() + seconds
        while len(self._desk) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for link in [link for links in self._links.values() for link in links]:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(link.flushed(), max(deadline - time.monotonic(), 0.1))
            link.close(self.draining)
        return len(self._desk)

    @property
    def waiting(self) -> int:
        """Requests without an answer."""
        return len(self._desk)

    @property
    def parties(self) -> dict[str, int]:
        """Open links by the party at their other end."""
        return {party: len(links) for party, links in self._links.items()}
