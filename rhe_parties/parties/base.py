"""What every party does with an envelope: check it, answer it, and never die of it."""

from __future__ import annotations

from abc import ABC
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from rhe_parties.errors import FailureCode, MessageError, ProtocolError, UserError
from rhe_parties.messages import Envelope, Payload, decode, encode, peek
from rhe_parties.messages.payloads import Failure, HealthReport, HealthRequest
from rhe_parties.threat.model import LABORATORY

__all__ = ["Asker", "Outgoing", "Party"]

# Errands whose answer has not come yet; beyond this the oldest are forgotten, so that a silent peer costs no memory.
MAX_OPEN_ERRANDS = 10_000
MAX_FAILURE_TEXT = 2000


@dataclass(frozen=True, slots=True)
class Asker:
    """Where an answer goes: the party that asked, and its envelope's number."""

    name: str
    sequence: int

    @classmethod
    def of(cls, envelope: Envelope) -> Asker:
        """Whoever sent `envelope`."""
        return cls(envelope.sender, envelope.sequence)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An envelope on its way out, and its bytes."""

    envelope: Envelope
    data: bytes


class Party(ABC):
    """A state machine: `handle_bytes` takes one serialised envelope and returns those it causes.

    Subclasses register one handler per payload class. A handler returns envelopes made with `answer` and `send`;
    a `ProtocolError` it raises becomes a `Failure` to the sender, and the party goes on serving. A party that may
    hold something back says when it must go (`due`) and gives it out then (`collect`).
    """

    def __init__(self, name: str, run_id: str) -> None:
        self.name = name
        self.run_id = run_id
        #: Entered around all handling; `build_party` fixes the number of threads with it.
        self.computing: Callable[[], AbstractContextManager[None]] = nullcontext
        self._sequence = 0
        self._handled = 0
        self._failures = 0
        # own sequence number -> (whom we asked, who asked us): where a Failure must be passed on to.
        self._errands: OrderedDict[int, tuple[str, Asker]] = OrderedDict()
        self._handlers: dict[type[Any], Callable[[Envelope, Any], list[Envelope]]] = {
            HealthRequest: self._on_health,
            Failure: self._on_failure,
        }

    def number_from(self, first: int) -> None:
        """Number this party's envelopes from `first` on."""
        self._sequence = first

    def handle_bytes(self, data: bytes) -> list[bytes]:
        """Handle one serialised envelope; whatever is in it, the result is a list of serialised envelopes."""
        return [reply.data for reply in self.respond(data)]

    def respond(self, data: bytes) -> list[Outgoing]:
        """`handle_bytes` for whoever has to route what comes out: each envelope beside its bytes."""
        self._handled += 1
        try:
            envelope = decode(data)
        except ProtocolError as error:
            return self._undecodable(data, error)
        return [self._encoded(reply) for reply in self.handle(envelope)]

    def handle(self, envelope: Envelope) -> list[Envelope]:
        """Handle one envelope; a refusal is a `Failure` among the replies, never an exception."""
        try:
            with self.computing():
                return self._dispatch(envelope)
        except Exception as error:
            return [self.refuse(Asker.of(envelope), error)]

    def due(self) -> float | None:
        """Seconds until something that this party holds back must go (0.0: now); None while it holds nothing."""
        return None

    def collect(self) -> list[bytes]:
        """The serialised envelopes that are due by now."""
        return [outgoing.data for outgoing in self.release_due()]

    def release_due(self) -> list[Outgoing]:
        """`collect` for whoever has to route what comes out."""
        with self.computing():
            return [self._encoded(envelope) for envelope in self._due_now()]

    def _due_now(self) -> list[Envelope]:
        """What `collect` gives out; must not raise."""
        return []

    def _undecodable(self, data: bytes, error: ProtocolError) -> list[Outgoing]:
        """The refusal goes to the sender where its name can be read, and to the laboratory otherwise."""
        header = peek(data)
        if header is not None and header.kind == "failure":
            return []
        asker = Asker(LABORATORY, 0)
        if header is not None and (header.run_id, header.recipient) == (self.run_id, self.name):
            asker = Asker(header.sender or LABORATORY, header.sequence)
        return [self._encoded(self._failure(asker, error.code, error.text))]

    def _encoded(self, envelope: Envelope) -> Outgoing:
        """Serialise; what cannot be sent becomes a `Failure` to its recipient, so that other replies are not lost."""
        try:
            return Outgoing(envelope, encode(envelope))
        except MessageError as error:
            failure = self._failure(Asker(envelope.recipient, envelope.reply_to), error.code, error.text)
            return Outgoing(failure, encode(failure))

    def _dispatch(self, envelope: Envelope) -> list[Envelope]:
        if envelope.recipient != self.name:
            raise ProtocolError(
                FailureCode.UNEXPECTED, f"envelope for {envelope.recipient[:64]!r} reached {self.name!r}"
            )
        if envelope.run_id != self.run_id:
            raise ProtocolError(
                FailureCode.UNEXPECTED,
                f"envelope of run {envelope.run_id[:64]!r}; this party serves run {self.run_id!r}",
            )
        handler = self._handlers.get(type(envelope.payload))
        if handler is None:
            raise ProtocolError(FailureCode.UNEXPECTED, f"{self.name} takes no {envelope.kind}")
        return handler(envelope, envelope.payload)

    def send(
        self, recipient: str, payload: Payload, reply_to: int = 0, cause: Envelope | Asker | None = None
    ) -> Envelope:
        """Make an envelope; `cause` is the request behind it, so that failures find their way back."""
        self._sequence += 1
        if cause is not None:
            asker = cause if isinstance(cause, Asker) else Asker.of(cause)
            self._errands[self._sequence] = (recipient, asker)
            if len(self._errands) > MAX_OPEN_ERRANDS:
                self._errands.popitem(last=False)
        return Envelope(self.run_id, self.name, recipient, self._sequence, reply_to, payload)

    def answer(self, request: Envelope | Asker, payload: Payload) -> Envelope:
        """Make the reply to `request`."""
        asker = request if isinstance(request, Asker) else Asker.of(request)
        return self.send(asker.name, payload, reply_to=asker.sequence)

    def refuse(self, asker: Asker, error: Exception) -> Envelope:
        """The `Failure` that tells `asker` of `error`."""
        if isinstance(error, ProtocolError):
            return self._failure(asker, error.code, error.text)
        if isinstance(error, UserError):
            return self._failure(asker, FailureCode.BAD_VALUE, str(error))
        # A defect of ours must not stop the party; its text goes out, its data does not.
        return self._failure(asker, FailureCode.INTERNAL, f"{type(error).__name__}: {error}")

    def settle(self, sequence: int) -> None:
        """The errand under this number has its answer; a later failure of it concerns nobody."""
        self._errands.pop(sequence, None)

    def require_sender(self, envelope: Envelope, *allowed: str) -> None:
        """Refuse an envelope from a party whose role does not include it.

        Raises:
            ProtocolError: with code REFUSED.
        """
        if envelope.sender not in allowed:
            raise ProtocolError(
                FailureCode.REFUSED,
                f"{self.name} takes {envelope.kind} from {' or '.join(allowed)}, not from {envelope.sender[:64]!r}",
            )

    def _on_health(self, envelope: Envelope, _payload: HealthRequest) -> list[Envelope]:
        return [self.answer(envelope, HealthReport(self.name, self._handled, self._failures))]

    def _on_failure(self, envelope: Envelope, payload: Failure) -> list[Envelope]:
        """Pass a failure of an errand on to whoever asked for it; never answer a failure with a failure."""
        recipient, asker = self._errands.get(envelope.reply_to, ("", None))
        if asker is None or envelope.sender != recipient:
            return []
        self.settle(envelope.reply_to)
        self._failures += 1
        self._on_errand_failed(envelope.reply_to, asker)
        return [self.answer(asker, payload)]

    def _on_errand_failed(self, sequence: int, asker: Asker) -> None:
        """Forget what was kept for our envelope `sequence`, sent on `asker`'s errand, which has failed."""
        del sequence, asker

    def _failure(self, asker: Asker, code: FailureCode, text: str) -> Envelope:
        self._failures += 1
        failure = Failure(self.name, int(code), text[:MAX_FAILURE_TEXT])
        return self.answer(asker, failure)
