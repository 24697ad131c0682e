"""A new key replaces the old one everywhere, at once, and only public material ever leaves the key holder."""

from __future__ import annotations

import dataclasses
from collections import deque
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as sealapi

from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.messages import Envelope, Payload, decode, encode
from rhe_parties.messages import payloads as p
from rhe_parties.messages.public import export_public, import_public
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.threat.transcript import Transcript
from rhe_parties.transport import Switchboard
from rhe_parties.transport.base import PartyFailure
from rhe_parties.transport.local import LocalTransport
from tests.key_spy import KeySpy, key_needles
from tests.laboratory import TIMEOUT, small_laboratory
from tests.trio import seat_trio


@pytest.fixture
def seated() -> LocalTransport:
    return seat_trio(small_laboratory())[0]


def _board(transport: LocalTransport) -> Switchboard:
    board = Switchboard(transport, Transcript(), small_laboratory().run_id, "rhe", TIMEOUT)
    board._sequence = 1000  # another desk than the one that installed the heads
    return board


def _ask(request_id: str, head: int = 0) -> p.AskDecisions:
    lab = small_laboratory()
    return p.AskDecisions(request_id, lab.head_id(head), lab.dataset.images[lab.evaluation[head]])


def _right(head: int = 0) -> list[int]:
    lab = small_laboratory()
    return list(lab.heads(lab.worlds[0])[head].logits(lab.evaluation_features[head]).argmax(axis=1))


def _tell(transport: LocalTransport, recipient: str, payload: Payload, sender: str = LABORATORY) -> list[Envelope]:
    envelope = Envelope(small_laboratory().run_id, sender, recipient, 700, 0, payload)
    replies: list[Envelope] = transport._parties[recipient].handle(envelope)
    return replies


def _route(transport: LocalTransport, first: list[Envelope]) -> list[Envelope]:
    """Deliver until nothing is under way; what reached the laboratory."""
    under_way, arrived = deque(first), []
    while under_way:
        envelope = under_way.popleft()
        if envelope.recipient == LABORATORY:
            arrived.append(envelope)
        else:
            under_way.extend(transport._parties[envelope.recipient].handle(decode(encode(envelope))))
    return arrived


def test_every_head_is_served_under_the_new_key(seated: LocalTransport) -> None:
    holder, board = seated._parties[KEY_HOLDER], _board(seated)
    old = holder.fingerprint
    heads = dict(seated._parties[MODEL_HOST]._heads)
    rotated = board.ask(KEY_HOLDER, p.RotateKey(), p.KeyRotated)
    assert rotated == p.KeyRotated(old, holder.fingerprint, 2)
    assert rotated.new_fingerprint != old
    for head_id, installed in seated._parties[MODEL_HOST]._heads.items():
        assert installed.key_fingerprint == rotated.new_fingerprint
        assert installed.fingerprint != heads[head_id].fingerprint
    for head in (0, 1):
        assert list(board.ask(KEY_HOLDER, _ask(f"after-{head}", head), p.Decision).classes) == _right(head)
    # And once more, as often as wanted; new heads take the latest key.
    assert board.ask(KEY_HOLDER, p.RotateKey(), p.KeyRotated).old_fingerprint == rotated.new_fingerprint
    board.ask(DATA_OWNER, p.TrainHead("victim-0000", 1), p.HeadReady)
    lab = small_laboratory()
    same = p.AskDecisions("retrained", "victim-0000", lab.dataset.images[lab.evaluation[1]])
    assert list(board.ask(KEY_HOLDER, same, p.Decision).classes) == _right(1)


def test_from_the_moment_of_rotation_the_old_key_is_worth_nothing(seated: LocalTransport) -> None:
    """Asked before, answered after; asked between; heads and replies under the old key: each refused by name."""
    (early,) = _tell(seated, KEY_HOLDER, _ask("early"))
    (late,) = _tell(seated, KEY_HOLDER, _ask("late"))
    (in_flight,) = seated._parties[MODEL_HOST].handle(early)
    assert isinstance(in_flight.payload, p.ClassifyResponse)
    replies = _tell(seated, KEY_HOLDER, p.RotateKey())
    # Both open requests are given up, and the new material goes out.
    assert [r.payload.code for r in replies[:2]] == [FailureCode.WRONG_KEY] * 2  # type: ignore[union-attr]
    assert [r.recipient for r in replies] == [LABORATORY, LABORATORY, MODEL_HOST, DATA_OWNER]
    (refused,) = seated._parties[KEY_HOLDER].handle(in_flight)
    assert refused.payload.code == FailureCode.WRONG_KEY
    (between,) = _tell(seated, KEY_HOLDER, _ask("between"))
    assert between.payload.code == FailureCode.WRONG_KEY  # type: ignore[union-attr]
    assert "not installed anew" in between.payload.text  # type: ignore[union-attr]
    # The host drops what it holds under the old key as soon as it hears of the new one.
    assert seated._parties[MODEL_HOST].handle(replies[2]) == []
    (gone,) = seated._parties[MODEL_HOST].handle(late)
    assert gone.payload.code == FailureCode.WRONG_KEY
    anew = seated._parties[DATA_OWNER].handle(replies[3])
    assert [e.payload.head_id for e in anew[:2]] == ["victim-0000", "victim-0001"]
    assert anew[2].payload == p.HeadsRenewed(("victim-0000", "victim-0001"))
    (rotated,) = [e.payload for e in _route(seated, anew)]
    assert isinstance(rotated, p.KeyRotated)
    assert list(_board(seated).ask(KEY_HOLDER, _ask("after"), p.Decision).classes) == _right()


def test_a_notice_or_head_under_the_old_key_is_refused(seated: LocalTransport) -> None:
    old = seated._parties[KEY_HOLDER].fingerprint
    (under_way,) = _tell(seated, DATA_OWNER, p.TrainHead("new", 0))
    _board(seated).ask(KEY_HOLDER, p.RotateKey(), p.KeyRotated)
    # The rotation sent the head again, so what was under way is of no use any more.
    (late,) = seated._parties[MODEL_HOST].handle(under_way)
    assert late.payload.code == FailureCode.WRONG_KEY
    notice = p.HeadNotice("victim-0000", "f" * 64, True, 1.0, 10, old)
    (refused,) = _tell(seated, KEY_HOLDER, notice, DATA_OWNER)
    assert refused.payload.code == FailureCode.WRONG_KEY  # type: ignore[union-attr]
    assert "new" in seated._parties[MODEL_HOST]._heads


def test_a_rotation_that_failed_can_be_repeated(seated: LocalTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    host, board = seated._parties[MODEL_HOST], _board(seated)

    def broken(*_: Any) -> Any:
        raise ProtocolError(FailureCode.REFUSED, "no room")

    with monkeypatch.context() as patch:
        patch.setattr(host, "_install_encrypted", broken)
        with pytest.raises(PartyFailure, match="model-host: no room"):
            board.ask(KEY_HOLDER, p.RotateKey(), p.KeyRotated)
    with pytest.raises(PartyFailure, match="not installed anew"):
        board.ask(KEY_HOLDER, _ask("between"), p.Decision)
    first = _tell(seated, KEY_HOLDER, p.RotateKey())
    assert [e.payload.code for e in first if isinstance(e.payload, p.Failure)] == [FailureCode.REFUSED]
    assert board.ask(KEY_HOLDER, p.RotateKey(), p.KeyRotated).heads == 2
    assert list(board.ask(KEY_HOLDER, _ask("after"), p.Decision).classes) == _right()


def test_a_head_that_the_owner_does_not_have_is_not_waited_for(seated: LocalTransport) -> None:
    holder = seated._parties[KEY_HOLDER]
    notice = p.HeadNotice("lost", "f" * 64, True, 1.0, 10, holder.fingerprint)
    assert isinstance(_tell(seated, KEY_HOLDER, notice, DATA_OWNER)[0].payload, p.HeadReady)
    assert _board(seated).ask(KEY_HOLDER, p.RotateKey(), p.KeyRotated).heads == 2
    (refused,) = _tell(seated, KEY_HOLDER, p.AskDecisions("q", "lost", np.zeros((1, 1, 8, 8), dtype=np.uint8)))
    assert refused.payload.code == FailureCode.NOT_INSTALLED  # type: ignore[union-attr]


def test_rotation_is_the_laboratorys_and_needs_a_key(seated: LocalTransport) -> None:
    (refused,) = _tell(seated, KEY_HOLDER, p.RotateKey(), MODEL_HOST)
    assert refused.payload.code == FailureCode.REFUSED  # type: ignore[union-attr]
    (none,) = KeyHolder("r", None).handle(Envelope("r", LABORATORY, KEY_HOLDER, 1, 0, p.RotateKey()))
    assert none.payload.code == FailureCode.UNEXPECTED  # type: ignore[union-attr]
    plan = small_laboratory().worlds[1].plan
    fresh = KeyHolder("r", plan).handle(Envelope("r", LABORATORY, KEY_HOLDER, 1, 0, p.RotateKey()))
    assert fresh[-1].payload.heads == 0  # type: ignore[union-attr]


def test_forged_material_changes_nothing_at_the_host(seated: LocalTransport) -> None:
    public = seated._parties[KEY_HOLDER]._custody.public
    forged = dataclasses.replace(public, fingerprint="0" * 64)
    (refused,) = _tell(seated, MODEL_HOST, forged, KEY_HOLDER)
    assert refused.payload.code == FailureCode.WRONG_KEY  # type: ignore[union-attr]
    assert list(_board(seated).ask(KEY_HOLDER, _ask("after"), p.Decision).classes) == _right()


def test_export_holds_public_material_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    KeySpy.seen.clear()
    monkeypatch.setattr(sealapi, "KeyGenerator", KeySpy)
    plan = small_laboratory().worlds[1].plan
    assert plan is not None
    holder = KeyHolder("r", plan)
    exported = [holder.export_public()]
    rotated = holder.handle(Envelope("r", LABORATORY, KEY_HOLDER, 1, 0, p.RotateKey()))
    exported.append(holder.export_public())
    assert len(KeySpy.seen) == 2
    needles = [needle for secret in KeySpy.seen for needle in key_needles(secret, plan.degree)]
    for data in (*exported, *(encode(envelope) for envelope in rotated), repr(holder).encode()):
        assert not any(needle in data for needle in needles)
    assert exported[0] != exported[1]
    material = import_public(exported[1])
    assert material == holder._custody.public  # type: ignore[union-attr]
    assert export_public(material) == exported[1]
    # It is the whole payload and nothing but it.
    envelope = encode(Envelope("r", KEY_HOLDER, MODEL_HOST, 1, 0, material))
    assert exported[1] in envelope


def test_import_refuses_what_is_not_what_it_says() -> None:
    plan = small_laboratory().worlds[1].plan
    holder = KeyHolder("r", plan)
    good = holder.export_public()
    key = holder._custody.public.public_key  # type: ignore[union-attr]
    place = good.index(key) + len(key) // 2
    flipped = good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :]
    cases = {
        flipped: FailureCode.WRONG_KEY,
        good[:-3]: FailureCode.MALFORMED,
        b"": FailureCode.MALFORMED,
        good + b"\x7a\x03abc": FailureCode.MALFORMED,  # a field that no public material has
    }
    for data, code in cases.items():
        with pytest.raises(ProtocolError) as caught:
            import_public(data)
        assert caught.value.code == code
    with pytest.raises(ProtocolError, match="no encryption"):
        KeyHolder("r", None).export_public()


def test_requests_that_wait_at_the_host_are_refused_on_rotation() -> None:
    lab = small_laboratory(batch=8, gather_delay_ms=30_000)
    transport, _, _ = seat_trio(lab)
    images = np.zeros((1, 1, 32, 32), dtype=np.uint8)
    (request,) = transport._parties[KEY_HOLDER].handle(
        Envelope(lab.run_id, LABORATORY, KEY_HOLDER, 50, 0, p.AskDecisions("held", "victim-0000", images))
    )
    assert transport._parties[MODEL_HOST].handle(request) == []
    new = KeyHolder(lab.run_id, lab.worlds[1].plan)
    (refusal,) = transport._parties[MODEL_HOST].handle(
        Envelope(lab.run_id, KEY_HOLDER, MODEL_HOST, 51, 0, new._custody.public)  # type: ignore[union-attr]
    )
    assert refusal.payload.code == FailureCode.WRONG_KEY
    assert refusal.reply_to == request.sequence
    assert transport._parties[MODEL_HOST].due() is None
