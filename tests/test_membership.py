"""Membership: the statistics, the closed form, shadow heads, and every strategy with its controls, on real digits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from rhe_parties.attacks.base import Answers, AttackContext, Challenge, Claim, PriorKnowledge
from rhe_parties.attacks.label_membership import LabelMembership
from rhe_parties.attacks.lira import Lira, LiraScores
from rhe_parties.attacks.membership.shadows import Answer, Workshop, shadow_answers
from rhe_parties.attacks.membership.span_evidence import span_evidence
from rhe_parties.attacks.membership.statistics import likelihood_ratio, margins
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.span_membership import SpanMembership
from rhe_parties.attacks.white_box import Heads, WhiteBoxStrategy
from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import BudgetError, DataError, NumericError, ParameterError
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import AnyArray, UInt8Array

K = 10
NOTHING = AdversaryView(())


@dataclasses.dataclass(frozen=True)
class Scene:
    """Victims, twenty candidates for each, and which of them are members."""

    prior: PriorKnowledge
    heads: Heads
    challenge: Challenge
    members: AnyArray
    mean: Heads

    def context(self, **more: Any) -> AttackContext:
        """A fresh seat."""
        return AttackContext(seed=5, victims=self.heads.head_ids, challenge=self.challenge, **more)


def build(per_class: int, victims: int, candidates: int) -> Scene:
    """`candidates` members and as many fresh private images of the same classes, shuffled."""
    dataset = load_dataset("digits")
    splits = split_dataset(dataset, 3)
    sets = victim_sets(dataset.labels, splits.private, per_class, victims, 3)
    backbone, recipe = load_backbone("strokenet"), Recipe.paper("strokenet", per_class)
    features = backbone.extract(dataset.images[sets.ravel()]).reshape(*sets.shape, -1)
    weight, bias = train_heads(features, dataset.labels[sets], K, recipe, range(len(sets)))
    rng = np.random.default_rng(1)
    rows, members = [], []
    for own in sets:
        inside = rng.permutation(own.reshape(K, -1)[:, 0])[:candidates]
        outside = [
            rng.choice(np.setdiff1d(splits.private[dataset.labels[splits.private] == label], own))
            for label in dataset.labels[inside]
        ]
        order = rng.permutation(2 * candidates)
        rows.append(np.concatenate([inside, outside])[order])
        members.append((np.arange(2 * candidates) < candidates)[order])
    chosen = np.stack(rows)
    auxiliary = splits.auxiliary
    prior = PriorKnowledge(backbone, recipe, K, per_class, dataset.images[auxiliary], dataset.labels[auxiliary])
    challenge = Challenge(candidates=dataset.images[chosen], candidate_labels=dataset.labels[chosen])
    heads = Heads(tuple(f"h{index}" for index in range(len(sets))), weight, bias)
    return Scene(prior, heads, challenge, np.stack(members), mean_head(prior, heads))


def mean_head(prior: PriorKnowledge, heads: Heads) -> Heads:
    """What a regressor without skill reads of every ciphertext: the shadows' mean."""
    shadows = SpanMembership().shadow_heads(prior, AttackContext(seed=9), 256)
    flat = np.tile(shadows.flat().mean(axis=0), (len(heads.weight), 1))
    return shadows.of(flat, heads.head_ids, float(shadows.weight.var(axis=0).mean()))


def others(heads: Heads) -> Heads:
    """Every victim's head taken for its neighbour's."""
    return dataclasses.replace(heads, weight=np.roll(heads.weight, 1, axis=0), bias=np.roll(heads.bias, 1, axis=0))


def area(claim: Claim, members: AnyArray) -> float:
    """Area under the ROC curve."""
    assert claim.scores is not None
    inside, outside = claim.scores[members], claim.scores[~members]
    above = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    return float(above)


def tolerance(members: AnyArray) -> float:
    """Four standard errors of the area at chance (arXiv 2112.03570 counts the same way; Hanley & McNeil 1982)."""
    half = members.sum()
    return 4 * float(np.sqrt((2 * half + 1) / (12.0 * half * half)))


class DirectOracle:
    """Answers from the true heads, and counts."""

    def __init__(
        self,
        backbone: Backbone,
        heads: Heads,
        release: str = "classes",
        budget: int = 0,
        digits: int | None = None,
    ) -> None:
        self.backbone, self.heads, self.release, self.budget = backbone, heads, release, budget
        self.digits = digits
        self.counts: dict[str, int] = {}

    def ask(self, head_id: str, images: UInt8Array) -> Answers:
        """See `Oracle.ask`."""
        if self.budget and self.used(head_id) + len(images) > self.budget:
            raise BudgetError("used up")
        self.counts[head_id] = self.used(head_id) + len(images)
        row = self.heads.head_ids.index(head_id)
        logits = self.backbone.extract(images) @ self.heads.weight[row].T + self.heads.bias[row]
        released = logits if self.digits is None else np.round(logits, self.digits)
        nothing = np.empty((0,), np.float32)
        return Answers(logits.argmax(axis=1), nothing if self.release == "classes" else released)

    def used(self, head_id: str) -> int:
        """See `Oracle.used`."""
        return self.counts.get(head_id, 0)


class Backwards:
    """A pool that works on the last piece first."""

    def map(self, function: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
        """See `Pool.map`."""
        return [function(piece) for piece in reversed(pieces)][::-1]

    def stream(self, function: Callable[[Any], Any], pieces: Iterable[Any]) -> Iterator[Any]:
        """See `Pool.stream`."""
        yield from self.map(function, list(pieces))


@pytest.fixture(scope="module")
def scene() -> Scene:
    """One image per class."""
    return build(1, 40, 10)


def test_margins_are_exact_and_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 5, 4)), rng.integers(4, size=(6, 1))
    chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    own = np.take_along_axis(chance, np.broadcast_to(labels, (6, 5))[..., None], -1)[..., 0]
    np.testing.assert_allclose(margins(logits, labels), np.log(own / (1 - own)), atol=1e-5)
    huge = np.array([[1e4, 0.0, -1e4], [0.0, 1e4, 1e4]])
    np.testing.assert_allclose(margins(huge, np.array([0, 0])), [1e4, -1e4 - np.log(2)], rtol=1e-6)
    for bad in (np.array([[np.nan, 0.0]]), np.array([[np.inf, 0.0]]), np.zeros((3, 1))):
        with pytest.raises(NumericError, match="at least 2 classes"):
            margins(bad, np.zeros(len(bad), np.int64))


@pytest.mark.parametrize("heads", [8, 200])
def test_likelihood_ratio_is_that_of_normal_laws(heads: int) -> None:
    rng = np.random.default_rng(heads)
    inside, outside = rng.normal(2, 0.5, (300, heads)), rng.normal(0, 1, (300, heads))
    member = np.arange(300) < 150
    seen = np.where(member, inside[:, 0], outside[:, 0])
    exact = 0.5 * seen**2 - 0.5 * ((seen - 2) / 0.5) ** 2 + np.log(2)
    found = likelihood_ratio(seen, inside[:, 1:], outside[:, 1:])
    assert np.corrcoef(found, exact)[0, 1] > 0.9
    offline = likelihood_ratio(seen, inside[:, :0], outside[:, 1:], "offline")
    assert np.corrcoef(offline, seen)[0, 1] > 0.9


def test_likelihood_ratio_refuses_what_it_cannot_use() -> None:
    good = np.zeros((4, 3))
    with pytest.raises(ParameterError, match="mode='sideways'"):
        likelihood_ratio(good[:, 0], good, good, "sideways")
    with pytest.raises(DataError, match="at least 2"):
        likelihood_ratio(good[:, 0], good[:, :1], good)
    with pytest.raises(NumericError, match="must be"):
        likelihood_ratio(good[:, 0], good[:2], good)
    with pytest.raises(NumericError, match="NaN"):
        likelihood_ratio(good[:, 0], good, np.full((4, 3), np.nan))
    assert np.isfinite(likelihood_ratio(good[:, 0], good, good)).all()  # shadow heads that all agree


def test_span_evidence_is_the_ratio_of_two_normal_densities() -> None:
    rng = np.random.default_rng(4)
    classes, width, per_class, noise = 3, 5, 2, 0.1
    prior = FeaturePrior.fit(
        (rng.normal(size=(60, width)) @ rng.normal(size=(width, width))).astype(np.float32),
        np.arange(60) % classes, classes, shrinkage=0.0,
    )  # fmt: skip
    labels = np.repeat(np.arange(classes), per_class)
    dual = rng.normal(size=(len(labels), classes)).astype(np.float32)
    weight = rng.normal(size=(1, classes, width)).astype(np.float32)
    blank = np.zeros((1, len(labels), width), np.float32)
    inversion = Inversion(blank, blank, prior.whitener, dual[None], prior.eigenvalues.astype(np.float32), noise)
    phi = rng.normal(size=(1, 1, width)).astype(np.float32)
    found = span_evidence(weight, inversion, prior, phi, np.array([[1]]), per_class)

    def log_density(known: int | None) -> float:
        rows = [n for n in range(len(labels)) if n != known]
        mean = dual[rows].T @ prior.means[labels[rows]]
        if known is not None:
            mean = mean + np.outer(dual[known], phi[0, 0])
        spread = np.kron(dual[rows].T @ dual[rows], prior.covariance) + noise**2 * np.eye(classes * width)
        return float(multivariate_normal(mean.ravel(), spread).logpdf(weight[0].ravel()))

    expected = np.logaddexp(log_density(2), log_density(3)) - np.log(2) - log_density(None)
    assert found[0, 0] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    with pytest.raises(NumericError, match="do not fit"):
        span_evidence(weight, inversion, prior, phi[0], np.array([[1]]), per_class)
    with pytest.raises(NumericError, match="NaN"):
        span_evidence(weight, inversion, prior, np.full_like(phi, np.nan), np.array([[1]]), per_class)


@pytest.mark.parametrize(
    ("strategy", "least"),
    [
        (SpanMembership(), 0.995),
        (Lira(Lira.Options(inside=32, outside=64)), 0.98),
        (Lira(Lira.Options(mode="offline", outside=64)), 0.95),
    ],
    ids=["span", "online", "offline"],
)
def test_members_are_found_on_weights_and_chance_without_them(
    scene: Scene, strategy: WhiteBoxStrategy, least: float
) -> None:
    context = scene.context()
    assert area(strategy.attack_heads(scene.heads, scene.prior, context), scene.members) >= least
    slack = tolerance(scene.members)
    for blind in (others(scene.heads), scene.mean):
        claim = strategy.attack_heads(blind, scene.prior, context)
        assert abs(area(claim, scene.members) - 0.5) < slack


def test_mean_head_judges_the_image_and_not_the_victim(scene: Scene) -> None:
    candidates, labels = scene.challenge.candidates, scene.challenge.candidate_labels
    assert candidates is not None
    assert labels is not None
    same = Challenge(
        candidates=np.repeat(candidates[:1], len(candidates), 0), candidate_labels=np.repeat(labels[:1], len(labels), 0)
    )
    claim = SpanMembership().attack_heads(
        scene.mean, scene.prior, AttackContext(seed=1, victims=scene.heads.head_ids, challenge=same)
    )
    assert claim.scores is not None
    np.testing.assert_allclose(claim.scores, np.repeat(claim.scores[:1], len(claim.scores), 0), rtol=1e-5, atol=1e-5)


def test_four_images_per_class() -> None:
    scene = build(4, 12, 10)
    context = scene.context()
    assert area(SpanMembership().attack_heads(scene.heads, scene.prior, context), scene.members) > 0.85
    assert area(Lira().attack_heads(scene.heads, scene.prior, context), scene.members) > 0.75


def test_shadow_answers_do_not_depend_on_the_order_of_work(scene: Scene) -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(K, size=700).astype(np.int64)
    features = scene.prior.auxiliary_features[rng.integers(len(scene.prior.auxiliary_labels), size=700)]
    workshop = Workshop.build(scene.prior, 3, 4, Answer("margin"), 2)
    first = shadow_answers(workshop, features, labels, features[:, None], scene.context())
    again = shadow_answers(workshop, features, labels, features[:, None], scene.context(pool=Backwards()))
    assert first.inside.shape == (700, 1, 3)
    assert first.outside.shape == (700, 1, 4)
    np.testing.assert_array_equal(first.inside, again.inside)
    np.testing.assert_array_equal(first.outside, again.outside)
    assert first.inside.mean() > first.outside.mean() + 0.3


def test_released_scores_give_members_away(scene: Scene) -> None:
    strategy = LiraScores(LiraScores.Options(inside=32, outside=64))
    for digits, least in ((None, 0.98), (1, 0.95)):
        oracle = DirectOracle(scene.prior.backbone, scene.heads, "logits", digits=digits)
        defences = () if digits is None else (f"rounding@digits={digits}",)
        claim = strategy.attack(NOTHING, scene.prior, scene.context(oracle=oracle, defences=defences))
        assert area(claim, scene.members) >= least
        assert claim.null is not None
        assert abs(area(claim.null, scene.members) - 0.5) < tolerance(scene.members)
        assert set(oracle.counts.values()) == {20}
    short = scene.context(oracle=DirectOracle(scene.prior.backbone, scene.heads, "logits", budget=7))
    scores = strategy.attack(NOTHING, scene.prior, short).scores
    assert scores is not None
    assert (scores[:, 7:] == 0).all()
    assert (scores[:, :7] != 0).all()
    with pytest.raises(ParameterError, match="used up"):
        strategy.attack(NOTHING, scene.prior, short)
    with pytest.raises(ParameterError, match="release='classes' holds no scores"):
        strategy.attack(NOTHING, scene.prior, scene.context(oracle=DirectOracle(scene.prior.backbone, scene.heads)))


def test_decisions_alone_give_members_away() -> None:
    scene = build(1, 10, 10)
    strategy = LabelMembership(LabelMembership.Options(queries=8, inside=24, outside=32))
    context = scene.context(oracle=DirectOracle(scene.prior.backbone, scene.heads, budget=170))
    claim = strategy.attack(NOTHING, scene.prior, context)
    assert area(claim, scene.members) > 0.75
    assert claim.notes["queries per candidate"] == "8"
    assert context.oracle is not None
    assert context.oracle.used("h0") == 160
    assert claim.null is not None
    assert abs(area(claim.null, scene.members) - 0.5) < tolerance(scene.members)
    context.oracle = DirectOracle(scene.prior.backbone, others(scene.heads))
    assert abs(area(strategy.attack(NOTHING, scene.prior, context), scene.members) - 0.5) < tolerance(scene.members)
    context.oracle = DirectOracle(scene.prior.backbone, scene.heads, budget=19)
    with pytest.raises(ParameterError, match="budget = 19"):
        strategy.attack(NOTHING, scene.prior, context)


def test_bad_challenges_are_named(scene: Scene) -> None:
    images, labels = scene.challenge.candidates, scene.challenge.candidate_labels
    assert images is not None
    assert labels is not None
    bad = labels.copy()
    bad[3, 2] = K
    cases = [
        (Challenge(), DataError, "no candidates"),
        (Challenge(candidates=images, candidate_labels=labels[:, :3]), NumericError, "must be uint8"),
        (Challenge(candidates=images[:5], candidate_labels=labels[:5]), NumericError, r"\[40, M"),
        (Challenge(candidates=images[:, :0], candidate_labels=labels[:, :0]), DataError, "zero candidates"),
        (Challenge(candidates=images, candidate_labels=bad), DataError, "label 10"),
    ]
    for challenge, error, text in cases:
        context = AttackContext(seed=1, victims=scene.heads.head_ids, challenge=challenge)
        with pytest.raises(error, match=text):
            SpanMembership().attack_heads(scene.heads, scene.prior, context)
    lacking = scene.prior.auxiliary_labels != 4
    poor = PriorKnowledge(
        scene.prior.backbone, scene.prior.recipe, K, 1,
        scene.prior.auxiliary_images[lacking], scene.prior.auxiliary_labels[lacking],
    )  # fmt: skip
    with pytest.raises(DataError, match="class 4"):
        Workshop.build(poor, 4, 4, Answer(), 1)
    broken = dataclasses.replace(scene.heads, weight=np.full_like(scene.heads.weight, np.nan))
    with pytest.raises(NumericError):
        Lira(Lira.Options(inside=2, outside=2)).attack_heads(broken, scene.prior, scene.context())


def test_bad_options_are_named(scene: Scene) -> None:
    makers: list[tuple[Callable[[], object], str]] = [
        (lambda: Lira.Options(mode="both"), "mode='both'"),
        (lambda: LiraScores.Options(inside=1), "inside = 1"),
        (lambda: SpanMembership.Options(iterations=0), "iterations = 0"),
        (lambda: LabelMembership.Options(queries=0), "queries = 0"),
        (lambda: LabelMembership.Options(queries=1000), "queries = 1000"),
        (lambda: LabelMembership.Options(outside=1), "outside = 1"),
        (lambda: Workshop.build(scene.prior, 4, 1, Answer(), 1), "at least 2"),
    ]
    for make, text in makers:
        with pytest.raises(ParameterError, match=text):
            make()


def test_evidence_weighs_the_noise_of_half_read_heads(scene: Scene) -> None:
    context = scene.context()
    sure = SpanMembership().attack_heads(scene.heads, scene.prior, context).scores
    blurred = dataclasses.replace(scene.heads, error_variance=1e-3)
    doubtful = SpanMembership().attack_heads(blurred, scene.prior, context).scores
    assert sure is not None
    assert doubtful is not None
    assert doubtful.std() < 0.5 * sure.std()
