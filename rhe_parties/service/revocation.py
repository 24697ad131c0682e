"""The certificates that a server takes no more: a file of serial numbers, read again whenever it changes."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

from rhe_parties.errors import CredentialsError

__all__ = ["REVOKED_FILE", "RevocationList", "add_serial", "parse_serial", "serial_text"]

REVOKED_FILE = "revoked.txt"
_SERIAL = re.compile(r"[0-9a-f]{1,40}")
_log = logging.getLogger(__name__)


def serial_text(serial: int) -> str:
    """A serial number as it is written everywhere: hexadecimal."""
    return f"{serial:x}"


def parse_serial(text: str) -> int:
    """A serial number in hexadecimal; colons between the bytes, as other tools print them, are let pass.

    Raises:
        CredentialsError: it is none.
    """
    digits = text.strip().lower().replace(":", "")
    if not _SERIAL.fullmatch(digits):
        raise CredentialsError(f"{text.strip()[:80]!r} is no serial number (1 to 40 hexadecimal digits)")
    return int(digits, 16)


def _read(path: Path) -> frozenset[int]:
    """The serial numbers in a file, one a line, `#` before comments; none where there is no file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return frozenset()
    except (OSError, UnicodeDecodeError) as error:
        raise CredentialsError(f"cannot read the revocation list {str(path)!r}: {error}") from error
    serials = set()
    for number, line in enumerate(lines, 1):
        entry = line.partition("#")[0].strip()
        try:
            if entry:
                serials.add(parse_serial(entry))
        except CredentialsError as error:
            raise CredentialsError(f"line {number} of the revocation list {str(path)!r}: {error}") from None
    return frozenset(serials)


class RevocationList:
    """Serial numbers in a file that may change, appear and disappear while it is in use.

    A list that has gone, or that cannot be read any more, sets nobody free: what was read before stands, and the log
    says so once.

    Raises:
        CredentialsError: the file is there and cannot be read, or holds anything else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._look()
        self.serials = _read(path)

    def _look(self) -> tuple[int, int, int] | None:
        """What differs once the file was written."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def holds(self, serial: int) -> bool:
        """Whether the certificate of this serial number is revoked by now."""
        stamp = self._look()
        if stamp != self._stamp:
            # Looked at before it is read: what is written in between is read at the next call.
            self._stamp = stamp
            self._renew(gone=stamp is None)
        return serial in self.serials

    def _renew(self, gone: bool) -> None:
        if gone:
            _log.warning("the revocation list %s has gone; what it held before stands", self._path)
            return
        try:
            self.serials = _read(self._path)
        except CredentialsError as error:
            _log.warning("%s; what it held before stands", error)


def add_serial(path: Path, serial: int, comment: str) -> None:
    """Add a serial number to a revocation list, which is made where there is none; readers see all of it or nothing.

    Raises:
        CredentialsError: the list cannot be read or written.
    """
    if serial in _read(path):
        return
    draft = path.with_name(f".{path.name}.new")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else "# serial numbers of revoked certificates\n"
        text += "" if text.endswith("\n") or not text else "\n"
        with draft.open("w", encoding="utf-8") as file:
            file.write(f"{text}{serial_text(serial)}  # {' '.join(comment.split())}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        raise CredentialsError(f"cannot write the revocation list {str(path)!r}: {error.strerror}") from error
