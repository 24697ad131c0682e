"""The few-shot head against torch's own optimiser, and its bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model import head as head_module
from rhe_parties.model.head import LinearHead, Recipe, initial_weights, train_head, train_heads
from rhe_parties.types import FloatArray, IntArray

RECIPE = Recipe.paper("strokenet", 1)
HEAVY = Recipe(0.05, 1e-2, 0.02, 12)


def _problem(heads: int, shots: int, width: int, classes: int = 10, seed: int = 0) -> tuple[FloatArray, IntArray]:
    generator = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(classes), shots), (heads, 1))
    features = np.abs(generator.normal(size=(heads, classes * shots, width))).astype(np.float32)
    return features, labels


def _reference(features: FloatArray, labels: IntArray, start: FloatArray, recipe: Recipe) -> tuple[torch.Tensor, ...]:
    layer = torch.nn.Linear(features.shape[1], start.shape[0]).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start))
        layer.bias.zero_()
    optimiser = torch.optim.SGD(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    x, y = torch.from_numpy(features).double(), torch.from_numpy(labels)
    for _ in range(recipe.epochs):
        optimiser.zero_grad()
        F.cross_entropy(layer(x), y).backward()
        optimiser.step()
    return layer.weight.detach(), layer.bias.detach()


def test_paper_recipes() -> None:
    assert Recipe.paper("strokenet", 1) == Recipe(0.01, 1e-5, 2e-3, 32)
    assert Recipe.paper("strokenet", 4) == Recipe(0.01, 1e-5, 2e-3, 50)
    assert Recipe.paper("efficientnet_b0", 1) == Recipe(0.01, 1e-4, 2e-4, 48)
    assert Recipe.paper("resnet18", 4) == Recipe(0.01, 1e-4, 2e-4, 78)


@pytest.mark.parametrize("recipe", [RECIPE, HEAVY])
@pytest.mark.parametrize(("shots", "width"), [(1, 256), (4, 64), (30, 8)])
def test_training_equals_torch_sgd(recipe: Recipe, shots: int, width: int) -> None:
    features, labels = _problem(2, shots, width)
    weights, biases = train_heads(features, labels, 10, recipe, [7, 8])
    start = initial_weights([7, 8], 10, width, recipe.init_std)
    for v in range(2):
        weight, bias = _reference(features[v], labels[v], start[v], recipe)
        np.testing.assert_allclose(weights[v], weight, atol=1e-5)
        np.testing.assert_allclose(biases[v], bias, atol=1e-5)


def test_both_forms_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _problem(3, 2, 40)
    results = []
    for dual in (True, False):
        monkeypatch.setattr(head_module, "_dual_is_cheaper", lambda *_, answer=dual: answer)
        results.append(train_heads(features, labels, 10, HEAVY, [1, 2, 3]))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-7)


@settings(max_examples=15, deadline=None)
@given(cuts=st.lists(st.integers(1, 23), max_size=4, unique=True), shots=st.sampled_from([1, 4]))
def test_batching_does_not_change_a_bit(cuts: list[int], shots: int) -> None:
    features, labels = _problem(24, shots, 96)
    seeds = list(range(100, 124))
    weights, biases = train_heads(features, labels, 10, RECIPE, seeds)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 24], strict=True):
        w, b = train_heads(features[start:end], labels[start:end], 10, RECIPE, seeds[start:end])
        np.testing.assert_array_equal(w, weights[start:end])
        np.testing.assert_array_equal(b, biases[start:end])


def test_work_space_limit_does_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _problem(9, 1, 64)
    whole = train_heads(features, labels, 10, RECIPE, range(9))
    monkeypatch.setattr(head_module, "_CHUNK_BYTES", 1)
    np.testing.assert_array_equal(train_heads(features, labels, 10, RECIPE, range(9))[0], whole[0])


def test_initial_weights_have_the_stated_deviation() -> None:
    drawn = initial_weights([1, 2], 10, 2000, 2e-3)
    assert drawn.dtype == np.float32
    assert abs(drawn.std() / 2e-3 - 1) < 0.02
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 0.03
    np.testing.assert_array_equal(drawn[1], initial_weights([2], 10, 2000, 2e-3)[0])


def test_a_trained_head_classifies_its_images() -> None:
    features, labels = _problem(1, 4, 256)
    head = train_head(features[0] * 12, labels[0], 10, replace(RECIPE, epochs=300), 0)
    assert (head.logits(features[0] * 12).argmax(1) == labels[0]).all()


def test_order_of_images_hardly_matters_but_labels_do() -> None:
    features, labels = _problem(1, 2, 30)
    order = np.random.default_rng(0).permutation(20)
    one = train_head(features[0], labels[0], 10, RECIPE, 5)
    two = train_head(features[0][order], labels[0][order], 10, RECIPE, 5)
    np.testing.assert_allclose(one.weight, two.weight, atol=1e-7)
    three = train_head(features[0], labels[0][order], 10, RECIPE, 5)
    assert np.abs(one.weight - three.weight).max() > 1e-4


def test_head_fingerprint_and_logits() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    head = LinearHead(weight, np.array([1, -1], np.float32))
    assert head.classes == 2
    assert head.features == 3
    np.testing.assert_array_equal(head.logits(np.ones((1, 3), np.float32)), [[4, 11]])
    assert len(head.fingerprint) == 64
    assert head.fingerprint == LinearHead(weight.copy(), head.bias.copy()).fingerprint
    assert head.fingerprint != LinearHead(weight.reshape(2, 3) + np.float32(1e-6), head.bias).fingerprint
    turned = LinearHead(weight.reshape(3, 2), np.zeros(3, np.float32))
    assert turned.fingerprint != LinearHead(weight, np.zeros(2, np.float32)).fingerprint
    with pytest.raises(NumericError, match="3 features got features of shape"):
        head.logits(np.ones((1, 4), np.float32))


def test_head_refuses_broken_numbers() -> None:
    with pytest.raises(NumericError, match="must be"):
        LinearHead(np.ones((2, 3), np.float32), np.ones(3, np.float32))
    with pytest.raises(NumericError, match="NaN"):
        LinearHead(np.full((2, 3), np.nan, np.float32), np.ones(2, np.float32))


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_features_must_be_finite(poison: float) -> None:
    features, labels = _problem(3, 1, 16)
    features[1, 4, 2] = poison
    with pytest.raises(NumericError, match="head 1 hold NaN or infinity"):
        train_heads(features, labels, 10, RECIPE, [0, 1, 2])


def test_features_must_differ() -> None:
    features, labels = _problem(3, 1, 16)
    features[2] = features[2, 0]
    with pytest.raises(NumericError, match="head 2 are the same for every image"):
        train_heads(features, labels, 10, RECIPE, [0, 1, 2])


def test_a_class_may_be_absent() -> None:
    features, labels = _problem(1, 1, 16)
    labels = np.where(labels == 3, 4, labels)
    _, bias = train_heads(features, labels, 10, RECIPE, [0])
    # Nothing ever pulls an absent class up.
    assert bias[0, 3] == bias[0].min() < 0


def test_labels_are_checked() -> None:
    features, labels = _problem(2, 1, 16)
    wrong = labels.copy()
    wrong[1, 3] = 10
    with pytest.raises(DataError, match="label 10 is out of range: 10 classes"):
        train_heads(features, wrong, 10, RECIPE, [0, 1])
    wrong[1, 3] = -1
    with pytest.raises(DataError, match="label -1 is out of range"):
        train_heads(features, wrong, 10, RECIPE, [0, 1])
    wrong[1] = 7
    with pytest.raises(DataError, match="all 10 images of head 1 are of class 7: at least 2 classes"):
        train_heads(features, wrong, 10, RECIPE, [0, 1])
    with pytest.raises(DataError, match="zero images"):
        train_heads(features[:, :0], labels[:, :0], 10, RECIPE, [0, 1])
    with pytest.raises(DataError, match="no head to train"):
        train_heads(features[:0], labels[:0], 10, RECIPE, [])
    with pytest.raises(NumericError, match="V seeds"):
        train_heads(features, labels, 10, RECIPE, [0])
    with pytest.raises(ParameterError, match="at least 2 classes"):
        train_heads(features, labels * 0, 1, RECIPE, [0, 1])


def test_divergence_is_an_error() -> None:
    features, labels = _problem(1, 1, 16)
    with pytest.raises(NumericError, match="diverged"):
        train_heads(features, labels, 10, Recipe(1e30, 1.0, 0.1, 500), [0])


@pytest.mark.parametrize("wrong", [{"learning_rate": 0.0}, {"weight_decay": -1.0}, {"init_std": np.nan}, {"epochs": 0}])
def test_recipe_refuses_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=f"recipe: {next(iter(wrong))}"):
        replace(RECIPE, **wrong)
    with pytest.raises(ParameterError, match="images_per_class = 0"):
        Recipe.paper("strokenet", 0)
