"""The transport's interface, and the switchboard that routes, times and records what it carries."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from rhe_parties.errors import FailureCode, ProtocolError, TransportError
from rhe_parties.messages import Envelope, Payload, decode, encode
from rhe_parties.messages.payloads import Failure
from rhe_parties.threat.model import LABORATORY
from rhe_parties.threat.transcript import Transcript, TranscriptEntry

__all__ = ["PartyFailure", "ProgressCallback", "Switchboard", "Transport"]

ProgressCallback = Callable[[float, str], None]
P = TypeVar("P", bound=Payload)


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

    @abstractmethod
    def deliver(
        self, party: str, data: bytes, timeout_seconds: float, progress: ProgressCallback | None = None
    ) -> list[bytes]:
        """Let `party` handle one envelope; returns the envelopes it causes.

        Raises:
            TransportError: the party died or did not answer within `timeout_seconds`.
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

    One envelope is under way at a time, so the order of a transcript depends on the scenario alone.
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
        for envelope in self._exchange(self._envelope(recipient, payload)):
            if isinstance(envelope.payload, Failure):
                raise PartyFailure(envelope.payload)
            if isinstance(envelope.payload, answer):
                return envelope.payload
        raise TransportError(recipient, f"{recipient} gave no {answer.__name__} in answer to {type(payload).__name__}")

    def ask_untapped(
        self,
        recipient: str,
        payload: Payload,
        answer: type[P],
        timeout_seconds: float,
        progress: ProgressCallback,
    ) -> P:
        """One command and its direct answer, outside the transcript: the adversary's seat is no part of the protocol.

        Raises:
            PartyFailure, TransportError: as `ask`.
        """
        envelope = self._envelope(recipient, payload)
        replies = self._transport.deliver(recipient, encode(envelope), timeout_seconds, progress)
        for reply in map(decode, replies):
            if isinstance(reply.payload, Failure):
                raise PartyFailure(reply.payload)
            if isinstance(reply.payload, answer):
                return reply.payload
        raise TransportError(recipient, f"{recipient} gave no {answer.__name__}")

    def _envelope(self, recipient: str, payload: Payload) -> Envelope:
        self._sequence += 1
        return Envelope(self._run_id, LABORATORY, recipient, self._sequence, 0, payload)

    def _exchange(self, first: Envelope) -> list[Envelope]:
        arrived: list[Envelope] = []
        under_way = deque([encode(first)])
        while under_way:
            data = under_way.popleft()
            envelope = decode(data)
            if envelope.recipient == LABORATORY:
                self._transcript.append(TranscriptEntry(self._world, data, 0.0))
                arrived.append(envelope)
                continue
            started = time.perf_counter()
            try:
                under_way.extend(self._transport.deliver(envelope.recipient, data, self._timeout))
            finally:
                # Also when the recipient died over it: the envelope was sent.
                seconds = time.perf_counter() - started
                self._transcript.append(TranscriptEntry(self._world, data, seconds))
        return arrived
