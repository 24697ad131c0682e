"""Messages: round trips, and every kind of bad bytes gets a named error."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import FailureCode, MessageError, NumericError, ProtocolError
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import PublicMaterial
from rhe_parties.messages import PAYLOADS, PROTOCOL_VERSION, Envelope, decode, encode
from rhe_parties.messages import envelope as envelope_module
from rhe_parties.messages import payloads as p
from rhe_parties.messages.checks import empty
from rhe_parties.messages.fingerprints import sealed
from rhe_parties.messages.tensors import tensor_from_proto, tensor_to_proto
from rhe_parties.model.adaptation import FACTORS, WHOLE
from rhe_parties.proto import envelope_pb2, tensor_pb2

_FLOATS = np.linspace(-1, 1, 12, dtype=np.float32)
_NONE = empty(np.float32)
_LAYER, _PAIR = (_FLOATS.reshape(3, 4), _FLOATS[:3]), (_FLOATS.reshape(3, 4), _FLOATS[:6].reshape(2, 3))

SAMPLES = [
    p.Failure("model-host", 7, "head 'x' is not installed"),
    p.HealthRequest(),
    p.HealthReport("key-holder", 12, 1),
    p.PublicMaterialRequest(),
    PublicMaterial(plan_head(256, 10), b"public", b"", "ab" * 32),
    p.TrainHead("victim-0001", 1),
    p.PlainHead("victim-0001", _FLOATS.reshape(3, 4), _FLOATS[:3], "cd" * 32),
    p.TwoLayerHead("victim-0001", "relu", _FLOATS.reshape(3, 4), _FLOATS[:3], _FLOATS[None, :3], _FLOATS[:1], "cd"),
    p.EncryptedHead("victim-0001", "ab" * 32, "cd" * 32, (b"one", b"two")),
    p.PlainHead("victim-0001", _FLOATS.reshape(3, 4), _FLOATS[:3], "cd" * 32, p.AdaptedBlock(WHOLE, _LAYER)),
    p.EncryptedHead("victim-0001", "ab" * 32, "cd" * 32, (b"one", b"two"), p.AdaptedBlock(FACTORS, _PAIR)),
    p.HeadInstalled("victim-0001", "ef" * 32),
    p.HeadNotice("victim-0001", "ef" * 32, True, 0.25, 10, "ab" * 32),
    p.HeadNotice("victim-0001", "ef" * 32, True, 0.25, 2, "ab" * 32, np.array([7, -1], dtype=np.int64)),
    p.HeadReady("victim-0001"),
    p.AskDecisions("r1", "victim-0001", np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)),
    p.ClassifyRequest("r1", "victim-0001", np.arange(16, dtype=np.uint8).reshape(1, 1, 4, 4)),
    sealed(
        p.ClassifyResponse(
            "victim-0001", "ef" * 32, "ab" * 32, (p.ResponsePart("r1", 1, 0), p.ResponsePart("r2", 2, 1)), _NONE,
            (b"cipher",),
        )
    ),
    p.Decision("r1", "victim-0001", np.array([3, 4], dtype=np.int64), 0, _FLOATS.reshape(2, 6)),
    p.AttackRequest(
        "rhe", "prior-only", "", "as-is", ("a",), ("1",), 5, (b"x", b"y"), ("v",),
        p.Challenge(target_labels=np.array([3], dtype=np.int64), initial_weights=_FLOATS.reshape(1, 3, 4)), 7,
    ),
    p.ClaimReport(
        "prior-only", "as-is", "claim", (), "", ("v",), ("images", "null.scores"),
        (_FLOATS.reshape(1, 1, 1, 3, 4), _FLOATS.reshape(1, 12)), np.array([7], dtype=np.int64), ("note",), ("text",),
    ),
    p.AdmitClient("adversary", 60_000),
    p.ClientAdmitted("adversary", 0, "rounded:2"),
    p.Elided("ask_decisions", 1234, b"digest"),
    p.ViewPart(2, (b"x", b"yz")),
    p.HostOrder("r1", (b"cipher", b"text")),
    p.Decision(
        "r2", "victim-0001", np.array([3], dtype=np.int64), 0, raw=np.arange(6, dtype=np.float64).reshape(1, 3, 2)
    ),
    p.RotateKey(),
    p.KeyRotated("ab" * 32, "cd" * 32, 3),
    p.HeadsRenewed(("victim-0000", "victim-0001")),
    p.AskDecisions("r3", "victim-0000", features=_FLOATS.reshape(3, 4)),
    p.ClassifyRequest("r3", "victim-0000", features=_FLOATS.reshape(3, 4)),
    p.RevokeHead("victim-0000"),
    p.HeadRevoked("victim-0000", True),
]  # fmt: skip


def _wrap(payload: p.Payload) -> Envelope:
    return Envelope("run", "data-owner", "model-host", 3, 2, payload)


def _equal(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if dataclasses.is_dataclass(a) and type(a) is type(b):
        return all(_equal(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return a == b


def test_claims_hold_known_arrays_of_the_right_rank() -> None:
    def report(name: str, array: np.ndarray) -> p.ClaimReport:
        return p.ClaimReport("x", "as-is", "claim", head_ids=("v",), array_names=(name,), arrays=(array,))

    with pytest.raises(MessageError, match="no array 'secrets'"):
        report("secrets", _FLOATS)
    with pytest.raises(NumericError, match="2 dimensions; expected float32 with 5"):
        report("null.images", _FLOATS.reshape(3, 4))
    with pytest.raises(NumericError, match="NaN"):
        report("scores", np.full((1, 2), np.nan, np.float32))
    with pytest.raises(NumericError, match="for 3 heads, 1 are named"):
        report("scores", _FLOATS.reshape(3, 4))
    with pytest.raises(MessageError, match="0 names for 1"):
        p.ClaimReport("x", "as-is", "claim", arrays=(_FLOATS,))


def test_there_is_a_sample_of_every_payload() -> None:
    assert {type(sample) for sample in SAMPLES} == set(PAYLOADS.values())


@pytest.mark.parametrize("payload", SAMPLES, ids=lambda s: type(s).__name__)
def test_round_trip(payload: p.Payload) -> None:
    data = encode(_wrap(payload))
    assert _equal(decode(data), _wrap(payload))
    assert encode(decode(data)) == data


@pytest.mark.parametrize("payload", SAMPLES, ids=lambda s: type(s).__name__)
def test_every_strict_prefix_is_refused(payload: p.Payload) -> None:
    data = encode(_wrap(payload))
    cuts = range(len(data)) if len(data) < 400 else [*range(0, len(data), 37), len(data) - 1]
    for cut in cuts:
        with pytest.raises(ProtocolError) as caught:
            decode(data[:cut])
        assert caught.value.code in (
            FailureCode.MALFORMED,
            FailureCode.UNKNOWN_PAYLOAD,
            FailureCode.UNKNOWN_VERSION,
        )


def test_unknown_version() -> None:
    message = envelope_pb2.Envelope.FromString(encode(_wrap(p.HealthRequest())))
    message.version = PROTOCOL_VERSION + 1
    with pytest.raises(MessageError, match=f"version {PROTOCOL_VERSION + 1}") as caught:
        decode(message.SerializeToString())
    assert caught.value.code is FailureCode.UNKNOWN_VERSION


def test_unknown_payload() -> None:
    message = envelope_pb2.Envelope(version=PROTOCOL_VERSION, run_id="run")
    # Field 99, length-delimited: a payload of some later protocol.
    with pytest.raises(MessageError) as caught:
        decode(message.SerializeToString() + bytes([0x9A, 0x06, 0x00]))
    assert caught.value.code is FailureCode.UNKNOWN_PAYLOAD


def test_oversized_is_refused_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(_wrap(SAMPLES[6]))
    monkeypatch.setattr(envelope_module, "MAX_ENVELOPE_BYTES", 64)
    for action in (lambda: decode(data), lambda: encode(_wrap(SAMPLES[6]))):
        with pytest.raises(MessageError) as caught:
            action()
        assert caught.value.code is FailureCode.OVERSIZED


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(SAMPLES) - 1), st.data())
def test_mutated_bytes_raise_nothing_but_protocol_errors(index: int, data: st.DataObject) -> None:
    raw = bytearray(encode(_wrap(SAMPLES[index])))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(raw))
    except ProtocolError:
        return


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_protocol_errors(raw: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(raw)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [
        ("float16", [2], 4),
        ("float32", [3], 8),
        ("float32", [2**40, 2**40], 8),
        ("uint8", [0, 2**60], 1),
        ("uint8", [1] * 9, 1),
        ("object", [1], 8),
    ],
)
def test_bad_tensors(dtype: str, shape: list[int], size: int) -> None:
    with pytest.raises(MessageError) as caught:
        tensor_from_proto(tensor_pb2.Tensor(dtype=dtype, shape=shape, data=b"\0" * size), "x")
    assert caught.value.code is FailureCode.BAD_TENSOR


def test_tensor_of_foreign_dtype_cannot_be_sent() -> None:
    with pytest.raises(MessageError, match="cannot send"):
        tensor_to_proto(np.zeros(2, dtype=np.complex64))


def test_arrays_from_the_wire_are_read_only() -> None:
    head = decode(encode(_wrap(SAMPLES[6]))).payload
    assert isinstance(head, p.PlainHead)
    with pytest.raises(ValueError, match="read-only"):
        head.weight[0, 0] = 1


def test_payload_checks() -> None:
    nan = np.full((3, 4), np.nan, dtype=np.float32)
    with pytest.raises(NumericError, match="NaN"):
        p.PlainHead("h", nan, _FLOATS[:3], "f")
    with pytest.raises(NumericError, match="do not fit"):
        p.PlainHead("h", _FLOATS.reshape(3, 4), _FLOATS[:2], "f")
    with pytest.raises(NumericError, match="zero images"):
        p.ClassifyRequest("r", "h", np.empty((0, 1, 4, 4), dtype=np.uint8))
    with pytest.raises(MessageError, match="either plain logits or ciphertexts"):
        p.ClassifyResponse("h", "f", "", (p.ResponsePart("r", 1, 0),), _NONE, ())
    with pytest.raises(MessageError, match="at least one request"):
        p.ClassifyResponse("h", "f", "k", (), _NONE, (b"c",))
    with pytest.raises(MessageError, match="names its key"):
        p.HeadNotice("h", "f", True, 1.0, 10)
    with pytest.raises(NumericError, match="3 inputs beside 2 classes"):
        p.Decision("r", "h", np.zeros(2, dtype=np.int64), 0, np.zeros((3, 4), dtype=np.float32))
    with pytest.raises(MessageError, match="code 99 is unknown"):
        p.Failure("model-host", 99, "")
    with pytest.raises(MessageError, match="printable"):
        p.TrainHead("", 0)


def test_generated_code_is_not_stale() -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is in the dev extra")
    done = subprocess.run(
        [sys.executable, "-m", "rhe_parties.proto.generate", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_no_message_can_carry_a_secret_key() -> None:
    names = [
        f"{message.name}.{field.name}"
        for file in ("envelope", "he", "head", "inference", "adversary", "setup")
        for message in __import__(
            f"rhe_parties.proto.{file}_pb2", fromlist=["DESCRIPTOR"]
        ).DESCRIPTOR.message_types_by_name.values()
        for field in message.fields
    ]
    assert names
    assert not [name for name in names if "secret" in name.lower() or "private_key" in name.lower()]


def test_the_table_of_messages_is_whole() -> None:
    text = (Path(__file__).parents[1] / "protos" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(PAYLOADS)
