"""The model inversion strategy on real decisions: needs, order, rounding, the known head, and its controls."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rhe_parties.attacks.base import Answers, AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.inversion_strategy import InversionNetworkStrategy, released_scores
from rhe_parties.attacks.soft_label import SoftLabel
from rhe_parties.data.datasets import load_dataset, to_unit
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.messages import Envelope, encode
from rhe_parties.messages.payloads import Decision
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.threat.model import ADVERSARY, KEY_HOLDER
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray, UInt8Array

K, VICTIMS, INPUTS = 10, 4, 20
RECIPE = Recipe.paper("strokenet", 1)
FAST = InversionNetworkStrategy.Options(steps=150, batch=32, width=6, learning_rate=2e-2, shadow_heads=64)


@dataclasses.dataclass(frozen=True)
class Scene:
    """Four victims that decided on twenty unseen digits each."""

    prior: PriorKnowledge
    ids: tuple[str, ...]
    weight: FloatArray
    bias: FloatArray
    inputs: FloatArray
    logits: FloatArray


@pytest.fixture(scope="module")
def scene() -> Scene:
    dataset = load_dataset("digits", image_size=16)
    splits = split_dataset(dataset, 2)
    backbone = load_backbone("strokenet")
    sets = victim_sets(dataset.labels, splits.private, 1, VICTIMS, 2)
    private = backbone.extract(dataset.images[sets.ravel()]).reshape(*sets.shape, -1)
    weight, bias = train_heads(private, dataset.labels[sets], K, RECIPE, range(VICTIMS))
    shown = dataset.images[splits.evaluation[: VICTIMS * INPUTS]]
    features = backbone.extract(shown).reshape(VICTIMS, INPUTS, -1)
    logits = (features @ weight.transpose(0, 2, 1) + bias[:, None]).astype(np.float32)
    own = splits.auxiliary[:500]
    prior = PriorKnowledge(backbone, RECIPE, K, 1, dataset.images[own], dataset.labels[own])
    images = to_unit(shown).reshape(VICTIMS, INPUTS, *shown.shape[1:])
    return Scene(prior, tuple(f"head-{v}" for v in range(VICTIMS)), weight, bias, images, logits)


class KeyHolder:
    """Says that it answers with logits; the answers themselves are stood in for by `solved`."""

    release, budget = "logits", 0

    def ask(self, head_id: str, images: UInt8Array) -> Answers:
        raise AssertionError("not asked here")

    def used(self, head_id: str) -> int:
        return 0


def decision(head: str, logits: FloatArray, request: str = "r") -> Decision:
    return Decision(request, head, logits.argmax(axis=1).astype(np.int64), 0, logits)


def view(*decisions: Decision) -> AdversaryView:
    return AdversaryView(
        tuple(encode(Envelope("run", KEY_HOLDER, ADVERSARY, i, 0, item)) for i, item in enumerate(decisions))
    )


def whole_view(scene: Scene, logits: FloatArray) -> AdversaryView:
    halves = [(v, part) for part in (slice(0, 7), slice(7, INPUTS)) for v in reversed(range(VICTIMS))]
    return view(*(decision(scene.ids[v], logits[v, part], f"{v}-{part.start}") for v, part in halves))


def error(claim: Claim, scene: Scene) -> float:
    assert claim.inputs is not None
    return float(np.square(claim.inputs - scene.inputs).mean())


def test_scores_come_in_the_victims_order_and_the_decisions(scene: Scene) -> None:
    ids, logits = released_scores(whole_view(scene, scene.logits), scene.ids, K)
    assert ids == scene.ids
    np.testing.assert_array_equal(logits, scene.logits)
    ids, _ = released_scores(whole_view(scene, scene.logits), (), K)
    assert ids == tuple(reversed(scene.ids))


def test_attack_paints_the_inputs_and_its_null_does_not(scene: Scene) -> None:
    context = AttackContext(3, scene.ids)
    strategy = InversionNetworkStrategy(FAST)
    claim = strategy.attack(whole_view(scene, scene.logits), scene.prior, context)
    assert claim.inputs is not None
    assert claim.inputs.shape == scene.inputs.shape
    assert claim.null is not None
    overall = np.square(to_unit(scene.prior.auxiliary_images).mean(axis=0) - scene.inputs).mean()
    assert error(claim, scene) < 0.85 * overall
    assert error(claim.null, scene) > overall
    assert claim.notes["rounding of the released scores"] == "none"
    # Scores of other heads' inputs paint other pictures.
    swapped = strategy.attack(whole_view(scene, np.roll(scene.logits, 5, axis=1)), scene.prior, context)
    assert error(swapped, scene) > overall
    again = InversionNetworkStrategy(FAST).attack(
        whole_view(scene, scene.logits), scene.prior, AttackContext(3, scene.ids)
    )
    np.testing.assert_array_equal(again.inputs, claim.inputs)


def test_known_heads_paint_better(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    def solved(self: SoftLabel, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        assert self.options.reconstruct is False
        return Claim(context.victims, weights=scene.weight, biases=scene.bias)

    monkeypatch.setattr(SoftLabel, "attack", solved)
    memory: dict[str, object] = {}
    errors = []
    for know in (True, False):
        strategy = InversionNetworkStrategy(dataclasses.replace(FAST, know_head=know))
        context = AttackContext(3, scene.ids, oracle=KeyHolder(), memory=memory)
        claim = strategy.attack(whole_view(scene, scene.logits), scene.prior, context)
        errors.append(error(claim, scene))
        assert claim.notes["heads"] == ("solved from scores of own images" if know else "unknown")
    assert errors[0] < 0.9 * errors[1]
    assert len(memory) == 2


def test_rounded_scores_are_imitated(scene: Scene) -> None:
    strategy = InversionNetworkStrategy(dataclasses.replace(FAST, steps=2))
    context = AttackContext(3, scene.ids, defences=("rounding@digits=1",))
    claim = strategy.attack(whole_view(scene, np.round(scene.logits, 1)), scene.prior, context)
    assert claim.notes["rounding of the released scores"] == "to multiples of 0.1"
    (made,) = context.memory.values()
    assert made.pairs.grid == 0.1


def test_classes_alone_do_not_hold_what_is_needed(scene: Scene) -> None:
    classes = Decision("r", "head-0", np.zeros(3, np.int64), 0)
    assert Observation.RELEASED_SCORES not in view(classes).holds()
    assert Observation.RELEASED_SCORES in whole_view(scene, scene.logits).holds()
    assert not InversionNetworkStrategy.ciphertext_needs


def test_bad_decisions_are_named(scene: Scene) -> None:
    logits = scene.logits[0]
    with pytest.raises(NumericError, match="no released scores of head 'head-1'"):
        released_scores(view(decision("head-0", logits)), ("head-0", "head-1"), K)
    with pytest.raises(NumericError, match="no released scores"):
        released_scores(view(), (), K)
    with pytest.raises(NumericError, match="different numbers of images \\(3 to 20\\)"):
        released_scores(view(decision("head-0", logits), decision("head-1", logits[:3])), (), K)
    with pytest.raises(NumericError, match="of 4 classes, not 10"):
        released_scores(view(decision("head-0", logits[:, :4])), (), K)
    bare = Decision("q", "head-0", np.zeros(3, np.int64), 0)
    with pytest.raises(NumericError, match="without scores"):
        released_scores(view(decision("head-0", logits), bare), (), K)
    assert released_scores(view(decision("head-0", logits), decision("other", logits[:2])), ("head-0",), K)[0]


def test_bad_prior_knowledge_and_options_are_named(scene: Scene) -> None:
    seen = whole_view(scene, scene.logits)
    unlabelled = dataclasses.replace(scene.prior, auxiliary_labels=np.full(500, -1, np.int64))
    with pytest.raises(DataError, match="-1"):
        InversionNetworkStrategy(FAST).attack(seen, unlabelled, AttackContext(3, scene.ids))
    one_class = dataclasses.replace(scene.prior, auxiliary_labels=np.zeros(500, np.int64))
    with pytest.raises(DataError, match="class 1 has 0 auxiliary images"):
        InversionNetworkStrategy(FAST).attack(seen, one_class, AttackContext(3, scene.ids))
    for change, text in (
        ({"shadow_heads": 0}, "shadow_heads"),
        ({"truncation": 11}, "truncation"),
        ({"steps": 0}, "steps"),
    ):
        with pytest.raises(ParameterError, match=text):
            InversionNetworkStrategy(dataclasses.replace(FAST, **change)).attack(
                seen, scene.prior, AttackContext(3, scene.ids)
            )
