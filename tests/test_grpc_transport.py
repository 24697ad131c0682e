"""What only the gRPC transport has: processes that start, die, hang and end, and what crosses to them."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rhe_parties.errors import (
    BudgetError,
    DataError,
    FailureCode,
    MessageError,
    NoiseError,
    NumericError,
    ParameterError,
    RheError,
    SchemeError,
    TransportError,
)
from rhe_parties.he.planner import plan_head
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.frames import CHUNK_BYTES, chunks
from rhe_parties.messages.payloads import Failure, HealthReport, HealthRequest
from rhe_parties.messages.seating import Outcome, decode_due, decode_outcome, encode_due, encode_outcome
from rhe_parties.messages.setups import KeyHolderSetup, encode_setup
from rhe_parties.threat.model import KEY_HOLDER, LABORATORY
from rhe_parties.transport import grpc_parties, grpc_pieces, grpc_process
from rhe_parties.transport.base import PartyFailure
from rhe_parties.transport.grpc_parties import GrpcTransport

TIMEOUT = 60.0
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Unix sockets")


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> Iterator[GrpcTransport]:
    """A transport whose processes seat `tests.echo_seat.Echo`; one, called `echo`, is seated."""
    monkeypatch.setattr(grpc_process, "_MODULE", "tests.echo_seat")
    with GrpcTransport() as transport:
        transport.seat("echo", b"", TIMEOUT)
        yield transport


def _pid(transport: GrpcTransport, party: str) -> int:
    return transport._processes[party].pid


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while not _gone(pid):
        assert time.monotonic() < deadline, "the process was left behind"
        time.sleep(0.05)


def test_large_and_empty_envelopes_go_both_ways(echo: GrpcTransport) -> None:
    for data in (b"", b"x", os.urandom(CHUNK_BYTES), os.urandom(2 * CHUNK_BYTES + 1)):
        assert echo.deliver("echo", data, TIMEOUT) == [data, data]
    assert echo.collect("echo", TIMEOUT) == ([b"first", b"", b"third"], None)
    assert echo.collect("echo", TIMEOUT) == ([], None)


def test_a_party_seated_again_keeps_its_process_and_nothing_else(echo: GrpcTransport) -> None:
    before = _pid(echo, "echo")
    echo.collect("echo", TIMEOUT)
    echo.seat("echo", b"", TIMEOUT)
    assert _pid(echo, "echo") == before
    assert len(echo.collect("echo", TIMEOUT)[0]) == 3


def test_errors_of_a_set_up_arrive_as_they_were_raised_and_leave_the_seat_empty(echo: GrpcTransport) -> None:
    with pytest.raises(NumericError, match=r"^a constant feature$") as numeric:
        echo.seat("echo", b"numeric", TIMEOUT)
    assert numeric.value.code is FailureCode.BAD_VALUE
    with pytest.raises(TransportError, match=r"^echo failed: ValueError: a defect$"):
        echo.seat("echo", b"value", TIMEOUT)
    with pytest.raises(TransportError, match=r"echo failed: .*no party is seated"):
        echo.deliver("echo", b"", TIMEOUT)
    echo.seat("echo", b"", TIMEOUT)
    with pytest.raises(TransportError, match=r"echo failed: .*a defect"):
        echo.deliver("echo", b"raise", TIMEOUT)
    assert echo.deliver("echo", b"well", TIMEOUT) == [b"well"] * 2


def test_progress_is_told_while_the_party_is_at_work(echo: GrpcTransport) -> None:
    seen: list[tuple[float, str, threading.Thread]] = []
    echo.deliver(
        "echo", b"sleep 0.8", TIMEOUT, lambda part, text: seen.append((part, text, threading.current_thread()))
    )
    assert (0.5, "asleep", threading.current_thread()) in seen


def test_whoever_is_interrupted_while_it_waits_goes_on_at_once(echo: GrpcTransport) -> None:
    def interrupt(_fraction: float, _text: str) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        echo.deliver("echo", b"sleep 30", TIMEOUT, interrupt)
    echo.close()
    assert time.monotonic() - started < 10


def test_a_party_that_dies_at_work_is_named_with_its_last_words(echo: GrpcTransport) -> None:
    echo.seat("other", b"", TIMEOUT)
    said = r"^echo died: its process ended while it was at work, with exit code 3 \(it last wrote: no more of this\)$"
    for _ in range(2):
        with pytest.raises(TransportError, match=said) as caught:
            echo.deliver("echo", b"crash", TIMEOUT)
        assert caught.value.party == "echo"
    threading.Timer(0.3, os.kill, (_pid(echo, "other"), signal.SIGKILL)).start()
    started = time.monotonic()
    with pytest.raises(TransportError, match=r"^other died: its process ended while it was at work, by SIGKILL$"):
        echo.deliver("other", b"sleep 30", TIMEOUT)
    assert time.monotonic() - started < 10
    with pytest.raises(TransportError, match="other died"):
        echo.seat("other", b"", TIMEOUT)


def test_a_party_that_hangs_is_named_in_time_and_killed_in_the_end(
    echo: GrpcTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpc_parties, "_CLOSE_SECONDS", 0.2)
    pid = _pid(echo, "echo")
    folder = Path(echo._folder.name)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(TransportError, match=r"^echo did not answer within 0\.5 s$"):
        echo.deliver("echo", b"", 0.5)
    with pytest.raises(TransportError, match=r"^echo did not answer within 0\.5 s$"):
        echo.seat("echo", b"", 0.5)
    assert folder.stat().st_mode & 0o777 == stat.S_IRWXU
    echo.close()
    assert _gone(pid)
    assert not folder.exists()
    echo.close()


def test_a_process_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_process, "_MODULE", "tests.no_such_seat")
    with (
        GrpcTransport() as transport,
        pytest.raises(TransportError, match=r"nobody did not start: its process ended with exit code 1 .*no_such_seat"),
    ):
        transport.seat("nobody", b"", TIMEOUT)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with (
        GrpcTransport() as transport,
        pytest.raises(TransportError, match="cannot start a process for nobody: No such"),
    ):
        transport.seat("nobody", b"", TIMEOUT)


def test_a_process_that_never_serves_is_not_waited_for(echo: GrpcTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_process, "_READY_SECONDS", 0.2)
    monkeypatch.setattr(grpc_parties, "_CLOSE_SECONDS", 0.2)
    os.kill(_pid(echo, "echo"), signal.SIGSTOP)
    echo._processes["echo"]._ready = False
    with pytest.raises(TransportError, match=r"^echo did not start within 0\.5 s$"):
        echo.seat("echo", b"", 0.5)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc")
def test_the_key_holders_process_holds_no_torch_and_ends_with_the_laboratory() -> None:
    """The real party in its real process, in a laboratory that is killed without a chance to tidy up."""
    code = (
        "import os, signal\n"
        "from pathlib import Path\n"
        "from rhe_parties.transport.grpc_parties import GrpcTransport\n"
        "from tests.test_grpc_transport import health, holder_setup\n"
        "transport = GrpcTransport()\n"
        "transport.seat('key-holder', holder_setup(), 60)\n"
        "pid = transport._processes['key-holder'].pid\n"
        "print(pid, health(transport), Path(f'/proc/{pid}/maps').read_text().count('libtorch'), end=' ')\n"
        "print(transport._folder.name, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    *numbers, folder = done.stdout.split()
    pid, handled, torches = map(int, numbers)
    assert (handled, torches) == (1, 0)
    _wait_until_gone(pid)
    shutil.rmtree(folder)


def holder_setup() -> bytes:
    """Of a key holder with a key."""
    return encode_setup("run", KeyHolderSetup(plan_head(256, 10), 0))


def health(transport: GrpcTransport) -> int:
    """How many envelopes the key holder says that it has handled."""
    (reply,) = transport.deliver(KEY_HOLDER, encode(Envelope("run", LABORATORY, KEY_HOLDER, 1, 0, HealthRequest())), 60)
    report = decode(reply).payload
    assert isinstance(report, HealthReport)
    return report.handled


ERRORS = [
    RheError("root"),
    ParameterError("unknown backbone 'x'; did you mean 'y'?"),
    DataError("no file\nhere"),
    MessageError(FailureCode.OVERSIZED, "too large"),
    SchemeError(FailureCode.WRONG_KEY, "another key"),
    NoiseError(FailureCode.BAD_CIPHERTEXT, "too noisy"),
    NumericError("of two channels", FailureCode.BAD_TENSOR),
    BudgetError("none left"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_cross_by_their_class(error: RheError) -> None:
    arrived = decode_outcome(encode_outcome(Outcome.of(error))).raised()
    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))


def test_only_this_packages_errors_are_ever_built() -> None:
    assert Outcome.of(PartyFailure(Failure("host", 13, "no"))) == Outcome("ProtocolError", "host: no", 13)
    for foreign in (Outcome.of(OSError("gone")), Outcome("SystemExit", "0"), Outcome("TransportError", "x"), Outcome()):
        assert foreign.raised() is None
    with pytest.raises(MessageError, match="code 99"):
        Outcome("SchemeError", "x", 99).raised()


def test_what_is_due_and_what_is_damaged() -> None:
    assert [decode_due(encode_due(seconds)) for seconds in (None, 0.0, 1.5)] == [None, 0.0, 1.5]
    for damaged in (b"\xff", encode_due(-1.0), encode_due(float("nan"))):
        with pytest.raises(MessageError):
            decode_due(damaged)


def test_a_set_up_larger_than_an_envelope_goes_as_several(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_pieces, "MAX_ENVELOPE_BYTES", 3 * CHUNK_BYTES // 2)
    setup = os.urandom(4 * CHUNK_BYTES)
    received = list(grpc_pieces.joined(grpc_pieces.setup_pieces(setup)))
    assert len(received) == 3
    assert b"".join(received) == setup
    assert list(grpc_pieces.joined(grpc_pieces.setup_pieces(b""))) == [b""]


def test_a_stream_that_breaks_off_is_noticed() -> None:
    pieces = itertools.islice(chunks(bytes(2 * CHUNK_BYTES)), 1)
    with pytest.raises(MessageError, match="a stream ended 1048576 bytes into an envelope"):
        list(grpc_pieces.joined(pieces))


def test_a_long_temporary_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with GrpcTransport() as transport:
        assert len(transport._folder.name) < 60
    assert list(long.iterdir()) == []
