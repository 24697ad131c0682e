"""Metrics: against hand-made truths, and against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import ParameterError
from rhe_parties.metrics.intervals import clopper_pearson, rate_interval
from rhe_parties.metrics.reconstruction import GroundTruth, identification, mean_squared_error, tpr_at_fpr
from rhe_parties.rng import numpy_stream


def make_truth(heads: int = 12, classes: int = 10, spare: int = 8, per_class: int = 1, seed: int = 0) -> GroundTruth:
    """Random images and features; class k owns a block of the pool."""
    rng = np.random.default_rng(seed)
    pool = heads * per_class + spare
    labels = np.repeat(np.arange(classes), pool)
    images = rng.uniform(-1, 1, (classes * pool, 1, 4, 4)).astype(np.float32)
    features = rng.normal(size=(classes * pool, 6)).astype(np.float32)
    sets = np.stack(
        [[k * pool + v * per_class + s for k in range(classes) for s in range(per_class)] for v in range(heads)]
    )
    return GroundTruth(images, features, labels, sets, classes)


def test_perfect_claim_identifies_everything() -> None:
    truth = make_truth(per_class=2)
    found = identification(truth, truth.features[truth.sets], truth.features, numpy_stream(0, "t"))
    assert found.value == 1.0
    assert found.low < 1.0 == found.high
    assert found.chance == pytest.approx(2 / 32)


def test_random_claim_is_at_chance() -> None:
    truth = make_truth(heads=60)
    claimed = np.random.default_rng(1).normal(size=(60, 10, 6)).astype(np.float32)
    found = identification(truth, claimed, truth.features, numpy_stream(0, "t"))
    assert found.chance is not None
    assert found.low <= found.chance <= found.high


def test_one_image_is_not_counted_twice() -> None:
    truth = make_truth(heads=3, classes=2, per_class=2)
    claimed = truth.features[truth.sets]
    claimed[:, 1], claimed[:, 3] = claimed[:, 0], claimed[:, 2]  # both claims of a class point at one image
    assert identification(truth, claimed, truth.features, numpy_stream(0, "t")).value == 0.5


def test_claims_of_other_heads_score_nothing() -> None:
    truth = make_truth()
    claimed = np.roll(truth.features[truth.sets], 1, axis=0)
    assert identification(truth, claimed, truth.features, numpy_stream(0, "t")).value == 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_tpr_equals_a_slow_reference(seed: int) -> None:
    truth = make_truth(heads=18, seed=seed)
    rng = np.random.default_rng(seed)
    own_images = truth.images[truth.sets]
    claimed = (own_images + rng.normal(0, 0.6, own_images.shape)).astype(np.float32)
    got = tpr_at_fpr(truth, claimed, 0.01, numpy_stream(0, "t"))
    assert got is not None
    positives, negatives = [], []
    for v in range(18):
        for k in range(10):
            for u in range(18):
                error = float(((claimed[v, k] - truth.images[truth.sets[u, k]]).astype(np.float64) ** 2).mean())
                (positives if u == v else negatives).append(error)
    threshold = sorted(negatives)[int(np.floor(0.01 * len(negatives))) - 1]
    expected = np.mean([p < threshold for p in positives])
    assert got.value == pytest.approx(expected, abs=1e-9)
    assert got.low <= got.value <= got.high
    assert np.mean([n < threshold for n in negatives]) <= 0.01


def test_tpr_is_refused_where_the_sample_cannot_resolve_it() -> None:
    truth = make_truth(heads=12)
    claimed = truth.images[truth.sets]
    assert tpr_at_fpr(truth, claimed, 0.001, numpy_stream(0, "t")) is None


def test_tpr_of_a_perfect_and_of_a_blind_claim() -> None:
    truth = make_truth(heads=20)
    perfect = tpr_at_fpr(truth, truth.images[truth.sets], 0.01, numpy_stream(0, "t"))
    average = np.broadcast_to(truth.images.mean(axis=0), (20, 10, 1, 4, 4)).astype(np.float32)
    blind = tpr_at_fpr(truth, average, 0.01, numpy_stream(0, "t"))
    assert perfect is not None
    assert perfect.value == 1.0
    assert blind is not None
    assert blind.low <= 0.01 <= blind.high


def test_mse_baseline_is_the_error_against_other_heads() -> None:
    truth = make_truth(heads=5)
    measured = mean_squared_error(truth, truth.images[truth.sets], numpy_stream(0, "t"))
    assert measured.value == pytest.approx(0.0, abs=1e-12)
    assert measured.chance == pytest.approx(2 / 3, rel=0.2)  # two independent uniforms on [-1, 1]


def test_clopper_pearson_against_known_values() -> None:
    assert clopper_pearson(0, 10) == (0.0, pytest.approx(0.3085, abs=1e-4))
    low, high = clopper_pearson(5, 10)
    assert (low, high) == (pytest.approx(0.1871, abs=1e-4), pytest.approx(0.8129, abs=1e-4))
    for bad in ((1, 0), (3, 2), (-1, 2)):
        with pytest.raises(ParameterError):
            clopper_pearson(*bad)


def test_rate_interval_covers_the_true_rate() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(100):
        hits = (rng.random((30, 10)) < 0.3).astype(float)
        low, high, _ = rate_interval(hits, numpy_stream(trial, "cover"))
        covered += low <= 0.3 <= high
    assert covered >= 92


def test_tpr_by_class_has_a_threshold_for_each_class() -> None:
    truth = make_truth(heads=60)
    images = truth.images.copy()
    images[truth.labels == 1] *= 0.01  # a class whose images are all alike
    truth = GroundTruth(images, truth.features, truth.labels, truth.sets, truth.classes)
    noise = np.random.default_rng(0).normal(0, 0.25, images[truth.sets].shape)
    claimed = (images[truth.sets] + noise).astype(np.float32)
    pooled = tpr_at_fpr(truth, claimed, 0.01, numpy_stream(0, "t"))
    split = tpr_at_fpr(truth, claimed, 0.01, numpy_stream(0, "t"), by_class=True)
    assert pooled is not None
    assert split is not None
    assert split.statistic == "tpr_at_fpr_1pct_by_class"
    assert split.value > pooled.value + 0.1
