"""Who waits for which envelope at a served party: the bookkeeping of a server, without a network and without a clock.

A party answers envelopes; it knows neither connections nor deadlines. The desk remembers over which link every request
came, so that its answer goes back there, and which errands to other parties it caused, so that these can be ended
with a `Failure` when a link breaks or the time is over. The party itself then refuses whoever waits.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rhe_parties.errors import FailureCode
from rhe_parties.messages import Envelope, Payload, encode
from rhe_parties.messages.payloads import Failure
from rhe_parties.parties.base import Asker, Outgoing

__all__ = ["Desk", "Ticket"]

L = TypeVar("L", bound=Hashable)
#: Numbers of envelopes that a server itself puts before its party, in a peer's name: far from any peer's own.
_FIRST_OWN = 2**62


@dataclass(eq=False)
class Ticket(Generic[L]):
    """A request that came over `link` and has no answer yet, and the errands (recipient, number) that it caused."""

    asker: Asker
    link: L
    errands: list[tuple[str, int]] = field(default_factory=list)


class Desk(Generic[L]):
    """Requests without an answer, by link and by errand.

    Args:
        run_id: of every envelope.
        party: name of the party that is served.
    """

    def __init__(self, run_id: str, party: str) -> None:
        self._run_id, self._party = run_id, party
        self._tickets: dict[Asker, Ticket[L]] = {}
        self._errands: dict[tuple[str, int], Ticket[L]] = {}
        self._by_link: dict[L, set[Asker]] = {}
        self._own = itertools.count(_FIRST_OWN)

    def __len__(self) -> int:
        """Requests that wait."""
        return len(self._tickets)

    def waiting(self, link: L) -> int:
        """Requests that came over `link` and wait."""
        return len(self._by_link.get(link, ()))

    def waits(self, ticket: Ticket[L]) -> bool:
        """Whether it has no answer yet."""
        return self._tickets.get(ticket.asker) is ticket

    def runs(self, party: str, errand: int) -> bool:
        """Whether somebody waits for this errand to `party`."""
        return (party, errand) in self._errands

    def open(self, asker: Asker, link: L) -> Ticket[L]:
        """A request has come. An older one of the same sender and number cannot be told from it any more."""
        older = self._tickets.get(asker)
        if older is not None:
            self.close(older)
        ticket = self._tickets[asker] = Ticket(asker, link)
        self._by_link.setdefault(link, set()).add(asker)
        return ticket

    def sort(self, ticket: Ticket[L] | None, outgoing: Iterable[Outgoing]) -> list[tuple[L | None, Outgoing]]:
        """Where each envelope goes: the link over which its request came, or None: to be found by the recipient's name.

        Args:
            ticket: the request whose handling brought them, if it was one: errands among them are booked on it.
            outgoing: what the party gave out.
        """
        sorted_out: list[tuple[L | None, Outgoing]] = []
        for item in outgoing:
            envelope = item.envelope
            answered = self._tickets.get(Asker(envelope.recipient, envelope.reply_to))
            if answered is not None:
                self.close(answered)
                sorted_out.append((answered.link, item))
                continue
            if ticket is not None and not envelope.reply_to:
                ticket.errands.append((envelope.recipient, envelope.sequence))
                self._errands[ticket.errands[-1]] = ticket
            sorted_out.append((None, item))
        return sorted_out

    def close(self, ticket: Ticket[L]) -> bool:
        """Nobody waits for this any more; false where that was so before."""
        if not self.waits(ticket):
            return False
        del self._tickets[ticket.asker]
        for errand in ticket.errands:
            self._errands.pop(errand, None)
        asked = self._by_link.get(ticket.link)
        if asked is not None:
            asked.discard(ticket.asker)
            if not asked:
                del self._by_link[ticket.link]
        return True

    def leave(self, link: L) -> None:
        """A link is gone: nobody reads what would be answered over it."""
        for asker in list(self._by_link.get(link, ())):
            self.close(self._tickets[asker])

    def overdue(self, ticket: Ticket[L], text: str) -> list[bytes]:
        """Failures of all errands of a request that waits too long; the party turns them into a refusal."""
        if not self.waits(ticket):
            return []
        return [self.failure(recipient, number, text) for recipient, number in ticket.errands]

    def unreachable(self, party: str, text: str) -> list[bytes]:
        """Failures of every errand to `party`, whose link broke."""
        numbers = [number for recipient, number in self._errands if recipient == party]
        return [self.failure(party, number, text) for number in numbers]

    def failure(self, party: str, errand: int, text: str, code: FailureCode = FailureCode.UNAVAILABLE) -> bytes:
        """What is put before the served party in the name of `party`, which cannot say so itself."""
        return encode(self.own(party, Failure(party, int(code), text), errand))

    def own(self, sender: str, payload: Payload, reply_to: int = 0) -> Envelope:
        """An envelope to the served party that nobody sent but the server itself."""
        return Envelope(self._run_id, sender, self._party, next(self._own), reply_to, payload)
