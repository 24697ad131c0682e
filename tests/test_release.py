"""Release policies: what of the logits leaves the key holder, and that the record says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rhe_parties.defences.base import Defence
from rhe_parties.defences.rounding import Rounding
from rhe_parties.defences.temperature import Temperature
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.messages import Envelope, encode
from rhe_parties.messages import payloads as p
from rhe_parties.messages.fingerprints import sealed
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.release import Release, parse_release
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import Laboratory
from rhe_parties.runner.scenario import Scenario
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.transport import Switchboard
from tests.laboratory import small_laboratory
from tests.trio import seat_trio

IMAGES = np.zeros((2, 1, 4, 4), dtype=np.uint8)
LOGITS = np.array([[0.1234567, -2.0, 1.98765], [5.5, 5.4999, -1.0]], dtype=np.float32)


def _decide(release: str, logits: Any = LOGITS, *defences: Defence) -> Envelope:
    """The decision of a key holder that gets these plain logits from the host."""
    policy = Release(parse_release(release).kind, defences=defences)
    holder = KeyHolder("r", None, 0, policy)
    holder.handle(Envelope("r", DATA_OWNER, KEY_HOLDER, 1, 0, p.HeadNotice("h", "f", False, 0.0, 3)))
    holder.handle(Envelope("r", LABORATORY, KEY_HOLDER, 1, 0, p.AskDecisions("q", "h", IMAGES)))
    parts = (p.ResponsePart("q", 2, 0),)
    response = sealed(p.ClassifyResponse("h", "f", "", parts, logits, ()))
    (decision,) = holder.handle(Envelope("r", MODEL_HOST, KEY_HOLDER, 1, 2, response))
    assert isinstance(decision.payload, p.Decision)
    return decision


def _asked(board: Switchboard, lab: Laboratory, index: int) -> p.Decision:
    images = lab.dataset.images[lab.evaluation[index]]
    return board.ask(KEY_HOLDER, p.AskDecisions(f"r{index}", lab.head_id(index), images), p.Decision)


def test_a_class_only_decision_depends_on_nothing_but_the_classes() -> None:
    """Other logits with the same largest ones: the bytes that leave are the same, to the last bit."""
    other = np.array([[-1e6, -1e7, 3e5], [0.0, -1e-20, -5.0]], dtype=np.float32)
    one, two = _decide("classes"), _decide("classes", other)
    assert encode(one) == encode(two)
    assert one.payload.logits.size == 0  # type: ignore[union-attr]
    assert LOGITS.tobytes()[:4] not in encode(one)
    assert encode(_decide("logits")) != encode(_decide("logits", other))


def test_rounded_and_raw_logits() -> None:
    rounded = _decide("logits", LOGITS, Rounding(Rounding.Options(2))).payload
    assert isinstance(rounded, p.Decision)
    np.testing.assert_array_equal(rounded.logits, np.array([[0.12, -2.0, 1.99], [5.5, 5.5, -1.0]], dtype=np.float32))
    # Rounding makes ties; the class is still that of the logits.
    assert list(rounded.classes) == [2, 0]
    whole = _decide("logits", LOGITS, Rounding(Rounding.Options(0)))
    np.testing.assert_array_equal(whole.payload.logits, np.round(LOGITS))  # type: ignore[union-attr]
    # Defences act in their order: a temperature before the rounding makes the grid coarser.
    both = _decide("logits", LOGITS, Temperature(Temperature.Options(4)), Rounding(Rounding.Options(0))).payload
    assert isinstance(both, p.Decision)
    np.testing.assert_array_equal(both.logits, np.round(LOGITS / 4))
    assert list(both.classes) == [2, 0]
    np.testing.assert_array_equal(_decide("logits").payload.logits, LOGITS)  # type: ignore[union-attr]


@pytest.mark.parametrize("world", [0, 1])
def test_released_logits_are_the_real_ones(world: int) -> None:
    """Under encryption the integers are multiplied by the head's weight scale, which the host never learns."""
    lab = small_laboratory(release="logits")
    _, board, _ = seat_trio(lab, world)
    decisions = [_asked(board, lab, index) for index in (0, 1)]
    for head, features, decision in zip(lab.heads(lab.worlds[0]), lab.evaluation_features, decisions, strict=True):
        exact = head.logits(features)
        np.testing.assert_allclose(decision.logits, exact, atol=0.02 * float(np.abs(exact).max()))
        np.testing.assert_array_equal(decision.logits.argmax(axis=1), decision.classes)


def test_the_default_releases_classes_in_both_worlds() -> None:
    lab = small_laboratory()
    for world in (0, 1):
        _, board, _ = seat_trio(lab, world)
        assert _asked(board, lab, 0).logits.size == 0


def test_a_defence_that_releases_nonsense_is_refused() -> None:
    class Broken(Defence):
        name = "broken"

        def release(self, classes: Any, logits: Any) -> Any:
            return classes, logits * np.nan

    holder = KeyHolder("r", None, 0, Release("logits", defences=[Broken()]))
    with pytest.raises(NumericError, match="'broken' released"):
        holder._release.answer(LOGITS, 1.0)


@pytest.mark.parametrize("text", ["", "class", "rounded", "rounded:2", "logits:2"])
def test_anything_else_is_one_clear_line(text: str) -> None:
    with pytest.raises(ParameterError, match="allowed: classes, logits") as caught:
        resolve_parameters({"release": text})
    assert "\n" not in str(caught.value)


def test_policies_by_name() -> None:
    assert parse_release("classes") == Release()
    assert parse_release("logits") == Release("logits")
    with pytest.raises(ParameterError, match=r"rounding is a defence: \+rounding@digits=N"):
        parse_release("rounded:3")


def test_gather_delay_is_checked() -> None:
    for value in (-1, "nan", "inf", 60_001):
        with pytest.raises(ParameterError, match="gather_delay_ms"):
            resolve_parameters({"gather_delay_ms": value})
    with pytest.raises(ParameterError, match="at most half of party_timeout, 500 ms"):
        resolve_parameters({"gather_delay_ms": 600, "party_timeout": 1})


def test_the_record_says_what_is_released_and_a_gathering_host_decides_alike(tmp_path: Any) -> None:
    given: dict[str, Any] = {
        "victims": 2, "evaluation_images": 5, "transport": "local", "adversary": "prior-only", "examples": 0,
    }  # fmt: skip
    scenario = Scenario("tiny", "a test")
    plain = scenario.run(out=tmp_path / "a", quiet=True, **given)
    gathered = scenario.run(out=tmp_path / "b", quiet=True, release="logits", gather_delay_ms=20, batch=8, **given)
    assert dict(plain.threat_model)["decisions"] == "classes, to the party that asked; never to the host"
    released = dict(gathered.threat_model)["decisions"]
    assert released == "classes and logits, to the party that asked; never to the host"
    assert [w.accuracy for w in plain.worlds] == [w.accuracy for w in gathered.worlds]
    # Ten images of two heads, each asked for by itself: two replies in each world.
    counts = {m.kind: m.count for m in gathered.worlds[1].messages}
    assert (counts["classify_request"], counts["classify_response"], counts["decision"]) == (10, 2, 10)
