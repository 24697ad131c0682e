"""Narrowing a mixed pool: the images of other domains, the hierarchy, the scores, and what a target's answers find."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from rhe_parties.attacks.base import Answers, AttackContext, Claim, PriorKnowledge
from rhe_parties.attacks.domain.consistency import LeafScores, agreement, likely_leaves, score_leaves
from rhe_parties.attacks.domain.hierarchy import Hierarchy, build_hierarchy, image_statistics
from rhe_parties.attacks.domain.narrowing import NarrowingSettings, narrow_pool
from rhe_parties.attacks.domain_inference import DomainInference
from rhe_parties.attacks.hard_label import HardLabel
from rhe_parties.data.datasets import load_dataset
from rhe_parties.data.domains import mixture_images
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import BudgetError, DataError, NumericError, ParameterError
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import FloatArray, IntArray, UInt8Array

K = 10
RECIPE = Recipe.paper("strokenet", 1)
DOMAINS = ("strokes", "inverted", "noise", "textures")
EFFORT = NarrowingSettings(images=300, leaves=48, ceiling=0.5)


@dataclasses.dataclass(frozen=True)
class Pool:
    """450 digits and 100 images of each other domain, and eight heads trained on other digits."""

    backbone: Backbone
    images: UInt8Array
    features: FloatArray
    labels: IntArray  # -1: of another domain
    weight: FloatArray
    bias: FloatArray
    rows: dict[bytes, int]

    def ask(self, images: UInt8Array) -> IntArray:
        known = [self.rows.get(image.tobytes(), -1) for image in images]
        features = self.backbone.extract(images) if min(known) < 0 else self.features[known]
        logits = np.einsum("nd,vkd->nvk", features, self.weight) + self.bias
        return logits.argmax(axis=2).astype(np.int64)


@pytest.fixture(scope="module")
def pool() -> Pool:
    dataset = load_dataset("digits")
    splits = split_dataset(dataset, 4)
    backbone = load_backbone("strokenet")
    sets = victim_sets(dataset.labels, splits.private, 1, 8, 4)
    private = backbone.extract(dataset.images[sets.ravel()]).reshape(*sets.shape, -1)
    weight, bias = train_heads(private, dataset.labels[sets], K, RECIPE, range(8))
    own = splits.auxiliary[:450]
    other = mixture_images(DOMAINS, 100, (1, 32, 32), 4)
    images = np.concatenate([dataset.images[own], other])
    labels = np.concatenate([dataset.labels[own], np.full(len(other), -1)])
    rows = {image.tobytes(): row for row, image in enumerate(images)}
    return Pool(backbone, images, backbone.extract(images), labels, weight, bias, rows)


@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 32, 32), (1, 16, 24)])
def test_domains_are_drawn_at_every_shape(shape: tuple[int, int, int]) -> None:
    names = (*DOMAINS, "blobs")
    images = mixture_images(names, 6, shape, 1)
    assert images.shape == (30, *shape)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, mixture_images(names, 6, shape, 1))
    np.testing.assert_array_equal(images[6:12], mixture_images(["inverted"], 6, shape, 1))
    assert not np.array_equal(images, mixture_images(names, 6, shape, 2))
    flat = images.reshape(30, -1)
    assert len(np.unique(flat, axis=0)) == 30
    assert flat[:6].mean() < 100 < 150 < flat[6:12].mean()


def test_bad_mixtures_are_named() -> None:
    with pytest.raises(ParameterError, match="did you mean 'textures'"):
        mixture_images(["texture"], 1, (1, 32, 32), 0)
    with pytest.raises(ParameterError, match="twice"):
        mixture_images(["noise", "noise"], 1, (1, 32, 32), 0)
    with pytest.raises(ParameterError, match="count_each = 0"):
        mixture_images(["noise"], 0, (1, 32, 32), 0)
    with pytest.raises(ParameterError, match="shape"):
        mixture_images(["noise"], 1, (2, 32, 32), 0)
    assert mixture_images([], 3, (1, 32, 32), 0).shape == (0, 1, 32, 32)


def test_hierarchy_parts_domains_and_covers_the_pool(pool: Pool) -> None:
    tree = build_hierarchy(pool.images, pool.features, 1)
    assert np.bincount(tree.leaf, minlength=tree.leaves).min() >= 16
    assert tree.leaves > 20
    assert len(set(tree.group.tolist())) > 3
    assert sorted(np.concatenate([tree.members(leaf) for leaf in range(tree.leaves)]).tolist()) == list(range(850))
    domain = np.where(pool.labels >= 0, 0, 1 + (np.arange(850) - 450) // 100)
    pure = [np.bincount(domain[tree.members(leaf)]).max() for leaf in range(tree.leaves)]
    assert sum(pure) / 850 > 0.85
    again = build_hierarchy(pool.images, pool.features, 1)
    np.testing.assert_array_equal(again.leaf, tree.leaf)


def test_hierarchy_of_equal_images_is_one_leaf() -> None:
    images, features = np.full((40, 1, 8, 8), 7, np.uint8), np.ones((40, 4), np.float32)
    assert build_hierarchy(images, features, 0, leaf_size=4).leaves == 1
    assert np.isfinite(image_statistics(images)).all()


def test_bad_hierarchies_are_named() -> None:
    images, features = np.zeros((4, 1, 8, 8), np.uint8), np.ones((4, 3), np.float32)
    with pytest.raises(NumericError, match="must fit"):
        build_hierarchy(images, features[:2], 0)
    with pytest.raises(NumericError, match="finite"):
        build_hierarchy(images, features * np.float32("nan"), 0)
    with pytest.raises(ParameterError, match="leaves = 1"):
        build_hierarchy(images, features, 0, groups=2, leaves=1)
    with pytest.raises(NumericError, match="n > 0"):
        image_statistics(images[:0])


def test_agreement_is_unbiased_and_counts_pairs() -> None:
    votes = np.asarray([[1, 1, 1], [1, 1, 2], [0, 1, 2]])
    np.testing.assert_allclose(agreement(votes, 3), [1, 1 / 3, 0])
    rng = np.random.default_rng(0)
    law = np.asarray([0.5, 0.3, 0.2])
    drawn = rng.choice(3, size=(20_000, 4), p=law)
    assert agreement(drawn, 3).mean() == pytest.approx(np.square(law).sum(), abs=0.01)
    with pytest.raises(NumericError, match="at least two"):
        agreement(votes[:, :1], 3)
    with pytest.raises(NumericError, match=r"0\.\.1"):
        agreement(votes, 2)


def test_unanimous_answers_to_everything_are_no_understanding() -> None:
    tree = Hierarchy(np.repeat([0, 1], 30), np.asarray([0, 1]))
    rng = np.random.default_rng(1)
    known = np.repeat(rng.integers(0, 4, (30, 1)), 5, axis=1)
    votes = np.concatenate([known, np.full((30, 5), 2)])
    scores = score_leaves(tree, np.arange(60), votes, 4)
    assert scores.mean[0] == pytest.approx(1)
    assert scores.mean[1] == 0
    with pytest.raises(NumericError, match="at least 1"):
        score_leaves(tree, np.arange(0), votes[:0], 4)


def test_border_lies_in_the_gap_but_not_above_the_ceiling() -> None:
    sizes = np.full(6, 10)
    apart = LeafScores(np.asarray([0.1, 0.15, 0.2, 0.7, 0.75, 0.8]), np.full(6, 0.05))
    np.testing.assert_array_equal(likely_leaves(apart, sizes) > 0.5, [False, False, False, True, True, True])
    together = LeafScores(np.asarray([0.55, 0.6, 0.65, 0.85, 0.9, 0.95]), np.full(6, 0.05))
    assert (likely_leaves(together, sizes) > 0.5).sum() == 3
    assert (likely_leaves(together, sizes, ceiling=0.5) > 0.5).all()
    outlier = LeafScores(np.asarray([-0.9, -0.9, 0.5, 0.55, 0.7, 0.75]), np.full(6, 0.02))
    assert (likely_leaves(outlier, sizes) > 0.5).sum() == 4
    assert (likely_leaves(outlier, sizes, cuts=2) > 0.5).sum() == 2
    assert (likely_leaves(LeafScores(np.ones(3), np.ones(3)), sizes[:3]) == 1).all()


def test_answers_find_the_private_domain_and_random_answers_do_not(pool: Pool) -> None:
    true = pool.labels >= 0
    found = narrow_pool(pool.images, pool.features, K, pool.ask, EFFORT, 1)
    chosen = true[found.selected]
    assert chosen.mean() > 0.85
    assert chosen.sum() > 0.6 * true.sum()
    named = found.labels == pool.labels[found.selected]
    assert named[chosen].mean() > 0.8
    assert set(found.labels.tolist()) == set(range(K))
    assert len(found.asked) == 300
    again = narrow_pool(pool.images, pool.features, K, pool.ask, EFFORT, 1)
    np.testing.assert_array_equal(again.selected, found.selected)
    np.testing.assert_array_equal(again.weights, found.weights)

    rng = np.random.default_rng(5)
    blind = narrow_pool(pool.images, pool.features, K, lambda images: rng.integers(0, K, (len(images), 8)), EFFORT, 1)
    assert abs(true[blind.selected].mean() - true.mean()) < 0.2


def test_without_narrowing_every_image_is_named(pool: Pool) -> None:
    everything = narrow_pool(pool.images, pool.features, K, pool.ask, EFFORT, 1).everything(pool.features)
    np.testing.assert_array_equal(everything.selected, np.arange(len(pool.images)))
    assert everything.labels.min() >= 0
    assert everything.labels.max() < K


@pytest.mark.parametrize(
    ("ask", "error", "text"),
    [
        (lambda images: np.zeros((len(images), 4), np.int64), DataError, "one class"),
        (lambda images: np.zeros((len(images), 1), np.int64), NumericError, "expected"),
        (lambda images: np.zeros((3, 4), np.int64), NumericError, "expected"),
        (lambda images: np.full((len(images), 4), K), NumericError, "must lie in"),
    ],
)
def test_useless_targets_are_named(
    pool: Pool, ask: Callable[[UInt8Array], IntArray], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        narrow_pool(pool.images[:120], pool.features[:120], K, ask, EFFORT, 1)


def test_bad_pools_and_settings_are_named(pool: Pool) -> None:
    with pytest.raises(DataError, match="empty"):
        narrow_pool(pool.images[:0], pool.features[:0], K, pool.ask, EFFORT, 1)
    with pytest.raises(ParameterError, match="classes = 1"):
        narrow_pool(pool.images, pool.features, 1, pool.ask, EFFORT, 1)
    with pytest.raises(ParameterError, match="first = 0"):
        NarrowingSettings(first=0)


class KeyHolder:
    """An oracle over plain heads that counts and refuses as a key holder does."""

    release = "classes"

    def __init__(self, pool: Pool, budget: int = 0) -> None:
        self.pool, self.budget = pool, budget
        self.asked: dict[str, int] = {}

    def used(self, head_id: str) -> int:
        return self.asked.get(head_id, 0)

    def ask(self, head_id: str, images: UInt8Array) -> Answers:
        if self.budget and self.used(head_id) + len(images) > self.budget:
            raise BudgetError(f"budget of {self.budget} used up")
        self.asked[head_id] = self.used(head_id) + len(images)
        number = int(head_id.split("-")[1])
        return Answers(self.pool.ask(images)[:, number], np.empty(0, np.float32))


def context(oracle: KeyHolder, victims: int = 8) -> AttackContext:
    return AttackContext(3, tuple(f"head-{number}" for number in range(victims)), oracle=oracle)


def knowledge(pool: Pool) -> PriorKnowledge:
    """No label is known."""
    return PriorKnowledge(pool.backbone, RECIPE, K, 1, pool.images, np.full(len(pool.images), -1, np.int64))


def test_strategy_hands_the_selection_to_the_extraction(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[HardLabel, PriorKnowledge, AttackContext]] = []

    def extract(self: HardLabel, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        seen.append((self, prior, context))
        return Claim(context.victims, weights=pool.weight[:3], notes={"decisions used per head": "5"})

    monkeypatch.setattr(HardLabel, "attack", extract)
    oracle = KeyHolder(pool, budget=150)
    options = DomainInference.Options(probe_images=200, decisions=1000, shadows=77, reconstruct=False)
    claim = DomainInference(options).attack(AdversaryView(()), knowledge(pool), context(oracle, 3))
    extraction, prior, inner = seen[0]
    assert (extraction.options.decisions, extraction.options.shadows, extraction.options.reconstruct) == (
        1000,
        77,
        False,
    )
    assert set(prior.auxiliary_labels.tolist()) == set(range(K))
    rows = [pool.rows[image.tobytes()] for image in prior.auxiliary_images]
    assert (pool.labels[rows] >= 0).mean() > 0.75
    assert inner.memory == {}
    assert inner.oracle is oracle
    assert max(oracle.asked.values()) == 150
    assert claim.notes["images asked about"] == "150 of 3 heads each"
    assert claim.notes["images selected"] == str(len(rows))
    assert claim.notes["decisions used per head"] == "5"
    whole = DomainInference(dataclasses.replace(options, narrow=False))
    whole.attack(AdversaryView(()), knowledge(pool), context(KeyHolder(pool), 3))
    assert len(seen[1][1].auxiliary_images) == len(pool.images)


def test_one_victim_is_asked_about_variants(pool: Pool) -> None:
    oracle = KeyHolder(pool)
    found = DomainInference(DomainInference.Options(probe_images=60)).narrow(knowledge(pool), context(oracle, 1))
    assert found.votes.shape == (60, 8)
    assert oracle.asked == {"head-0": 480}


def test_bad_circumstances_are_named(pool: Pool) -> None:
    with pytest.raises(ParameterError, match="key holder that answers"):
        DomainInference().narrow(knowledge(pool), AttackContext(1, ("head-0",)))
    with pytest.raises(ParameterError, match="no victims"):
        DomainInference().narrow(knowledge(pool), context(KeyHolder(pool), 0))
    with pytest.raises(ParameterError, match="probe_images = 0"):
        DomainInference(DomainInference.Options(probe_images=0)).narrow(knowledge(pool), context(KeyHolder(pool)))
    spent = KeyHolder(pool, budget=10)
    spent.ask("head-2", pool.images[:10])
    with pytest.raises(ParameterError, match="used up"):
        DomainInference().narrow(knowledge(pool), context(spent))


def test_needs_an_oracle() -> None:
    missing = DomainInference.needs - AdversaryView(()).holds()
    assert [str(item) for item in missing] == ["answers to images of its own choice"]
