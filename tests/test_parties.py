"""Parties answer what they must not accept with a named Failure, and go on serving."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from rhe_parties.errors import FailureCode
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import make_custody, make_encryptor, make_evaluator
from rhe_parties.messages import Envelope, Payload, decode, encode
from rhe_parties.messages import payloads as p
from rhe_parties.messages.fingerprints import sealed
from rhe_parties.parties import open_requests
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.model_host import HostLimits, ModelHost
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from tests.laboratory import small_laboratory
from tests.trio import seat_trio

IMAGES = np.zeros((2, 1, 32, 32), dtype=np.uint8)


@pytest.fixture
def parties() -> dict[str, Any]:
    """The three parties after a whole run in the world `rhe`."""
    return seat_trio(small_laboratory())[0]._parties


def _tell(party: Any, sender: str, payload: Payload) -> list[Envelope]:
    replies: list[Envelope] = party.handle(Envelope(small_laboratory().run_id, sender, party.name, 900, 0, payload))
    return replies


def _failure(party: Any, sender: str, payload: Payload) -> p.Failure:
    (reply,) = _tell(party, sender, payload)
    assert isinstance(reply.payload, p.Failure), reply
    assert (reply.recipient, reply.reply_to) == (sender, 900)
    return reply.payload


def _plan() -> HeadPlan:
    plan = small_laboratory().worlds[1].plan
    assert plan is not None
    return plan


def _key(parties: dict[str, Any]) -> str:
    fingerprint: str = parties[KEY_HOLDER].fingerprint
    return fingerprint


def _still_serves(parties: dict[str, Any], request_id: str) -> bool:
    """A decision asked for now goes through key holder and host."""
    (request,) = _tell(parties[KEY_HOLDER], LABORATORY, p.AskDecisions(request_id, "victim-0000", IMAGES))
    (response,) = parties[MODEL_HOST].handle(request)
    (decision,) = parties[KEY_HOLDER].handle(response)
    return isinstance(decision.payload, p.Decision) and len(decision.payload.classes) == 2


def test_host_refuses_heads_that_do_not_fit(parties: dict[str, Any]) -> None:
    lab, host = small_laboratory(), parties[MODEL_HOST]
    head, good = lab.heads(lab.worlds[0])[0], lab.backbone.fingerprint
    cases = [
        (DATA_OWNER, p.PlainHead("h", head.weight, head.bias, "0" * 64), FailureCode.BAD_VALUE),
        (DATA_OWNER, p.PlainHead("h", head.weight[:, :9].copy(), head.bias, good), FailureCode.BAD_TENSOR),
        (KEY_HOLDER, p.PlainHead("h", head.weight, head.bias, good), FailureCode.REFUSED),
        (DATA_OWNER, p.EncryptedHead("h", "0" * 64, good, (b"x", b"y")), FailureCode.WRONG_KEY),
        (DATA_OWNER, p.EncryptedHead("h", _key(parties), "0" * 64, (b"x", b"y")), FailureCode.BAD_VALUE),
        (DATA_OWNER, p.EncryptedHead("h", _key(parties), good, (b"x", b"y", b"z")), FailureCode.BAD_CIPHERTEXT),
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
    ciphertexts, _ = make_encryptor(public).encrypt(
        lab.heads(lab.worlds[0])[0].weight, lab.heads(lab.worlds[0])[0].bias
    )
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
    foreign = make_custody(plan_head(256, 10)).public
    other, _ = make_encryptor(foreign).encrypt(lab.heads(lab.worlds[0])[0].weight, lab.heads(lab.worlds[0])[0].bias)
    payload = p.EncryptedHead("victim-0000", foreign.fingerprint, fingerprint, other.ciphertexts)
    assert _failure(host, DATA_OWNER, payload).code == FailureCode.WRONG_KEY
    # The head that was there before is still the one that is served.
    assert _still_serves(parties, "after")


def test_key_holder_counts_each_reply_once_and_checks_where_it_is_from(parties: dict[str, Any]) -> None:
    holder, host = parties[KEY_HOLDER], parties[MODEL_HOST]
    (request,) = _tell(holder, LABORATORY, p.AskDecisions("one", "victim-0000", IMAGES))
    (other,) = _tell(holder, LABORATORY, p.AskDecisions("two", "victim-0000", IMAGES))
    (response,) = host.handle(request)
    reply = response.payload
    assert isinstance(reply, p.ClassifyResponse)
    (part,) = reply.parts
    plain = np.zeros((2, 10), dtype=np.float32)
    for code, cases in {
        FailureCode.BAD_VALUE: {
            "another head": {"head_id": "victim-0001"},
            "other fingerprint": {"head_fingerprint": "0" * 64},
            "other batch": {"parts": (p.ResponsePart("one", 1, 0),), "ciphertexts": reply.ciphertexts[:1]},
            "plain": {"ciphertexts": (), "plain_logits": plain, "key_fingerprint": ""},
            "impossible count": {"parts": (p.ResponsePart("one", 2, 3),)},
        },
        FailureCode.WRONG_KEY: {"other key": {"key_fingerprint": "0" * 64}},
        FailureCode.BAD_CIPHERTEXT: {
            "damaged": {"ciphertexts": (reply.ciphertexts[0][:-9], *reply.ciphertexts[1:])},
            "too few rows": {"parts": (part, p.ResponsePart("two", 2, 0))},
        },
        FailureCode.REPLAY: {
            "unknown part": {"parts": (part, p.ResponsePart("nobody", 2, 0))},
            "part twice": {"parts": (part, part)},
        },
    }.items():
        for name, changes in cases.items():
            payload = sealed(dataclasses.replace(reply, **changes))
            assert _failure(holder, MODEL_HOST, payload).code == code, name
    mixed = dataclasses.replace(reply, ciphertexts=host.handle(other)[0].payload.ciphertexts)
    assert _failure(holder, MODEL_HOST, mixed).code == FailureCode.MALFORMED
    assert _failure(holder, LABORATORY, reply).code == FailureCode.REFUSED
    # None of this spoilt the open request; its honest reply is taken, once.
    (decision,) = holder.handle(response)
    assert isinstance(decision.payload, p.Decision)
    assert _failure(holder, MODEL_HOST, reply).code == FailureCode.REPLAY
    assert _failure(holder, LABORATORY, p.AskDecisions("one", "victim-0000", IMAGES)).code == FailureCode.REPLAY


def _foreign_reply(response: Envelope) -> p.ClassifyResponse:
    """The reply of a host that encrypts under a key of its own."""
    lab = small_laboratory()
    foreign_public = make_custody(_plan()).public
    foreign = make_encryptor(foreign_public)
    head, _ = foreign.encrypt(lab.heads(lab.worlds[0])[0].weight, lab.heads(lab.worlds[0])[0].bias)
    logits, _ = make_evaluator(foreign_public, head).evaluate(lab.evaluation_features[0][:2])
    assert isinstance(response.payload, p.ClassifyResponse)
    return sealed(dataclasses.replace(response.payload, ciphertexts=logits.ciphertexts))


def test_a_reply_under_a_foreign_key_closes_the_key_until_it_is_replaced(parties: dict[str, Any]) -> None:
    """Every such refusal is a bit of the key to the host, so that it gets one, and whoever waits is told."""
    holder, host = parties[KEY_HOLDER], parties[MODEL_HOST]
    (other,) = _tell(holder, LABORATORY, p.AskDecisions("other", "victim-0001", IMAGES))
    (request,) = _tell(holder, LABORATORY, p.AskDecisions("foreign", "victim-0000", IMAGES))
    (response,) = host.handle(request)
    replies = _tell(holder, MODEL_HOST, _foreign_reply(response))
    told = [(reply.recipient, reply.payload.code) for reply in replies]  # type: ignore[union-attr]
    assert told == [(recipient, FailureCode.WRONG_KEY) for recipient in (LABORATORY, LABORATORY, MODEL_HOST)]
    assert all("closed until it is replaced" in reply.payload.text for reply in replies)  # type: ignore[union-attr]
    # Neither what was under way nor anything new is decided, for any head.
    assert _failure(holder, MODEL_HOST, host.handle(other)[0].payload).code == FailureCode.REPLAY
    for head in ("victim-0000", "victim-0001"):
        refused = _failure(holder, LABORATORY, p.AskDecisions(f"after {head}", head, IMAGES))
        assert refused.code == FailureCode.REFUSED
        assert "is closed until it is replaced" in refused.text
    _tell(holder, LABORATORY, p.RotateKey())
    refused = _failure(holder, LABORATORY, p.AskDecisions("new key", "victim-0000", IMAGES))
    assert refused.code == FailureCode.WRONG_KEY  # the head is not installed anew yet, but nothing is closed


@pytest.mark.parametrize("check", ["refuse", "off"])
def test_what_else_may_be_done_about_noise(check: str) -> None:
    parties = seat_trio(small_laboratory(f"none,rhe+noise-check={check}"))[0]._parties
    holder: Any = parties[KEY_HOLDER]
    run_id = holder.run_id
    ask = Envelope(run_id, LABORATORY, KEY_HOLDER, 900, 0, p.AskDecisions("foreign", "victim-0000", IMAGES))
    (request,) = holder.handle(ask)
    (response,) = parties[MODEL_HOST].handle(request)
    forged = Envelope(run_id, MODEL_HOST, KEY_HOLDER, 900, 0, _foreign_reply(response))
    (reply,) = holder.handle(forged)
    if check == "off":
        assert isinstance(reply.payload, p.Decision)  # of whatever it decrypted to
        return
    assert reply.payload.code == FailureCode.WRONG_KEY
    (decision,) = holder.handle(response)
    assert isinstance(decision.payload, p.Decision)


def test_limits_of_a_batch_are_named(parties: dict[str, Any]) -> None:
    """Nothing, too much, and what cannot be: refused by name to the sender, and the service goes on."""
    holder, host = parties[KEY_HOLDER], parties[MODEL_HOST]
    many = np.zeros((4097, 1, 1, 1), dtype=np.uint8)
    for party, sender, payload in (
        (holder, LABORATORY, p.AskDecisions("many", "victim-0000", many)),
        (host, KEY_HOLDER, p.ClassifyRequest("many", "victim-0000", many)),
    ):
        failure = _failure(party, sender, payload)
        assert failure.code == FailureCode.OVERSIZED
        assert failure.text == "4097 inputs in one request; at most 4096 are allowed"
    for party, sender, kind in ((holder, LABORATORY, p.AskDecisions), (host, KEY_HOLDER, p.ClassifyRequest)):
        bad = object.__new__(kind)
        none = np.empty(0, np.float32)
        for name, value in {"request_id": "z", "head_id": "victim-0000", "images": many[:0], "features": none}.items():
            object.__setattr__(bad, name, value)
        data = encode(Envelope(small_laboratory().run_id, sender, party.name, 77, 0, bad))
        (reply,) = map(decode, party.handle_bytes(data))
        assert isinstance(reply.payload, p.Failure)
        assert (reply.recipient, reply.reply_to, reply.payload.code) == (sender, 77, FailureCode.BAD_TENSOR)
    assert _still_serves(parties, "after")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused(
    parties: dict[str, Any], value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder, host = parties[KEY_HOLDER], parties[MODEL_HOST]

    def bad(images: Any) -> Any:
        features = np.zeros((len(images), 256), dtype=np.float32)
        features[0, 3] = value
        return features

    with monkeypatch.context() as patch:
        patch.setattr(host._backbone, "extract", bad)
        (request,) = _tell(holder, LABORATORY, p.AskDecisions("nan", "victim-0000", IMAGES))
        (reply,) = host.handle(request)
        assert isinstance(reply.payload, p.Failure)
        assert reply.payload.code == FailureCode.BAD_VALUE
        # It reaches whoever asked, and the request is closed.
        (passed,) = holder.handle(reply)
        assert (passed.recipient, passed.reply_to, passed.payload) == (LABORATORY, 900, reply.payload)
        assert not holder._open
        patch.setattr(host._backbone, "extract", lambda images: np.zeros((len(images), 99), dtype=np.float32))
        (request,) = _tell(holder, LABORATORY, p.AskDecisions("narrow", "victim-0000", IMAGES))
        assert host.handle(request)[0].payload.code == FailureCode.BAD_TENSOR
    assert _still_serves(parties, "after")


def test_a_silent_host_costs_the_key_holder_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_requests, "MAX_OPEN", 3)
    holder = KeyHolder(small_laboratory().run_id, None)
    _tell(holder, DATA_OWNER, p.HeadNotice("h", "f" * 64, False, 0.0, 10))
    for index in range(3):
        (sent,) = _tell(holder, LABORATORY, p.AskDecisions(str(index), "h", IMAGES))
        assert isinstance(sent.payload, p.ClassifyRequest)
    _, refusal = _tell(holder, LABORATORY, p.AskDecisions("last", "h", IMAGES))
    assert isinstance(refusal.payload, p.Failure)
    assert (refusal.recipient, refusal.payload.code) == (LABORATORY, FailureCode.REFUSED)
    assert list(holder._open) == ["1", "2", "last"]


def test_host_and_owner_keep_no_more_heads_than_allowed() -> None:
    lab = small_laboratory()
    host = ModelHost(lab.run_id, lab.backbone, HostLimits(max_heads=1))
    head = p.PlainHead(
        "one", lab.heads(lab.worlds[0])[0].weight, lab.heads(lab.worlds[0])[0].bias, lab.backbone.fingerprint
    )
    assert isinstance(_tell(host, DATA_OWNER, head)[0].payload, p.HeadInstalled)
    assert isinstance(_tell(host, DATA_OWNER, head)[0].payload, p.HeadInstalled)  # again: the same place
    refused = _failure(host, DATA_OWNER, dataclasses.replace(head, head_id="two"))
    assert refused.code == FailureCode.REFUSED
    assert "at most 1" in refused.text


def test_owner_refuses_a_host_that_installed_something_else(parties: dict[str, Any]) -> None:
    owner = parties[DATA_OWNER]
    (sent,) = _tell(owner, LABORATORY, p.TrainHead("new", 0))
    assert isinstance(sent.payload, p.EncryptedHead)
    assert _failure(owner, MODEL_HOST, p.HeadInstalled("new", "0" * 64)).code == FailureCode.BAD_VALUE
    (installed,) = parties[MODEL_HOST].handle(sent)
    assert isinstance(owner.handle(installed)[0].payload, p.HeadNotice)


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
