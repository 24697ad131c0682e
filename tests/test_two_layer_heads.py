"""Heads with a hidden layer on their way through the parties: refused, sent, served, attacked."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhe_parties.attacks import reconstructor_strategy
from rhe_parties.attacks.base import ADVERSARIES, Strategy
from rhe_parties.attacks.reconstructor.neurons import sort_hidden_units
from rhe_parties.attacks.reconstructor.standardise import flatten_heads
from rhe_parties.data.datasets import Dataset, load_dataset, with_parity
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.defences.base import Defence
from rhe_parties.errors import DataError, FailureCode, MessageError, NumericError, ParameterError, UserError
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages import payloads as p
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.model.binary_head import BinaryHead, binary_recipe, train_binary_head
from rhe_parties.model.mlp import DeepHead
from rhe_parties.report.record import AttackRecord, Record, ResultRecord
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import Laboratory, prepare
from rhe_parties.runner.scenario import Scenario, load_scenario
from rhe_parties.runner.seats import party_setups
from rhe_parties.testing.world import write_digits
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.threat.view import AdversaryView, Observation, build_view
from rhe_parties.transport.local import LocalTransport
from tests.laboratory import TIMEOUT, play, seat_adversary, small_laboratory

ROOT = Path(__file__).parents[1]
FLOATS = np.linspace(-1, 1, 12, dtype=np.float32)
HIDDEN, OFFSETS, WEIGHT, BIAS = FLOATS.reshape(3, 4), FLOATS[:3], FLOATS[None, :3], FLOATS[:1]
BACKBONE = "cd" * 32


def _laboratory(worlds: str = "none,none+client", **more: Any) -> Laboratory:
    return small_laboratory(worlds, **({"labels": "parity", "hidden": 8} | more))


def _head(**changes: Any) -> p.TwoLayerHead:
    given = {"head_id": "h", "activation": "relu", "hidden_weight": HIDDEN, "hidden_bias": OFFSETS}
    return p.TwoLayerHead(**(given | {"weight": WEIGHT, "bias": BIAS, "backbone_fingerprint": BACKBONE} | changes))


# ---- parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"activation": "sqare"}, "unknown activation 'sqare'; did you mean 'square'"),
        ({"labels": "parrity"}, "unknown labels 'parrity'; did you mean 'parity'"),
        ({"hidden": -1}, "hidden=-1 is not allowed: .* greater than or equal to 0"),
        ({"hidden": 513}, "hidden=513 is not allowed: .* less than or equal to 512"),
        ({"activation": "square"}, "activation='square' needs a hidden layer: hidden above 0"),
        ({"hidden": 8, "worlds": "none,none+client"}, "hidden=8 is not allowed with 10 classes: .*labels=parity"),
        (
            {"hidden": 8, "labels": "parity", "worlds": "none,rhe"},
            "world 'rhe' is not allowed with hidden=8 and activation='relu': .*activation=square; or worlds without",
        ),
        (
            {"hidden": 8, "labels": "parity", "activation": "square", "worlds": "none,rhe:ckks"},
            "scheme 'ckks' of world 'rhe:ckks' is not allowed with hidden=8: bfv, plain",
        ),
        (
            {"hidden": 8, "labels": "parity", "worlds": "none,none+client", "initial_weights": True},
            "initial_weights=True is not allowed with hidden=8",
        ),
        ({"labels": "parity", "victims": 5000}, "1 to 58 are possible with 1 images per class"),
    ],
)
def test_refused_before_anything_runs(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        prepare(resolve_parameters(given))
    assert "\n" not in str(caught.value)


def test_a_defence_that_trains_linear_heads_alone_is_refused() -> None:
    plugin = ROOT / "tests" / "plugin_package" / "sign_weights.py"
    given = {"hidden": 8, "labels": "parity", "worlds": f"none,{plugin}:SignWeights"}
    with pytest.raises(ParameterError, match="its defence trains linear heads alone, hidden=0"):
        prepare(resolve_parameters(given))

    class Both(Defence):
        def train(self, *arguments: Any) -> Any: ...

        def train_two_layer(self, *arguments: Any) -> Any: ...

    assert Both.takes_two_layers()


# ---- data and heads --------------------------------------------------------------------------------------------


def test_parity_keeps_training_sets_balanced_over_the_datasets_own_classes() -> None:
    digits = load_dataset("digits")
    dataset = with_parity(digits)
    assert dataset.class_names == ("even", "odd")
    assert (dataset.labels == digits.labels % 2).all()
    assert dataset.finer is not None
    assert dataset.finer.class_names == tuple("0246813579")
    assert [dataset.finer.class_names[k] for k in dataset.finer.labels] == list(map(str, digits.labels))
    sets = victim_sets(dataset.finer.labels, split_dataset(dataset, 0).private, 2, 5, 0)
    assert (digits.labels[sets] == np.repeat([0, 2, 4, 6, 8, 1, 3, 5, 7, 9], 2)).all()
    assert (dataset.labels[sets] == np.repeat([0, 1], 10)).all()


def test_of_an_odd_number_of_classes_the_last_is_left_out() -> None:
    images = np.arange(7, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    test = np.array([0, 1, 0, 1, 0, 0, 1], bool)
    labels = np.array([0, 1, 2, 0, 1, 2, 0], np.int64)
    dataset = with_parity(Dataset("x", images, labels, ("a", "b", "c"), test))
    assert list(dataset.labels) == [0, 1, 0, 1, 0]
    assert list(dataset.images[:, 0, 0, 0]) == [0, 1, 3, 4, 6]
    assert dataset.official_test is not None
    assert list(dataset.official_test) == [False, True, True, False, True]
    with pytest.raises(DataError, match="1 class is too few for odd and even"):
        with_parity(Dataset("x", images, labels * 0, ("a",)))


@pytest.mark.parametrize("activation", ["relu", "square"])
def test_recipe_learns_its_training_images(activation: str) -> None:
    lab = _laboratory(activation=activation)
    right = []
    for head, rows in zip(lab.heads(lab.worlds[0]), lab.truth.sets, strict=True):
        logits = head.logits(lab.truth.features[rows])
        assert logits.shape == (10, 2)
        assert (logits[:, 0] == 0).all()
        right.append(logits.argmax(axis=1) == lab.truth.labels[rows])
    assert np.mean(right) > 0.9


def test_binary_heads_have_two_layers_and_one_output() -> None:
    with pytest.raises(NumericError, match="two layers and one output, got 2 and 3"):
        BinaryHead(DeepHead(((HIDDEN, OFFSETS), (np.eye(3), OFFSETS)), "relu"))
    with pytest.raises(DataError, match="at least 2 classes"):
        train_binary_head(HIDDEN, np.zeros(3, np.int64), binary_recipe("strokenet", 1, 8), 0)


# ---- messages and parties --------------------------------------------------------------------------------------


def test_the_message_refuses_what_does_not_fit_together() -> None:
    with pytest.raises(MessageError, match="activation 'tanh' is unknown"):
        _head(activation="tanh")
    with pytest.raises(NumericError, match="do not fit together"):
        _head(hidden_bias=FLOATS[:2])
    with pytest.raises(NumericError, match="expected \\[1, 3\\]"):
        _head(weight=FLOATS[None, :4])
    with pytest.raises(NumericError, match="expected \\[1, 3\\]"):
        _head(weight=FLOATS[:6].reshape(2, 3), bias=FLOATS[:2])
    with pytest.raises(NumericError, match="NaN"):
        _head(hidden_weight=np.full((3, 4), np.nan, np.float32))
    with pytest.raises(NumericError, match="float64"):
        _head(weight=WEIGHT.astype(np.float64))


def test_fingerprint_covers_every_part() -> None:
    parts = {"hidden_weight": HIDDEN, "hidden_bias": OFFSETS, "weight": WEIGHT, "bias": BIAS}
    changes: list[dict[str, Any]] = [{name: array + 1} for name, array in parts.items()]
    changes += [{}, {"activation": "square"}, {"backbone_fingerprint": "ab" * 32}]
    assert len({head_fingerprint(_head(**change)) for change in changes}) == len(changes)


@pytest.mark.parametrize("activation", ["relu", "square"])
def test_owner_sends_and_host_serves_the_head_in_clear(activation: str) -> None:
    lab = _laboratory(activation=activation)
    transcript, decisions = play(lab, LocalTransport(), 0)
    for head, features, decision in zip(lab.heads(lab.worlds[0]), lab.evaluation_features, decisions, strict=True):
        assert list(decision.classes) == list(head.logits(features).argmax(axis=1))
    view = build_view(transcript, lab.threat_model)
    assert view.holds() == {Observation.TWO_LAYER_HEAD, Observation.QUERIES, Observation.REPLIES}
    for head, name in zip(lab.heads(lab.worlds[0]), lab.head_ids, strict=True):
        assert isinstance(head, BinaryHead)
        sent = view.two_layer_heads()[name]
        assert sent.activation == activation
        (hidden, offsets), (weight, bias) = head.deep.layers
        for array, other in ((sent.hidden_weight, hidden), (sent.hidden_bias, offsets), (sent.weight, weight)):
            assert (array == other).all()
        assert (sent.bias == bias).all()


@pytest.mark.parametrize("world", ["rhe", "rhe:plain"])
def test_encrypted_square_heads_decide_as_in_clear(world: str) -> None:
    lab = _laboratory(f"none,{world}", activation="square")
    transcript, decisions = play(lab, LocalTransport(), 1)
    for head, features, decision in zip(lab.heads(lab.worlds[0]), lab.evaluation_features, decisions, strict=True):
        assert list(decision.classes) == list(head.logits(features).argmax(axis=1))
    view = build_view(transcript, lab.threat_model)
    encrypted = {Observation.ENCRYPTED_HEAD, Observation.PUBLIC_KEY}
    assert view.holds() == encrypted | {Observation.QUERIES, Observation.REPLIES}


def test_both_logits_are_encrypted() -> None:
    head = (lab := _laboratory(activation="square")).heads(lab.worlds[0])[0]
    assert isinstance(head, BinaryHead)
    whole = DeepHead((head.hidden_layer, head.encryptable[:2]), "square")
    features = np.linspace(0, 1, 512, dtype=np.float32).reshape(2, 256)
    assert (whole.logits(features) == head.logits(features)).all()


def test_host_refuses_heads_that_do_not_fit() -> None:
    lab, transport = _laboratory(), LocalTransport()
    for party, setup in party_setups(lab, lab.worlds[0]).items():
        transport.seat(party, setup, TIMEOUT)
    own = lab.backbone.fingerprint
    wide = {"hidden_weight": np.ones((3, 256), np.float32)}
    for sender, head, code in (
        (DATA_OWNER, _head(backbone_fingerprint=own), FailureCode.BAD_TENSOR),
        (DATA_OWNER, _head(**wide), FailureCode.BAD_VALUE),
        (KEY_HOLDER, _head(**wide, backbone_fingerprint=own), FailureCode.REFUSED),
    ):
        sent = encode(Envelope(lab.run_id, sender, MODEL_HOST, 1, 0, head))
        (reply,) = transport.deliver(MODEL_HOST, sent, TIMEOUT)
        failure = decode(reply).payload
        assert isinstance(failure, p.Failure)
        assert failure.code == code


# ---- strategies ------------------------------------------------------------------------------------------------


def _order(lab: Laboratory, transport: LocalTransport, adversary: str, view: AdversaryView) -> p.ClaimReport:
    request = p.AttackRequest("none", adversary, "", "as-is", (), (), 0, view.data, lab.head_ids)
    sent = encode(Envelope(lab.run_id, LABORATORY, ADVERSARY, 1, 0, request))
    (reply,) = transport.deliver(ADVERSARY, sent, TIMEOUT)
    report = decode(reply).payload
    assert isinstance(report, p.ClaimReport)
    return report


def test_strategies_for_linear_heads_are_blocked_and_say_why() -> None:
    lab, transport = _laboratory(), LocalTransport()
    seat_adversary(lab, transport)
    view = build_view(play(lab, transport, 0)[0], lab.threat_model)
    for name in ADVERSARIES.names():
        if ADVERSARIES.load(name).two_layer_needs is None:
            report = _order(lab, transport, name, view)
            assert (report.outcome, report.missing) == ("blocked", ("a head of one layer",)), name
    for name in ("head-readout", "span-inversion", "reconstructor"):
        report = _order(lab, transport, name, AdversaryView(()))
        assert (report.outcome, report.missing) == ("blocked", (str(Observation.TWO_LAYER_HEAD),)), name
    report = _order(lab, transport, "hard-label", view)
    assert (report.outcome, report.missing) == ("blocked", (str(Observation.ORACLE),))
    assert _order(lab, transport, "prior-only", AdversaryView(())).outcome == "claim"


def test_a_strategy_is_for_linear_heads_unless_it_says_otherwise() -> None:
    assert Strategy.two_layer_needs is None


# ---- whole runs ------------------------------------------------------------------------------------------------


def _cell(record: Record, adversary: str) -> tuple[AttackRecord, dict[str, ResultRecord]]:
    cell = next(a for a in record.worlds[0].attacks if a.adversary == adversary and a.variant == "as-is")
    return cell, {result.statistic: result for result in cell.results}


@pytest.mark.slow
def test_reconstructor_learns_from_two_layer_heads_what_the_prior_does_not_know(tmp_path: Path) -> None:
    """Zeros and ones, 16 pixels wide, one image of each: enough to learn from in seconds."""
    parameters = {
        "dataset": write_digits(tmp_path / "digits", 2, 178), "image_size": 16, "labels": "parity", "hidden": 4,
        "victims": 55, "evaluation_images": 10, "worlds": "none,none+client",
        "adversary": "head-readout,ntk-difference,reconstructor",
        "reconstructor.width": 4, "reconstructor.steps": 300, "reconstructor.learning_rate": 1e-2, "threads": 1,
        "transport": "local", "client_budget": 1,
    }  # fmt: skip
    record = Scenario("small", "", parameters).run(out=tmp_path / "out", quiet=True)
    assert record.status == "ok"
    assert record.worlds[0].accuracy is not None
    assert record.worlds[0].accuracy > 0.8
    (cell, found), (_, prior) = _cell(record, "reconstructor"), _cell(record, "prior-only")
    assert cell.outcome == "leaked"
    rate, null = found["identification_rate"], found["null_identification_rate"]
    assert rate.chance is not None
    assert rate.low > rate.chance
    assert null.low <= rate.chance
    assert found["mse"].high < prior["mse"].value
    assert prior["identification_rate"].low <= rate.chance
    read, found = _cell(record, "head-readout")
    assert read.outcome == "leaked"
    assert found["extraction_agreement"].value == 1.0
    blocked, _ = _cell(record, "ntk-difference")
    assert (blocked.outcome, blocked.missing) == ("blocked", ["a head of one layer"])


@pytest.mark.slow
def test_under_encryption_the_reconstructor_runs_on_ciphertexts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconstructor_strategy, "_TWO_LAYER_SHADOWS", 24)
    parameters = {
        "dataset": write_digits(tmp_path / "digits", 2, 178), "image_size": 16, "labels": "parity", "hidden": 4,
        "activation": "square", "victims": 40, "evaluation_images": 5, "worlds": "none,rhe",
        "adversary": "reconstructor", "reconstructor.width": 4, "reconstructor.steps": 20, "threads": 1,
        "transport": "local",
    }  # fmt: skip
    record = Scenario("small", "", parameters).run(out=tmp_path / "out", quiet=True)
    found = {r.statistic: r.value for r in record.worlds[1].utility}
    assert found["twin_agreement"] == 1.0
    as_is, ciphertext = [a for a in record.worlds[1].attacks if a.adversary == "reconstructor"]
    assert (as_is.outcome, as_is.missing) == ("blocked", [str(Observation.TWO_LAYER_HEAD)])
    assert (ciphertext.variant, ciphertext.outcome, ciphertext.error) == ("ciphertext", "not-leaked", "")
    assert ciphertext.notes["shadow heads encrypted under the same key"] == "24"
    assert ciphertext.notes["share of held-out heads' variance explained"] == "0.000"
    kinds = {message.kind for message in record.worlds[1].messages}
    assert "encrypted_head" in kinds
    assert not kinds & {"plain_head", "two_layer_head"}


def test_turning_and_sorting_units_changes_nothing_that_a_head_computes() -> None:
    lab = _laboratory(activation="square")
    flat = np.stack([flatten_heads(*(a[None] for layer in h.deep.layers for a in layer))[0] for h in _binary(lab)])
    turned = flat.copy()
    turned[:, : 256 * 2] *= -1  # the first two units' weights, and their biases
    turned[:, 256 * 8 : 256 * 8 + 2] *= -1
    sort = functools.partial(sort_hidden_units, features=256, hidden=8, even=True)
    assert (sort(turned) == sort(flat)).all()
    assert not (sort_hidden_units(turned, 256, 8) == sort_hidden_units(flat, 256, 8)).all()
    for head, row in zip(_binary(lab), sort(turned), strict=True):
        other = BinaryHead.of(row, binary_recipe("strokenet", 1, 8, "square"), 256)
        assert np.allclose(other.logits(lab.truth.features[:20]), head.logits(lab.truth.features[:20]), rtol=1e-4)


def _binary(lab: Laboratory) -> list[BinaryHead]:
    return [head for head in lab.heads(lab.worlds[0]) if isinstance(head, BinaryHead)]


def test_the_scenario_is_short_and_resolves() -> None:
    file = ROOT / "scenarios" / "two_layer.py"
    assert len(file.read_text().splitlines()) < 60
    parameters = load_scenario(file).resolve({})
    assert (parameters.hidden, parameters.labels, parameters.activation) == (8, "parity", "square")
