"""Span inversion of heads with a hidden layer: invariant numbers, estimates checked on unseen images, whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext, PriorKnowledge
from rhe_parties.attacks.pools import SerialPool
from rhe_parties.attacks.reconstructor.standardise import flatten_heads
from rhe_parties.attacks.span.cross_fit import Sighting, cross_fit
from rhe_parties.attacks.span.invariants import Invariants
from rhe_parties.attacks.span.two_layer import Material, prepare_two_layer, train_shadows
from rhe_parties.attacks.two_layer_span import claim_from_numbers, flat_heads
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.messages.payloads import TwoLayerHead
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.binary_head import binary_recipe
from rhe_parties.model.head import Recipe
from rhe_parties.report.record import AttackRecord, Record, ResultRecord
from rhe_parties.runner.scenario import Scenario
from rhe_parties.testing.world import write_digits
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import FloatArray

D, H, V = 12, 3, 5
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(1, 1, (40, D)).astype(np.float32)


def _parts() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    rng = np.random.default_rng(1)
    shapes = ((V, H, D), (V, H), (V, 1, H), (V, 1))
    weight, bias, out, offset = (rng.normal(size=shape).astype(np.float32) for shape in shapes)
    return weight, bias, out, offset


def _invariants(activation: str) -> Invariants:
    return Invariants.of(binary_recipe("strokenet", 1, H, activation), FEATURES)


def _same(activation: str, changed: tuple[FloatArray, ...]) -> bool:
    invariants, given = _invariants(activation), flatten_heads(*_parts())
    other = flatten_heads(*changed)
    assert not np.allclose(given, other)
    kinds = [invariants.numbers] + ([invariants.readable] if activation == "square" else [])
    return all(np.allclose(kind(given), kind(other), rtol=1e-3, atol=1e-4) for kind in kinds)


# ---- numbers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "square"])
def test_numbers_do_not_depend_on_the_order_of_units(activation: str) -> None:
    weight, bias, out, offset = _parts()
    order = [2, 0, 1]
    assert _same(activation, (weight[:, order], bias[:, order], out[:, :, order], offset))


@pytest.mark.parametrize(("activation", "power", "signs"), [("relu", 1, (1, 1)), ("square", 2, (1, -1))])
def test_numbers_do_not_depend_on_the_scale_of_units(activation: str, power: int, signs: tuple[int, int]) -> None:
    weight, bias, out, offset = _parts()
    scale = np.asarray([0.5 * signs[0], 2.0 * signs[1], 1.5], np.float32)
    assert _same(activation, (weight * scale[:, None], bias * scale, out / scale**power, offset))


@pytest.mark.parametrize("activation", ["relu", "square"])
def test_numbers_tell_other_heads_apart(activation: str) -> None:
    weight, bias, out, offset = _parts()
    for changed in ((-weight, bias, out, offset), (weight, 2 * bias, out, offset), (weight, bias, out, offset + 1)):
        assert not np.allclose(
            _invariants(activation).numbers(flatten_heads(*_parts())),
            _invariants(activation).numbers(flatten_heads(*changed)),
        )


def test_form_numbers_follow_from_the_form_alone() -> None:
    """A second hidden layer with the same Σ v w̃ w̃ᵀ: its eigenvectors as units, the constant among them."""
    weight, bias, out, offset = (part.astype(np.float64) for part in _parts())
    whole = np.concatenate([weight, bias[..., None]], axis=2)
    forms = np.einsum("vh,vhi,vhj->vij", out[:, 0], whole, whole)
    forms[:, -1, -1] += offset[:, 0]
    values, vectors = np.linalg.eigh(forms)
    kept = np.argsort(-np.abs(values), axis=1)[:, : H + 1]
    scale = np.take_along_axis(values, kept, 1)
    rows = np.take_along_axis(vectors, kept[:, None], 2).transpose(0, 2, 1)
    other = (rows[..., :-1], rows[..., -1], scale[:, None], np.zeros((V, 1)))
    wide = Invariants.of(binary_recipe("strokenet", 1, H + 1, "square"), FEATURES)
    found = wide.numbers(flatten_heads(*(part.astype(np.float32) for part in other)))
    np.testing.assert_allclose(found, _invariants("square").numbers(flatten_heads(*_parts())), rtol=1e-3, atol=1e-3)


def test_readable_numbers_are_entries_of_the_form() -> None:
    weight, bias, out, _ = _parts()
    invariants = _invariants("square")
    entries = invariants.readable(flatten_heads(*_parts())).reshape(V, -1, D)
    form = np.einsum("vh,vhi,vhj->vij", out[:, 0], weight, weight)
    np.testing.assert_allclose(entries[:, :-1], form[:, invariants.loud], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        entries[:, -1], np.einsum("vh,vh,vhi->vi", out[:, 0], bias, weight), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda: _invariants("square").numbers(np.zeros((2, 7), np.float32)), "43 finite parameters each"),
        (lambda: _invariants("relu").numbers(np.full((2, 43), np.nan, np.float32)), "finite"),
        (lambda: _invariants("relu").readable(flatten_heads(*_parts())), "a relu head is no quadratic form"),
        (lambda: Invariants.of(binary_recipe("strokenet", 1, H), FEATURES[0]), r"features \[n, D\]"),
        (lambda: Invariants.of(binary_recipe("strokenet", 1, H), FEATURES * np.nan), "finite features"),
    ],
)
def test_bad_heads_are_named(wrong: Any, text: str) -> None:
    with pytest.raises(NumericError, match=text):
        wrong()


# ---- estimates -------------------------------------------------------------------------------------------------


def _linear(heads: int = 400) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Numbers that see targets through a noisy matrix, and groups."""
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(heads, 6)).astype(np.float32)
    numbers = truth @ rng.normal(size=(6, 9)).astype(np.float32) + 0.5 * rng.normal(size=(heads, 9)).astype(np.float32)
    return numbers, truth, np.arange(heads) % 4


def test_cross_fit_finds_a_linear_map_and_says_how_well() -> None:
    numbers, truth, groups = _linear()
    fit = cross_fit(numbers, truth, groups)
    assert 0.7 < fit.skill < 1
    fresh = 1 - np.square(fit.estimate.predict(numbers) - truth).sum() / np.square(truth - truth.mean(0)).sum()
    assert abs(fresh - fit.skill) < 0.05
    equal = fit.estimate.predict(numbers[[3, 7, 3]])
    assert (equal[0] == equal[2]).all()
    shuffled = cross_fit(numbers, truth[np.random.default_rng(3).permutation(len(truth))], groups)
    assert shuffled.skill < 0.05


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda n, t, g: (n[:1], t, g), NumericError, "do not fit together"),
        (lambda n, t, g: (n * np.nan, t, g), NumericError, "NaN"),
        (lambda n, t, g: (n, t, 0 * g), DataError, "too few: 2 groups of 16"),
        (lambda n, t, g: (n[:40], t[:40], g[:40]), DataError, r"\[10, 10, 10, 10\] are too few"),
    ],
)
def test_cross_fit_refuses_bad_input(change: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        cross_fit(*change(*_linear()))
    with pytest.raises(NumericError, match="takes finite numbers"):
        cross_fit(*_linear()).estimate.predict(np.zeros((2, 3), np.float32))


def test_a_sighting_undoes_what_pulls_estimates_to_the_mean() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(size=(3000, 1, 1, 4)).astype(np.float32)
    estimate = (0.2 * truth[:, :, 0] + 0.05 * rng.normal(size=(3000, 1, 4))).astype(np.float32)
    sighting = Sighting.fit(estimate, truth)
    points = sighting.points(estimate)
    assert 0.9 < (points * truth[:, :, 0]).mean() / np.square(truth).mean() < 1.1
    # Whitened noise has unit variance.
    assert 0.9 < ((points - truth[:, :, 0]) @ sighting.whitener.T).std() < 1.1
    with pytest.raises(NumericError, match="without variation"):
        Sighting.fit(estimate, 0 * truth)


# ---- strategies ------------------------------------------------------------------------------------------------


def _material(images: int = 8) -> Material:
    rng = np.random.default_rng(5)
    backbone = load_backbone("strokenet")
    pictures = rng.integers(0, 255, (4 * images, 1, 16, 16), dtype=np.uint8)
    balance = np.repeat(np.arange(4), images)
    recipe = binary_recipe("strokenet", 1, 2)
    return Material(backbone, recipe, pictures, backbone.extract(pictures), balance // 2, balance, 4, 1)


def test_shadow_heads_of_different_groups_share_no_image() -> None:
    shadows = train_shadows(_material(), 60, 1, 0, SerialPool(), lambda _share, _text: None)
    base = shadows.sets % 32  # variants of an image belong to its group
    assert set(shadows.groups) == {0, 1, 2, 3, 4}
    for group in range(5):
        own = set(base[shadows.groups == group].ravel())
        assert not own & set(base[shadows.groups != group].ravel())
    with pytest.raises(DataError, match="need twice as many auxiliary ones, got 1"):
        train_shadows(_material(1), 60, 0, 0, SerialPool(), lambda _share, _text: None)


def test_equal_heads_have_equal_claims() -> None:
    shadows = train_shadows(_material(), 200, 0, 0, SerialPool(), lambda _share, _text: None)
    invariants = Invariants.of(shadows.material.recipe, shadows.material.features)
    numbers = invariants.numbers(shadows.flat)
    tools = prepare_two_layer(shadows, numbers, 0, SerialPool(), lambda _share, _text: None)
    claim = claim_from_numbers(tools, numbers[[0, 1, 0]], ("a", "b", "c"), AttackContext(0))
    assert claim.images is not None
    assert claim.features is not None
    assert claim.images.shape == (3, 4, 1, 16, 16)
    assert claim.features.shape == (3, 4, 256)
    assert (claim.images[0] == claim.images[2]).all()
    assert (claim.features[0] == claim.features[2]).all()
    assert (claim.features[0] != claim.features[1]).any()
    assert claim.null is not None
    with pytest.raises(DataError, match="too few"):
        prepare_two_layer(
            train_shadows(_material(), 20, 0, 0, SerialPool(), lambda _share, _text: None), numbers[:20], 0,
            SerialPool(), lambda _share, _text: None,
        )  # fmt: skip


def test_a_head_of_another_activation_is_refused() -> None:
    m = _material()
    prior = PriorKnowledge(
        m.backbone, Recipe(0.1, 0, 0.1, 1), 2, 2, m.images, m.labels, two_layer=binary_recipe("strokenet", 1, 2)
    )
    head = TwoLayerHead(
        "h", "square", np.ones((2, 256), np.float32), np.ones(2, np.float32), np.ones((1, 2), np.float32),
        np.ones(1, np.float32), "cd" * 32,
    )  # fmt: skip

    class View(AdversaryView):
        def two_layer_heads(self) -> dict[str, TwoLayerHead]:
            return {"h": head}

    with pytest.raises(NumericError, match=r"'h' is a square head \[2, 256\], the recipe says relu \[2, 256\]"):
        flat_heads(View(()), prior, AttackContext(0))
    linear = PriorKnowledge(m.backbone, Recipe(0.1, 0, 0.1, 1), 2, 2, m.images, m.labels)
    with pytest.raises(ParameterError, match="no hidden layer"):
        flat_heads(View(()), linear, AttackContext(0))


# ---- whole runs ------------------------------------------------------------------------------------------------


def _cell(record: Record, world: int, variant: str) -> tuple[AttackRecord, dict[str, ResultRecord]]:
    cells = record.worlds[world].attacks
    cell = next(a for a in cells if a.adversary == "span-inversion" and a.variant == variant)
    return cell, {result.statistic: result for result in cell.results}


def _run(tmp_path: Path, **more: Any) -> Record:
    parameters = {
        "dataset": write_digits(tmp_path / "digits", 2, 178), "image_size": 16, "labels": "parity", "hidden": 4,
        "victims": 40, "evaluation_images": 5, "adversary": "span-inversion", "span-inversion.shadow_heads": 800,
        "span-inversion.ciphertext_shadows": 80, "threads": 1, "transport": "local",
    }  # fmt: skip
    record = Scenario("small", "", parameters | more).run(out=tmp_path / "out", quiet=True)
    assert record.status == "ok"
    return record


def test_relu_heads_give_their_training_images_away(tmp_path: Path) -> None:
    record = _run(tmp_path, worlds="none,none+client", client_budget=1)
    cell, found = _cell(record, 0, "as-is")
    assert cell.outcome == "leaked"
    rate, null = found["identification_rate"], found["null_identification_rate"]
    assert rate.chance is not None
    assert rate.value > 0.3
    assert null.low <= rate.chance
    assert float(cell.notes["share of the features' variance explained on unseen images"]) > 0.1


@pytest.mark.slow
def test_encrypted_products_are_read_where_they_are_not_encrypted(tmp_path: Path) -> None:
    """The same code on packed integers, on ciphertexts, and on weights."""
    record = _run(tmp_path, activation="square", worlds="none,rhe:plain,rhe", victims=24)
    assert _cell(record, 0, "as-is")[0].outcome == "leaked"
    plain, found = _cell(record, 1, "ciphertext")
    assert float(plain.notes["share of held-out heads' variance explained"]) > 0.7
    assert plain.outcome == "leaked"
    assert found["identification_rate"].chance is not None
    assert found["identification_rate"].low > found["identification_rate"].chance
    hidden, found = _cell(record, 2, "ciphertext")
    assert hidden.notes["share of held-out heads' variance explained"] == "0.000"
    assert hidden.outcome == "not-leaked"
    assert found["identification_rate"].chance is not None
    assert found["identification_rate"].low <= found["identification_rate"].chance
    assert _cell(record, 2, "as-is")[0].outcome == "blocked"
