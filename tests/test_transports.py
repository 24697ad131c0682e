"""One contract for every transport, and the transcripts of all of them compared."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray

from rhe_parties.errors import FailureCode, ParameterError, TransportError, UserError
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.payloads import (
    AskDecisions,
    AttackRequest,
    ClaimReport,
    Decision,
    Failure,
    HeadReady,
    HealthReport,
    HealthRequest,
    TrainHead,
)
from rhe_parties.messages.setups import BackboneSpec, ModelHostSetup, encode_setup
from rhe_parties.runner.plan import Laboratory
from rhe_parties.runner.seats import party_setups
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.threat.transcript import Transcript
from rhe_parties.threat.view import build_view
from rhe_parties.transport import RayOptions, Switchboard, Transport, make_transport
from rhe_parties.transport.base import PartyFailure
from rhe_parties.transport.grpc_parties import GrpcTransport
from rhe_parties.transport.local import LocalTransport
from rhe_parties.transport.ray_actors import RayTransport
from tests.laboratory import TIMEOUT, play, seat_adversary, small_laboratory

MAKERS: dict[str, Callable[[], Transport]] = {
    "local": LocalTransport,
    "ray": lambda: RayTransport(RayOptions()),
    "grpc": GrpcTransport,
}
ASKING = Path(__file__).parent / "asking_strategy.py"


@pytest.fixture(scope="module")
def transports(ray_session: None) -> Iterator[dict[str, Transport]]:
    """One of each kind for all tests: whoever is seated again starts anew, in a process that has loaded everything."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(make()) for name, make in MAKERS.items()}


@pytest.fixture(params=list(MAKERS))
def transport(request: pytest.FixtureRequest, transports: dict[str, Transport]) -> Transport:
    return transports[request.param]


def _board(transport: Transport, run_id: str) -> Switchboard:
    return Switchboard(transport, Transcript(), run_id, "none", TIMEOUT)


def _health(transport: Transport, party: str, run_id: str) -> HealthReport:
    envelope = Envelope(run_id, LABORATORY, party, 1, 0, HealthRequest())
    (reply,) = transport.deliver(party, encode(envelope), TIMEOUT)
    payload = decode(reply).payload
    assert isinstance(payload, HealthReport)
    return payload


def _bad_messages(run_id: str) -> dict[str, tuple[bytes, FailureCode]]:
    good = Envelope(run_id, LABORATORY, MODEL_HOST, 1, 0, HealthRequest())
    images = np.zeros((1, 1, 32, 32), dtype=np.uint8)
    ask = AskDecisions("r", "victim-0000", images)
    return {
        "truncated": (
            encode(Envelope(run_id, LABORATORY, MODEL_HOST, 1, 0, ask))[:-3],
            FailureCode.MALFORMED,
        ),
        "empty": (b"", FailureCode.UNKNOWN_VERSION),
        "foreign payload": (
            encode(Envelope(run_id, LABORATORY, MODEL_HOST, 1, 0, ask)),
            FailureCode.UNEXPECTED,
        ),
        "foreign run": (
            encode(Envelope("other", LABORATORY, MODEL_HOST, 1, 0, HealthRequest())),
            FailureCode.UNEXPECTED,
        ),
        "for somebody else": (
            encode(Envelope(run_id, LABORATORY, KEY_HOLDER, 1, 0, HealthRequest())),
            FailureCode.UNEXPECTED,
        ),
        "trailing bytes": (encode(good) + b"\xff\xff", FailureCode.MALFORMED),
    }


def test_bad_messages_get_a_failure_and_the_party_goes_on(transport: Transport) -> None:
    lab = small_laboratory()
    setup = encode_setup(lab.run_id, ModelHostSetup(BackboneSpec("strokenet", "", "", "cpu"), 1))
    transport.seat(MODEL_HOST, setup, TIMEOUT)
    cases = _bad_messages(lab.run_id)
    for name, (data, code) in cases.items():
        (reply,) = transport.deliver(MODEL_HOST, data, TIMEOUT)
        failure = decode(reply).payload
        assert isinstance(failure, Failure), name
        assert failure.code == code, name
        assert failure.party == MODEL_HOST
    health = _health(transport, MODEL_HOST, lab.run_id)
    assert (health.handled, health.failures) == (len(cases) + 1, len(cases))


def test_protocol_runs_in_both_worlds(transport: Transport) -> None:
    lab = small_laboratory()
    for index, world in enumerate(lab.worlds):
        transcript, decisions = play(lab, transport, index)
        kinds = [entry.envelope.kind for entry in transcript]
        assert ("plain_head" in kinds) == (world.name == "none")
        assert ("encrypted_head" in kinds) == (world.name == "rhe")
        for head, features, decision in zip(lab.heads(lab.worlds[0]), lab.evaluation_features, decisions, strict=True):
            assert isinstance(decision, Decision)
            np.testing.assert_array_equal(decision.classes, head.logits(features).argmax(axis=1))


def _single_asks(lab: Laboratory, head: int = 0) -> list[AskDecisions]:
    images = lab.dataset.images[lab.evaluation[head]]
    return [AskDecisions(f"one-{head}-{i}", lab.head_id(head), images[i : i + 1]) for i in range(len(images))]


def test_commands_under_way_together_are_gathered(transport: Transport) -> None:
    """Many users' single requests: one reply from the host in each world, and everybody gets an own decision."""
    lab = small_laboratory(batch=8, gather_delay_ms=100)
    for index, world in enumerate(lab.worlds):
        play(lab, transport, index)
        transcript = Transcript()
        board = Switchboard(transport, transcript, lab.run_id, world.name, TIMEOUT)
        asks = _single_asks(lab)
        asks.insert(2, AskDecisions("bad", lab.head_id(0), np.zeros((1, 2, 32, 32), dtype=np.uint8)))
        asks.append(AskDecisions("lost", "nobody", asks[0].images))
        started = time.monotonic()
        outcomes = board.ask_many(KEY_HOLDER, asks, Decision)
        assert time.monotonic() - started >= 0.1
        bad, lost = outcomes.pop(2), outcomes.pop()
        assert isinstance(bad, PartyFailure)
        assert (bad.party, bad.code) == (MODEL_HOST, FailureCode.BAD_TENSOR)
        assert isinstance(lost, PartyFailure)
        assert (lost.party, lost.code) == (KEY_HOLDER, FailureCode.NOT_INSTALLED)
        classes = [int(outcome.classes[0]) for outcome in outcomes if isinstance(outcome, Decision)]
        assert classes == list(lab.heads(lab.worlds[0])[0].logits(lab.evaluation_features[0]).argmax(axis=1))
        kinds = [entry.envelope.kind for entry in transcript]
        assert (kinds.count("classify_request"), kinds.count("classify_response")) == (len(classes) + 1, 1)


def test_nothing_is_waited_for_where_nobody_holds_anything(transport: Transport) -> None:
    lab = small_laboratory()
    play(lab, transport, 0)
    assert transport.collect(MODEL_HOST, TIMEOUT) == ([], None)
    assert transport.collect(KEY_HOLDER, TIMEOUT) == ([], None)
    with pytest.raises(TransportError, match="no party 'nobody' is seated"):
        transport.collect("nobody", TIMEOUT)
    board = _board(transport, lab.run_id)
    with pytest.raises(TransportError, match="model-host gave no Decision in answer to HealthRequest"):
        board.ask(MODEL_HOST, HealthRequest(), Decision)
    answers = board.ask_many(MODEL_HOST, [HealthRequest(), HealthRequest()], HealthReport)
    handled = [answer.handled for answer in answers if isinstance(answer, HealthReport)]
    assert handled[1] == handled[0] + 1


def test_requests_held_for_longer_than_the_time_limit_are_an_error() -> None:
    lab = small_laboratory(gather_delay_ms=30_000, batch=8)
    transport = LocalTransport()
    play_setup = party_setups(lab, lab.worlds[0])
    for party, setup in play_setup.items():
        transport.seat(party, setup, TIMEOUT)
    board = Switchboard(transport, Transcript(), lab.run_id, "none", 0.2)
    board.ask(DATA_OWNER, TrainHead(lab.head_id(0), 0), HeadReady)
    with pytest.raises(TransportError, match=r"held back for longer than 0\.2 s"):
        board.ask(KEY_HOLDER, _single_asks(lab)[0], Decision)


def test_gathered_transcripts_are_equal_over_all_transports(transports: dict[str, Transport]) -> None:
    """Without a delay the order depends on the commands alone, also when many are under way together."""
    lab = small_laboratory(batch=8)
    seen = {}
    for name, transport in transports.items():
        play(lab, transport, 0)
        transcript = Transcript()
        board = Switchboard(transport, transcript, lab.run_id, "none", TIMEOUT)
        board.ask_many(KEY_HOLDER, [*_single_asks(lab, 0), *_single_asks(lab, 1)], Decision)
        seen[name] = [entry.data for entry in transcript]
    assert seen["local"] == seen["ray"] == seen["grpc"]
    assert len(seen["local"]) == 8 * 4


def _route(transcript: Transcript) -> list[tuple[str, str, str, int]]:
    entries = [entry.envelope for entry in transcript]
    return [(e.kind, e.sender, e.recipient, e.sequence) for e in entries]


def test_transcripts_are_equal_over_all_transports(transports: dict[str, Transport]) -> None:
    lab = small_laboratory()
    for index, world in enumerate(lab.worlds):
        seen = {name: play(lab, transport, index) for name, transport in transports.items()}
        expected, decided = seen["local"]
        for transcript, decisions in seen.values():
            assert _route(transcript) == _route(expected)
            assert [d.classes.tolist() for d in decisions] == [d.classes.tolist() for d in decided]
            if world.name == "none":
                assert [e.data for e in transcript] == [e.data for e in expected]


def test_a_client_and_a_rotation_go_alike_over_all_transports(transports: dict[str, Transport]) -> None:
    """The adversary admitted, the key replaced, and then a strategy that asks in several rounds."""
    lab = small_laboratory("none,rhe+client+rotated")
    seen = {}
    for name, transport in transports.items():
        seat_adversary(lab, transport)
        transcript, _ = play(lab, transport, 1)
        view = build_view(transcript, lab.worlds[1].threat_model(lab.threat_model))
        board = Switchboard(transport, transcript, lab.run_id, lab.worlds[1].name, TIMEOUT)
        order = AttackRequest(
            "rhe", f"{ASKING}:Asking", ASKING.read_text(), "as-is", (), (), 0, view.data, lab.head_ids
        )
        report = board.order_attack(order, ClaimReport, TIMEOUT, lambda *_: None)
        seen[name] = (_route(transcript), report.outcome, dict(zip(report.note_names, report.note_values, strict=True)))
    assert seen["local"] == seen["ray"] == seen["grpc"]
    route, outcome, notes = seen["grpc"]
    assert outcome == "claim"
    assert notes["victim-0001 used"] == "60"
    kinds = [kind for kind, *_ in route]
    assert (kinds.count("key_rotated"), kinds.count("client_admitted"), kinds.count("elided")) == (1, 2, 16)


def test_failures_find_their_way_back_to_the_laboratory(transport: Transport) -> None:
    lab = small_laboratory()
    play(lab, transport, 1)
    board = _board(transport, lab.run_id)
    images = np.zeros((1, 1, 32, 32), dtype=np.uint8)
    with pytest.raises(PartyFailure, match="key-holder: head 'nobody' is unknown") as caught:
        board.ask(KEY_HOLDER, AskDecisions("new", "nobody", images), Decision)
    assert caught.value.code is FailureCode.NOT_INSTALLED
    with pytest.raises(PartyFailure, match="used before"):
        board.ask(KEY_HOLDER, AskDecisions("r0", lab.head_id(0), images), Decision)
    # The host refuses two channels; its failure comes back through the key holder.
    with pytest.raises(PartyFailure, match="model-host: images have shape"):
        board.ask(KEY_HOLDER, AskDecisions("r9", lab.head_id(0), np.zeros((1, 2, 32, 32), dtype=np.uint8)), Decision)


def test_a_wrong_setup_is_the_users_error(transport: Transport) -> None:
    lab = small_laboratory()
    setup = encode_setup(lab.run_id, ModelHostSetup(BackboneSpec("strokenett", "", "", "cpu"), 1))
    with pytest.raises(UserError, match="did you mean 'strokenet'"):
        transport.seat(MODEL_HOST, setup, TIMEOUT)


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_unseated_party(make: Callable[[], Transport], ray_session: None) -> None:
    with make() as transport, pytest.raises(TransportError, match="no party 'key-holder' is seated"):
        transport.deliver(KEY_HOLDER, b"", TIMEOUT)


@pytest.mark.slow
def test_a_killed_actor_is_named_and_soon(ray_session: None) -> None:
    lab = small_laboratory()
    with RayTransport(RayOptions()) as transport:
        play(lab, transport)
        os.kill(ray.get(transport._actors[MODEL_HOST].pid.remote()), signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(TransportError, match="model-host died") as caught:
            _health(transport, MODEL_HOST, lab.run_id)
        assert caught.value.party == MODEL_HOST
        assert time.monotonic() - started < 30
        # The others still answer.
        assert _health(transport, KEY_HOLDER, lab.run_id).party == KEY_HOLDER


@pytest.mark.slow
def test_a_hanging_actor_is_named_within_the_timeout(ray_session: None) -> None:
    lab = small_laboratory()
    with RayTransport(RayOptions()) as transport:
        play(lab, transport)
        pid = ray.get(transport._actors[KEY_HOLDER].pid.remote())
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            envelope = Envelope(lab.run_id, LABORATORY, KEY_HOLDER, 1, 0, HealthRequest())
            with pytest.raises(TransportError, match="key-holder did not answer within 2 s"):
                transport.deliver(KEY_HOLDER, encode(envelope), 2.0)
            assert time.monotonic() - started < 10
        finally:
            os.kill(pid, signal.SIGCONT)


def _actors() -> set[tuple[str, str]]:
    return {(actor["namespace"], actor["name"]) for actor in ray.util.list_named_actors(all_namespaces=True)}


def test_a_running_ray_is_left_as_it_was(ray_session: None) -> None:
    before = _actors()
    with RayTransport(RayOptions()) as transport:
        play(small_laboratory(), transport)
        assert {name for _, name in _actors() - before} == {"data-owner", "model-host", "key-holder"}
    assert ray.is_initialized()
    deadline = time.monotonic() + 20
    while _actors() != before:
        assert time.monotonic() < deadline, "actors were left behind"
        time.sleep(0.2)


def test_an_address_where_nobody_answers_is_said_at_once() -> None:
    code = (
        "from rhe_parties.transport import RayOptions, make_transport\n"
        "make_transport('ray', RayOptions(address='127.0.0.1:1'))"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "no Ray cluster answers at address='127.0.0.1:1'" in done.stderr
    assert time.monotonic() - started < 30


def test_unknown_transport() -> None:
    with pytest.raises(ParameterError, match="did you mean 'ray'"):
        make_transport("rays")
    with pytest.raises(ParameterError, match="did you mean 'grpc'"):
        make_transport("grcp")


def test_grpc_by_name() -> None:
    with make_transport("grpc") as transport:
        assert (transport.name, transport.describe()) == ("grpc", "one process per party on this machine (grpc)")


@pytest.mark.slow
def test_a_running_cluster_is_joined_and_left_as_it_was(tmp_path: Path) -> None:
    """A cluster started by hand, joined by address from a process of its own, alive and empty afterwards."""
    ray_command = str(Path(sys.executable).parent / "ray")
    environment = os.environ | {"RAY_AUTH_MODE": "disabled"}
    port = _free_port()
    start = [ray_command, "start", "--head", f"--port={port}", "--num-cpus=1", "--include-dashboard=false",
             "--disable-usage-stats", f"--temp-dir={tempfile.mkdtemp(prefix='rhe')}", "--block"]  # fmt: skip
    head = subprocess.Popen(
        start, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        _wait_for_port(port)
        code = (
            "from tests.laboratory import play, small_laboratory\n"
            "from rhe_parties.transport import RayOptions, make_transport\n"
            "import ray\n"
            f"with make_transport('ray', RayOptions(address='127.0.0.1:{port}')) as t:\n"
            "    print(len(play(small_laboratory(), t)[1]))\n"
            "assert not ray.is_initialized()\n"
            f"ray.init('127.0.0.1:{port}', log_to_driver=False)\n"
            "import time; time.sleep(1)\n"
            "print(len(ray.nodes()), ray.util.list_named_actors(all_namespaces=True))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.stdout.split("\n")[:2] == ["2", "1 []"], done.stderr
        assert head.poll() is None
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, "the cluster did not come up"
        time.sleep(0.3)
