"""Span inversion against real training: the algebra, the estimate, the identification and its null control."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rhe_parties.attacks.span.ciphertext import fit_head_regressor
from rhe_parties.attacks.span.inversion import Inversion, dual_coefficients, invert_heads
from rhe_parties.attacks.span.marginals import Marginals
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, initial_weights, train_heads
from rhe_parties.types import AnyArray, FloatArray, IntArray

K = 10
RECIPE = Recipe.paper("strokenet", 1)


@dataclasses.dataclass(frozen=True)
class Digits:
    """40 victims with one image per class, and the adversary's auxiliary features."""

    private: FloatArray  # [V, N, D]
    weight: FloatArray
    bias: FloatArray
    auxiliary: FloatArray
    labels: IntArray
    prior: FeaturePrior


@pytest.fixture(scope="module")
def digits() -> Digits:
    dataset = load_dataset("digits")
    splits = split_dataset(dataset, 3)
    sets = victim_sets(dataset.labels, splits.private, 1, 40, 3)
    backbone = load_backbone("strokenet")
    private = backbone.extract(dataset.images[sets.ravel()]).reshape(*sets.shape, -1)
    weight, bias = train_heads(private, dataset.labels[sets], K, RECIPE, range(len(sets)))
    labels = dataset.labels[splits.auxiliary]
    auxiliary = backbone.extract(dataset.images[splits.auxiliary])
    return Digits(private, weight, bias, auxiliary, labels, FeaturePrior.fit(auxiliary, labels, K))


def identification(found: Inversion, private: FloatArray) -> float:
    """Share of images whose nearest candidate of their class, by the adversary's distance, is their own."""
    hits = []
    for n in range(private.shape[1]):
        away = (found.points[:, None, n] - private[None, :, n]) @ found.whitener.T
        hits.append(np.square(away).sum(-1).argmin(1) == np.arange(len(private)))
    return float(np.mean(hits))


@pytest.mark.parametrize("per_class", [1, 4])
@pytest.mark.parametrize("decay", [1e-5, 1e-2])
def test_span_identity_holds_for_real_training(per_class: int, decay: float) -> None:
    rng = np.random.default_rng(per_class)
    recipe = Recipe(0.01, decay, 2e-3, 30)
    x = np.maximum(rng.normal(size=(3, K * per_class, 64)), 0).astype(np.float32)
    labels = torch.arange(K).repeat_interleave(per_class)
    start = torch.from_numpy(initial_weights([4, 5, 6], K, 64, recipe.init_std)).double()
    weight, bias = start.clone().requires_grad_(), torch.zeros((3, K), dtype=torch.float64, requires_grad=True)
    features = torch.from_numpy(x).double()
    optimiser = torch.optim.SGD([weight, bias], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    for _ in range(recipe.epochs):
        logits = features @ weight.mT + bias[:, None]
        loss = torch.nn.functional.cross_entropy(logits.mT, labels.expand(3, -1), reduction="none").mean(1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    a, shrink = dual_coefficients(features @ features.mT, labels, features @ start.mT, recipe)
    rebuilt = shrink * start + a.mT @ features
    assert float((rebuilt - weight).detach().abs().max()) < 1e-9
    assert float((a.sum(1) - bias).detach().abs().max()) < 1e-9
    assert float(a.sum(2).abs().max()) < 1e-12
    trained, biases = train_heads(x, labels.expand(3, -1).numpy(), K, recipe, [4, 5, 6])
    assert np.abs(rebuilt.detach().numpy() - trained).max() < 1e-4 * np.abs(trained).max()
    assert np.abs(a.sum(1).numpy() - biases).max() < 1e-4 * np.abs(biases).max()


def test_inversion_beats_the_class_mean_and_knows_its_error(digits: Digits) -> None:
    found = invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 1)
    error = np.square(found.features - digits.private).mean()
    by_mean = np.square(digits.prior.means - digits.private).mean()
    assert error < by_mean / 15
    assert 0.5 < error / found.variance.mean() < 2


def test_marginals_place_the_common_offset(digits: Digits) -> None:
    found = invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 1)
    gauss = invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 1, anchored=False)

    def offset(inversion: Inversion) -> float:
        return float(np.square((inversion.features - digits.private).mean(axis=1)).mean())

    assert offset(found) < offset(gauss) / 5
    assert np.square(found.features - digits.private).mean() < np.square(gauss.features - digits.private).mean() / 2
    assert found.variance.mean() < gauss.variance.mean() / 2
    bare = dataclasses.replace(digits.prior, marginals=None)
    plain = invert_heads(digits.weight, digits.bias, RECIPE, bare, 1)
    np.testing.assert_array_equal(plain.features, gauss.features)


def test_nothing_is_anchored_where_noise_drowns_the_averages(digits: Digits) -> None:
    drowned = invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 1, noise_variance=1.0)
    gauss = invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 1, noise_variance=1.0, anchored=False)
    np.testing.assert_array_equal(drowned.features, gauss.features)
    assert np.isfinite(drowned.points).all()


@pytest.mark.parametrize("count", [1, 3])
def test_marginals_are_the_distribution_of_class_averages(count: int) -> None:
    rng = np.random.default_rng(3)
    features = np.maximum(rng.normal(size=(4000, 2)) - 0.3, 0).astype(np.float32)
    features = np.concatenate([features, np.full((4000, 1), 2, np.float32)], axis=1)
    labels = (np.arange(4000) % 2).astype(np.int64)
    features[labels == 1, :2] *= 1.5
    density = Marginals.fit(features, labels, 2).averages(count, 0.1)
    assert density.values.shape[:2] == (2, 2)  # the third feature never varies
    chance = np.exp(density.values.astype(np.float64))
    grid = density.low + density.step * np.arange(chance.shape[-1])
    for label in range(2):
        drawn = features[labels == label, :2][rng.integers(2000, size=(60000, count))].mean(axis=1)
        drawn = drawn + rng.normal(scale=0.1, size=drawn.shape)
        assert chance[label].sum(-1) == pytest.approx(1, abs=0.01)
        np.testing.assert_allclose((chance[label] * grid).sum(-1), drawn.mean(0), atol=0.02)
        for place in np.searchsorted(grid, (0.0, 0.2, 1.0)):  # bounds between two bins
            below = (drawn < grid[place] - density.step / 2).mean(0)
            np.testing.assert_allclose(chance[label][:, :place].sum(-1), below, atol=0.03)


def test_identification_is_nearly_perfect_and_chance_without_the_heads(digits: Digits) -> None:
    found = invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 1, iterations=4)
    assert identification(found, digits.private) >= 0.97
    others = invert_heads(
        np.roll(digits.weight, 1, axis=0), np.roll(digits.bias, 1, axis=0), RECIPE, digits.prior, 1, iterations=4
    )
    assert identification(others, digits.private) < 0.05
    mean = np.repeat(digits.weight.mean(0, keepdims=True), 40, axis=0)
    blind = invert_heads(mean, np.zeros((40, K), np.float32), RECIPE, digits.prior, 1)
    assert identification(blind, digits.private) == pytest.approx(1 / 40)


def test_several_images_per_class(digits: Digits) -> None:
    recipe = Recipe.paper("strokenet", 4)
    private = digits.private.reshape(10, 4, K, -1).transpose(0, 2, 1, 3).reshape(10, 4 * K, -1)
    labels = np.tile(np.repeat(np.arange(K), 4), (10, 1))
    weight, bias = train_heads(private, labels, K, recipe, range(10))
    found = invert_heads(weight, bias, recipe, digits.prior, 4)
    error = np.square(found.features - private).mean()
    assert error < 0.9 * np.square(digits.prior.means[labels[0]] - private).mean()
    sums = private.reshape(10, K, 4, -1).mean(2)
    guess = found.features.reshape(10, K, 4, -1).mean(2)
    assert np.square(guess - sums).mean() < np.square(digits.prior.means - sums).mean() / 3


def test_heads_are_inverted_alike_in_any_company(digits: Digits) -> None:
    whole = invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 1, iterations=3)
    for part in (slice(0, 1), slice(7, 30)):
        alone = invert_heads(digits.weight[part], digits.bias[part], RECIPE, digits.prior, 1, iterations=3)
        np.testing.assert_array_equal(alone.features, whole.features[part])


def test_dead_features_stay_silent(digits: Digits) -> None:
    def pad(array: FloatArray) -> FloatArray:
        return np.concatenate([array, np.zeros((*array.shape[:-1], 9), np.float32)], axis=-1)

    prior = FeaturePrior.fit(pad(digits.auxiliary), digits.labels, K, shrinkage=0.0)
    rng = np.random.default_rng(0)
    weight = pad(digits.weight)
    weight[..., -9:] = rng.normal(scale=RECIPE.init_std, size=weight[..., -9:].shape)
    found = invert_heads(weight, digits.bias, RECIPE, prior, 1)
    assert np.isfinite(found.points).all()
    assert np.isfinite(found.whitener).all()
    assert identification(found, pad(digits.private)) >= 0.95
    assert np.isfinite(prior.whitener).all()


def test_noise_is_weighed(digits: Digits) -> None:
    noisy = digits.weight + np.random.default_rng(1).normal(scale=0.01, size=digits.weight.shape).astype(np.float32)
    naive = invert_heads(noisy, digits.bias, RECIPE, digits.prior, 1)
    aware = invert_heads(noisy, digits.bias, RECIPE, digits.prior, 1, noise_variance=1e-4)
    assert np.square(aware.features - digits.private).mean() < 0.8 * np.square(naive.features - digits.private).mean()


def test_bad_input_is_named(digits: Digits) -> None:
    weight = digits.weight.copy()
    weight[5, 2, 3] = np.nan
    with pytest.raises(NumericError, match="weight of head 5"):
        invert_heads(weight, digits.bias, RECIPE, digits.prior, 1)
    with pytest.raises(NumericError, match="got"):
        invert_heads(digits.weight[:, :, :-1], digits.bias, RECIPE, digits.prior, 1)
    with pytest.raises(ParameterError):
        invert_heads(digits.weight, digits.bias, RECIPE, digits.prior, 0)
    with pytest.raises(NumericError, match="NaN"):
        FeaturePrior.fit(np.full((20, 4), np.nan, np.float32), np.arange(20) % K, K)
    with pytest.raises(NumericError, match="same"):
        FeaturePrior.fit(np.ones((20, 4), np.float32), np.arange(20) % K, K)
    with pytest.raises(DataError, match="class 9"):
        FeaturePrior.fit(np.ones((20, 4), np.float32), np.arange(20) % 9, K)


def test_regressor_reads_numbers_and_nothing_else(digits: Digits) -> None:
    shadows = 240
    sets = balanced_sets(digits.labels, K, 1, shadows, 5)
    weight, bias = train_heads(
        digits.auxiliary[sets], np.tile(np.arange(K), (shadows, 1)), K, RECIPE, range(900, 900 + shadows)
    )
    heads = np.concatenate([weight.reshape(shadows, -1), bias], axis=1)
    victims = np.concatenate([digits.weight.reshape(40, -1), digits.bias], axis=1)
    rng = np.random.default_rng(2)
    order = rng.permutation(heads.shape[1])

    def readable(flat: FloatArray) -> AnyArray:
        return np.concatenate([np.round(flat / 0.1 * 127)[:, order], rng.integers(0, 255, (len(flat), 500))], axis=1)

    def sealed(flat: FloatArray) -> AnyArray:
        return rng.integers(0, 2**40, (len(flat), 4096))

    rates = {}
    for name, numbers in (("readable", readable), ("sealed", sealed)):
        regressor = fit_head_regressor(numbers(heads), heads, 1)
        flat = regressor.predict(numbers(victims))
        found = invert_heads(flat[:, :-K].reshape(40, K, -1), flat[:, -K:], RECIPE, digits.prior, 1, iterations=4)
        rates[name] = identification(found, digits.private)
        if name == "sealed":
            assert regressor.skill < 0.02
            assert np.abs(flat - regressor.mean).max() < 0.05 * victims.std()
        else:
            assert regressor.skill > 0.9
    assert rates["readable"] >= 0.95
    assert rates["sealed"] <= 0.06


def test_regressor_refuses_what_it_cannot_use() -> None:
    with pytest.raises(DataError, match="12"):
        fit_head_regressor(np.zeros((5, 3)), np.zeros((5, 2), np.float32), 0)
    with pytest.raises(NumericError):
        fit_head_regressor(np.zeros((20, 3)), np.zeros((19, 2), np.float32), 0)
    constant = fit_head_regressor(np.ones((40, 3)), np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32), 0)
    with pytest.raises(NumericError, match="3"):
        constant.predict(np.ones((2, 4)))
