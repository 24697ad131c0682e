"""Gathering: the state machine by itself, the host that uses it, and the one message that answers many."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import FailureCode
from rhe_parties.he.scheme import HeadCiphertexts, make_evaluator
from rhe_parties.messages import Envelope, Payload
from rhe_parties.messages import payloads as p
from rhe_parties.messages.fingerprints import sealed
from rhe_parties.parties.gather import Gatherer
from rhe_parties.parties.host_features import saturated_shares
from rhe_parties.parties.model_host import HostLimits, ModelHost
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from tests.laboratory import small_laboratory
from tests.trio import seat_trio

BATCH = 8


# ---- the state machine -----------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(
    delay=st.integers(0, 40).map(lambda n: n / 8),
    most=st.integers(1, 30),
    steps=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 12), st.integers(0, 16).map(lambda n: n / 8)), max_size=40
    ),
    polite=st.booleans(),
)
def test_nothing_is_lost_mixed_up_or_held_too_long(
    delay: float, most: int, steps: list[tuple[str, int, float]], polite: bool
) -> None:
    full = {"a": 1, "b": 8, "c": 20}
    gatherer: Gatherer[tuple[str, int, int]] = Gatherer(delay, most, 100)
    arrived: dict[tuple[str, int, int], float] = {}
    gone: list[tuple[str, int, int]] = []
    now = 0.0

    def leave(batches: list[list[tuple[str, int, int]]]) -> None:
        for batch in batches:
            assert batch
            key = batch[0][0]
            assert {item[0] for item in batch} == {key}
            assert len(batch) == 1 or sum(item[2] for item in batch) <= full[key]
            assert [item[1] for item in batch] == sorted(item[1] for item in batch)
            gone.extend(batch)

    for number, (key, inputs, pause) in enumerate(steps):
        waits = gatherer.seconds(now)
        if polite and waits is not None and waits <= pause:
            now += waits
            leave(gatherer.due(now + 1e-9))
            held = set(arrived) - set(gone)
            assert all(now < arrived[item] + delay for item in held)
        now += pause
        leave(gatherer.due(now))
        item = (key, number, inputs)
        arrived[item] = now
        leave(gatherer.add(key, item, inputs, 2 * inputs, full[key], now))
        held = set(arrived) - set(gone)
        assert gatherer.held == (sum(i[2] for i in held), sum(2 * i[2] for i in held))
        assert gatherer.held[0] <= most
        assert all(now < arrived[i] + delay for i in held)
        assert (gatherer.seconds(now) is None) == (not held)
    leave(gatherer.due(now + delay))
    assert gatherer.seconds(now) is None
    assert sorted(gone, key=lambda item: item[1]) == list(arrived)


def test_full_batches_go_at_once_and_the_rest_by_the_clock() -> None:
    gatherer: Gatherer[str] = Gatherer(1.0, 100, 1000)
    assert gatherer.add("h", "one", 3, 3, 8, 0.0) == []
    assert gatherer.add("h", "two", 3, 3, 8, 0.4) == []
    assert gatherer.seconds(0.5) == pytest.approx(0.5)
    # The third would not fit: the first two go, it begins a batch of its own.
    assert gatherer.add("h", "three", 3, 3, 8, 0.5) == [["one", "two"]]
    assert gatherer.due(1.4) == []
    assert gatherer.due(1.5) == [["three"]]
    assert gatherer.add("h", "all", 8, 8, 8, 2.0) == [["all"]]
    assert gatherer.add("g", "far too large", 101, 9, 8, 2.0) == [["far too large"]]
    assert gatherer.held == (0, 0)


def test_without_a_delay_nothing_is_held() -> None:
    gatherer: Gatherer[int] = Gatherer(0.0, 100, 1000)
    assert [gatherer.add("h", i, 1, 1, 8, 0.0) for i in range(3)] == [[[0]], [[1]], [[2]]]
    assert gatherer.seconds(0.0) is None


def test_memory_is_bounded_by_the_oldest_going_early() -> None:
    gatherer: Gatherer[str] = Gatherer(1.0, 5, 100)
    for key in "abcde":
        assert gatherer.add(key, key, 1, 1, 8, 0.0) == []
    assert gatherer.add("f", "f", 2, 1, 8, 0.1) == [["a"], ["b"]]
    assert gatherer.add("g", "g", 1, 98, 8, 0.1) == [["c"], ["d"]]
    assert gatherer.held == (4, 100)
    assert gatherer.add("e", "e2", 1, 1, 8, 0.1) == [["e"]]


# ---- the host --------------------------------------------------------------------------------------------------


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["rhe", "none"])
def world(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Owner and key holder after a run, and a host that gathers for one second with the heads installed."""
    lab = small_laboratory(batch=BATCH)
    transport, _, transcript = seat_trio(lab, ["none", "rhe"].index(request.param))
    clock = Clock()
    host = ModelHost(lab.run_id, lab.backbone, HostLimits(gather_delay=1.0), clock)
    for entry in transcript:
        envelope = entry.envelope
        if isinstance(envelope.payload, p.PublicMaterial | p.PlainHead | p.EncryptedHead):
            host.handle(dataclasses.replace(envelope, recipient=MODEL_HOST))
    assert len(host._heads) == 2
    sent = [entry.envelope.payload for entry in transcript]
    return {"sent": sent, "host": host, "holder": transport._parties[KEY_HOLDER], "clock": clock, "lab": lab}


def _ask(world: dict[str, Any], request_id: str, images: Any, head: int = 0, sequence: int = 1) -> list[Envelope]:
    """An asker's question, at the host; what the host says at once."""
    lab = world["lab"]
    ask = p.AskDecisions(request_id, lab.head_id(head), images)
    (request,) = world["holder"].handle(Envelope(lab.run_id, LABORATORY, KEY_HOLDER, sequence, 0, ask))
    assert isinstance(request.payload, p.ClassifyRequest)
    replies: list[Envelope] = world["host"].handle(request)
    return replies


def _due(world: dict[str, Any]) -> list[Envelope]:
    envelopes: list[Envelope] = world["host"]._due_now()
    return envelopes


def _images(world: dict[str, Any], head: int = 0) -> Any:
    lab = world["lab"]
    return lab.dataset.images[lab.evaluation[head]]


def _right(world: dict[str, Any], head: int = 0) -> list[int]:
    lab = world["lab"]
    return list(lab.heads(lab.worlds[0])[head].logits(lab.evaluation_features[head]).argmax(axis=1))


def _decisions(world: dict[str, Any], responses: list[Envelope]) -> dict[int, Payload]:
    answers = [answer for response in responses for answer in world["holder"].handle(response)]
    assert all(answer.recipient == LABORATORY for answer in answers)
    return {answer.reply_to: answer.payload for answer in answers}


def test_requests_of_one_head_are_answered_by_one_message(world: dict[str, Any]) -> None:
    images = _images(world)
    for index in range(4):
        assert _ask(world, f"q{index}", images[index : index + 1], sequence=10 + index) == []
    assert world["host"].due() == 1.0
    assert _due(world) == []
    world["clock"].now = 1.0
    assert world["host"].due() == 0.0
    (response,) = _due(world)
    assert world["host"].due() is None
    assert isinstance(response.payload, p.ClassifyResponse)
    assert [part.request_id for part in response.payload.parts] == ["q0", "q1", "q2", "q3"]
    if world["host"]._material is not None:
        plan = world["host"]._material.plan
        assert plan.batch >= 4
        assert len(response.payload.ciphertexts) == plan.class_tiles  # as many as for a single input
    decisions = _decisions(world, [response])
    assert [list(decisions[10 + i].classes) for i in range(4)] == [[c] for c in _right(world)]  # type: ignore[union-attr]


def test_heads_are_never_mixed(world: dict[str, Any]) -> None:
    for head in (0, 1):
        for index in range(2):
            images = _images(world, head)[index : index + 1]
            assert _ask(world, f"h{head}q{index}", images, head, 10 * head + index) == []
    world["clock"].now = 1.0
    responses = _due(world)
    assert [response.payload.head_id for response in responses] == ["victim-0000", "victim-0001"]  # type: ignore[union-attr]
    decisions = _decisions(world, responses)
    for head in (0, 1):
        got = [list(decisions[10 * head + index].classes) for index in range(2)]  # type: ignore[union-attr]
        assert got == [[c] for c in _right(world, head)[:2]]


def test_a_bad_image_is_refused_alone(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a shape that is refused at once, and one at which the backbone fails only when all are computed."""
    images = _images(world)
    real = world["host"]._backbone.extract

    def fragile(batch: Any) -> Any:
        if (batch == 77).all(axis=(1, 2, 3)).any():
            raise p.NumericError("features are NaN")
        return real(batch)

    monkeypatch.setattr(world["host"]._backbone, "extract", fragile)
    assert _ask(world, "good", images[:1], sequence=1) == []
    (refusal,) = _ask(world, "two channels", np.zeros((1, 2, 32, 32), dtype=np.uint8), sequence=2)
    assert refusal.payload.code == FailureCode.BAD_TENSOR  # type: ignore[union-attr]
    assert _ask(world, "poison", np.full((1, 1, 32, 32), 77, dtype=np.uint8), sequence=3) == []
    assert _ask(world, "also good", images[1:3], sequence=4) == []
    assert _ask(world, "other size", images[3:4, :, ::2, ::2], sequence=5) == []
    world["clock"].now = 1.0
    outcomes = _decisions(world, [refusal, *_due(world)])
    assert sorted(outcomes) == [1, 2, 3, 4, 5]
    assert [outcomes[i].code for i in (2, 3)] == [FailureCode.BAD_TENSOR, FailureCode.BAD_VALUE]  # type: ignore[union-attr]
    assert list(outcomes[1].classes) == _right(world)[:1]  # type: ignore[union-attr]
    assert list(outcomes[4].classes) == _right(world)[1:3]  # type: ignore[union-attr]
    assert len(outcomes[5].classes) == 1  # type: ignore[union-attr]
    assert not world["holder"]._open


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_images_of_different_sizes_share_a_batch(
    backend: str, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `torch` the features stay tensors between backbone and head."""
    host = world["host"]
    for head_id, installed in list(host._heads.items()):
        if installed.key_fingerprint and backend == "torch":
            (sent,) = [head for head in world["sent"] if isinstance(head, p.EncryptedHead) and head.head_id == head_id]
            head = make_evaluator(
                host._material, HeadCiphertexts(sent.ciphertexts, sent.key_fingerprint), backend="torch"
            )
            assert head.on_device  # type: ignore[attr-defined]
            host._heads[head_id] = dataclasses.replace(installed, head=head)
    images = _images(world)
    small, colour = images[1:2, :, 8:24, 8:24], np.repeat(images[2:3], 3, axis=1)
    for index, part in enumerate((images[:1], small, colour, images[3:4])):
        assert _ask(world, f"q{index}", part, sequence=index + 1) == []
    world["clock"].now = 1.0
    (response,) = _due(world)
    decisions = _decisions(world, [response])
    right, backbone = _right(world), world["host"]._backbone
    head = world["lab"].heads(world["lab"].worlds[0])[0]
    expected = [right[0], *(int(head.logits(backbone.extract(x)).argmax()) for x in (small, colour)), right[3]]
    assert [int(decisions[i + 1].classes[0]) for i in range(4)] == expected  # type: ignore[union-attr]


@pytest.mark.parametrize("world", ["rhe"], indirect=True)
def test_full_batches_do_not_wait(world: dict[str, Any]) -> None:
    full = world["host"]._material.plan.batch
    images = np.repeat(_images(world)[:1], full, axis=0)
    (response,) = _ask(world, "all", images)
    assert len(response.payload.parts) == 1  # type: ignore[union-attr]
    replies = [_ask(world, f"q{i}", images[:1], sequence=i) for i in range(full)]
    assert [len(reply) for reply in replies] == [0] * (full - 1) + [1]
    assert len(replies[-1][0].payload.parts) == full  # type: ignore[union-attr]


def test_a_replayed_request_cannot_spoil_a_batch(world: dict[str, Any]) -> None:
    lab, images = world["lab"], _images(world)
    assert _ask(world, "q0", images[:1], sequence=1) == []
    replay = Envelope(lab.run_id, KEY_HOLDER, MODEL_HOST, 9, 0, p.ClassifyRequest("q0", lab.head_id(0), images[:1]))
    (refusal,) = world["host"].handle(replay)
    assert refusal.payload.code == FailureCode.REPLAY  # type: ignore[union-attr]
    world["clock"].now = 1.0
    assert list(_decisions(world, _due(world))) == [1]
    assert world["host"].handle(replay)[0].payload.code == FailureCode.REPLAY


def test_a_response_with_a_foreign_part_leaves_the_open_requests_open(world: dict[str, Any]) -> None:
    images, holder = _images(world), world["holder"]
    for index in range(3):
        _ask(world, f"q{index}", images[index : index + 1], sequence=index + 1)
    world["clock"].now = 1.0
    (response,) = _due(world)
    payload = response.payload
    assert isinstance(payload, p.ClassifyResponse)
    first, second, third = payload.parts
    for parts in (
        (first, second, dataclasses.replace(third, request_id="nobody")),
        (first, second, second),
        (first, second, dataclasses.replace(third, request_id="r0")),  # closed long ago
        (first, second),
        (dataclasses.replace(first, batch=2), second, dataclasses.replace(third, batch=0)),
    ):
        bad = dataclasses.replace(response, payload=sealed(dataclasses.replace(payload, parts=parts)))
        (refusal,) = holder.handle(bad)
        assert isinstance(refusal.payload, p.Failure)
        assert refusal.recipient == MODEL_HOST
        assert set(holder._open) == {"q0", "q1", "q2"}
    # In another order the rows would go to the wrong askers: the digest shows it, unless it was made anew.
    swapped = dataclasses.replace(payload, parts=(second, first, third))
    (refusal,) = holder.handle(dataclasses.replace(response, payload=swapped))
    assert refusal.payload.code == FailureCode.MALFORMED
    assert [list(d.classes) for d in _decisions(world, [response]).values()] == [[c] for c in _right(world)[:3]]  # type: ignore[union-attr]


def test_a_reply_that_is_refused_whole_is_given_again_part_by_part(world: dict[str, Any]) -> None:
    """A request that the key holder never sent, in the same batch, costs the others nothing."""
    lab, images, host, holder = world["lab"], _images(world), world["host"], world["holder"]
    _ask(world, "q0", images[:1], sequence=1)
    forged = p.ClassifyRequest("forged", lab.head_id(0), images[2:3])
    assert host.handle(Envelope(lab.run_id, KEY_HOLDER, MODEL_HOST, 7, 0, forged)) == []
    _ask(world, "q1", images[1:2], sequence=2)
    world["clock"].now = 1.0
    (response,) = _due(world)
    (refusal,) = holder.handle(response)
    assert refusal.payload.code == FailureCode.REPLAY
    singles = host.handle(refusal)
    assert [single.payload.parts[0].request_id for single in singles] == ["q0", "forged", "q1"]
    answers = [holder.handle(single)[0] for single in singles]
    assert [answer.recipient for answer in answers] == [LABORATORY, MODEL_HOST, LABORATORY]
    right = _right(world)
    assert [list(answers[i].payload.classes) for i in (0, 2)] == [[right[0]], [right[1]]]
    assert host.handle(answers[1]) == []  # no end of it


@pytest.mark.parametrize("world", ["none"], indirect=True)
def test_a_new_head_does_not_answer_for_the_old_one(world: dict[str, Any]) -> None:
    lab, host, images = world["lab"], world["host"], _images(world)
    assert _ask(world, "before", images[:1], sequence=5) == []
    other = lab.heads(lab.worlds[0])[1]
    head = p.PlainHead("victim-0000", other.weight, other.bias, lab.backbone.fingerprint)
    response, installed = host.handle(Envelope(lab.run_id, DATA_OWNER, MODEL_HOST, 50, 0, head))
    assert isinstance(installed.payload, p.HeadInstalled)
    assert list(_decisions(world, [response])[5].classes) == _right(world)[:1]  # type: ignore[union-attr]


def test_saturated_inputs_are_counted_for_whom_they_belong_to() -> None:
    features = np.array([[1, 0], [9, 0], [0, 8], [1, 1], [7, 7]], dtype=np.float32)
    assert saturated_shares(3, features, [2, 2, 1]) == [1, 1, 1]
    assert saturated_shares(1, features, [2, 3]) == [0, 1]
    assert saturated_shares(2, features, [5]) == [2]
    assert saturated_shares(0, features, [1, 4]) == [0, 0]
