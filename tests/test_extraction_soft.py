"""Head extraction from released scores, and heads with squares: against real heads and synthetic truth."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.extraction.agreement import agreement
from rhe_parties.attacks.extraction.gauge import head_error
from rhe_parties.attacks.extraction.hard import HardSettings, extract_head, plan_queries
from rhe_parties.attacks.extraction.prior import FeatureAxes, HeadPrior
from rhe_parties.attacks.extraction.quadratic import SquareLift, canonical_factors, fit_square_head
from rhe_parties.attacks.extraction.soft import (
    fit_confidences,
    fit_top_confidence,
    log_confidences,
    solve_logits,
)
from rhe_parties.attacks.scores import ReleasedScores
from rhe_parties.attacks.soft_label import SoftLabel
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.data.datasets import Dataset, load_dataset
from rhe_parties.data.splits import Splits, split_dataset, victim_sets
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import LinearHead, Recipe, train_heads
from rhe_parties.model.mlp import DeepHead, train_deep_heads
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import AnyArray, FloatArray
from tests.fake_oracle import FakeOracle

K = 5
RECIPE = Recipe.paper("strokenet", 1)
BACKBONE = load_backbone("strokenet")


@dataclasses.dataclass(frozen=True)
class World:
    """Digits and their features, two victims, auxiliary images."""

    data: Dataset
    splits: Splits
    features: FloatArray
    prior: PriorKnowledge
    weight: FloatArray
    bias: FloatArray

    def oracle(self, release: str, budget: int = 0, digits: int | None = None) -> FakeOracle:
        heads = {f"h{i}": LinearHead(self.weight[i], self.bias[i]).logits for i in range(2)}
        return FakeOracle(BACKBONE.extract, heads, budget, release, digits)


@pytest.fixture(scope="module")
def world() -> World:
    whole = load_dataset("digits")
    few = whole.labels < K
    data = dataclasses.replace(whole, images=whole.images[few], labels=whole.labels[few], class_names=tuple("01234"))
    splits = split_dataset(data, 3)
    sets = victim_sets(data.labels, splits.private, 1, 2, 3)
    features = BACKBONE.extract(data.images)
    weight, bias = train_heads(features[sets], data.labels[sets], K, RECIPE, [1, 2])
    prior = PriorKnowledge(BACKBONE, RECIPE, K, 1, data.images[splits.auxiliary], data.labels[splits.auxiliary])
    return World(data, splits, features, prior, weight, bias)


def attack(world: World, oracle: FakeOracle, **options: object) -> Claim:
    defences = () if oracle.digits is None else (f"rounding@digits={oracle.digits}",)
    context = AttackContext(4, victims=("h0", "h1"), oracle=oracle, defences=defences)
    strategy = SoftLabel(SoftLabel.Options(shadows=400, reconstruct=False, **options))  # type: ignore[arg-type]
    return strategy.attack(AdversaryView(()), world.prior, context)


def errors(world: World, claim: Claim) -> tuple[float, float]:
    """Root mean square error of a weight on live features, and agreement on private images."""
    assert claim.weights is not None
    assert claim.biases is not None
    live = world.features.std(0) > 1e-3
    error = np.sqrt(np.square(claim.weights - world.weight)[..., live].mean())
    fresh = world.features[world.splits.private]
    return float(error), float(agreement(claim.weights, claim.biases, world.weight, world.bias, fresh).real.mean())


def test_logits_give_the_head_itself(world: World) -> None:
    oracle = world.oracle("logits")
    claim = attack(world, oracle)
    error, same = errors(world, claim)
    assert oracle.counts == {"h0": 771, "h1": 771}
    assert same >= 0.999
    # Far below the deviation of the initial weights, which is the finest thing in a head.
    assert error < 0.25 * RECIPE.init_std
    assert claim.notes["queries used per head"] == "771"


def test_one_image_per_unknown_is_enough(world: World) -> None:
    error, same = errors(world, attack(world, world.oracle("logits"), queries=257))
    assert same >= 0.995
    assert error < RECIPE.init_std


def test_rounded_logits_need_more_images(world: World) -> None:
    few = errors(world, attack(world, world.oracle("logits", digits=1), queries=200))
    oracle = world.oracle("logits", digits=1)
    many = errors(world, attack(world, oracle, queries=1500))
    assert oracle.used("h0") == 1500
    assert many[0] < 0.8 * few[0]
    assert many[1] >= 0.99


def test_budget_and_wrong_scores(world: World) -> None:
    oracle = world.oracle("logits", budget=300)
    assert attack(world, oracle).notes["queries used per head"] == "300"
    with pytest.raises(NumericError, match="used up"):
        attack(world, oracle)
    with pytest.raises(ParameterError, match="classes"):
        attack(world, world.oracle("classes"))
    wrong = world.oracle("logits")
    wrong.heads["h0"] = lambda features: np.zeros((len(features), 3))
    with pytest.raises(NumericError, match="scores"):
        attack(world, wrong)
    lost = world.oracle("logits")
    lost.heads["h0"] = lambda features: np.full((len(features), K), np.nan)
    with pytest.raises(NumericError, match="NaN"):
        attack(world, lost)


def test_what_scores_are_worth_follows_from_the_defences() -> None:
    assert ReleasedScores.under(("rhe", "somebodys-own@x=1")) == ReleasedScores()
    rounded = ReleasedScores.under(("rhe:bfv", "rounding@digits=2"))
    assert (rounded.scale, rounded.grid) == (1, 0.01)
    assert rounded.error == pytest.approx(0.01 / np.sqrt(12))
    # A temperature is undone; what was rounded after it comes back with a coarser grid.
    softened = ReleasedScores.under(("temperature@value=4", "rounding@digits=1"))
    assert softened.scale == 4
    assert softened.grid == pytest.approx(0.4)
    before = ReleasedScores.under(("rounding@digits=1", "temperature@value=4"))
    assert before.grid == pytest.approx(0.1)
    np.testing.assert_allclose(softened.undone(np.float32([0.5, -1])), [2, -4])


@dataclasses.dataclass(frozen=True)
class Synthetic:
    """A random softmax head on Gaussian features."""

    rows: AnyArray
    head: AnyArray
    confidences: AnyArray


@pytest.fixture
def synthetic() -> Synthetic:
    rng = np.random.default_rng(5)
    rows = np.concatenate([rng.normal(size=(500, 20)), np.ones((500, 1))], axis=1)
    head = rng.normal(size=(4, 21)) * 0.4
    head -= head.mean(0)
    logits = np.exp(rows @ head.T)
    return Synthetic(rows, head, logits / logits.sum(1, keepdims=True))


def _far(found: AnyArray, head: AnyArray) -> float:
    return float(np.linalg.norm(found - head) / np.linalg.norm(head))


def test_softmax_confidences_are_linear_equations(synthetic: Synthetic) -> None:
    logs = log_confidences(synthetic.confidences[:21])
    found = np.linalg.solve(synthetic.rows[:21], logs).T
    assert _far(found, synthetic.head) < 1e-8


def test_sigmoid_confidences_are_linear_equations() -> None:
    rng = np.random.default_rng(1)
    rows, head = rng.normal(size=(21, 21)), rng.normal(size=21)
    logs = log_confidences(1 / (1 + np.exp(-rows @ head)))
    found = np.linalg.solve(rows, logs[:, 1] - logs[:, 0])
    assert _far(found, head) < 1e-6


def test_rounded_confidences(synthetic: Synthetic) -> None:
    rounded = np.round(synthetic.confidences, 2)
    fitted = fit_confidences(synthetic.rows, rounded)
    logs = log_confidences(rounded, 0.01)
    solved = np.linalg.lstsq(synthetic.rows, logs, rcond=None)[0].T
    assert _far(fitted, synthetic.head) < 0.03
    assert _far(fitted, synthetic.head) < 0.5 * _far(solved, synthetic.head)
    assert _far(fit_confidences(synthetic.rows, synthetic.confidences, 0.0), synthetic.head) < 1e-4


def test_the_top_confidence_alone(synthetic: Synthetic) -> None:
    winners, top = synthetic.confidences.argmax(1), synthetic.confidences.max(1)
    assert _far(fit_top_confidence(synthetic.rows, 4, winners, top, 0.0), synthetic.head) < 1e-3
    assert _far(fit_top_confidence(synthetic.rows, 4, winners, np.round(top, 2)), synthetic.head) < 0.05
    shuffled = np.random.default_rng(0).permutation(top)
    assert _far(fit_top_confidence(synthetic.rows, 4, winners, shuffled), synthetic.head) > 0.1


def test_bad_confidences_are_named(synthetic: Synthetic) -> None:
    good = synthetic.confidences
    with pytest.raises(NumericError, match="0, 1"):
        log_confidences(good + 1)
    with pytest.raises(NumericError, match="0, 1"):
        log_confidences(np.full((3, 2), np.nan))
    with pytest.raises(NumericError, match="must be"):
        fit_confidences(synthetic.rows, good[:5])
    winners = good.argmax(1)
    with pytest.raises(NumericError, match="top confidences"):
        fit_top_confidence(synthetic.rows, 4, winners, good)
    with pytest.raises(NumericError, match=r"classes 0\.\.2"):
        fit_top_confidence(synthetic.rows, 3, winners, good.max(1))


def test_solving_equations_refuses_what_does_not_fit(world: World) -> None:
    axes = FeatureAxes.fit(world.features, 10)
    prior = HeadPrior.fit(axes, np.repeat(world.weight, 4, 0), np.repeat(world.bias, 4, 0))
    rows, rest = axes.reduce(world.features[:5])
    with pytest.raises(NumericError, match="scores"):
        solve_logits(prior, rows, rest, np.zeros((5, K + 1)))
    with pytest.raises(NumericError, match="NaN"):
        solve_logits(prior, rows, rest, np.full((5, K), np.inf))
    with pytest.raises(NumericError, match="scores"):
        solve_logits(prior, rows[:0], rest[:0], np.zeros((0, K)))


@dataclasses.dataclass(frozen=True)
class Squares:
    """A trained square head on even against odd digits, shadows of the same recipe, and a lift."""

    head: DeepHead
    shadows: list[DeepHead]
    lift: SquareLift
    images: AnyArray
    features: FloatArray
    fresh: FloatArray


@pytest.fixture(scope="module")
def squares(world: World) -> Squares:
    parity = (world.data.labels % 2).astype(np.int64)
    drawn = balanced_sets(parity[world.splits.auxiliary], 2, 10, 60, 1)
    own = balanced_sets(parity[world.splits.private], 2, 10, 1, 2)
    auxiliary, private = world.features[world.splits.auxiliary], world.features[world.splits.private]
    labels = np.tile(np.repeat([0, 1], 10), (61, 1))
    sets = np.concatenate([private[own], auxiliary[drawn]])
    heads = train_deep_heads(sets, labels, 2, (4,), "square", range(61))
    lift = SquareLift(FeatureAxes.fit(auxiliary, 40), 16)
    fresh = np.delete(private, own[0], axis=0)
    return Squares(heads[0], heads[1:], lift, world.data.images[world.splits.auxiliary], auxiliary, fresh)


def test_a_square_head_is_linear_in_products(squares: Squares) -> None:
    axes = FeatureAxes.fit(squares.features, 12)
    lift = SquareLift(axes, 12)
    weight, bias = lift.head(squares.head)
    # On features that lie inside the axes the lifted head is the head itself.
    inside = (axes.mean + axes.reduce(squares.fresh)[0][:, :-1] @ axes.basis.T).astype(np.float32)
    logits = lift.lift(inside).astype(np.float64) @ weight.T + bias
    np.testing.assert_allclose(logits, squares.head.logits(inside), atol=2e-3 * np.abs(logits).max())
    forms = lift.forms(weight, bias)
    points = np.concatenate([inside, np.ones((len(inside), 1))], axis=1)
    np.testing.assert_allclose(
        np.einsum("ni,kij,nj->nk", points, forms, points, optimize=True), logits, atol=1e-3 * np.abs(logits).max()
    )
    values, rows = canonical_factors(forms[0], 13)
    np.testing.assert_allclose((rows.T * values) @ rows, forms[0], atol=1e-6 * np.abs(forms[0]).max())
    assert (np.diff(np.abs(values)) <= 1e-12).all()


def test_square_head_from_decisions(squares: Squares) -> None:
    """The linear machinery on lifted features."""
    heads = [squares.lift.head(head) for head in squares.shadows]
    shadows = np.stack([w for w, _ in heads]), np.stack([b for _, b in heads])
    settings = HardSettings(decisions=1500, batch=500, noise=1e-2)

    def extract(images: AnyArray) -> FloatArray:
        return squares.lift.lift(BACKBONE.extract(images))

    def ask(images: AnyArray) -> AnyArray:
        return squares.head.logits(BACKBONE.extract(images)).argmax(1)

    plan = plan_queries(extract, squares.images, squares.lift.lift(squares.features), shadows, settings, 1)
    found = extract_head(extract, plan, ask, settings, 1)
    truth = squares.head.logits(squares.fresh).argmax(1)
    lifted = squares.lift.lift(squares.fresh) @ found.weight.T + found.bias
    assert (lifted.argmax(1) == truth).mean() >= 0.98
    plain = squares.lift.head(squares.head)
    error = head_error(found.weight[None], found.bias[None], plain[0][None], plain[1][None])
    assert error.cosine[0] > 0.9


def test_square_head_from_scores(squares: Squares) -> None:
    features = squares.features
    logits = squares.head.logits(features)
    scale = np.abs(logits).mean()
    axes = FeatureAxes.fit(features, 120)
    fit = fit_square_head(axes, features, logits / scale, 4)
    truth = squares.head.logits(squares.fresh)
    assert (fit.logits(squares.fresh).argmax(1) == truth.argmax(1)).mean() >= 0.98
    assert np.square(fit.logits(squares.fresh) - truth / scale).mean() < 0.02 * (truth / scale).var()


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (lambda s: SquareLift(s.lift.axes, 41), "products = 41"),
        (lambda s: canonical_factors(np.zeros((3, 2)), 1), "square matrix"),
        (lambda s: canonical_factors(np.full((2, 2), np.nan), 1), "finite"),
        (lambda s: canonical_factors(np.eye(3), 4), "rank = 4"),
        (lambda s: fit_square_head(s.lift.axes, s.fresh, np.zeros((3, 2)), 4), "do not fit"),
        (lambda s: fit_square_head(s.lift.axes, s.fresh, np.full((len(s.fresh), 2), np.inf), 4), "NaN"),
        (lambda s: fit_square_head(s.lift.axes, s.fresh, np.zeros((len(s.fresh), 2)), 0), "hidden = 0"),
        (lambda s: s.lift.head(dataclasses.replace(s.head, activation="relu")), "relu"),
    ],
)
def test_bad_square_input_is_named(squares: Squares, wrong: Callable[[Squares], object], text: str) -> None:
    with pytest.raises((NumericError, ParameterError), match=text):
        wrong(squares)


def test_gauge_survives_the_way_through_the_axes(world: World) -> None:
    """Nothing is lost between features and contrasts but what lies outside the axes."""
    axes = FeatureAxes.fit(world.features)
    weight, bias = np.repeat(world.weight, 8, 0), np.repeat(world.bias, 8, 0)
    noise = np.random.default_rng(0).normal(scale=1e-3, size=weight.shape)
    prior = HeadPrior.fit(axes, (weight + noise).astype(np.float32), bias)
    rows, rest = axes.reduce(world.features)
    logits = world.features @ world.weight[0].T + world.bias[0]
    solved = solve_logits(prior, rows, rest, logits)
    error = np.abs(world.features @ solved.weight.T + solved.bias - logits).max()
    assert error < 2e-3 * np.abs(logits).max()
