"""The processes behind `GrpcTransport`: started, spoken to and ended, one for each party."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2

from rhe_parties.errors import TransportError
from rhe_parties.messages.frames import SERVICES
from rhe_parties.transport.grpc_pieces import SIZE_LIMITS

__all__ = ["SeatProcess"]

_MODULE = "rhe_parties.transport.grpc_seat"
_LOOK_SECONDS = 0.02
# How long one question to a server that is just starting may take, before a look whether it still lives.
_READY_SECONDS = 1.0
# Between a broken link and the end of the process that broke it.
_GOODBYE_SECONDS = 2.0
_MAX_LAST_WORDS = 300


class SeatProcess:
    """A process with a seat for `party`, its files `NUMBER.sock` and `NUMBER.log` in a private `folder`.

    It ends with this process, whose end of a pipe closes then. What it writes goes to the log.

    Raises:
        TransportError: the system starts no process.
    """

    def __init__(self, party: str, folder: Path, number: int) -> None:
        self.party = party
        self._socket, self._log = folder / f"{number}.sock", folder / f"{number}.log"
        self._ready = False
        command = [sys.executable, "-P", "-m", _MODULE, "--socket", str(self._socket)]
        with self._log.open("wb") as log:
            try:
                # A session of its own: an interrupt from the keyboard is for the laboratory, which ends its parties.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=_environment(),
                    start_new_session=True,
                )
            except OSError as error:
                raise TransportError(party, f"cannot start a process for {party}: {error.strerror}") from error
        self._channel = grpc.insecure_channel(f"unix:{self._socket}", options=SIZE_LIMITS)
        seat = f"/{SERVICES['Seat']}/"
        self.seat: grpc.StreamUnaryMultiCallable[bytes, bytes] = self._channel.stream_unary(seat + "Seat")
        self.deliver: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(seat + "Deliver")
        self.collect: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(seat + "Collect")
        self.next_due: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(seat + "NextDue")
        self.progress: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(seat + "Progress")

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def wait_ready(self, deadline: float, timeout_seconds: float) -> None:
        """Wait until the process serves; `deadline` is in seconds of the monotonic clock.

        Raises:
            TransportError: it ended, or does not serve by then, `timeout_seconds` after it was asked to.
        """
        check = self._channel.unary_unary(
            f"/{health.SERVICE_NAME}/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        while not self._ready:
            if self._process.poll() is not None:
                raise TransportError(self.party, f"{self.party} did not start: its process ended {self._how()}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise TransportError(self.party, f"{self.party} did not start within {timeout_seconds:g} s")
            # Not before the socket is there: gRPC waits for long between two attempts to connect.
            if not self._socket.exists():
                time.sleep(min(_LOOK_SECONDS, left))
                continue
            with contextlib.suppress(grpc.RpcError):
                check(health_pb2.HealthCheckRequest(), timeout=min(_READY_SECONDS, left), wait_for_ready=True)
                self._ready = True

    def failure(self, error: grpc.RpcError, timeout_seconds: float) -> TransportError:
        """What a call that failed means to whoever made it."""
        code = error.code()
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TransportError(self.party, f"{self.party} did not answer within {timeout_seconds:g} s")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0 if code is grpc.StatusCode.UNKNOWN else _GOODBYE_SECONDS)
            return TransportError(
                self.party, f"{self.party} died: its process ended while it was at work, {self._how()}"
            )
        what = "failed" if code is grpc.StatusCode.UNKNOWN else "cannot be reached"
        return TransportError(self.party, f"{self.party} {what}: {' '.join(str(error.details()).split())}")

    def _how(self) -> str:
        """How the process ended, and the last line that it wrote."""
        code = self._process.returncode
        try:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        except ValueError:
            how = f"by signal {-code}"
        lines = self._log.read_text(encoding="utf-8", errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how} (it last wrote: {last[:_MAX_LAST_WORDS]})" if last else how

    def terminate(self) -> None:
        """Ask the process to end."""
        self._channel.close()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for the end of the process, and bring it about at `deadline`, in seconds of the monotonic clock."""
        try:
            self._process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _environment() -> dict[str, str]:
    """Of a party's process: it finds the same modules as this one, and gRPC does not chatter into its log."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {"GRPC_VERBOSITY": "ERROR", **os.environ, "PYTHONPATH": path}
