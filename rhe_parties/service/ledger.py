"""What a server must never forget or take back: the audit log, the images decided, and the request ids used.

One SQLite file in WAL mode. A process that is killed loses nothing that it was told is written: neither does a power
cut, as every commit waits for the disk (synchronous=FULL), as far as the disk itself keeps its word. What was accepted
and not yet answered stays counted and used: a crash may cost somebody an answer, never give one away.
"""

from __future__ import annotations

import datetime
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple, Self

from rhe_parties.errors import DataError, FailureCode, ProtocolError
from rhe_parties.service.audit_log import (
    APPLICATION_ID,
    FIRST_HASH,
    SCHEMA_VERSION,
    check_ledger,
    details_text,
    row_hash,
)

__all__ = ["AuditEvent", "Event", "Ledger"]

_TABLES = """
CREATE TABLE audit (
    id INTEGER PRIMARY KEY, time TEXT NOT NULL, event TEXT NOT NULL, who TEXT NOT NULL, details TEXT NOT NULL,
    previous TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TRIGGER audit_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TRIGGER audit_insert BEFORE INSERT ON audit WHEN EXISTS (SELECT 1 FROM audit WHERE id >= NEW.id)
    BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
CREATE TABLE clients (client TEXT PRIMARY KEY, budget INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE decided (client TEXT, head_id TEXT, images INTEGER NOT NULL, PRIMARY KEY (client, head_id)) WITHOUT ROWID;
CREATE TABLE used_ids (id BLOB PRIMARY KEY) WITHOUT ROWID;
"""


class AuditEvent(StrEnum):
    """What an audit log tells of; never images, features, classes or logits."""

    STARTED = "started"
    STOPPED = "stopped"
    KEY_MADE = "key made"
    KEY_LOADED = "key loaded"
    KEY_ROTATED = "key rotated"
    KEY_CLOSED = "key closed"
    HEADS_RENEWED = "heads renewed"
    HEAD_REGISTERED = "head registered"
    HEAD_REVOKED = "head revoked"
    HEAD_STOPPED = "head stopped"
    CLIENT_ADMITTED = "client admitted"
    DECISION = "decision"
    REFUSAL = "refusal"
    REPLY_REFUSED = "reply refused"
    CONNECTION_REFUSED = "connection refused"


class Event(NamedTuple):
    """Something that happened, the party that it concerns, and details that JSON can hold."""

    name: AuditEvent
    who: str
    details: Mapping[str, object]


class Ledger:
    """The ledger of one server; its tables of budgets and ids are used through `rhe_parties.service.durable`.

    Args:
        path: of the file, which is made where it is not there; a second file `PATH.lock` keeps other processes out.

    Raises:
        DataError: another process has it, or it cannot be made, is no ledger, or is one of another version.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.RLock()
        self._undo: list[Callable[[], None]] = []
        # Whether a transaction, and a group of them, is open; why SQLite gave the whole group up, "" while it did not.
        self._inside = self._grouped = False
        self._lost = ""
        self._lock = self._locked()
        try:
            self._connection = self._opened()
            row = self._connection.execute("SELECT id, hash FROM audit ORDER BY id DESC LIMIT 1").fetchone()
        except (sqlite3.Error, OSError) as error:
            self._lock.close()
            raise DataError(f"cannot open the ledger {str(path)!r}: {error}") from error
        except DataError:
            self._lock.close()
            raise
        self._last: tuple[int, str] = row or (0, FIRST_HASH)

    def _locked(self) -> IO[bytes]:
        try:
            lock = os.fdopen(os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600), "rb")
        except OSError as error:
            raise DataError(f"cannot open the ledger {str(self._path)!r}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise DataError(f"another process is using the ledger {str(self._path)!r}") from error
        return lock

    def _opened(self) -> sqlite3.Connection:
        with suppress(FileExistsError):  # SQLite gives its other files the mode of this one
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                connection.executescript(
                    f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {APPLICATION_ID};"
                    f"PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
                )
            check_ledger(connection, self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def close(self) -> None:
        """Let go of the file; what is written later is refused."""
        with self._mutex:
            self._connection.close()
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is written inside is durable when this ends, or nothing of it is written; one inside another joins it.

        Inside a `group` it is durable when that ends.

        Raises:
            ProtocolError: REFUSED, nothing was written: disk full, no permission, damaged file. A later one may
                succeed.
        """
        with self._mutex:
            if self._inside:
                yield self._connection
                return
            if self._grouped and not self._lost and not self._busy():
                self._lost = "the group was rolled back"  # a savepoint would begin another one
            if self._lost:
                raise _refused(self._lost)
            begun, part = len(self._undo), self._grouped
            self._inside = True
            try:
                self._connection.execute("SAVEPOINT part" if part else "BEGIN IMMEDIATE")
                yield self._connection
                self._connection.execute("RELEASE part" if part else "COMMIT")
            except sqlite3.Error as error:
                self._roll_back(begun, str(error))
                raise _refused(error) from error
            except BaseException as error:
                self._roll_back(begun, type(error).__name__)
                raise
            finally:
                self._inside = False
                if not part:
                    self._undo.clear()

    @contextmanager
    def group(self) -> Iterator[None]:
        """Transactions inside share one wait for the disk, so none of them is durable before this ends.

        Each can still come to nothing alone. Whatever follows from them must not be told to anybody before the end.

        Raises:
            ProtocolError: REFUSED, nothing of any of them was written.
        """
        with self._mutex:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                self._grouped = True
            except sqlite3.Error:
                yield  # each of them tries, and says so, itself
                return
            try:
                yield
                if self._lost:
                    raise _refused(self._lost)
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                self._grouped = False
                self._roll_back(0, "")
                raise _refused(error) from error
            except BaseException:
                self._grouped = False
                self._roll_back(0, "")
                raise
            finally:
                self._grouped, self._lost = False, ""
                self._undo.clear()

    def _roll_back(self, begun: int, why: str) -> None:
        """Undo a transaction, or the part of a group from the undo action number `begun` on."""
        # SQLite itself rolls everything back on some errors: there is nothing left to undo then.
        with suppress(sqlite3.Error):
            if not self._grouped:
                self._connection.execute("ROLLBACK")
            else:
                self._connection.execute("ROLLBACK TO part")
                self._connection.execute("RELEASE part")
        if self._grouped and not self._busy():
            begun, self._lost = 0, why
        for action in reversed(self._undo[begun:]):
            action()
        del self._undo[begun:]

    def _busy(self) -> bool:
        try:
            return self._connection.in_transaction
        except sqlite3.Error:  # closed
            return False

    def if_undone(self, action: Callable[[], None]) -> None:
        """Call this should the transaction that is open come to nothing."""
        self._undo.append(action)

    def holds(self, query: str, *values: object) -> bool:
        """Whether a query finds anything.

        Raises:
            ProtocolError: REFUSED, the file cannot be read.
        """
        try:
            with self._mutex:
                return self._connection.execute(query, values).fetchone() is not None
        except sqlite3.Error as error:
            raise ProtocolError(FailureCode.REFUSED, f"the ledger cannot be read: {error}") from error

    def record(self, name: AuditEvent, who: str, **details: object) -> None:
        """Append one event to the audit log; see `record_all`."""
        self.record_all([Event(name, who, details)])

    def record_all(self, events: Sequence[Event]) -> None:
        """Append events to the audit log, all or none.

        Raises:
            ProtocolError: REFUSED, as `transaction`.
        """
        if not events:
            return
        with self.transaction() as connection:
            before = self._last
            self.if_undone(lambda: self._go_back(before))
            rows = [self._chained(event) for event in events]
            connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def _chained(self, event: Event) -> tuple[object, ...]:
        number, previous = self._last[0] + 1, self._last[1]
        time = datetime.datetime.now(datetime.UTC).isoformat(timespec="microseconds")
        columns = (number, time, str(event.name), event.who, details_text(event.details), previous)
        self._last = number, row_hash(*columns)
        return (*columns, self._last[1])

    def _go_back(self, last: tuple[int, str]) -> None:
        self._last = last

    @property
    def last_hash(self) -> str:
        """Hash of the newest row of the audit log, to be noted elsewhere."""
        return self._last[1]


def _refused(why: object) -> ProtocolError:
    return ProtocolError(FailureCode.REFUSED, f"the ledger cannot be written: {why}")
