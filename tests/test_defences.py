"""Defences: what each does at its stage, that it is what it says, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rhe_parties.attacks.span.inversion import dual_coefficients, invert_heads
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.data.datasets import load_dataset
from rhe_parties.defences.base import PublicData
from rhe_parties.defences.dp_sgd import DpSgd
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.dp import DpMechanism, epsilon
from rhe_parties.model.dp_tuning import DpBudget, noise_for, tune, usual_delta
from rhe_parties.model.dual import train_many
from rhe_parties.model.head import Recipe, initial_weights, train_head, train_heads
from rhe_parties.rng import numpy_stream
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import prepare
from rhe_parties.types import FloatArray, IntArray

PLAIN = Recipe.paper("strokenet", 1)
N, D, K = 6, 12, 3


def problem() -> tuple[FloatArray, IntArray]:
    features = np.abs(numpy_stream(1, "defence-problem").normal(size=(N, D))).astype(np.float32) * 2
    return features, np.repeat(np.arange(K), 2).astype(np.int64)


@pytest.fixture(scope="module")
def public() -> PublicData:
    dataset, backbone = load_dataset("digits"), load_backbone("strokenet")
    rows = np.arange(600)
    return PublicData(dataset.images[rows], backbone.extract, dataset.labels[rows], 10, 1, 3)


def relaxed_by_autograd(alpha: float, recipe: Recipe, seed: int) -> tuple[Any, Any]:
    """RelaxLoss written out for one layer with torch's own losses and gradients (arXiv 2207.05801, algorithm 1)."""
    features, labels = problem()
    x, y = torch.from_numpy(features).double(), torch.from_numpy(labels)
    weight = torch.from_numpy(initial_weights([seed], K, D, recipe.init_std)[0]).double().requires_grad_()
    bias = torch.zeros(K, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.SGD([weight, bias], lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    for step in range(recipe.epochs):
        logits = x @ weight.T + bias
        loss = torch.nn.functional.cross_entropy(logits, y)
        if step % 2 == 0:
            loss = (loss - alpha).abs()
        elif loss <= alpha:
            true = torch.softmax(logits, 1).gather(1, y[:, None]).detach()
            target = ((1 - true) / (K - 1)).expand(-1, K).scatter(1, y[:, None], true)
            loss = -(target * torch.log_softmax(logits, 1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return weight.detach().numpy(), bias.detach().numpy()


@pytest.mark.parametrize("alpha", [0.3, 0.9])
def test_relaxloss_is_the_papers_rule(alpha: float) -> None:
    recipe = replace(PLAIN, learning_rate=0.1, epochs=60, relax=alpha)
    features, labels = problem()
    weight, bias = relaxed_by_autograd(alpha, recipe, 7)
    mine = train_head(features, labels, K, recipe, 7)
    np.testing.assert_allclose(mine.weight, weight, atol=1e-6)
    np.testing.assert_allclose(mine.bias, bias, atol=1e-6)
    plain = train_head(features, labels, K, replace(recipe, relax=0), 7)
    assert np.abs(mine.weight - plain.weight).max() > 1e-3
    # The simulation of the span attack follows the same rule.
    x = torch.from_numpy(features).double()
    start = torch.from_numpy(initial_weights([7], K, D, recipe.init_std)[0]).double()
    a, shrink = dual_coefficients((x @ x.T)[None], torch.from_numpy(labels), (x @ start.T)[None], recipe)
    np.testing.assert_allclose((shrink * start + a[0].T @ x).numpy(), weight, atol=1e-6)


def test_shadows_under_relaxloss_are_those_of_the_owner() -> None:
    features, labels = problem()
    recipe, start = replace(PLAIN, relax=0.5), np.full((2, K, D), 0.01, np.float32)
    sets = np.tile(np.arange(N), (2, 1))
    weight, _ = train_many(features, labels, sets, K, recipe, 0, start)
    quiet, _ = train_heads(features[None], labels[None], K, replace(recipe, init_std=0), [0])
    # Two starts, nearly the same training: what is left of the difference is the start.
    np.testing.assert_array_equal(weight[0], weight[1])
    assert np.abs(weight[0] - quiet[0]).max() < 0.05


@pytest.mark.parametrize(("rate", "steps"), [(1.0, 9), (0.5, 4)])
def test_noise_is_the_least_that_a_budget_allows(rate: float, steps: int) -> None:
    budget = DpBudget(6.0, usual_delta(10))
    noise = noise_for(budget, rate, steps)
    assert epsilon(DpMechanism(1.0, noise, rate, steps), steps, budget.delta) <= 6.0 * 1.002
    assert epsilon(DpMechanism(1.0, noise * 0.98, rate, steps), steps, budget.delta) > 6.0


def test_private_training_on_centred_features_is_turned_back() -> None:
    """Without noise and clipping it is ordinary training on centred features; logits of plain features are the same."""
    features, labels = problem()
    centre = tuple(features.mean(axis=0).astype(np.float64).tolist())
    recipe = replace(PLAIN, init_std=0.0, mechanism=DpMechanism(1e6, 0.0, 1.0, None, centre))
    weight, bias = train_heads(features[None], labels[None], K, recipe, [1])
    opacus = DpSgd().train(features, labels, K, recipe, 1)
    moved = features - np.float32(centre)
    plain = train_head(moved, labels, K, replace(recipe, mechanism=None), 1)
    for w, b in ((weight[0], bias[0]), (opacus.weight, opacus.bias)):
        np.testing.assert_allclose(features @ w.T + b, plain.logits(moved), atol=1e-4)


def test_the_owners_private_heads_are_distributed_like_shadows() -> None:
    """Opacus' engine as the owner uses it, and the dual kernel: mean and deviation of every weight."""
    features, labels = problem()
    mechanism = DpMechanism(1.0, 0.7, 0.5, 8, tuple(features.mean(axis=0).astype(np.float64).tolist()))
    recipe = replace(PLAIN, learning_rate=0.3, init_std=0.0, mechanism=mechanism)
    owner = [DpSgd().train(features, labels, K, recipe, seed) for seed in range(150)]
    theirs = np.stack([np.append(head.weight.ravel(), head.bias) for head in owner])
    weight, bias = train_many(features, labels, np.tile(np.arange(N), (20_000, 1)), K, recipe, 3)
    ours = np.concatenate([weight.reshape(len(weight), -1), bias], axis=1)
    error = (theirs.mean(0) - ours.mean(0)) / (ours.std(0) / np.sqrt(len(theirs)))
    assert np.abs(error).max() < 4.5
    assert 0.85 < (theirs.std(0) / ours.std(0)).mean() < 1.15
    # The deviation that the span attack counts on is that of the noise alone; sampling adds to it.
    expected = np.sqrt(recipe.noise_variance(N))
    assert 0.9 * expected < np.median(ours[:, : K * D].std(0)) < 1.6 * expected


def test_tuning_finds_better_parameters_than_the_papers(public: PublicData) -> None:
    budget = DpBudget(20.0, usual_delta(10))
    args = (public.features, public.labels, 10, 1, PLAIN, budget)
    best = tune(*args, {"sampling_rate": 1.0}, True, 0)
    paper = tune(*args, {"sampling_rate": 1.0, "clip": 4.0, "learning_rate": 0.01, "steps": 32}, False, 0)
    assert best.accuracy > paper.accuracy + 0.03
    assert paper.candidates == 1
    assert best.recipe.mechanism is not None
    spent = epsilon(best.recipe.mechanism, best.recipe.steps, budget.delta)
    assert 0.95 * 20 < spent <= 20 * 1.002
    with pytest.raises(DataError, match="DP-SGD is tuned on more than 1 of each"):
        tune(public.features[:15], public.labels[:15], 10, 1, PLAIN, budget, {"sampling_rate": 1.0}, True, 0)


def test_a_span_attack_sees_through_little_noise_and_not_through_much(public: PublicData) -> None:
    features, labels = public.features, public.labels
    prior = FeaturePrior.fit(features[:400], labels[:400], 10)
    rows = np.stack([np.flatnonzero(labels[400:] == k)[:8] + 400 for k in range(10)], axis=1)
    centre = tuple(features[:400].mean(axis=0).astype(np.float64).tolist())
    errors = []
    for noise in (0.01, 3.0):
        recipe = replace(PLAIN, init_std=0.0, mechanism=DpMechanism(5.0, noise, 1.0, 16, centre))
        weight, bias = train_heads(features[rows], labels[rows], 10, recipe, range(8))
        found = invert_heads(weight, bias, recipe, prior, 1)
        errors.append(
            np.square(found.features - features[rows]).mean() / np.square(prior.means - features[rows]).mean()
        )
    assert errors[0] < 0.3
    assert 0.9 < errors[1] < 1.1


def test_a_recipe_travels_whole() -> None:
    for recipe in (PLAIN, replace(PLAIN, relax=0.5), replace(PLAIN, mechanism=DpMechanism(1.0, 2.0, 0.5, 7, (0.5,)))):
        spec = RecipeSpec.of(recipe)
        assert spec.linear() == recipe
        assert spec.two_layer() is None


def test_worlds_carry_their_recipes_and_facts() -> None:
    papers = "dp-sgd@epsilon=9@clip=4@learning_rate=0.01@steps=32@sampling_rate=1"
    names = f"none,init-noise@std=0.05,relaxloss@alpha=1.5,{papers}"
    lab = prepare(resolve_parameters({"worlds": names, "victims": 2, "transport": "local"}))
    plain, noisy, relaxed, private = lab.worlds
    assert [world.recipe for world in (plain, noisy, relaxed)] == [
        PLAIN, replace(PLAIN, init_std=0.05), replace(PLAIN, relax=1.5),
    ]  # fmt: skip
    facts = dict(private.facts)
    assert {"epsilon", "delta", "sampling rate", "steps", "noise multiplier", "clipping norm"} <= set(facts)
    assert (facts["steps"], facts["sampling rate"]) == ("32", "1")
    assert "weak" in facts["delta"]
    assert private.epsilon == pytest.approx(9.0, rel=0.01)
    assert plain.epsilon is None
    first = [lab.heads(world)[0].fingerprint for world in lab.worlds]
    assert len(set(first)) == 4
    assert lab.heads(private)[0] is lab.heads(private)[0]


@pytest.mark.parametrize(
    ("world", "given", "words"),
    [
        ("dp-sgd+relaxloss", {}, "'dp-sgd' and 'relaxloss' cannot train the same head"),
        ("dp-sgd", {"hidden": 4, "labels": "parity"}, "linear heads alone"),
        ("dp-sgd@sampling_rate=0.3", {}, "1/2"),
        ("dp-sgd@delta=1", {}, "below 1"),
        ("dp-sgd@epsilonn=3", {}, "epsilon"),
        ("dpsgd", {}, "dp-sgd"),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(world: str, given: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        prepare(resolve_parameters({"worlds": ("none", world), "victims": 1, "transport": "local"} | given))
    assert "\n" not in str(caught.value)
