"""Views too large for one message: sent ahead in parts, put together at the adversary's seat."""

from __future__ import annotations

import pytest

from rhe_parties.errors import ProtocolError
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.payloads import AttackRequest, ClaimReport, Failure, Payload, ViewPart
from rhe_parties.threat.model import ADVERSARY, LABORATORY, MODEL_HOST
from rhe_parties.threat.transcript import Transcript
from rhe_parties.threat.view import build_view
from rhe_parties.transport import Switchboard, base
from rhe_parties.transport.local import LocalTransport
from tests.laboratory import TIMEOUT, play, seat_adversary, small_laboratory


def _request(view: tuple[bytes, ...], parts: int = 0) -> AttackRequest:
    lab = small_laboratory()
    return AttackRequest("none", "head-readout", "", "as-is", (), (), 0, view, lab.head_ids, parts=parts)


def _deliver(transport: LocalTransport, payload: Payload, sender: str = LABORATORY) -> Payload | None:
    replies = transport.deliver(
        ADVERSARY, encode(Envelope(small_laboratory().run_id, sender, ADVERSARY, 1, 0, payload)), 60
    )
    return decode(replies[0]).payload if replies else None


def test_parts_hold_the_whole_view_in_order_and_no_more_than_allowed() -> None:
    view = tuple(bytes([size]) * size for size in (3, 4, 4, 11, 1, 1, 8, 2))
    ahead, rest = _request(view).in_parts(8)
    assert [part.index for part in ahead] == list(range(len(ahead)))
    assert rest.parts == len(ahead) > 2
    pieces = [part.view for part in ahead] + [rest.view]
    assert tuple(item for piece in pieces for item in piece) == view
    assert all(sum(map(len, piece)) <= 8 or len(piece) == 1 for piece in pieces)
    assert _request(view).in_parts(1000) == ([], _request(view))
    assert _request(()).in_parts(8) == ([], _request(()))


def test_a_claim_is_the_same_whether_its_view_came_in_parts_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = small_laboratory()
    transport = LocalTransport()
    seat_adversary(lab, transport)
    view = build_view(play(lab, transport, 0)[0], lab.threat_model)
    board = Switchboard(transport, Transcript(), lab.run_id, "none", TIMEOUT)

    def order() -> ClaimReport:
        return board.order_attack(_request(view.data), ClaimReport, TIMEOUT, lambda _done, _text: None)

    whole = order()
    monkeypatch.setattr(base, "_VIEW_BYTES", max(map(len, view.data)))
    assert len(_request(view.data).in_parts(base._VIEW_BYTES)[0]) > 1
    parts = order()
    assert whole.outcome == parts.outcome == "claim"
    assert encode(Envelope("r", "a", "b", 1, 0, whole)) == encode(Envelope("r", "a", "b", 1, 0, parts))


def test_parts_that_do_not_make_a_view_are_refused() -> None:
    lab = small_laboratory()
    transport = LocalTransport()
    seat_adversary(lab, transport)

    def refusal(payload: Payload, sender: str = LABORATORY) -> str:
        reply = _deliver(transport, payload, sender)
        assert isinstance(reply, Failure)
        return reply.text

    assert "part 1 of a view came where part 0 was due" in refusal(ViewPart(1, (b"x",)))
    assert _deliver(transport, ViewPart(0, (b"x",))) is None
    assert "part 2 of a view came where part 1 was due" in refusal(ViewPart(2, (b"x",)))
    assert "1 of the 3 parts of a view have come" in refusal(_request((), parts=3))
    # The refused order took its parts with it: what was sent for one order never reaches another.
    assert "0 of the 1 parts of a view have come" in refusal(_request((), parts=1))
    assert _deliver(transport, ViewPart(0, (b"x",))) is None
    reply = _deliver(transport, _request(()))
    assert isinstance(reply, ClaimReport)
    assert reply.outcome == "blocked"
    assert MODEL_HOST in refusal(ViewPart(0, ()), MODEL_HOST)


def test_a_refused_part_ends_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = small_laboratory()
    transport = LocalTransport()
    seat_adversary(lab, transport)
    board = Switchboard(transport, Transcript(), lab.run_id, "none", TIMEOUT)
    monkeypatch.setattr(base, "_VIEW_BYTES", 1)
    monkeypatch.setattr(AttackRequest, "in_parts", lambda self, _most: ([ViewPart(5, (b"x",))], self))
    with pytest.raises(ProtocolError, match="part 5"):
        board.order_attack(_request(()), ClaimReport, TIMEOUT, lambda _done, _text: None)
