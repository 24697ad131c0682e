"""What the laboratory and a party in a process of its own tell each other about the party's seat, as bytes.

Envelopes go beside this in pieces (`rhe_parties.messages.frames`). Errors cross by the name of their class, so nothing
that is sent can build anything but one of this package's own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from google.protobuf.message import DecodeError, Message

from rhe_parties import errors
from rhe_parties.errors import BudgetError, FailureCode, MessageError, NumericError, ProtocolError, RheError
from rhe_parties.proto import service_pb2

__all__ = [
    "Outcome",
    "decode_due",
    "decode_outcome",
    "decode_progress",
    "encode_due",
    "encode_outcome",
    "encode_progress",
]

_CLASSES = {
    name: cls
    for name, cls in vars(errors).items()
    if isinstance(cls, type) and issubclass(cls, RheError) and cls is not errors.TransportError
}
_MAX_TEXT = 2**16


@dataclass(frozen=True)
class Outcome:
    """What came of a set-up; without an `error` the party is seated.

    Attributes:
        error: class of what was raised.
        text: its text.
        code: its `FailureCode`, 0 where it has none.
    """

    error: str = ""
    text: str = ""
    code: int = 0

    @classmethod
    def of(cls, error: Exception) -> Outcome:
        """The outcome that tells of `error`, of a class of this package where it has one."""
        name = next((base.__name__ for base in type(error).__mro__ if base in _CLASSES.values()), type(error).__name__)
        code = int(error.code) if isinstance(error, ProtocolError) else 0
        return cls(name, str(error)[:_MAX_TEXT], code)

    def raised(self) -> RheError | None:
        """The error as it was raised; None where it was none of this package's.

        Raises:
            MessageError: MALFORMED: a code that does not exist.
        """
        cls = _CLASSES.get(self.error)
        if cls is None:
            return None
        if not issubclass(cls, ProtocolError):
            return cls(self.text)
        try:
            code = FailureCode(self.code)
        except ValueError as error:
            raise MessageError(FailureCode.MALFORMED, f"{self.error} with code {self.code}: {error}") from error
        if issubclass(cls, BudgetError):
            return cls(self.text)
        return cls(self.text, code) if issubclass(cls, NumericError) else cls(code, self.text)


def encode_outcome(outcome: Outcome) -> bytes:
    """Serialise what came of a set-up."""
    return service_pb2.Seated(error=outcome.error, text=outcome.text, code=outcome.code).SerializeToString()


def decode_outcome(data: bytes) -> Outcome:
    """Read what came of a set-up.

    Raises:
        MessageError: MALFORMED.
    """
    message = service_pb2.Seated()
    _parse(message, data)
    return Outcome(message.error, message.text, message.code)


def encode_due(seconds: float | None) -> bytes:
    """Serialise the seconds until something held back is due; None: nothing is held."""
    return service_pb2.Due(seconds=seconds).SerializeToString()


def decode_due(data: bytes) -> float | None:
    """Read the seconds until something held back is due; None: nothing is held.

    Raises:
        MessageError: MALFORMED.
    """
    message = service_pb2.Due()
    _parse(message, data)
    if not message.HasField("seconds"):
        return None
    if not math.isfinite(message.seconds) or message.seconds < 0:
        raise MessageError(FailureCode.MALFORMED, f"something is due in {message.seconds} s")
    return message.seconds


def encode_progress(fraction: float, text: str) -> bytes:
    """Serialise how far a party is: fraction in [0, 1] and what it is doing."""
    return service_pb2.ProgressReport(fraction=fraction, text=text[:_MAX_TEXT]).SerializeToString()


def decode_progress(data: bytes) -> tuple[float, str]:
    """Read how far a party is.

    Raises:
        MessageError: MALFORMED.
    """
    message = service_pb2.ProgressReport()
    _parse(message, data)
    return message.fraction, message.text


def _parse(message: Message, data: bytes) -> None:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        what = message.DESCRIPTOR.name
        raise MessageError(FailureCode.MALFORMED, f"{len(data)} bytes are no {what}: {error}") from error
