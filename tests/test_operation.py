"""What an operator looks at: health, reflection, numbers and the log; and what none of them may hold."""

from __future__ import annotations

import json
import logging
import socket
import urllib.request

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from prometheus_client import generate_latest

from rhe_parties.errors import FailureCode, TransportError
from rhe_parties.he.planner import plan_head
from rhe_parties.messages import Envelope, Payload, encode
from rhe_parties.messages.frames import SERVICES
from rhe_parties.messages.payloads import ClassifyResponse, Decision, Failure, ResponsePart
from rhe_parties.parties.base import Outgoing
from rhe_parties.service.logs import LOGGER, start_log
from rhe_parties.service.telemetry import Telemetry
from rhe_parties.testing.service import free_port
from tests.served import ServedPair


def _out(payload: Payload) -> Outgoing:
    envelope = Envelope("lab", "key-holder", "client:alice", 1, 1, payload)
    return Outgoing(envelope, encode(envelope))


def _numbers(telemetry: Telemetry) -> dict[str, float]:
    lines = generate_latest(telemetry.registry).decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_numbers_count_what_happened_and_name_nobody() -> None:
    telemetry = Telemetry()
    telemetry.watch(lambda: 3, lambda: 7)
    decision = Decision("secret-request", "secret-head", np.array([1, 2], np.int64), 0)
    parts = (ResponsePart("secret-request", 5, 0),)
    reply = ClassifyResponse("secret-head", "f", "", parts, np.zeros((5, 2), np.float32), ())
    telemetry.handled("ask_decisions", 0.003, [_out(decision), _out(reply)])
    telemetry.handled("ask_decisions", 0.2, [_out(Failure("key-holder", int(FailureCode.BUDGET), "secret text"))])
    telemetry.happened("connection refused")
    found = _numbers(telemetry)
    assert found['rhe_envelopes_received_total{kind="ask_decisions"}'] == 2
    assert found['rhe_failures_total{code="BUDGET"}'] == 1
    assert (found["rhe_inputs_decided_total"], found["rhe_inputs_gathered_sum"]) == (2, 5)
    assert found['rhe_handling_seconds_bucket{kind="ask_decisions",le="0.005"}'] == 1
    assert (found["rhe_requests_waiting"], found["rhe_links_open"]) == (3, 7)
    assert found['rhe_events_total{event="connection refused"}'] == 1
    text = generate_latest(telemetry.registry).decode()
    assert "secret" not in text
    assert "alice" not in text


def test_numbers_are_offered_where_they_are_asked_for_and_nowhere_else() -> None:
    telemetry, port = Telemetry(), free_port()
    end = telemetry.serve(f"127.0.0.1:{port}")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert b"rhe_inputs_decided_total" in answer.read()
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(TransportError, match="cannot offer metrics"):
        telemetry.serve(f"127.0.0.1:{taken.getsockname()[1]}")
    end()
    with pytest.raises(TransportError, match="cannot offer metrics at 'nowhere'"):
        telemetry.serve("nowhere")


@pytest.mark.parametrize("style", ["json", "text"])
def test_the_log_is_one_line_an_event(style: str, capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger(LOGGER)
    before = log.handlers[:], log.propagate, log.level
    try:
        start_log(style).warning("link failed", extra={"who": "model-host", "what": 'two\nlines of "it"'})
    finally:
        log.handlers[:], log.propagate = before[0], before[1]
        log.setLevel(before[2])
    (line,) = capsys.readouterr().err.splitlines()
    if style == "json":
        facts = json.loads(line)
        assert (facts["event"], facts["level"], facts["who"]) == ("link failed", "warning", "model-host")
        assert facts["what"] == 'two\nlines of "it"'
    else:
        assert line.endswith(r'link failed who=model-host what="two\nlines of \"it\""')


def test_health_and_reflection_answer() -> None:
    pair = ServedPair(plan_head(256, 2, scheme="plain"), "lab")
    try:
        with grpc.insecure_channel(pair.host.address) as channel:
            check = channel.unary_unary(
                "/grpc.health.v1.Health/Check",
                request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
                response_deserializer=health_pb2.HealthCheckResponse.FromString,
            )
            for name in ("", SERVICES["Party"]):
                assert check(health_pb2.HealthCheckRequest(service=name), timeout=10).status == 1
            described = ProtoReflectionDescriptorDatabase(channel)
            assert SERVICES["Party"] in described.get_services()
            file = described.FindFileContainingSymbol(SERVICES["Party"])
            assert "Link" in [method.name for service in file.service for method in service.method]
    finally:
        pair.stop()
