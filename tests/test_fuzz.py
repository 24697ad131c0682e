"""The fuzz test in its short form, and the test of the test: what it must notice, it notices."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from rhe_parties.cli.main import main
from rhe_parties.errors import ParameterError, ProtocolError, RheError
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.payloads import PAYLOADS, ClassifyRequest, ClassifyResponse, Decision
from rhe_parties.parties import fuzz as fuzz_module
from rhe_parties.parties.fuzz import fuzz
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.model_host import ModelHost
from rhe_parties.parties.mutations import RESEALED, Mutator
from rhe_parties.rng import numpy_stream
from tests.test_messages import SAMPLES, _wrap


def test_spoilt_messages_do_no_harm() -> None:
    report = fuzz(2000, seed=3)
    assert report.defects == []
    assert report.ok
    assert report.messages == 2000
    assert report.questions["right"] > 500
    assert report.questions["wrong without a sign"] == 0
    # Every kind that these parties exchange, and every mutation, took part; so did most of the refusals.
    assert set(report.kinds) >= {kind for kind, cls in PAYLOADS.items() if cls is not Decision} - {
        "attack_request", "health_report", "public_material_request", "key_rotated", "client_admitted", "host_order",
    }  # fmt: skip
    assert set(report.mutations) >= {*Mutator(numpy_stream(0, "x")).names, RESEALED}
    assert len([name for name in report.answers if name.startswith("refused: ")]) >= 9
    assert report.to_dict()["ok"] is True


def test_mutations_depend_on_the_seed_alone() -> None:
    messages = [encode(_wrap(sample)) for sample in SAMPLES]

    def drawn(seed: int) -> list[tuple[str, bytes]]:
        mutator = Mutator(numpy_stream(seed, "fuzz"))
        mutants = [mutator.draw(messages[i % len(messages)], messages[i * 7 % len(messages)]) for i in range(400)]
        return [(mutant.name, mutant.data) for mutant in mutants]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    # Most mutants are something else than the message; and nothing but a named error comes of reading them.
    assert sum(data not in messages for _, data in drawn(1)) > 300
    for _, data in drawn(1):
        with contextlib.suppress(ProtocolError):
            decode(data)


def test_a_resealed_reply_is_valid_but_not_the_same() -> None:
    mutator = Mutator(numpy_stream(0, "fuzz"))
    reply = next(sample for sample in SAMPLES if isinstance(sample, ClassifyResponse))
    reply = dataclasses.replace(reply, ciphertexts=(bytes(range(100)), bytes(100)))
    changed = [decode(mutator.draw(encode(_wrap(reply)), encode(_wrap(reply)), [RESEALED]).data) for _ in range(20)]
    digests = {item.payload.digest for item in changed if isinstance(item.payload, ClassifyResponse)}
    assert len(digests) > 10
    assert reply.digest not in digests


def test_an_exception_that_escapes_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def escaping(*_: Any) -> Any:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(ModelHost, "_undecodable", escaping)
    report = fuzz(300, seed=1)
    assert any("ZeroDivisionError escaped from model-host" in defect for defect in report.defects)


@pytest.mark.slow
def test_a_defect_behind_a_refusal_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbling(self: ModelHost, request: ClassifyRequest, installed: object) -> None:
        if request.images.shape[1:] != (1, 32, 32):
            raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(ModelHost, "_check_inputs", stumbling)
    report = fuzz(2500, seed=1)  # images of another shape come to the host about six times
    assert any("model-host stumbled" in defect and "on purpose" in defect for defect in report.defects)


def test_a_wrong_class_without_a_sign_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key holder that decides although the reply is damaged."""
    real = KeyHolder._on_response

    def careless(self: KeyHolder, envelope: Envelope, payload: ClassifyResponse) -> list[Envelope]:
        try:
            return real(self, envelope, payload)
        except ProtocolError:
            ids = [part.request_id for part in payload.parts if part.request_id in self._open]
            opened = [(request_id, self._close(request_id)) for request_id in ids]
            nines = np.full(1, 9, dtype=np.int64)
            return [self.answer(o.asker, Decision(request_id, o.head.head_id, nines, 0)) for request_id, o in opened]

    monkeypatch.setattr(KeyHolder, "_on_response", careless)
    report = fuzz(300, seed=1)
    assert report.questions["wrong without a sign"] > 0
    assert any("a wrong class without a sign" in defect for defect in report.defects)


def test_parties_that_do_no_honest_work_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelHost, "_install_encrypted", lambda *_: [])
    with pytest.raises(RheError, match="data-owner gave no HeadReady: no answer at all"):
        fuzz(10)


def test_a_hanging_party_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_module, "TIME_LIMIT", 0.1)
    real = ModelHost.handle_bytes

    def slow(self: ModelHost, data: bytes) -> list[bytes]:
        time.sleep(0.11)
        return real(self, data)

    monkeypatch.setattr(ModelHost, "handle_bytes", slow)
    report = fuzz(20, seed=1)
    assert any("took" in defect for defect in report.defects)


def test_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fuzz", "--messages", "60", "--json"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert '"messages": 60' in out
    with pytest.raises(SystemExit) as stop:
        main(["fuzz", "--messages", "0"])
    assert stop.value.code == 2
    with pytest.raises(ParameterError, match="at least 1"):
        fuzz(0)
