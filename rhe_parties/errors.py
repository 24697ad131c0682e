"""The one tree of errors, and the codes under which a party reports them over the wire.

Every message says what was being done, which value was given, what is allowed and, where it helps, what to do.
`UserError` and its children are the user's mistakes: the command line prints them as one line and exits with 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum

__all__ = [
    "BudgetError",
    "CredentialsError",
    "DataError",
    "FailureCode",
    "MessageError",
    "NoiseError",
    "NumericError",
    "ParameterError",
    "PluginError",
    "ProtocolError",
    "RheError",
    "SchemeError",
    "TransportError",
    "UserError",
    "VaultError",
    "nearest",
    "unknown_name",
]


class FailureCode(IntEnum):
    """Codes of a `Failure` message; the numbers are part of the wire format and never reused."""

    INTERNAL = 1
    UNKNOWN_VERSION = 2
    UNKNOWN_PAYLOAD = 3
    MALFORMED = 4
    OVERSIZED = 5
    UNEXPECTED = 6
    NOT_INSTALLED = 7
    WRONG_KEY = 8
    BAD_CIPHERTEXT = 9
    BAD_TENSOR = 10
    BAD_VALUE = 11
    REPLAY = 12
    REFUSED = 13
    BUDGET = 14
    UNAVAILABLE = 15


class RheError(Exception):
    """Root of every error that this package raises on purpose."""


class UserError(RheError):
    """A mistake of the person who runs the program; one line, no traceback, exit code 2."""


class ParameterError(UserError):
    """A parameter, name or combination of them is not allowed."""


class DataError(UserError):
    """A dataset, weight file or output folder is missing, unreadable or too small."""


class CredentialsError(UserError):
    """A certificate, its key or its authority is missing, damaged, expired, or another party's."""


class PluginError(UserError):
    """An adversary or defence of somebody else's could not be loaded."""


class VaultError(UserError):
    """A folder of kept keys or a passphrase is missing, wrong, damaged, in use or open to others."""


class ProtocolError(RheError):
    """A message that a party refuses; `code` tells the sender why."""

    def __init__(self, code: FailureCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    def __reduce__(self) -> tuple[type[ProtocolError], tuple[FailureCode, str]]:
        return (type(self), (self.code, self.text))


class MessageError(ProtocolError):
    """Bytes that are no valid envelope: wrong version, unknown payload, truncated, oversized."""


class SchemeError(ProtocolError):
    """Key material or ciphertexts that do not fit together or are damaged."""


class NoiseError(SchemeError):
    """A reply that decrypts to what no honest host computes. That it was refused tells its maker one bit of the key."""


class NumericError(ProtocolError):
    """Features, weights or images that are NaN, infinite, constant or of the wrong shape."""

    def __init__(self, text: str, code: FailureCode = FailureCode.BAD_VALUE) -> None:
        super().__init__(code, text)

    def __reduce__(self) -> tuple[type[NumericError], tuple[str, FailureCode]]:  # type: ignore[override]
        return (type(self), (self.text, self.code))


class BudgetError(ProtocolError):
    """The key holder decides no more images for this client and head."""

    def __init__(self, text: str) -> None:
        super().__init__(FailureCode.BUDGET, text)

    def __reduce__(self) -> tuple[type[BudgetError], tuple[str]]:  # type: ignore[override]
        return (type(self), (self.text,))


class TransportError(RheError):
    """A party died or did not answer in time; `party` is its name."""

    def __init__(self, party: str, text: str) -> None:
        super().__init__(text)
        self.party = party

    def __reduce__(self) -> tuple[type[TransportError], tuple[str, str]]:
        return (type(self), (self.party, str(self)))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, or None when nothing comes close."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.4)
    return matches[0] if matches else None


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ParameterError:
    """The error for an unknown name, with the nearest valid one and the whole list."""
    names = sorted(known)
    close = nearest(name, names)
    hint = f"; did you mean {close!r}?" if close else ""
    return ParameterError(f"unknown {kind} {name!r}{hint} (known: {', '.join(names)})")
