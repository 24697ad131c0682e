"""Head extraction from class decisions: real heads on digits, image queries only."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.extraction.agreement import agreement, boundary_points
from rhe_parties.attacks.extraction.gauge import centred, contrasts, head_error
from rhe_parties.attacks.extraction.hard import HardSettings, QueryPlan, extract_head, plan_queries
from rhe_parties.attacks.extraction.posterior import DecisionPosterior
from rhe_parties.attacks.extraction.prior import FeatureAxes, HeadPrior
from rhe_parties.attacks.extraction.queries import Segments, between, varied_images
from rhe_parties.attacks.hard_label import HardLabel
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import LinearHead, Recipe, train_heads
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import AnyArray, FloatArray, IntArray, UInt8Array
from tests.fake_oracle import FakeOracle

K = 4
RECIPE = Recipe.paper("strokenet", 1)
BACKBONE = load_backbone("strokenet")


@dataclasses.dataclass(frozen=True)
class World:
    """Victim heads on private digits, auxiliary images, and features that neither has seen."""

    prior: PriorKnowledge
    weight: FloatArray
    bias: FloatArray
    shadows: tuple[FloatArray, FloatArray]
    fresh: FloatArray

    def oracle(self, **options: object) -> FakeOracle:
        heads = [LinearHead(w, b) for w, b in zip(self.weight, self.bias, strict=True)]
        return FakeOracle(BACKBONE.extract, {f"h{i}": head.logits for i, head in enumerate(heads)}, **options)  # type: ignore[arg-type]

    def plan(self, settings: HardSettings) -> QueryPlan:
        p = self.prior
        return plan_queries(BACKBONE.extract, p.auxiliary_images, p.auxiliary_features, self.shadows, settings, 5)


@pytest.fixture(scope="module")
def world() -> World:
    whole = load_dataset("digits")
    few = whole.labels < K
    dataset = dataclasses.replace(whole, images=whole.images[few], labels=whole.labels[few], class_names=tuple("0123"))
    splits = split_dataset(dataset, 3)
    sets = victim_sets(dataset.labels, splits.private, 1, 2, 3)
    features = BACKBONE.extract(dataset.images)
    weight, bias = train_heads(features[sets], dataset.labels[sets], K, RECIPE, [1, 2])
    prior = PriorKnowledge(
        BACKBONE, RECIPE, K, 1, dataset.images[splits.auxiliary], dataset.labels[splits.auxiliary]
    )  # fmt: skip
    drawn = balanced_sets(prior.auxiliary_labels, K, 1, 1500, 7)
    labels = prior.auxiliary_labels[drawn]
    shadows = train_heads(prior.auxiliary_features[drawn], labels, K, RECIPE, range(5000, 6500))
    fresh = np.setdiff1d(np.concatenate([splits.private, splits.evaluation]), sets.ravel())
    return World(prior, weight, bias, shadows, features[fresh])


def same_answers(world: World, weight: FloatArray, bias: FloatArray, victim: int = 0) -> float:
    one = slice(victim, victim + 1)
    return float(agreement(weight[None], bias[None], world.weight[one], world.bias[one], world.fresh).real[0])


def test_extraction_reaches_the_head_by_images_alone(world: World) -> None:
    settings = HardSettings(decisions=1600, batch=500)
    oracle = world.oracle()
    found = extract_head(
        BACKBONE.extract, world.plan(settings), lambda images: oracle.ask("h0", images).classes, settings, 1
    )
    assert found.answers == oracle.used("h0") <= 1600
    assert found.rounds == oracle.calls <= 8
    assert found.classes == K
    assert same_answers(world, found.weight, found.bias) >= 0.985
    # The posterior knows its own error, and the head itself is there, not just its answers.
    truth = centred(world.weight[:1], world.bias[:1])[0]
    axes = world.plan(settings).prior.axes
    error = np.square((found.weight - truth[:, :-1]) @ axes.basis).mean()
    assert 0.4 < error / found.error_variance < 2.5
    assert error < 0.15 * np.square((truth[:, :-1] - world.shadows[0].mean(0)) @ axes.basis).mean()
    np.testing.assert_allclose(found.weight.sum(0), 0, atol=1e-5)
    assert abs(found.bias.sum()) < 1e-5


def test_without_prior_of_heads_and_with_noise_at_the_key_holder(world: World) -> None:
    settings = HardSettings(decisions=1600, batch=500, informed=False, noise=3e-3)
    rng = np.random.default_rng(0)

    def ask(images: UInt8Array) -> IntArray:
        logits = LinearHead(world.weight[1], world.bias[1]).logits(BACKBONE.extract(images))
        return (logits + rng.normal(scale=2e-3, size=logits.shape)).argmax(1)

    plan = world.plan(settings)
    assert not plan.prior.mean.any()
    found = extract_head(BACKBONE.extract, plan, ask, settings, 2)
    assert same_answers(world, found.weight, found.bias, 1) >= 0.96


def test_no_question_where_the_answer_is_known(world: World) -> None:
    """More answers are worth more than the same number at random: the point of choosing them."""
    settings = HardSettings(decisions=1000, batch=300)
    plan = world.plan(settings)
    oracle = world.oracle()
    chosen = extract_head(BACKBONE.extract, plan, lambda images: oracle.ask("h0", images).classes, settings, 1)
    images = varied_images(world.prior.auxiliary_images, 1000, 9)
    posterior = DecisionPosterior(plan.prior, settings.noise)
    rows, rest = plan.prior.axes.reduce(BACKBONE.extract(images))
    posterior.add(rows, rest, oracle.ask("h0", images).classes)
    posterior.update(12)
    weight, bias = plan.prior.head(posterior.mean.numpy())
    assert 1 - same_answers(world, chosen.weight, chosen.bias) < 0.7 * (1 - same_answers(world, weight, bias))


def test_budget_ends_the_questions_and_what_came_is_used(world: World) -> None:
    settings = HardSettings(decisions=1600, batch=300)
    plan = world.plan(settings)
    oracle = world.oracle(budget=700)
    found = extract_head(BACKBONE.extract, plan, lambda images: oracle.ask("h0", images).classes, settings, 1)
    assert found.refused
    assert found.answers == oracle.used("h0") == 160 + 300
    assert same_answers(world, found.weight, found.bias) > 0.9
    told = extract_head(BACKBONE.extract, plan, lambda images: oracle.ask("h1", images).classes, settings, 1, limit=700)
    assert not told.refused
    assert told.answers == oracle.used("h1") == 700


def test_a_head_that_always_says_the_same(world: World) -> None:
    settings = HardSettings(decisions=1000)
    found = extract_head(
        BACKBONE.extract, world.plan(settings), lambda images: np.full(len(images), 2), settings, 1
    )  # fmt: skip
    assert found.classes == 1
    assert found.rounds == 1
    assert np.isfinite(found.weight).all()
    logits = world.fresh @ found.weight.T + found.bias
    assert (logits.argmax(1) == 2).mean() > 0.8


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (lambda n: np.zeros(n + 1, np.int64), "images were answered"),
        (lambda n: np.zeros((n, 2), np.int64), "images were answered"),
        (lambda n: np.full(n, np.nan), "float64"),
        (lambda n: np.full(n, K), "classes 0..3"),
        (lambda n: np.full(n, -1), "classes 0..3"),
    ],
)
def test_wrong_answers_are_refused(world: World, answer: Callable[[int], AnyArray], text: str) -> None:
    settings = HardSettings(decisions=200)
    with pytest.raises(NumericError, match=text):
        extract_head(BACKBONE.extract, world.plan(settings), lambda images: answer(len(images)), settings, 1)


def attack(world: World, oracle: FakeOracle | None, seed: int = 4, **options: object) -> Claim:
    context = AttackContext(seed, victims=("h0", "h1"), oracle=oracle)
    strategy = HardLabel(HardLabel.Options(**options))  # type: ignore[arg-type]
    return strategy.attack(AdversaryView(()), world.prior, context)


def test_strategy_claims_heads_within_the_budget_and_repeats_itself(world: World) -> None:
    options = {"decisions": 600, "batch": 300, "shadows": 400, "reconstruct": False}
    oracle = world.oracle(budget=500)
    claim = attack(world, oracle, **options)
    assert claim.head_ids == ("h0", "h1")
    assert claim.weights is not None
    assert claim.biases is not None
    assert oracle.counts == {"h0": 500, "h1": 500}
    assert claim.notes["decisions used per head"] == "500"
    for victim in range(2):
        assert same_answers(world, claim.weights[victim], claim.biases[victim], victim) > 0.93
    again = attack(world, world.oracle(budget=500), **options)
    assert again.weights is not None
    np.testing.assert_array_equal(claim.weights, again.weights)
    with pytest.raises(NumericError, match="used up"):
        attack(world, oracle, **options)


def test_strategy_needs_an_oracle_and_victims(world: World) -> None:
    with pytest.raises(ParameterError, match="client"):
        attack(world, None, decisions=100)
    with pytest.raises(ParameterError, match="victims"):
        HardLabel().attack(AdversaryView(()), world.prior, AttackContext(1, oracle=world.oracle()))
    for wrong in ({"decisions": 0}, {"batch": 0}, {"noise": -1.0}, {"noise": float("nan")}):
        with pytest.raises(ParameterError, match="not allowed"):
            attack(world, world.oracle(), **wrong)


def test_posterior_of_one_inequality_is_the_truncated_gaussian() -> None:
    """Against the exact moments of a half-space under a Gaussian, by sampling."""
    rng = np.random.default_rng(0)
    axes = FeatureAxes(np.zeros(3), np.eye(3), np.ones(3))
    heads = rng.normal(size=(4000, 3, 3)).astype(np.float32)
    prior = HeadPrior.fit(axes, heads, rng.normal(size=(4000, 3)).astype(np.float32), informed=True)
    posterior = DecisionPosterior(prior, 1e-6)
    posterior.length = 1e12  # no gauge: the sample below has none
    row = np.array([[1.0, -0.5, 2.0, 1.0]])
    posterior.add(row, np.zeros(1), np.array([1]))
    draws = rng.multivariate_normal(prior.mean, prior.covariance, 400_000)
    logits = np.einsum("kc,ncr,r->nk", contrasts(3), draws.reshape(-1, 2, 4), row[0], optimize=True)
    exact = draws[logits.argmax(1) == 1].mean(0)
    before = np.abs(prior.mean - exact).max()
    query, rival = posterior._active()
    for _ in range(10):
        posterior._sites(query, rival)
        posterior._solve(query, rival)
    assert np.abs(posterior.mean.numpy() - exact).max() < 0.03 < 0.2 * before


def test_segments_keep_two_classes_apart_and_stop_at_grey_levels() -> None:
    first = np.zeros((1, 1, 2, 2), np.uint8)
    second = np.full((1, 1, 2, 2), 4, np.uint8)
    assert between(first, second, np.array([0.5])).ravel().tolist() == [2, 2, 2, 2]
    rows = np.array([[[0.0, 1.0], [1.0, 1.0]]])
    segments = Segments(np.array([[0, 1]]), rows, np.array([[3, 5]]))
    chosen = np.array([0])
    assert segments.crossing(np.array([[1.0, -3.0]]), chosen)[0] == pytest.approx(0.25)
    assert segments.crossing(np.array([[-1.0, -3.0]]), chosen)[0] == 0.5
    segments.narrow(chosen, np.array([0.4]), rows[:, 0] + 0.4, np.array([7]))
    assert segments.classes.tolist() == [[3, 7]]
    assert segments.place.tolist() == [[0.0, 0.4]]
    segments.narrow(chosen, np.array([0.2]), rows[:, 0] + 0.2, np.array([3]))
    assert segments.place.tolist() == [[0.2, 0.4]]


def test_gauge(world: World) -> None:
    weight, bias = 1.5 * world.weight + 1, 1.5 * world.bias - 2
    error = head_error(weight, bias, world.weight, world.bias)
    np.testing.assert_allclose(error.cosine, 1, atol=1e-6)
    assert (error.shape < 2e-3).all()
    np.testing.assert_allclose(error.relative, 0.5, atol=1e-4)
    table = contrasts(5)
    np.testing.assert_allclose(table.T @ table, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(table.sum(0), 0, atol=1e-12)
    with pytest.raises(ParameterError, match="at least 2"):
        contrasts(1)
    with pytest.raises(NumericError, match="NaN"):
        centred(np.full((2, 3, 4), np.nan), np.zeros((2, 3)))
    with pytest.raises(NumericError, match="compared"):
        head_error(weight[:, :, 1:], bias, world.weight, world.bias)


def test_agreement_tells_near_from_far(world: World) -> None:
    same = agreement(world.weight, world.bias, world.weight, world.bias, world.fresh)
    assert all((rate == 1).all() for rate in same)
    noisy = world.weight + np.random.default_rng(1).normal(scale=3e-3, size=world.weight.shape)
    rates = agreement(noisy, world.bias, world.weight, world.bias, world.fresh)
    assert (rates.boundary < rates.real).all()
    assert (rates.real < 1).all()
    points = boundary_points(world.weight[0], world.bias[0], world.fresh, 200, 1e-4, 1)
    logits = np.sort(points @ world.weight[0].T.astype(np.float64) + world.bias[0], axis=1)
    assert np.median(logits[:, -1] - logits[:, -2]) < 1e-3
    with pytest.raises(NumericError, match="fit"):
        agreement(world.weight[:, :, 1:], world.bias, world.weight, world.bias, world.fresh)
    with pytest.raises(NumericError, match="NaN"):
        agreement(np.full_like(world.weight, np.nan), world.bias, world.weight, world.bias, world.fresh)


def test_bad_input_is_named(world: World) -> None:
    images = world.prior.auxiliary_images
    with pytest.raises(DataError, match="at least 4"):
        varied_images(images[:3], 10, 1)
    with pytest.raises(ParameterError, match="count = 0"):
        varied_images(images, 0, 1)
    with pytest.raises(NumericError, match="same for every image"):
        FeatureAxes.fit(np.ones((5, 3)))
    with pytest.raises(NumericError, match="NaN"):
        FeatureAxes.fit(np.full((5, 3), np.nan))
    with pytest.raises(NumericError, match="got"):
        FeatureAxes.fit(np.zeros((1, 3)))
    axes = FeatureAxes.fit(world.prior.auxiliary_features, rank=5)
    assert axes.rank == 5
    with pytest.raises(DataError, match="8 shadow heads"):
        HeadPrior.fit(axes, world.shadows[0][:3], world.shadows[1][:3])
    posterior = DecisionPosterior(HeadPrior.fit(axes, *world.shadows), 1e-3)
    with pytest.raises(NumericError, match="fit"):
        posterior.add(np.zeros((2, 9)), np.zeros(2), np.zeros(2, np.int64))
    with pytest.raises(NumericError, match="classes"):
        posterior.add(np.zeros((1, 6)), np.zeros(1), np.full(1, K))
    with pytest.raises(ParameterError, match="noise"):
        DecisionPosterior(HeadPrior.fit(axes, *world.shadows), -1.0)
