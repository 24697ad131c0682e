"""Canaries: inputs with known classes among the requests. What they show of a cheating host, and what they cannot."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from rhe_parties.errors import FailureCode, MessageError, NumericError, ParameterError
from rhe_parties.he.malleable import Forge
from rhe_parties.messages import Envelope
from rhe_parties.messages import payloads as p
from rhe_parties.messages.fingerprints import sealed
from rhe_parties.messages.setups import KeyHolderSetup
from rhe_parties.parties.canaries import Canaries, clear_classes
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import resolve_worlds
from rhe_parties.testing.bench import Scene, Trial
from rhe_parties.threat.model import KEY_HOLDER, LABORATORY, MODEL_HOST
from tests.laboratory import small_laboratory
from tests.trio import seat_trio

WORLD = "rhe+canaries=1"


@pytest.fixture
def parties() -> dict[str, Any]:
    return seat_trio(small_laboratory(f"none,{WORLD}"))[0]._parties


def _ask(holder: Any, request_id: str, head: str = "victim-0000", images: int = 4) -> list[Envelope]:
    lab = small_laboratory(f"none,{WORLD}")
    ask = p.AskDecisions(request_id, head, lab.dataset.images[lab.evaluation[0][:images]])
    requests: list[Envelope] = holder.handle(Envelope(holder.run_id, LABORATORY, KEY_HOLDER, 900, 0, ask))
    return requests


def _wrong(parties: dict[str, Any], request: Envelope) -> Envelope:
    """The reply of a host that answers with a class of its own: one that the canary does not have."""
    (honest,) = parties[MODEL_HOST].handle(request)
    expected = parties[KEY_HOLDER]._open.close(request.payload.request_id)  # type: ignore[union-attr]
    parties[KEY_HOLDER]._open.add(request.payload.request_id, expected)  # type: ignore[union-attr]
    forge = Forge(parties[KEY_HOLDER]._custody.public)
    logits = np.zeros((1, forge.plan.classes), dtype=np.int64)
    logits[0, (expected.expected + 1) % forge.plan.classes] = 1000
    forged = tuple(forge.reply([forge.zero] * forge.plan.class_tiles, logits))
    return dataclasses.replace(honest, payload=sealed(dataclasses.replace(honest.payload, ciphertexts=forged)))  # type: ignore[type-var]


def test_they_look_like_other_requests_and_nobody_hears_of_the_right_ones(parties: dict[str, Any]) -> None:
    first, *canaries = _ask(parties[KEY_HOLDER], "one")
    assert len(canaries) == 4
    assert {type(request.payload) for request in canaries} == {p.ClassifyRequest}
    heard = [answer for request in (first, *canaries) for answer in parties[MODEL_HOST].handle(request)]
    replies = [reply for response in heard for reply in parties[KEY_HOLDER].handle(response)]
    assert [type(reply.payload) for reply in replies] == [p.Decision]
    assert not parties[KEY_HOLDER]._open


def test_a_wrong_one_closes_the_head_and_no_other(parties: dict[str, Any]) -> None:
    holder = parties[KEY_HOLDER]
    _, canary, *_ = _ask(holder, "one")
    (told,) = holder.handle(_wrong(parties, canary))
    assert (told.recipient, told.payload.code) == (MODEL_HOST, FailureCode.REFUSED)
    (refused,) = _ask(holder, "two")
    assert "a canary got another class" in refused.payload.text  # type: ignore[union-attr]
    assert isinstance(_ask(holder, "three", "victim-0001")[0].payload, p.ClassifyRequest)


@pytest.mark.parametrize("share", [0.25, 0.0])
def test_whoever_cheats_on_a_share_of_everything_is_found_out(parties: dict[str, Any], share: float) -> None:
    """Of 48 canaries a host that cheats on a quarter of all requests passes by with a probability of 10^-6."""
    generator, holder = np.random.default_rng(3), parties[KEY_HOLDER]
    for number in range(12):
        requests = _ask(holder, str(number))
        if isinstance(requests[0].payload, p.Failure):
            break
        for request in requests:
            own = request.payload.request_id == str(number)  # type: ignore[union-attr]
            cheats = not own and generator.random() < share
            for response in [_wrong(parties, request)] if cheats else parties[MODEL_HOST].handle(request):
                holder.handle(response)
    assert ("victim-0000" in holder._known._stopped) == (share > 0)


def test_who_cheats_only_where_asked_to_by_its_own_client_is_not() -> None:
    scene = Scene("rhe+client+malicious+canaries=0.01", (("batch", 256), ("client_budget", 0)))
    report = Trial("key-reading", {"reconstruct": "false", "shadows": "64"}, scene).run().report
    notes = dict(zip(report.note_names, report.note_values, strict=True))
    assert notes["fresh ciphertext decrypted"] == "yes"
    assert "refused" not in notes


def test_how_many_go_along_and_which_can_be_judged() -> None:
    images = np.zeros((3, 1, 4, 4), dtype=np.uint8)
    canaries = Canaries(images, 0.25)
    sent = [canaries.due(np.array([-1, 2, -1]), 3) for _ in range(4)]
    assert [len(part) for part in sent] == [0, 1, 1, 1]
    assert {canary.expected for part in sent for canary in part} == {2}
    assert Canaries(images, 1.0).due(np.array([-1, -1, -1]), 9) == []
    assert Canaries(None, 0.0).due(np.array([1]), 9) == []
    assert clear_classes(np.array([[0.0, 1.0, 3.0], [2.99, 0.0, 3.0]])).tolist() == [2, -1]


def test_what_is_refused() -> None:
    for value in ("2", "0", "many"):
        with pytest.raises(ParameterError, match="above 0, at most 1"):
            resolve_worlds(resolve_parameters({"worlds": f"none,rhe+canaries={value}"}))
    with pytest.raises(MessageError, match="canary_share"):
        KeyHolderSetup(None, 0, canary_share=1.5)
    with pytest.raises(NumericError, match="-1 to 1"):
        p.HeadNotice("h", "f", False, 0.0, 2, canaries=np.array([0, 2], dtype=np.int64))
