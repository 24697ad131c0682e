"""The transport's interface, and the switchboard that routes, times and records what it carries."""

from __future__ import annotations

import hashlib
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from rhe_parties.errors import FailureCode, ProtocolError, TransportError
from rhe_parties.messages import Envelope, Payload, decode, encode
from rhe_parties.messages.payloads import AttackRequest, Elided, Failure
from rhe_parties.threat.model import ADVERSARY, LABORATORY
from rhe_parties.threat.transcript import Transcript, TranscriptEntry

__all__ = ["PartyFailure", "ProgressCallback", "Switchboard", "Transport"]

ProgressCallback = Callable[[float, str], None]
P = TypeVar("P", bound=Payload)
_VIEW_BYTES = 64 * 2**20  # of a view in one message: a quarter of the limit, the challenge has room beside it


class PartyFailure(ProtocolError):
    """A party answered with a `Failure`; the text names it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(FailureCode(failure.code), f"{failure.party}: {failure.text}")
        self.party = failure.party


class Transport(ABC):
    """Carries serialised envelopes to parties and brings back those they cause.

    A context manager: leaving it closes what it opened and nothing else.
    """

    name: str = ""

    @abstractmethod
    def seat(self, party: str, setup: bytes, timeout_seconds: float) -> None:
        """Build `party` from its set-up where it will live; a party seated before under that name is dropped.

        Raises:
            TransportError: it died, or is not ready in time.
            RheError: the set-up itself is wrong.
        """

    def seat_all(
        self, setups: Mapping[str, bytes], timeout_seconds: float, seated: Callable[[str], None] | None = None
    ) -> None:
        """`seat` for several parties, side by side where each has a process of its own.

        Args:
            setups: set-ups by party.
            timeout_seconds: for each of them.
            seated: called with the name of each party that is ready.
        """
        for party, setup in setups.items():
            self.seat(party, setup, timeout_seconds)
            if seated is not None:
                seated(party)

    @abstractmethod
    def deliver(
        self, party: str, data: bytes, timeout_seconds: float, progress: ProgressCallback | None = None
    ) -> list[bytes]:
        """Let `party` handle one envelope; returns the envelopes it causes.

        Raises:
            TransportError: the party died or did not answer within `timeout_seconds`.
        """

    @abstractmethod
    def collect(self, party: str, timeout_seconds: float) -> tuple[list[bytes], float | None]:
        """What `party` held back and is due now, and the seconds until the next such thing (None: it holds nothing).

        Raises:
            TransportError: as `deliver`.
        """

    @abstractmethod
    def close(self) -> None:
        """End every party that this transport started; may be called twice."""

    def describe(self) -> str:
        """Where the parties live, in words."""
        return self.name

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


class Switchboard:
    """The laboratory's desk in one world: sends commands, routes every envelope in order, and keeps the transcript.

    One envelope is under way at a time, so the order of a transcript depends on the scenario alone, as long as no
    party holds anything back by the clock.
    """

    def __init__(
        self, transport: Transport, transcript: Transcript, run_id: str, world: str, timeout_seconds: float
    ) -> None:
        self._transport = transport
        self._transcript = transcript
        self._run_id = run_id
        self._world = world
        self._timeout = timeout_seconds
        self._sequence = 0

    def ask(self, recipient: str, payload: Payload, answer: type[P]) -> P:
        """Send a command and route what follows until nothing is under way; returns the one answer to the command.

        Raises:
            PartyFailure: a party reported a failure on the way.
            TransportError: a party died or was too slow; also when no answer of the wanted kind came.
        """
        (outcome,) = self.ask_many(recipient, [payload], answer)
        if isinstance(outcome, PartyFailure):
            raise outcome
        return outcome

    def ask_many(self, recipient: str, payloads: Sequence[Payload], answer: type[P]) -> list[P | PartyFailure]:
        """Send several commands before any answer is awaited; outcomes in the order of the commands.

        Where parties hold requests back, these are collected when nothing else is under way.

        Raises:
            TransportError: a party died or was too slow; also when a command got no answer of the wanted kind.
        """
        commands = [self._envelope(recipient, payload) for payload in payloads]
        exchange = _Exchange({command.sequence for command in commands}, answer)
        self._route([encode(command) for command in commands], exchange)
        return [self._outcome(recipient, command, exchange) for command in commands]

    def _outcome(self, recipient: str, command: Envelope, exchange: _Exchange[P]) -> P | PartyFailure:
        outcome = exchange.outcomes.get(command.sequence)
        if outcome is not None:
            return outcome
        if exchange.stray is not None:
            return PartyFailure(exchange.stray)
        seen = exchange.refused
        why = "" if seen is None else f" (on the way, {seen.party} refused something: {seen.text})"
        what = f"{exchange.answer.__name__} in answer to {type(command.payload).__name__}"
        raise TransportError(recipient, f"{recipient} gave no {what}{why}")

    def order_attack(
        self, request: AttackRequest, answer: type[P], timeout_seconds: float, progress: ProgressCallback
    ) -> P:
        """One order to the adversary's seat and its answer, both outside the transcript: they are no part of the
        protocol. What the adversary asks the parties on the way is routed as ever and recorded without bodies.

        A view that is too large for one message is sent ahead in parts.

        Raises:
            PartyFailure, TransportError: as `ask`.
        """
        ahead, rest = request.in_parts(_VIEW_BYTES)
        for part in ahead:
            for reply in self._transport.deliver(ADVERSARY, encode(self._envelope(ADVERSARY, part)), self._timeout):
                refusal = decode(reply).payload
                if isinstance(refusal, Failure):
                    raise PartyFailure(refusal)
        order = self._envelope(ADVERSARY, rest)
        under_way = deque([encode(order)])
        parties: dict[str, None] = {}
        while under_way:
            data = under_way.popleft()
            envelope = decode(data)
            if envelope.recipient == LABORATORY:
                if isinstance(envelope.payload, answer):
                    return envelope.payload
                if isinstance(envelope.payload, Failure) and envelope.sender == ADVERSARY:
                    raise PartyFailure(envelope.payload)
            elif envelope.recipient == ADVERSARY:
                under_way.extend(self._transport.deliver(ADVERSARY, data, timeout_seconds, progress))
            else:
                parties[envelope.recipient] = None
                under_way.extend(self._transport.deliver(envelope.recipient, data, self._timeout))
            if envelope.sequence != order.sequence or envelope.sender != LABORATORY:
                self._transcript.append(TranscriptEntry(self._world, encode(_without_body(envelope, data)), 0.0))
            if not under_way:
                under_way.extend(self._collect(list(parties)))
        raise TransportError(ADVERSARY, f"{ADVERSARY} gave no {answer.__name__}")

    def _envelope(self, recipient: str, payload: Payload) -> Envelope:
        self._sequence += 1
        return Envelope(self._run_id, LABORATORY, recipient, self._sequence, 0, payload)

    def _route(self, first: list[bytes], exchange: _Exchange[P]) -> None:
        under_way = deque(first)
        # In the order of their first envelope: whom to ask for what they hold back.
        parties: dict[str, None] = {}
        while under_way:
            data = under_way.popleft()
            envelope = decode(data)
            exchange.note(envelope)
            if envelope.recipient == LABORATORY:
                self._transcript.append(TranscriptEntry(self._world, data, 0.0))
            else:
                parties[envelope.recipient] = None
                under_way.extend(self._deliver(envelope.recipient, data))
            if not under_way and exchange.open:
                under_way.extend(self._collect(list(parties)))

    def _deliver(self, recipient: str, data: bytes) -> list[bytes]:
        started = time.perf_counter()
        try:
            return self._transport.deliver(recipient, data, self._timeout)
        finally:
            # Also when the recipient died over it: the envelope was sent.
            self._transcript.append(TranscriptEntry(self._world, data, time.perf_counter() - started))

    def _collect(self, parties: list[str]) -> list[bytes]:
        """Wait for what is held back, no longer than the time limit; nothing when nobody holds anything."""
        deadline = time.monotonic() + self._timeout
        while True:
            waits = []
            for party in parties:
                due, seconds = self._transport.collect(party, self._timeout)
                if due:
                    return due
                if seconds is not None:
                    waits.append(seconds)
            if not waits:
                return []
            pause = min(waits)
            if time.monotonic() + pause > deadline:
                raise TransportError(parties[0], f"requests are held back for longer than {self._timeout:g} s")
            time.sleep(pause)


def _without_body(envelope: Envelope, data: bytes) -> Envelope:
    return replace(envelope, payload=Elided(envelope.kind, len(data), hashlib.sha256(data).digest()))


class _Exchange(Generic[P]):
    """What came of the commands that are under way together."""

    def __init__(self, commands: set[int], answer: type[P]) -> None:
        self.open = commands
        self.answer = answer
        self.outcomes: dict[int, P | PartyFailure] = {}
        #: A failure that reached the laboratory and names none of the commands.
        self.stray: Failure | None = None
        #: The last failure between parties, for the text of an error.
        self.refused: Failure | None = None

    def note(self, envelope: Envelope) -> None:
        """Look at an envelope that is being routed."""
        payload = envelope.payload
        if envelope.recipient != LABORATORY:
            self.refused = payload if isinstance(payload, Failure) else self.refused
        elif envelope.reply_to not in self.open:
            self.stray = payload if isinstance(payload, Failure) and not envelope.reply_to else self.stray
        elif isinstance(payload, Failure):
            self._settle(envelope.reply_to, PartyFailure(payload))
        elif isinstance(payload, self.answer):
            self._settle(envelope.reply_to, payload)

    def _settle(self, sequence: int, outcome: P | PartyFailure) -> None:
        self.open.discard(sequence)
        self.outcomes[sequence] = outcome
