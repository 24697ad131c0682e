"""Parties answer what they must not accept with a named Failure, and go on serving."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from rhe_parties.errors import FailureCode
from rhe_parties.he.plan import plan_head
from rhe_parties.he.scheme import make_custody, make_encryptor
from rhe_parties.messages import Envelope, Payload
from rhe_parties.messages import payloads as p
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.transport.local import LocalTransport
from tests.laboratory import play, small_laboratory

IMAGES = np.zeros((2, 1, 32, 32), dtype=np.uint8)


@pytest.fixture
def parties() -> dict[str, Any]:
    """The three parties after a whole run in the world `rhe`."""
    transport = LocalTransport()
    play(small_laboratory(), transport, 1)
    return transport._parties


def _tell(party: Any, sender: str, payload: Payload) -> list[Envelope]:
    replies: list[Envelope] = party.handle(Envelope(small_laboratory().run_id, sender, party.name, 900, 0, payload))
    return replies


def _failure(party: Any, sender: str, payload: Payload) -> p.Failure:
    (reply,) = _tell(party, sender, payload)
    assert isinstance(reply.payload, p.Failure), reply
    assert (reply.recipient, reply.reply_to) == (sender, 900)
    return reply.payload


def _still_serves(parties: dict[str, Any], request_id: str) -> bool:
    """A decision asked for now goes through key holder and host."""
    (request,) = _tell(parties[KEY_HOLDER], LABORATORY, p.AskDecisions(request_id, "victim-0000", IMAGES))
    (response,) = parties[MODEL_HOST].handle(request)
    (decision,) = parties[KEY_HOLDER].handle(response)
    return isinstance(decision.payload, p.Decision) and len(decision.payload.classes) == 2


def test_host_refuses_heads_that_do_not_fit(parties: dict[str, Any]) -> None:
    lab, host = small_laboratory(), parties[MODEL_HOST]
    head, good = lab.heads[0], lab.backbone.fingerprint
    cases = [
        (DATA_OWNER, p.PlainHead("h", head.weight, head.bias, "0" * 64), FailureCode.BAD_VALUE),
        (DATA_OWNER, p.PlainHead("h", head.weight[:, :9].copy(), head.bias, good), FailureCode.BAD_TENSOR),
        (KEY_HOLDER, p.PlainHead("h", head.weight, head.bias, good), FailureCode.REFUSED),
        (DATA_OWNER, p.EncryptedHead("h", "0" * 64, good, (b"x", b"y")), FailureCode.WRONG_KEY),
        (KEY_HOLDER, p.ClassifyRequest("r", "nobody", IMAGES), FailureCode.NOT_INSTALLED),
        (LABORATORY, p.ClassifyRequest("r", "victim-0000", IMAGES), FailureCode.REFUSED),
        (LABORATORY, p.TrainHead("h", 0), FailureCode.UNEXPECTED),
    ]
    for sender, payload, code in cases:
        assert _failure(host, sender, payload).code == code, payload
    assert _still_serves(parties, "after")


def test_host_refuses_corrupt_and_foreign_heads(parties: dict[str, Any]) -> None:
    lab, host = small_laboratory(), parties[MODEL_HOST]
    public = parties[KEY_HOLDER]._custody.public
    ciphertexts, _ = make_encryptor(public).encrypt(lab.heads[0].weight, lab.heads[0].bias)
    first = bytearray(ciphertexts.ciphertexts[0])
    first[len(first) // 2] ^= 1
    fingerprint = lab.backbone.fingerprint
    for name, bad in {
        "damaged": (bytes(first), *ciphertexts.ciphertexts[1:]),
        "truncated": (ciphertexts.ciphertexts[0][:-5], *ciphertexts.ciphertexts[1:]),
        "too few": ciphertexts.ciphertexts[:1],
    }.items():
        payload = p.EncryptedHead("victim-0000", public.fingerprint, fingerprint, bad)
        assert _failure(host, DATA_OWNER, payload).code == FailureCode.BAD_CIPHERTEXT, name
    foreign = make_custody(plan_head(256, 10, 16.0)).public
    other, _ = make_encryptor(foreign).encrypt(lab.heads[0].weight, lab.heads[0].bias)
    payload = p.EncryptedHead("victim-0000", foreign.fingerprint, fingerprint, other.ciphertexts)
    assert _failure(host, DATA_OWNER, payload).code == FailureCode.WRONG_KEY
    # The head that was there before is still the one that is served.
    assert _still_serves(parties, "after")


def test_key_holder_counts_each_reply_once_and_checks_where_it_is_from(parties: dict[str, Any]) -> None:
    holder, host = parties[KEY_HOLDER], parties[MODEL_HOST]
    (request,) = _tell(holder, LABORATORY, p.AskDecisions("one", "victim-0000", IMAGES))
    (response,) = host.handle(request)
    reply = response.payload
    assert isinstance(reply, p.ClassifyResponse)
    wrong = {
        "another head": dataclasses.replace(reply, head_id="victim-0001"),
        "other fingerprint": dataclasses.replace(reply, head_fingerprint="0" * 64),
        "other batch": dataclasses.replace(reply, batch=1, ciphertexts=reply.ciphertexts[:1]),
        "plain": dataclasses.replace(reply, ciphertexts=(), plain_logits=np.zeros((2, 10), dtype=np.float32)),
    }
    for name, payload in wrong.items():
        assert _failure(holder, MODEL_HOST, payload).code == FailureCode.BAD_VALUE, name
    damaged = dataclasses.replace(reply, ciphertexts=(reply.ciphertexts[0][:-9], *reply.ciphertexts[1:]))
    assert _failure(holder, MODEL_HOST, damaged).code == FailureCode.BAD_CIPHERTEXT
    assert _failure(holder, LABORATORY, reply).code == FailureCode.REFUSED
    # None of this spoilt the open request; its honest reply is taken, once.
    (decision,) = holder.handle(response)
    assert isinstance(decision.payload, p.Decision)
    assert _failure(holder, MODEL_HOST, reply).code == FailureCode.REPLAY
    assert _failure(holder, LABORATORY, p.AskDecisions("one", "victim-0000", IMAGES)).code == FailureCode.REPLAY


def test_reply_under_a_foreign_key_is_refused(parties: dict[str, Any]) -> None:
    """A host that encrypts under a key of its own gets a clear error, not a class."""
    lab, holder = small_laboratory(), parties[KEY_HOLDER]
    (request,) = _tell(holder, LABORATORY, p.AskDecisions("foreign", "victim-0000", IMAGES))
    (response,) = parties[MODEL_HOST].handle(request)
    foreign = make_encryptor(make_custody(lab.worlds[1].plan or plan_head(256, 10, 16.0)).public)
    head, _ = foreign.encrypt(lab.heads[0].weight, lab.heads[0].bias)
    reply = dataclasses.replace(response.payload, ciphertexts=(head.ciphertexts[0],) * 2)
    assert _failure(holder, MODEL_HOST, reply).code == FailureCode.WRONG_KEY


def test_query_budget_is_kept_by_the_party_that_answers() -> None:
    run_id = small_laboratory().run_id
    holder = KeyHolder(run_id, None, query_budget=3)
    _tell(holder, DATA_OWNER, p.HeadNotice("h", "f" * 64, False, 0.0, 10))
    (sent,) = _tell(holder, LABORATORY, p.AskDecisions("one", "h", IMAGES))
    assert isinstance(sent.payload, p.ClassifyRequest)
    failure = _failure(holder, LABORATORY, p.AskDecisions("two", "h", IMAGES))
    assert failure.code == FailureCode.REFUSED
    assert "2 of 3 images are decided" in failure.text


def test_owner_refuses_what_it_does_not_have(parties: dict[str, Any]) -> None:
    failure = _failure(parties[DATA_OWNER], LABORATORY, p.TrainHead("h", 99))
    assert failure.code == FailureCode.BAD_VALUE
    assert "0 to 1" in failure.text
    assert _failure(parties[DATA_OWNER], MODEL_HOST, p.TrainHead("h", 0)).code == FailureCode.REFUSED
    assert _failure(parties[DATA_OWNER], MODEL_HOST, p.HeadInstalled("h", "f")).code == FailureCode.UNEXPECTED


def test_a_failure_is_never_answered_with_a_failure(parties: dict[str, Any]) -> None:
    for party in parties.values():
        assert _tell(party, MODEL_HOST, p.Failure("model-host", 1, "x")) == []
