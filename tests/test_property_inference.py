"""Property inference on real digits: what is read, what is not, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext, Challenge, PriorKnowledge
from rhe_parties.attacks.property.reader import fit_property_reader
from rhe_parties.attacks.property_inference import PropertyInference
from rhe_parties.attacks.white_box import Heads
from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.properties import property_sets
from rhe_parties.data.splits import split_dataset
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.dual import train_many
from rhe_parties.model.head import Recipe
from rhe_parties.types import FloatArray, IntArray, UInt8Array

K, VICTIMS = 10, 120
Private = tuple[UInt8Array, IntArray, FloatArray]


@pytest.fixture(scope="module")
def prior() -> PriorKnowledge:
    """What the adversary knows: digits, one image per class."""
    dataset = load_dataset("digits")
    chosen = split_dataset(dataset, 3).auxiliary
    recipe = Recipe.paper("strokenet", 1)
    return PriorKnowledge(load_backbone("strokenet"), recipe, K, 1, dataset.images[chosen], dataset.labels[chosen])


@pytest.fixture(scope="module")
def private(prior: PriorKnowledge) -> Private:
    """The victims' images, labels and features."""
    dataset = load_dataset("digits")
    chosen = split_dataset(dataset, 3).private
    return dataset.images[chosen], dataset.labels[chosen], prior.backbone.extract(dataset.images[chosen])


def victims(private: Private, recipe: Recipe, name: str, values: list[float]) -> tuple[Heads, IntArray]:
    """Heads whose sets take the values in turn, and the index of each one's value."""
    images, labels, features = private
    truth = np.arange(VICTIMS) % len(values)
    sets = np.empty((VICTIMS, K), np.int64)
    for index, value in enumerate(values):
        mine = truth == index
        sets[mine] = property_sets(images, labels, K, K, name, value, int(mine.sum()), 77)
    weight, bias = train_many(features, labels, sets, K, recipe, 78)
    return Heads(tuple(f"h{index}" for index in range(VICTIMS)), weight, bias), truth


def seat(name: str, values: list[float]) -> AttackContext:
    """A fresh seat with this question."""
    challenge = Challenge(property_name=name, property_values=np.asarray(values, np.float32))
    return AttackContext(seed=4, challenge=challenge)


@pytest.mark.parametrize(
    ("name", "values", "reader", "least"),
    [
        ("class-share:0", [0.1, 0.3, 0.5], "logistic", 0.9),
        ("class-share:0", [0.1, 0.3, 0.5], "biases", 0.8),
        ("presence:3", [0.0, 1.0], "mlp", 0.9),
        ("thickness", [0.0, 1.0], "logistic", 0.62),
    ],
)
def test_property_is_read_and_not_from_other_heads(
    prior: PriorKnowledge, private: Private, name: str, values: list[float], reader: str, least: float
) -> None:
    heads, truth = victims(private, prior.recipe, name, values)
    strategy = PropertyInference(PropertyInference.Options(shadows=300, reader=reader))
    context = seat(name, values)
    scores = strategy.attack_heads(heads, prior, context).property_scores
    assert scores is not None
    assert scores.shape == (VICTIMS, len(values))
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-4)
    guess = scores.argmax(axis=1)
    assert (guess == truth).mean() >= least
    chance = 1 / len(values)
    slack = 4 * np.sqrt(chance * (1 - chance) / VICTIMS)
    permuted = np.random.default_rng(0).permutation(truth)
    assert abs((guess == permuted).mean() - chance) < slack


def test_equal_heads_get_equal_answers(prior: PriorKnowledge) -> None:
    context, strategy = seat("presence:3", [0.0, 1.0]), PropertyInference(PropertyInference.Options(shadows=100))
    shadows = strategy.shadow_heads(prior, context, 51)
    assert shadows.weight.shape == (51, K, prior.backbone.features)
    mean = shadows.of(np.tile(shadows.flat().mean(axis=0), (7, 1)), tuple("abcdefg"), 1.0)
    scores = strategy.attack_heads(mean, prior, context).property_scores
    assert scores is not None
    np.testing.assert_array_equal(scores, np.repeat(scores[:1], 7, axis=0))


def test_shadows_for_the_ciphertexts_have_every_value(prior: PriorKnowledge) -> None:
    context = seat("presence:3", [0.0, 1.0])
    shadows = PropertyInference().shadow_heads(prior, context, 60)
    # A class without image loses weight in every step, and its bias falls below all others.
    absent = shadows.bias[:, 3] < np.median(shadows.bias, axis=1) - 0.005
    np.testing.assert_array_equal(absent, np.arange(60) % 2 == 0)


def test_training_labels_at_random_teach_nothing(prior: PriorKnowledge) -> None:
    context = seat("presence:3", [0.0, 1.0])
    shadows = PropertyInference().shadow_heads(prior, context, 600)
    labels = np.random.default_rng(1).permutation(np.arange(600) % 2)
    reader = fit_property_reader(shadows.weight, shadows.bias, labels, "logistic", 50, 3)
    assert abs(reader.accuracy - 0.5) < 4 * np.sqrt(0.25 / reader.held_out)


def test_what_is_wrong_is_named(prior: PriorKnowledge) -> None:
    strategy = PropertyInference(PropertyInference.Options(shadows=20))
    shadows = strategy.shadow_heads(prior, seat("presence:3", [0.0, 1.0]), 40)
    cases: list[tuple[str, list[float], type[Exception], str]] = [
        ("presence:3", [1.0], DataError, "at least two"),
        ("presence:3", [0.0, 0.0], DataError, "all different"),
        ("class-share:0", [0.1, 1.5], ParameterError, "1.5"),
        ("presence:11", [0.0, 1.0], ParameterError, "presence"),
        ("colour", [0.0, 1.0], ParameterError, "colour"),
    ]
    for name, values, error, text in cases:
        with pytest.raises(error, match=text):
            strategy.attack_heads(shadows, prior, seat(name, values))
    with pytest.raises(DataError, match="at least two"):
        strategy.attack_heads(shadows, prior, AttackContext(seed=1))
    options: list[tuple[dict[str, Any], str]] = [
        ({"shadows": 5}, "shadows = 5"), ({"components": 0}, "components = 0"), ({"reader": "tea"}, "tea"),
    ]  # fmt: skip
    for given, text in options:
        with pytest.raises(ParameterError, match=text):
            PropertyInference.Options(**given)


def test_reader_refuses_what_it_cannot_use() -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(40, 3, 6)).astype(np.float32), rng.normal(size=(40, 3)).astype(np.float32)
    values = (np.arange(40) % 2).astype(np.int64)
    with pytest.raises(DataError, match="at least 10"):
        fit_property_reader(weight, bias, np.zeros(40, np.int64), "logistic", 5, 1)
    with pytest.raises(DataError, match="at least 10"):
        fit_property_reader(weight[:12], bias[:12], values[:12], "logistic", 5, 1)
    with pytest.raises(ParameterError, match="'tea'"):
        fit_property_reader(weight, bias, values, "tea", 5, 1)
    with pytest.raises(NumericError, match="NaN"):
        fit_property_reader(np.full_like(weight, np.nan), bias, values, "logistic", 5, 1)
    with pytest.raises(NumericError, match="takes heads"):
        fit_property_reader(weight, bias[:, :2], values, "logistic", 5, 1)
    reader = fit_property_reader(weight, bias, values, "logistic", 50, 1)
    with pytest.raises(NumericError, match="of 21 numbers"):
        reader.log_posterior(weight[:, :, :5], bias)
