"""One turn of a served party after another, in a thread of its own, and what it wants kept before anything goes out.

Envelopes that come while the thread is busy are handled together, and what they want kept is kept by one wait for the
disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.messages import encode, peek
from rhe_parties.messages.envelope import Header
from rhe_parties.parties.base import Asker, Outgoing, Party
from rhe_parties.service.desk import Desk

__all__ = ["Handled", "Keeper", "Note", "NothingKept", "Turns"]

#: Told (event, who, what) of what an operator wants to know.
Note = Callable[[str, str, str], None]
# Turns that what they want kept is kept together for, at most.
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


@dataclass(frozen=True)
class Handled:
    """What came of one turn of the party, and in how many seconds it must have another."""

    outgoing: list[Outgoing]
    due: float | None
    header: Header | None = None


class Turns:
    """The only one who speaks to the party.

    Args:
        party: who is served.
        keeper: see `Keeper`.
        desk: makes failures in the name of the other server.
        trunk: name of the other server.
        note: see `Note`.
        handled: called in the party's thread with (kind, seconds, what went out) after each envelope, and with "" as
            the kind after what was held back.
    """

    def __init__(
        self,
        party: Party,
        keeper: Keeper,
        desk: Desk[Any],
        trunk: str,
        note: Note,
        handled: Callable[[str, float, list[Outgoing]], None],
    ) -> None:
        self._party, self._keeper, self._desk, self._trunk = party, keeper, desk, trunk
        self._note, self._told = note, handled
        self._worker = ThreadPoolExecutor(1, thread_name_prefix=party.name)
        # What the thread is to do next, and who does it while there is something.
        self._waiting: deque[tuple[Callable[[], Handled], asyncio.Future[Handled]]] = deque()
        self._working: asyncio.Task[None] | None = None
        #: Why no new requests are taken; empty while they are.
        self.draining = ""

    # ---- turns, from the event loop ----------------------------------------------------------------------------

    async def received(self, peer: str, trunk: bool, data: bytes) -> Handled:
        """The party's turn with an envelope that came over the link of `peer`, which is the other server or not.

        Raises:
            ProtocolError: no envelope, or one in somebody else's name; the party has not seen it.
        """
        return await self._turn(partial(self._handle, peer, trunk, data))

    async def own(self, data: bytes) -> Handled:
        """Its turn with an envelope that the server itself made."""
        return await self._turn(partial(self._handle_own, data))

    async def due(self) -> Handled:
        """What it held back and is due."""
        return await self._turn(self._handle_due)

    async def refusal(self, asker: Asker, error: ProtocolError) -> Handled:
        """Its refusal of a request that it knows nothing of."""
        return await self._turn(partial(self._refusal, asker, error))

    async def _turn(self, action: Callable[[], Handled]) -> Handled:
        turn: asyncio.Future[Handled] = asyncio.get_running_loop().create_future()
        self._waiting.append((action, turn))
        if self._working is None:
            self._working = asyncio.create_task(self._work_off())
        return await turn

    async def _work_off(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_TURNS))]
            try:
                done = await loop.run_in_executor(self._worker, self._together, [action for action, _ in taken])
            except Exception as error:  # a defect costs these turns and not those that follow
                self._note("defect", self._party.name, repr(error))
                done = [error] * len(taken)
            for (_, turn), result in zip(taken, done, strict=True):
                if turn.done():  # whoever waited for it is gone
                    continue
                if isinstance(result, Exception):
                    turn.set_exception(result)
                else:
                    turn.set_result(result)
        self._working = None

    # ---- in the party's thread ---------------------------------------------------------------------------------

    def _together(self, actions: list[Callable[[], Handled]]) -> list[Handled | Exception]:
        """The results of turns, or what they raised, once all that they want kept is kept."""
        results: list[Handled | Exception] = []
        try:
            with self._keeper.together():
                for action in actions:
                    try:
                        results.append(action())
                    except Exception as error:
                        results.append(error)
        except ProtocolError as error:
            self._note("not kept", self._party.name, error.text)
            return [r if isinstance(r, Exception) else self._instead(r.outgoing, error, r.header) for r in results]
        return results

    def _handle(self, peer: str, trunk: bool, data: bytes) -> Handled:
        header = peek(data)
        if header is None:
            raise ProtocolError(FailureCode.MALFORMED, f"{len(data)} bytes are no envelope")
        if header.sender != peer:
            raise ProtocolError(
                FailureCode.REFUSED, f"an envelope of {header.sender[:64]!r} came over the link of {peer!r}"
            )
        asker = Asker(header.sender, header.sequence)
        if (header.run_id, header.recipient) != (self._party.run_id, self._party.name):
            text = f"this is {self._party.name} of {self._party.run_id!r}; the envelope is for another"
            return self._refusal(asker, ProtocolError(FailureCode.UNEXPECTED, text), header)
        if self.draining and not trunk:
            return self._refusal(asker, ProtocolError(FailureCode.UNAVAILABLE, self.draining), header)
        started = time.perf_counter()
        outgoing = self._party.respond(data)
        error = self._not_kept(header.kind, header.sender, data, outgoing)
        if error is not None:
            return self._instead(outgoing, error, header)
        self._told(header.kind, time.perf_counter() - started, outgoing)
        return Handled(outgoing, self._party.due(), header)

    def _not_kept(self, kind: str, who: str, data: bytes, outgoing: list[Outgoing]) -> ProtocolError | None:
        """Have it kept; what went wrong, if anything did."""
        try:
            self._keeper.keep(kind, data, outgoing)
        except Exception as error:
            told = error if isinstance(error, ProtocolError) else ProtocolError(FailureCode.INTERNAL, repr(error))
            self._note("not kept", who, told.text)
            return told
        return None

    def _refusal(self, asker: Asker, error: ProtocolError, header: Header | None = None) -> Handled:
        failure = self._party.refuse(asker, error)
        return Handled([Outgoing(failure, encode(failure))], self._party.due(), header)

    def _instead(self, outgoing: list[Outgoing], error: ProtocolError, header: Header | None) -> Handled:
        """What could not be kept must not go out: whoever would have got an answer is told so, and who asked too."""
        told: list[Outgoing] = []
        for item in outgoing:
            if item.envelope.recipient == self._trunk and not item.envelope.reply_to:
                # The party shall not wait for an answer to what does not go out; it refuses whoever asked.
                failed = self._desk.failure(self._trunk, item.envelope.sequence, error.text, error.code)
                told += self._party.respond(failed)
        waiting = [Asker(item.envelope.recipient, item.envelope.reply_to) for item in outgoing]
        refused = dict.fromkeys(one for one in waiting if one.sequence)
        if header is not None:
            refused[Asker(header.sender, header.sequence)] = None
        for done in told:
            refused.pop(Asker(done.envelope.recipient, done.envelope.reply_to), None)
        failures = [self._party.refuse(one, error) for one in refused]
        told += [Outgoing(failure, encode(failure)) for failure in failures]
        return Handled(told, self._party.due(), header)

    def _handle_own(self, data: bytes) -> Handled:
        outgoing, header = self._party.respond(data), peek(data)
        self._not_kept("" if header is None else header.kind, self._party.name, data, outgoing)
        return Handled(outgoing, self._party.due())

    def _handle_due(self) -> Handled:
        started = time.perf_counter()
        outgoing = self._party.release_due()
        self._told("", time.perf_counter() - started, outgoing)
        return Handled(outgoing, self._party.due())
