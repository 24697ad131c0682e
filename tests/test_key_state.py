"""What a key holder knows is kept and taken up again, keys come from their keeper, and every change is counted."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from rhe_parties.errors import FailureCode, MessageError, ParameterError, ProtocolError, VaultError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import KeyCustody, make_custody, make_encryptor, make_evaluator
from rhe_parties.messages import Envelope, Payload
from rhe_parties.messages import payloads as p
from rhe_parties.messages.fingerprints import response_digest
from rhe_parties.messages.key_state import KeyHolderState, decode_state, encode_state
from rhe_parties.messages.setups import NOISE_IGNORED
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST

PLAN = plan_head(4, 2)
RUN = "hospital"


class Keeper:
    """Makes keys as a vault does, and remembers them and how they were asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[HeadPlan, bool]] = []
        self.kept: KeyCustody | None = None
        self.broken = False

    def __call__(self, plan: HeadPlan, noise_check: bool) -> KeyCustody:
        if self.broken:
            raise VaultError("cannot write the key: No space left on device")
        self.asked.append((plan, noise_check))
        self.kept = make_custody(plan, noise_check)
        return self.kept


def _tell(holder: KeyHolder, sender: str, payload: Payload, sequence: int = 7) -> list[Envelope]:
    return holder.handle(Envelope(RUN, sender, KEY_HOLDER, sequence, 0, payload))


def _notice(holder: KeyHolder, head_id: str, tag: list[int] | None = None) -> p.HeadNotice:
    given = {} if tag is None else {"tag": np.array(tag, dtype=np.int64)}
    classes = PLAN.classes - bool(given)
    return p.HeadNotice(head_id, "f" * 64, True, 0.25, classes, holder.fingerprint, **given)


def _plain(head_id: str) -> p.HeadNotice:
    return p.HeadNotice(head_id, "e" * 64, False, 0.0, 3)


def _ask(holder: KeyHolder, head_id: str, request_id: str = "r") -> Envelope:
    (reply,) = _tell(holder, LABORATORY, p.AskDecisions(request_id, head_id, np.zeros((1, 1, 4, 4), dtype=np.uint8)))
    return reply


def _reply(holder: KeyHolder, head_id: str, custody: KeyCustody, request_id: str = "r") -> list[Envelope]:
    """What the key holder says to the host's reply, computed under `custody`'s key."""
    assert isinstance(_ask(holder, head_id, request_id).payload, p.ClassifyRequest)
    head, _ = make_encryptor(custody.public).encrypt(np.ones((2, 4)), np.array([1.0, 0.0]))
    logits, saturated = make_evaluator(custody.public, head).evaluate(np.ones((1, 4)))
    part = p.ResponsePart(request_id, 1, saturated)
    response = p.ClassifyResponse(
        head_id, "f" * 64, holder.fingerprint, (part,), np.empty((0,), np.float32), logits.ciphertexts
    )
    sealed = dataclasses.replace(response, digest=response_digest(response))
    return _tell(holder, MODEL_HOST, sealed)


def _again(holder: KeyHolder, custody: KeyCustody | None, run_id: str = RUN) -> KeyHolder:
    """A key holder that starts with this key and the other one's state."""
    fresh = KeyHolder(run_id, PLAN, keys=Keeper(), custody=custody)
    fresh.restore(holder.state())
    return fresh


def _refusal(envelope: Envelope) -> tuple[int, str]:
    assert isinstance(envelope.payload, p.Failure)
    return envelope.payload.code, envelope.payload.text


def test_heads_and_stopped_heads_are_known_again_and_changes_are_counted() -> None:
    keeper = Keeper()
    holder = KeyHolder(RUN, PLAN, keys=keeper)
    assert keeper.asked == [(PLAN, True)]
    seen = [holder.revision]
    for notice in (_notice(holder, "good"), _notice(holder, "forged", [3]), _plain("open")):
        _tell(holder, DATA_OWNER, notice)
        seen.append(holder.revision)
    assert keeper.kept is not None
    decision = _reply(holder, "good", keeper.kept)[0].payload
    assert isinstance(decision, p.Decision)
    assert holder.revision == seen[-1]  # asking and deciding change nothing that is kept
    told = _reply(holder, "forged", keeper.kept, "f")
    assert "its tag does not hold" in _refusal(told[0])[1]
    seen.append(holder.revision)
    assert seen == sorted(set(seen))

    again = _again(holder, keeper.kept)
    assert again.state() == holder.state()
    assert "its tag does not hold" in _refusal(_ask(again, "forged"))[1]
    same = _reply(again, "good", keeper.kept, "s")[0].payload
    assert isinstance(same, p.Decision)
    assert np.array_equal(same.classes, decision.classes)
    assert isinstance(_ask(again, "open", "t").payload, p.ClassifyRequest)
    assert _refusal(_ask(again, "never", "u"))[0] == FailureCode.NOT_INSTALLED


def test_a_closed_key_stays_closed_until_it_is_replaced() -> None:
    keeper = Keeper()
    holder = KeyHolder(RUN, PLAN, keys=keeper)
    _tell(holder, DATA_OWNER, _notice(holder, "head"))
    before, key = holder.revision, keeper.kept
    _reply(holder, "head", make_custody(PLAN))  # of another key: noise
    assert holder.revision > before
    again = _again(holder, key)
    assert "closed until it is replaced" in _refusal(_ask(again, "head"))[1]
    # Replaced while nothing was served: the head is of no use, but the new key serves.
    replaced = _again(holder, keeper(PLAN, True))
    code, text = _refusal(_ask(replaced, "head"))
    assert code == FailureCode.WRONG_KEY
    assert f"encrypted for key {key.public.fingerprint[:12]!r}, which was replaced" in text  # type: ignore[union-attr]
    assert [type(e.payload) for e in _tell(replaced, DATA_OWNER, _notice(replaced, "head"))] == [p.HeadReady]
    assert isinstance(_ask(replaced, "head", "s").payload, p.ClassifyRequest)


def test_an_open_rotation_goes_on_where_it_was() -> None:
    keeper = Keeper()
    holder = KeyHolder(RUN, PLAN, keys=keeper)
    for name in ("one", "two", "three"):
        _tell(holder, DATA_OWNER, _notice(holder, name))
    _tell(holder, DATA_OWNER, _plain("open"))
    old = holder.fingerprint
    _tell(holder, LABORATORY, p.RotateKey(), 41)
    assert len(keeper.asked) == 2
    assert holder.fingerprint == keeper.kept.public.fingerprint != old  # type: ignore[union-attr]
    _tell(holder, DATA_OWNER, _notice(holder, "one"))
    _tell(holder, DATA_OWNER, p.HeadsRenewed(("one", "two")))  # "three" is gone at the owner's
    rotation = decode_state(holder.state()).rotation
    assert rotation is not None
    assert (rotation.asker, rotation.asked, rotation.missing, rotation.heads) == (LABORATORY, 41, ("two",), 2)

    again = _again(holder, keeper.kept)
    assert _refusal(_ask(again, "two"))[0] == FailureCode.WRONG_KEY
    ready, rotated = _tell(again, DATA_OWNER, _notice(again, "two"))
    assert isinstance(ready.payload, p.HeadReady)
    assert rotated.payload == p.KeyRotated(old, again.fingerprint, 2)
    assert (rotated.recipient, rotated.reply_to) == (LABORATORY, 41)
    assert decode_state(again.state()).rotation is None


def test_a_crash_between_the_new_key_and_its_state_loses_no_head_silently() -> None:
    """The vault has the new key, the state is that before the rotation; who repeats it gets everything renewed."""
    keeper = Keeper()
    holder = KeyHolder(RUN, PLAN, keys=keeper)
    _tell(holder, DATA_OWNER, _notice(holder, "head"))
    old, state = holder.fingerprint, holder.state()
    _tell(holder, LABORATORY, p.RotateKey())
    again = KeyHolder(RUN, PLAN, keys=keeper, custody=keeper.kept)
    again.restore(state)
    kept = decode_state(again.state())
    assert (kept.heads, kept.rotation.asker, kept.rotation.old_fingerprint) == ((), "", old)  # type: ignore[union-attr]
    assert decode_state(_again(again, keeper.kept).state()) == kept
    sent = _tell(again, LABORATORY, p.RotateKey(), 42)
    assert [e.recipient for e in sent] == [MODEL_HOST, DATA_OWNER]  # nobody waited for the lost one
    _, rotated = _tell(again, DATA_OWNER, _notice(again, "head"))
    assert (rotated.reply_to, rotated.payload.heads) == (42, 1)  # type: ignore[union-attr]


def test_keys_that_cannot_be_kept_are_not_used() -> None:
    keeper = Keeper()
    holder = KeyHolder(RUN, PLAN, keys=keeper)
    _tell(holder, DATA_OWNER, _notice(holder, "head"))
    before = holder.fingerprint, holder.state(), holder.revision
    keeper.broken = True
    (refused,) = _tell(holder, LABORATORY, p.RotateKey())
    assert "No space left" in _refusal(refused)[1]
    assert (holder.fingerprint, holder.state(), holder.revision) == before


def test_keys_to_start_with_must_be_of_the_plan_and_are_not_made_anew() -> None:
    keeper = Keeper()
    custody = make_custody(PLAN)
    assert KeyHolder(RUN, PLAN, keys=keeper, custody=custody).fingerprint == custody.public.fingerprint
    assert not keeper.asked
    with pytest.raises(ParameterError, match="for another plan"):
        KeyHolder(RUN, plan_head(5, 2), custody=custody)
    KeyHolder(RUN, PLAN, noise_check=NOISE_IGNORED, keys=keeper)
    assert keeper.asked == [(PLAN, False)]


def test_state_of_another_run_or_damaged_is_refused() -> None:
    holder = KeyHolder(RUN, PLAN)
    _tell(holder, DATA_OWNER, _notice(holder, "head"))
    with pytest.raises(ProtocolError, match="state of run 'hospital'; this party serves run 'clinic'"):
        _again(holder, None, "clinic")
    for damaged in (holder.state()[:-5], b"nonsense"):
        with pytest.raises(MessageError, match="no key holder's state"):
            holder.restore(damaged)


def test_state_survives_bytes_and_equal_states_give_equal_bytes() -> None:
    holder = KeyHolder(RUN, PLAN)
    _tell(holder, DATA_OWNER, _notice(holder, "tagged", [2**26 - 1]))
    state = decode_state(holder.state())
    assert encode_state(state) == holder.state()
    (head,) = state.heads
    assert (head.weight_scale, head.tag.tolist()) == (0.25, [2**26 - 1])
    empty: Any = KeyHolderState(RUN, "", ())
    assert decode_state(encode_state(empty)) == empty
