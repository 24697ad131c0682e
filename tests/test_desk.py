"""Who waits for what at a served party: answers find their way, and errands that fail end the right requests."""

from __future__ import annotations

from rhe_parties.errors import FailureCode
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.payloads import Failure, HealthReport, HealthRequest, Payload
from rhe_parties.parties.base import Asker, Outgoing
from rhe_parties.service.desk import Desk

ALICE, BOB = Asker("client:alice", 7), Asker("client:bob", 7)


def _out(recipient: str, sequence: int, payload: Payload, reply_to: int = 0) -> Outgoing:
    envelope = Envelope("hospital", "key-holder", recipient, sequence, reply_to, payload)
    return Outgoing(envelope, encode(envelope))


def _answer(asker: Asker) -> Outgoing:
    return _out(asker.name, 99, HealthReport("key-holder", 1, 0), asker.sequence)


def _desk() -> Desk[str]:
    return Desk("hospital", "key-holder")


def test_answers_go_back_over_the_link_of_the_request() -> None:
    desk = _desk()
    first = desk.open(ALICE, "link 1")
    desk.open(BOB, "link 2")
    assert (desk.waiting("link 1"), len(desk)) == (1, 2)
    errand = _out("model-host", 1, HealthRequest())
    assert desk.sort(first, [errand]) == [(None, errand)]
    assert desk.runs("model-host", 1)
    answer = _answer(ALICE)
    assert desk.sort(None, [answer]) == [("link 1", answer)]
    assert (desk.waiting("link 1"), len(desk), desk.waits(first), desk.runs("model-host", 1)) == (0, 1, False, False)
    # Once answered, a second answer belongs to nobody; the desk does not send it over the link again.
    assert desk.sort(None, [answer]) == [(None, answer)]


def _failures(data: list[bytes]) -> list[tuple[str, int]]:
    found = []
    for envelope in map(decode, data):
        assert isinstance(envelope.payload, Failure)
        assert envelope.payload.code == FailureCode.UNAVAILABLE
        assert (envelope.recipient, envelope.run_id) == ("key-holder", "hospital")
        found.append((envelope.sender, envelope.reply_to))
    return found


def test_errands_fail_when_time_is_over_or_a_link_breaks() -> None:
    desk = _desk()
    alice, bob = desk.open(ALICE, "link 1"), desk.open(BOB, "link 2")
    desk.sort(alice, [_out("model-host", 1, HealthRequest()), _out("model-host", 2, HealthRequest())])
    desk.sort(bob, [_out("model-host", 3, HealthRequest()), _out("data-owner", 4, HealthRequest())])
    assert _failures(desk.overdue(alice, "late")) == [("model-host", 1), ("model-host", 2)]
    assert _failures(desk.unreachable("model-host", "gone")) == [("model-host", n) for n in (1, 2, 3)]
    desk.sort(None, [_answer(ALICE)])
    assert desk.overdue(alice, "late") == []
    assert _failures(desk.unreachable("model-host", "gone")) == [("model-host", 3)]


def test_a_link_that_is_gone_waits_for_nothing() -> None:
    desk = _desk()
    desk.sort(desk.open(ALICE, "link 1"), [_out("model-host", 1, HealthRequest())])
    desk.open(BOB, "link 2")
    desk.leave("link 1")
    assert (len(desk), desk.waiting("link 1"), desk.runs("model-host", 1)) == (1, 0, False)
    answer = _answer(ALICE)
    assert desk.sort(None, [answer]) == [(None, answer)]


def test_the_newer_of_two_requests_of_one_number_is_answered() -> None:
    desk = _desk()
    older = desk.open(ALICE, "link 1")
    newer = desk.open(ALICE, "link 2")
    assert (desk.waits(older), desk.waits(newer), desk.waiting("link 1")) == (False, True, 0)
    answer = _answer(ALICE)
    assert desk.sort(None, [answer]) == [("link 2", answer)]
