"""Two-layer heads extracted as quadratic forms through the parties, claimed with their hidden layer, and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhe_parties.attacks.extraction.lifted import LiftedHeads
from rhe_parties.attacks.extraction.prior import FeatureAxes
from rhe_parties.attacks.extraction.quadratic import SquareLift
from rhe_parties.attacks.reconstructor.standardise import flatten_heads
from rhe_parties.errors import MessageError, NumericError
from rhe_parties.messages.payloads import ClaimReport
from rhe_parties.metrics.extraction import measure_head
from rhe_parties.metrics.truth import GroundTruth, MeasuredClaim
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.binary_head import BinaryHead, binary_recipe
from rhe_parties.report.record import AttackRecord, Record, ResultRecord
from rhe_parties.runner.scenario import Scenario
from rhe_parties.testing.world import write_digits
from rhe_parties.types import FloatArray

D, H, V = 10, 3, 4
FEATURES = np.random.default_rng(0).normal(1, 1, (80, D)).astype(np.float32)


def _flat() -> FloatArray:
    rng = np.random.default_rng(1)
    return flatten_heads(*(rng.normal(size=s).astype(np.float32) for s in ((V, H, D), (V, H), (V, 1, H), (V, 1))))


def _lifted(activation: str) -> LiftedHeads:
    lift = SquareLift(FeatureAxes.fit(FEATURES), D)
    return LiftedHeads(load_backbone("strokenet"), binary_recipe("strokenet", 1, H, activation), lift, FEATURES)


def _heads(activation: str) -> list[BinaryHead]:
    return [BinaryHead.of(row, binary_recipe("strokenet", 1, H, activation), D) for row in _flat()]


# ---- lifted heads ----------------------------------------------------------------------------------------------


def test_many_square_heads_are_lifted_as_one() -> None:
    lifted = _lifted("square")
    weight, bias = lifted.pairs(_flat())
    for head, w, b in zip(_heads("square"), weight, bias, strict=True):
        alone, constant = lifted.lift.head(head.deep)
        np.testing.assert_allclose(w[1], alone[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(b[1], constant[0], rtol=1e-3, atol=1e-3)
        assert not w[0].any()
    assert lifted.error(_flat()) < 1e-3
    assert not lifted.surrogate


def test_surrogates_of_relu_heads_come_close_and_say_how_close() -> None:
    lifted = _lifted("relu")
    truth = np.stack([head.logits(FEATURES)[:, 1] for head in _heads("relu")])
    assert lifted.surrogate
    assert 0 < lifted.error(_flat()) < 0.5 * truth.std()


# ---- claims ----------------------------------------------------------------------------------------------------


def _claim(activation: str, **more: Any) -> MeasuredClaim:
    layers = [head.deep.layers for head in _heads(activation)]
    out = np.stack([np.concatenate([0 * b[0], b[0]]) for _, b in layers])
    arrays = {
        "hidden_weights": np.stack([a[0] for a, _ in layers]), "hidden_biases": np.stack([a[1] for a, _ in layers]),
        "weights": out, "biases": np.stack([np.concatenate([0 * b[1], b[1]]) for _, b in layers]),
    }  # fmt: skip
    return MeasuredClaim(arrays | more, activation=activation)


def _truth() -> GroundTruth:
    labels = np.repeat([0, 1], 40).astype(np.int64)
    sets = np.stack([[v, 40 + v] for v in range(V)])
    images = np.zeros((80, 1, 2, 2), np.float32)
    return GroundTruth(images, FEATURES, labels, sets, 2, agreement_features=FEATURES)


@pytest.mark.parametrize("activation", ["relu", "square"])
def test_a_claimed_hidden_layer_decides_as_the_head_does(activation: str) -> None:
    (found,) = measure_head(_claim(activation), _truth(), _heads(activation), np.random.default_rng(0))
    assert (found.statistic, found.value) == ("extraction_agreement", 1.0)
    assert found.chance is not None
    assert found.chance < 0.9


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("hidden_weights", np.ones((V, H, D + 1), np.float32)),
        ("hidden_biases", np.ones((V, H + 1), np.float32)),
        ("weights", np.ones((V, 2, D), np.float32)),
        ("hidden_weights", np.full((V, H, D), np.nan, np.float32)),
    ],
)
def test_impossible_hidden_layers_are_refused(name: str, array: FloatArray) -> None:
    with pytest.raises(NumericError, match=r"claimed|NaN"):
        measure_head(_claim("relu", **{name: array}), _truth(), _heads("relu"), np.random.default_rng(0))


@pytest.mark.parametrize(
    ("activation", "names", "text"),
    [
        ("tanh", ("hidden_weights",), "activation 'tanh' is unknown"),
        ("", ("hidden_weights",), "belong together"),
        ("relu", (), "belong together"),
    ],
)
def test_reports_name_the_activation_of_hidden_layers(activation: str, names: tuple[str, ...], text: str) -> None:
    arrays = tuple(np.zeros((1, H, D), np.float32) for _ in names)
    with pytest.raises(MessageError, match=text):
        ClaimReport("a", "as-is", "claim", head_ids=("h",), array_names=names, arrays=arrays, activation=activation)


# ---- whole runs ------------------------------------------------------------------------------------------------


def _run(tmp_path: Path, adversary: str, **more: Any) -> Record:
    parameters = {
        "dataset": write_digits(tmp_path / "digits", 4, 120), "image_size": 16, "labels": "parity", "hidden": 4,
        "victims": 3, "evaluation_images": 5, "adversary": adversary, "threads": 1, "transport": "local",
    }  # fmt: skip
    record = Scenario("small", "", parameters | more).run(out=tmp_path / "out", quiet=True)
    assert record.status == "ok"
    return record


def _cell(record: Record, world: int, adversary: str) -> tuple[AttackRecord, dict[str, ResultRecord]]:
    cell = next(a for a in record.worlds[world].attacks if a.adversary == adversary and a.variant == "as-is")
    assert not cell.error
    return cell, {result.statistic: result for result in cell.results}


def test_decisions_alone_copy_an_encrypted_square_head(tmp_path: Path) -> None:
    record = _run(
        tmp_path, "head-readout,hard-label", activation="square", worlds="none,rhe+client", client_budget=700,
        **{"hard-label.decisions": 900, "hard-label.batch": 300, "hard-label.shadows": 1000,
           "hard-label.reconstruct": False},
    )  # fmt: skip
    assert _cell(record, 0, "head-readout")[1]["extraction_agreement"].value == 1.0
    assert _cell(record, 1, "head-readout")[0].outcome == "blocked"
    cell, found = _cell(record, 1, "hard-label")
    assert found["extraction_agreement"].value > 0.9
    assert found["queries"].value == 700  # the key holder's budget, not what was wanted
    assert "extracted heads" not in cell.notes


def test_released_scores_copy_a_relu_head_by_a_form(tmp_path: Path) -> None:
    record = _run(
        tmp_path, "soft-label", worlds="none,none+client", release="logits", client_budget=0,
        **{"soft-label.queries": 600, "soft-label.shadows": 1200, "soft-label.reconstruct": False},
    )  # fmt: skip
    cell, found = _cell(record, 1, "soft-label")
    assert found["extraction_agreement"].value > 0.9
    assert "surrogates" in cell.notes["extracted heads"]
