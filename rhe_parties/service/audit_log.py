"""The audit log as it lies in a ledger: rows chained by SHA-256, read and verified without the process that writes.

Each row's hash covers the row and the hash before it, so a row that was changed, taken out or put in between is found.
Whoever may write the file could also build the whole chain anew, or cut off its end: against that, note the latest hash
somewhere else from time to time, and give it to `verify`.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rhe_parties.errors import DataError

__all__ = ["APPLICATION_ID", "FIRST_HASH", "SCHEMA_VERSION", "AuditRow", "Verdict", "check_ledger", "details_text",
           "read_log", "row_hash", "verify"]  # fmt: skip

#: What SQLite files of this project say that they are ("rheL"), and the version of their tables.
APPLICATION_ID = 0x7268654C
SCHEMA_VERSION = 1
#: The hash before the first row.
FIRST_HASH = "0" * 64
_COLUMNS = "id, time, event, who, details, previous, hash"


class AuditRow(NamedTuple):
    """One event: number, time (UTC, ISO 8601), name, the party that it concerns, JSON details, the chain's hashes."""

    id: int
    time: str
    event: str
    who: str
    details: str
    previous: str
    hash: str

    @property
    def facts(self) -> dict[str, object]:
        """The details, parsed."""
        facts: dict[str, object] = json.loads(self.details)
        return facts


@dataclass(frozen=True)
class Verdict:
    """How many rows hold from the first one on, the last hash of these, and what is wrong after them ("": nothing)."""

    rows: int
    hash: str
    broken: str

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.broken


def row_hash(number: int, time: str, event: str, who: str, details: str, previous: str) -> str:
    """The hash of a row: SHA-256 over the JSON list of all its other columns."""
    return hashlib.sha256(json.dumps([number, time, event, who, details, previous]).encode()).hexdigest()


def check_ledger(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a database that is no ledger, or one of another version (DataError)."""
    (kind,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if kind != APPLICATION_ID:
        raise DataError(f"{str(path)!r} is a database, but no ledger")
    if version != SCHEMA_VERSION:
        raise DataError(f"ledger {str(path)!r} has version {version}; this program reads version {SCHEMA_VERSION}")


def read_log(path: Path, last: int = 0) -> list[AuditRow]:
    """Rows of a ledger, oldest first, which another process may be writing.

    Args:
        path: of the ledger.
        last: how many of the newest, 0 for all.

    Raises:
        DataError: no such file, or no ledger.
    """
    with _reading(path) as connection:
        query = f"SELECT {_COLUMNS} FROM audit ORDER BY id DESC"
        rows = connection.execute(f"{query} LIMIT ?", (last,)) if last else connection.execute(query)
        return [AuditRow(*row) for row in rows][::-1]


def verify(path: Path, noted: str = "") -> Verdict:
    """Compute the chain anew, up to the first row that does not fit.

    Args:
        path: of the ledger.
        noted: a hash that was the latest at some time, which must be in the chain; "" for none.

    Raises:
        DataError: no such file, or no ledger.
    """
    count, previous, found = 0, FIRST_HASH, not noted
    with _reading(path) as connection:
        for row in map(AuditRow._make, connection.execute(f"SELECT {_COLUMNS} FROM audit ORDER BY id")):
            if row.id != count + 1:
                return Verdict(count, previous, f"row {count + 1} is missing: row {row.id} follows row {count}")
            if row.previous != previous:
                return Verdict(count, previous, f"row {row.id} does not name the hash of the row before it")
            if row_hash(*row[:6]) != row.hash:
                return Verdict(count, previous, f"row {row.id} was changed: its hash does not fit")
            count, previous = row.id, row.hash
            found = found or previous == noted
    return Verdict(count, previous, "" if found else f"no row has the hash {noted[:64]!r}: the log was cut or replaced")


@contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.is_file():
        raise DataError(f"no ledger at {str(path)!r}")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            check_ledger(connection, path)
            yield connection
    except sqlite3.Error as error:
        raise DataError(f"cannot read the ledger {str(path)!r}: {error}") from error


def details_text(details: Mapping[str, object]) -> str:
    """Details as they are stored."""
    return json.dumps(details, sort_keys=True)
