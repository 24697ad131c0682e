"""What every party does with an envelope: check it, answer it, and never die of it."""

from __future__ import annotations

from abc import ABC
from collections import OrderedDict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from rhe_parties.errors import FailureCode, MessageError, ProtocolError, UserError
from rhe_parties.messages import Envelope, Payload, decode, encode
from rhe_parties.messages.payloads import Failure, HealthReport, HealthRequest
from rhe_parties.threat.model import LABORATORY

__all__ = ["Party"]

# Errands whose answer has not come yet; beyond this the oldest are forgotten, so that a silent peer costs no memory.
MAX_OPEN_ERRANDS = 100_000


class Party(ABC):
    """A state machine: `handle_bytes` takes one serialised envelope and returns those it causes.

    Subclasses register one handler per payload class. A handler returns envelopes made with `answer` and `send`;
    a `ProtocolError` it raises becomes a `Failure` to the sender, and the party goes on serving.
    """

    def __init__(self, name: str, run_id: str) -> None:
        self.name = name
        self.run_id = run_id
        #: Entered around all handling; `build_party` fixes the number of threads with it.
        self.computing: Callable[[], AbstractContextManager[None]] = nullcontext
        self._sequence = 0
        self._handled = 0
        self._failures = 0
        # own sequence number -> (who asked us, under which number): where a Failure must be passed on to.
        self._errands: OrderedDict[int, tuple[str, int]] = OrderedDict()
        self._handlers: dict[type[Any], Callable[[Envelope, Any], list[Envelope]]] = {
            HealthRequest: self._on_health,
            Failure: self._on_failure,
        }

    def handle_bytes(self, data: bytes) -> list[bytes]:
        """Handle one serialised envelope; whatever is in it, the result is a list of serialised envelopes."""
        self._handled += 1
        try:
            envelope = decode(data)
        except ProtocolError as error:
            return [encode(self._failure(LABORATORY, 0, error.code, error.text))]
        try:
            return [encode(reply) for reply in self.handle(envelope)]
        except MessageError as error:
            return [encode(self._failure(envelope.sender, envelope.sequence, error.code, error.text))]

    def handle(self, envelope: Envelope) -> list[Envelope]:
        """Handle one envelope; a refusal is a `Failure` among the replies, never an exception."""
        try:
            with self.computing():
                return self._dispatch(envelope)
        except ProtocolError as error:
            code, text = error.code, error.text
        except UserError as error:
            code, text = FailureCode.BAD_VALUE, str(error)
        except Exception as error:
            # A defect of ours must not stop the party; its text goes out, its data does not.
            code, text = FailureCode.INTERNAL, f"{type(error).__name__}: {error}"
        return [self._failure(envelope.sender, envelope.sequence, code, text)]

    def _dispatch(self, envelope: Envelope) -> list[Envelope]:
        if envelope.recipient != self.name:
            raise ProtocolError(FailureCode.UNEXPECTED, f"envelope for {envelope.recipient!r} reached {self.name!r}")
        if envelope.run_id != self.run_id:
            raise ProtocolError(
                FailureCode.UNEXPECTED,
                f"envelope of run {envelope.run_id!r}; this party serves run {self.run_id!r}",
            )
        handler = self._handlers.get(type(envelope.payload))
        if handler is None:
            raise ProtocolError(FailureCode.UNEXPECTED, f"{self.name} takes no {envelope.kind}")
        return handler(envelope, envelope.payload)

    def send(self, recipient: str, payload: Payload, reply_to: int = 0, cause: Envelope | None = None) -> Envelope:
        """Make an envelope; `cause` is the request behind it, so that failures find their way back."""
        self._sequence += 1
        if cause is not None:
            self._errands[self._sequence] = (cause.sender, cause.sequence)
            if len(self._errands) > MAX_OPEN_ERRANDS:
                self._errands.popitem(last=False)
        return Envelope(self.run_id, self.name, recipient, self._sequence, reply_to, payload)

    def answer(self, request: Envelope, payload: Payload) -> Envelope:
        """Make the reply to `request`."""
        return self.send(request.sender, payload, reply_to=request.sequence)

    def require_sender(self, envelope: Envelope, *allowed: str) -> None:
        """Refuse an envelope from a party whose role does not include it.

        Raises:
            ProtocolError: with code REFUSED.
        """
        if envelope.sender not in allowed:
            raise ProtocolError(
                FailureCode.REFUSED,
                f"{self.name} takes {envelope.kind} from {' or '.join(allowed)}, not from {envelope.sender!r}",
            )

    def _on_health(self, envelope: Envelope, _payload: HealthRequest) -> list[Envelope]:
        return [self.answer(envelope, HealthReport(self.name, self._handled, self._failures))]

    def _on_failure(self, envelope: Envelope, payload: Failure) -> list[Envelope]:
        """Pass a failure of an errand on to whoever asked for it; never answer a failure with a failure."""
        asker = self._errands.pop(envelope.reply_to, None)
        if asker is None:
            return []
        self._failures += 1
        recipient, sequence = asker
        return [self.send(recipient, payload, reply_to=sequence)]

    def _failure(self, recipient: str, reply_to: int, code: FailureCode, text: str) -> Envelope:
        self._failures += 1
        return self.send(recipient, Failure(self.name, int(code), text[:2000]), reply_to=reply_to)
