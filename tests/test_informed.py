"""Adversaries who know all images but one, or the initial weights: on real digits, against what others achieve."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext, Challenge, Claim, PriorKnowledge
from rhe_parties.attacks.informed.posterior import Knowledge, infer_features
from rhe_parties.attacks.informed_adversary import InformedAdversary
from rhe_parties.attacks.ntk_difference import NtkDifference
from rhe_parties.attacks.span.inversion import invert_heads
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.white_box import Heads
from rhe_parties.data.datasets import load_dataset, to_unit
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, initial_weights, train_heads
from rhe_parties.types import AnyArray, FloatArray, IntArray, UInt8Array

K = 10


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """Victims and what each kind of adversary knows about them."""

    prior: PriorKnowledge
    belief: FeaturePrior
    heads: Heads
    images: UInt8Array  # [V, N, C, H, W]
    features: FloatArray  # [V, N, D]
    labels: IntArray  # [V, N]
    initial: FloatArray
    place: IntArray  # [V], the unknown image
    pool: FloatArray  # features of all private images
    pool_labels: IntArray

    @property
    def target(self) -> FloatArray:
        """Features of the unknown images [V, D]."""
        found: FloatArray = self.features[np.arange(len(self.place)), self.place]
        return found

    def knowledge(self, *, started: bool) -> Knowledge:
        """All rows but one, and the initial weights or not."""
        known = np.ones(self.labels.shape, np.bool_)
        known[np.arange(len(self.place)), self.place] = False
        heads = len(self.place)
        return Knowledge(
            self.features[known].reshape(heads, -1, self.features.shape[2]),
            self.labels[known].reshape(heads, -1),
            self.labels[~known].reshape(heads, 1),
            self.initial if started else None,
        )

    def identified(self, points: FloatArray, whitener: FloatArray, truth: FloatArray, labels: IntArray) -> float:
        """Share of points [n, D] whose nearest private image of the class is the true one."""
        hits = []
        for point, own, label in zip(points, truth, labels, strict=True):
            pool = self.pool[self.pool_labels == label]
            nearest = pool[np.square((pool - point) @ whitener.T).sum(axis=1).argmin()]
            hits.append(np.array_equal(nearest, own))
        return float(np.mean(hits))


def build(per_class: int, victims: int) -> Scene:
    """Digits, heads with the paper's recipe."""
    dataset = load_dataset("digits")
    splits = split_dataset(dataset, 3)
    sets = victim_sets(dataset.labels, splits.private, per_class, victims, 3)
    backbone, recipe = load_backbone("strokenet"), Recipe.paper("strokenet", per_class)
    labels, chosen = dataset.labels[sets], splits.auxiliary[::6]
    pool = backbone.extract(dataset.images[splits.private])
    features = pool[np.searchsorted(splits.private, sets)]
    weight, bias = train_heads(features, labels, K, recipe, range(victims))
    prior = PriorKnowledge(backbone, recipe, K, per_class, dataset.images[chosen], dataset.labels[chosen])
    every = backbone.extract(dataset.images[splits.auxiliary])
    return Scene(
        prior=prior,
        belief=FeaturePrior.fit(every, dataset.labels[splits.auxiliary], K),
        heads=Heads(tuple(f"h{index}" for index in range(victims)), weight, bias),
        images=dataset.images[sets],
        features=features,
        labels=labels,
        initial=initial_weights(range(victims), K, backbone.features, recipe.init_std),
        place=np.random.default_rng(2).integers(K * per_class, size=victims),
        pool=pool,
        pool_labels=dataset.labels[splits.private],
    )


@pytest.fixture(scope="module")
def scene() -> Scene:
    """One image per class."""
    return build(1, 40)


@pytest.fixture(scope="module")
def four() -> Scene:
    """Four images per class."""
    return build(4, 14)


@pytest.mark.parametrize("name", ["scene", "four"])
def test_all_but_one_known_is_better_than_none_known(name: str, request: pytest.FixtureRequest) -> None:
    s: Scene = request.getfixturevalue(name)
    target_labels = s.labels[np.arange(len(s.place)), s.place]
    by_mean = np.square(s.belief.means[target_labels] - s.target).mean()
    recipe, weight = s.prior.recipe, s.heads.weight
    blind = invert_heads(weight, s.heads.bias, recipe, s.belief, s.prior.images_per_class)
    errors = [float(np.square(blind.features[np.arange(len(s.place)), s.place] - s.target).mean() / by_mean)]
    for started in (False, True):
        found = infer_features(weight, s.heads.bias, s.knowledge(started=started), recipe, s.belief)
        errors.append(float(np.square(found.features[:, 0] - s.target).mean() / by_mean))
        assert s.identified(found.points[:, 0], found.whitener, s.target, target_labels) >= 0.95
        others = infer_features(
            np.roll(weight, 1, axis=0), np.roll(s.heads.bias, 1, axis=0), s.knowledge(started=started), recipe, s.belief
        )
        assert s.identified(others.points[:, 0], others.whitener, s.target, target_labels) < 0.2
    assert errors[1] < (0.9 if name == "scene" else 0.4) * errors[0]
    assert errors[2] < 1e-6  # nothing is hidden, and nothing is disturbed


def test_error_is_known(scene: Scene) -> None:
    found = infer_features(
        scene.heads.weight, scene.heads.bias, scene.knowledge(started=False), scene.prior.recipe, scene.belief
    )
    error = np.square(found.features[:, 0] - scene.target).mean()
    assert 0.5 < error / found.variance.mean() < 2


def test_initial_weights_show_all_but_one_combination(scene: Scene) -> None:
    heads, width = len(scene.place), scene.features.shape[2]
    none = np.zeros((heads, 0, width), np.float32), np.zeros((heads, 0), np.int64)
    with_start = Knowledge(*none, scene.labels, scene.initial)
    recipe = scene.prior.recipe
    found = infer_features(scene.heads.weight, scene.heads.bias, with_start, recipe, scene.belief, 4)
    # Differences between images are known exactly up to the coefficients' own error; the common offset is not.
    inside = found.features - found.features.mean(axis=1, keepdims=True)
    truth = scene.features - scene.features.mean(axis=1, keepdims=True)
    middle = scene.belief.means[scene.labels]
    flat = middle - middle.mean(axis=1, keepdims=True)
    assert np.square(inside - truth).mean() < 0.01 * np.square(flat - truth).mean()
    without = infer_features(
        scene.heads.weight, scene.heads.bias, Knowledge(*none, scene.labels), recipe, scene.belief, 4
    )
    assert np.square(found.features - scene.features).mean() < np.square(without.features - scene.features).mean()
    points, labels = found.points.reshape(-1, width), scene.labels.ravel()
    assert scene.identified(points, found.whitener, scene.features.reshape(-1, width), labels) >= 0.97


def test_large_initial_weights_stop_only_who_does_not_know_them(scene: Scene) -> None:
    recipe = dataclasses.replace(scene.prior.recipe, init_std=0.1)
    heads, width = len(scene.place), scene.features.shape[2]
    weight, bias = train_heads(scene.features, scene.labels, K, recipe, range(heads))
    initial = initial_weights(range(heads), K, width, recipe.init_std)
    none = np.zeros((heads, 0, width), np.float32), np.zeros((heads, 0), np.int64)
    rates = []
    for start in (None, initial):
        found = infer_features(weight, bias, Knowledge(*none, scene.labels, start), recipe, scene.belief, 4)
        points, truth = found.points.reshape(-1, width), scene.features.reshape(-1, width)
        rates.append(scene.identified(points, found.whitener, truth, scene.labels.ravel()))
    assert rates[1] >= 0.95
    assert rates[0] < 0.6


def test_equal_heads_and_equal_knowledge_give_equal_estimates(scene: Scene) -> None:
    known = scene.knowledge(started=False)
    same = Knowledge(
        np.repeat(known.features[:1], 5, 0), np.repeat(known.labels[:1], 5, 0), np.repeat(known.unknown[:1], 5, 0)
    )
    mean = np.repeat(scene.heads.weight.mean(axis=0, keepdims=True), 5, axis=0)
    found = infer_features(
        mean,
        np.zeros((5, K), np.float32),
        same,
        scene.prior.recipe,
        scene.belief,
        3,
        float(scene.heads.weight.var(0).mean()),
    )
    np.testing.assert_allclose(found.features, np.repeat(found.features[:1], 5, axis=0), rtol=1e-5, atol=1e-6)


def test_what_is_wrong_is_named(scene: Scene) -> None:
    weight, known, recipe = scene.heads.weight, scene.knowledge(started=True), scene.prior.recipe
    high = np.full_like(known.unknown, K)
    swap = dataclasses.replace
    cases: list[tuple[AnyArray, Knowledge, type[Exception], str]] = [
        (weight[:, :, :-1], known, NumericError, "weights must be"),
        (weight[:0], known, NumericError, "weights must be"),
        (np.full_like(weight, np.nan), known, NumericError, "weights hold NaN"),
        (weight, swap(known, features=known.features[:, 1:]), NumericError, "do not fit"),
        (weight, swap(known, features=np.full_like(known.features, np.inf)), NumericError, "known features hold"),
        (weight, swap(known, unknown=known.unknown[:, :0]), DataError, "no unknown image"),
        (weight, swap(known, unknown=high), DataError, "label 10"),
        (weight, swap(known, initial=scene.initial[:3]), NumericError, "initial weights"),
        (weight, swap(known, initial=np.full_like(weight, np.nan)), NumericError, "initial weights hold"),
    ]
    for array, knowledge, error, text in cases:
        with pytest.raises(error, match=text):
            infer_features(array, scene.heads.bias[: len(array)], knowledge, recipe, scene.belief)
    with pytest.raises(ParameterError, match="iterations = 0"):
        infer_features(weight, scene.heads.bias, known, recipe, scene.belief, 0)
    with pytest.raises(ParameterError, match="noise_variance = -1"):
        infer_features(weight, scene.heads.bias, known, recipe, scene.belief, 4, -1)
    makers: list[Callable[[], object]] = [
        lambda: InformedAdversary.Options(iterations=0),
        lambda: NtkDifference.Options(iterations=0),
    ]
    for make in makers:
        with pytest.raises(ParameterError, match="iterations = 0"):
            make()


def test_strategies_draw_the_unknown_images(scene: Scene) -> None:
    victims = 8
    heads = Heads(scene.heads.head_ids[:victims], scene.heads.weight[:victims], scene.heads.bias[:victims])
    rows = np.arange(victims)
    known = np.ones((victims, K), np.bool_)
    known[rows, scene.place[:victims]] = False
    challenge = Challenge(
        known_images=scene.images[:victims][known].reshape(victims, K - 1, *scene.images.shape[2:]),
        known_labels=scene.labels[:victims][known].reshape(victims, K - 1),
        target_labels=scene.labels[rows, scene.place[:victims]],
        initial_weights=scene.initial[:victims],
    )
    context = AttackContext(seed=3, victims=heads.head_ids, challenge=challenge)
    effort = {"decoder_steps": 60, "shadow_heads": 60, "refine_steps": 2}
    truth = to_unit(scene.images[:victims])
    target = truth[rows, scene.place[:victims]]
    informed = InformedAdversary(InformedAdversary.Options(**effort, strong=True))
    check(informed.attack_heads(heads, scene.prior, context), target[:, None])
    check(NtkDifference(NtkDifference.Options(**effort)).attack_heads(heads, scene.prior, context), truth)
    bare = AttackContext(seed=3, victims=heads.head_ids, memory=context.memory)
    with pytest.raises(DataError, match="lacks the known images"):
        informed.attack_heads(heads, scene.prior, bare)
    with pytest.raises(DataError, match="no initial weights"):
        NtkDifference(NtkDifference.Options(**effort)).attack_heads(heads, scene.prior, bare)
    bare.challenge = dataclasses.replace(challenge, initial_weights=None)
    with pytest.raises(DataError, match="strong=true"):
        informed.attack_heads(heads, scene.prior, bare)
    bare.challenge = dataclasses.replace(challenge, target_labels=np.zeros(3, np.int64))
    with pytest.raises(NumericError, match="do not fit 8 heads"):
        informed.attack_heads(heads, scene.prior, bare)


def check(claim: Claim, truth: FloatArray) -> None:
    """Shapes are right, and pictures are nearer to their own originals than to other victims'."""
    assert claim.images is not None
    assert claim.features is not None
    assert claim.images.shape == truth.shape
    assert claim.features.shape[:2] == truth.shape[:2]
    assert np.abs(claim.images).max() <= 1
    own = np.square(claim.images - truth).mean()
    order = np.roll(np.arange(len(truth)), 1)
    assert own < 0.7 * np.square(claim.images - truth[order]).mean()
