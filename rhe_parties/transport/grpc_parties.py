"""One process per party on this machine, spoken to by gRPC over Unix sockets that nobody else can reach.

The processes belong to the user who runs the laboratory: like Ray's actors they place the parties and keep their
memories apart, and are *not* an isolation boundary against that user or the machine's administrator.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import grpc

from rhe_parties.errors import MessageError, TransportError
from rhe_parties.messages.seating import decode_due, decode_outcome, decode_progress
from rhe_parties.transport.base import ProgressCallback, Transport
from rhe_parties.transport.grpc_pieces import joined, pieces_of, setup_pieces
from rhe_parties.transport.grpc_process import SeatProcess

__all__ = ["GrpcTransport"]

_POLL_SECONDS = 0.25
_PROGRESS_SECONDS = 5.0
_CLOSE_SECONDS = 5.0
# Systems take a socket's path up to about a hundred bytes; a name in the folder needs a few of them.
_MAX_FOLDER_BYTES = 90


class GrpcTransport(Transport):
    """Starts a process for each party that is seated, keeps it for the next under that name, and ends it."""

    name = "grpc"

    def __init__(self) -> None:
        self._folder = _private_folder()
        self._processes: dict[str, SeatProcess] = {}

    def seat(self, party: str, setup: bytes, timeout_seconds: float) -> None:
        """See `Transport.seat`; a party seated again keeps its process and loses everything else."""
        self.seat_all({party: setup}, timeout_seconds)

    def seat_all(
        self, setups: Mapping[str, bytes], timeout_seconds: float, seated: Callable[[str], None] | None = None
    ) -> None:
        """See `Transport.seat_all`; processes that are new start side by side."""
        deadline = time.monotonic() + timeout_seconds
        for party in setups:
            if party not in self._processes:
                self._processes[party] = SeatProcess(party, Path(self._folder.name), len(self._processes))
        under_way = {}
        for party, setup in setups.items():
            process = self._processes[party]
            process.wait_ready(deadline, timeout_seconds)
            left = max(deadline - time.monotonic(), 0)
            under_way[party] = process.seat.future(setup_pieces(setup), timeout=left)
        for party, call in under_way.items():
            with self._translated(party, timeout_seconds):
                outcome = decode_outcome(call.result())
            if outcome.error:
                first = outcome.text.partition("\n")[0]
                raise outcome.raised() or TransportError(party, f"{party} failed: {outcome.error}: {first}")
            if seated is not None:
                seated(party)

    def deliver(
        self, party: str, data: bytes, timeout_seconds: float, progress: ProgressCallback | None = None
    ) -> list[bytes]:
        """See `Transport.deliver`."""
        process = self._seated(party)
        pieces = pieces_of(data)
        with self._translated(party, timeout_seconds):
            if progress is None:
                return list(joined(process.deliver(pieces, timeout=timeout_seconds)))
            return _watched(process, pieces, timeout_seconds, progress)

    def collect(self, party: str, timeout_seconds: float) -> tuple[list[bytes], float | None]:
        """See `Transport.collect`."""
        process = self._seated(party)
        with self._translated(party, timeout_seconds):
            due = list(joined(process.collect(b"", timeout=timeout_seconds)))
            return due, decode_due(process.next_due(b"", timeout=timeout_seconds))

    def _seated(self, party: str) -> SeatProcess:
        if party not in self._processes:
            known = ", ".join(self._processes) or "none"
            raise TransportError(party, f"no party {party!r} is seated (seated: {known})")
        return self._processes[party]

    @contextlib.contextmanager
    def _translated(self, party: str, timeout_seconds: float) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._processes[party].failure(error, timeout_seconds) from None
        except MessageError as error:
            raise TransportError(party, f"{party} answered what cannot be read: {error}") from error

    def close(self) -> None:
        """See `Transport.close`; parties that do not end when they are asked to are killed."""
        processes, self._processes = list(self._processes.values()), {}
        for process in processes:
            process.terminate()
        deadline = time.monotonic() + _CLOSE_SECONDS
        for process in processes:
            process.end(deadline)
        self._folder.cleanup()

    def describe(self) -> str:
        """See `Transport.describe`."""
        return "one process per party on this machine (grpc)"


def _watched(
    process: SeatProcess, pieces: Iterator[bytes], timeout_seconds: float, progress: ProgressCallback
) -> list[bytes]:
    """Deliver, and meanwhile tell what the party says of its progress, on the caller's thread."""
    call = process.deliver(pieces, timeout=timeout_seconds)
    with ThreadPoolExecutor(1) as reader:
        answer = reader.submit(lambda: list(joined(call)))
        try:
            while wait([answer], _POLL_SECONDS).not_done:
                # A seat too busy to report its progress is not an error; if it died, the call says so.
                with contextlib.suppress(grpc.RpcError):
                    progress(*decode_progress(process.progress(b"", timeout=_PROGRESS_SECONDS)))
        except BaseException:
            call.cancel()
            raise
        return answer.result()


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """A new folder that only this user can enter, with a path short enough for sockets."""
    folder = tempfile.TemporaryDirectory(prefix="rhe-", ignore_cleanup_errors=True)
    if len(os.fsencode(folder.name)) <= _MAX_FOLDER_BYTES:
        return folder
    folder.cleanup()
    return tempfile.TemporaryDirectory(prefix="rhe-", dir="/tmp", ignore_cleanup_errors=True)
