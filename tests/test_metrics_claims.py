"""Whole claims: every statistic against a slow reference or a case whose answer is known, and verdicts without luck."""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import numpy as np
import pytest

from rhe_parties.errors import DataError, NumericError
from rhe_parties.metrics.claims import deciding, measure_claim, verdict
from rhe_parties.metrics.reconstruction import identification, others_met, pixel_errors
from rhe_parties.metrics.similarity import psnr_of, ssim
from rhe_parties.metrics.truth import GroundTruth, Measured, MeasuredClaim
from rhe_parties.model.head import LinearHead
from rhe_parties.rng import numpy_stream
from tests.test_metrics import make_truth

FloatTable = np.ndarray[Any, Any]


def by_name(results: list[Measured]) -> dict[str, Measured]:
    """Results by statistic, each of which must be there once."""
    found = {result.statistic: result for result in results}
    assert len(found) == len(results), "a statistic is given twice"
    return found


def random_heads(count: int, classes: int = 10, width: int = 6, seed: int = 3) -> list[LinearHead]:
    """Unrelated heads."""
    rng = np.random.default_rng(seed)
    return [
        LinearHead(rng.normal(size=(classes, width)).astype("f4"), rng.normal(size=classes).astype("f4"))
        for _ in range(count)
    ]


def measure(claim: dict[str, FloatTable], truth: GroundTruth, **more: Any) -> dict[str, Measured]:
    """All statistics of float32 arrays."""
    arrays = {name: array.astype(np.float32) for name, array in claim.items()}
    heads = more.pop("heads", random_heads(len(truth.sets)))
    return by_name(measure_claim(MeasuredClaim(arrays), truth, heads, numpy_stream(0, "t"), **more))


# ---- targets of any class ----------------------------------------------------------------------------------------


def mixed_targets(heads: int = 40, each: int = 3, seed: int = 0) -> GroundTruth:
    """Each head aims at a few images of random classes, some of them of one class."""
    truth = make_truth(heads=heads, classes=4, seed=seed)
    rng = np.random.default_rng(seed)
    targets = np.stack([rng.choice(len(truth.labels), each, replace=False) for _ in range(heads)])
    return dataclasses.replace(truth, targets=targets)


def test_class_ordered_targets_are_the_sets() -> None:
    truth = make_truth(per_class=2)
    named = dataclasses.replace(truth, targets=truth.sets)
    claimed = truth.images[truth.sets] + np.random.default_rng(0).normal(0, 0.7, truth.images[truth.sets].shape)
    assert measure({"images": claimed}, truth) == measure({"images": claimed}, named)


def test_identification_of_mixed_targets_equals_a_slow_reference() -> None:
    truth = mixed_targets()
    rng = np.random.default_rng(1)
    claimed = (truth.features[truth.aims] + rng.normal(0, 1.0, (40, 3, 6))).astype(np.float32)
    hits, chances = [], []
    for v, row in enumerate(truth.aims):
        for target in row:
            label = truth.labels[target]
            pool = np.flatnonzero(truth.labels == label)
            mine = [u for u in range(3) if truth.labels[row[u]] == label]
            found = {pool[np.argmin(((truth.features[pool] - claimed[v, u]) ** 2).sum(1))] for u in mine}
            hits.append(target in found)
            chances.append(len(mine) / len(pool))
    got = identification(truth, claimed, truth.features, numpy_stream(0, "t"))
    assert got.value == pytest.approx(np.mean(hits))
    assert got.chance == pytest.approx(np.mean(chances))
    assert 0.1 < got.value < 0.9


def test_errors_of_mixed_targets_equal_a_slow_reference() -> None:
    truth = mixed_targets(heads=15)
    claimed = truth.images[truth.aims] + np.random.default_rng(1).normal(0, 0.5, (15, 3, 1, 4, 4))
    errors = pixel_errors(truth, claimed.astype(np.float32))
    others = []
    for v, t in itertools.product(range(15), range(3)):
        label = truth.labels[truth.aims[v, t]]
        for u in range(15):
            same = [i for i in truth.aims[u] if truth.labels[i] == label]
            if same:
                error = min(float(((claimed[v, t] - truth.images[i]) ** 2).mean()) for i in same)
                if u == v:
                    assert errors.own[v, t] == pytest.approx(error, rel=1e-4)
                else:
                    others.append(error)
    assert np.sort(errors.other) == pytest.approx(np.sort(others), rel=1e-4)


def test_one_target_per_head_of_changing_class_is_measured() -> None:
    truth = make_truth(heads=200, classes=4)
    targets = truth.sets[np.arange(200), np.arange(200) % 4][:, None]
    truth = dataclasses.replace(truth, targets=targets)
    noisy = truth.images[targets] + np.random.default_rng(0).normal(0, 0.3, (200, 1, 1, 4, 4))
    found = measure({"images": noisy}, truth)
    assert found["identification_rate"].value > 0.9
    assert found["tpr_at_fpr_1pct"].value > 0.9
    assert found["identification_rate"].n == 200
    assert verdict(list(found.values())) == "leaked"


def test_claims_about_whole_sets_are_cut_to_the_aims() -> None:
    truth = make_truth(heads=50, classes=4)
    place = np.arange(50) % 4
    aimed = dataclasses.replace(truth, targets=truth.sets[np.arange(50), place][:, None])
    rng = np.random.default_rng(0)
    arrays = {"images": truth.images[truth.sets] + rng.normal(0, 0.2, (50, 4, 1, 4, 4)).astype("f4")}
    arrays |= {"null.images": -arrays["images"], "features": truth.features[truth.sets], "weights": np.ones((50, 4, 2))}
    cut = aimed.about_aims(arrays)
    np.testing.assert_array_equal(cut["images"], arrays["images"][np.arange(50), place][:, None])
    np.testing.assert_array_equal(cut["null.images"], -cut["images"])
    np.testing.assert_array_equal(cut["features"], truth.features[aimed.targets])
    assert cut["weights"] is arrays["weights"]
    assert measure({"images": cut["images"]}, aimed)["identification_rate"].value > 0.9
    # Of the right shape, about something else, or nothing to cut: left alone.
    assert aimed.about_aims(cut)["images"] is cut["images"]
    assert truth.about_aims(arrays)["images"] is arrays["images"]
    strangers = dataclasses.replace(truth, targets=np.roll(aimed.targets, 1, axis=0))
    assert strangers.about_aims(arrays)["images"] is arrays["images"]


def test_many_heads_meet_a_bounded_number_of_others() -> None:
    assert others_met(500, 10) == 499
    assert others_met(1000, 10) == 500
    assert others_met(2000, 40) * 2000 * 40 <= 5_000_000
    assert others_met(1, 10) == 1
    truth = make_truth(heads=520, classes=2, spare=1)
    claimed = truth.images[truth.sets].astype(np.float32)
    errors = pixel_errors(truth, claimed)
    assert errors.other.size == 520 * 2 * 500
    assert (errors.claimants != errors.victims).all()


# ---- similarity ----------------------------------------------------------------------------------------------------


def slow_ssim(a: FloatTable, b: FloatTable, window: int) -> float:
    """SSIM of one image [C, H, W] by its definition, one window after the other."""
    offsets = np.arange(window) - window // 2
    g = np.exp(-(offsets[:, None] ** 2 + offsets[None, :] ** 2) / (2 * 1.5**2))
    g /= g.sum()
    c1, c2 = 0.02**2, 0.06**2
    values = []
    for channel in range(a.shape[0]):
        for i, j in itertools.product(range(a.shape[1] - window + 1), range(a.shape[2] - window + 1)):
            x, y = (image[channel, i : i + window, j : j + window] for image in (a, b))
            mx, my = (g * x).sum(), (g * y).sum()
            vx, vy, cov = (g * (x - mx) ** 2).sum(), (g * (y - my) ** 2).sum(), (g * (x - mx) * (y - my)).sum()
            top, bottom = (2 * mx * my + c1) * (2 * cov + c2), (mx**2 + my**2 + c1) * (vx + vy + c2)
            values.append(top / bottom)
    return float(np.mean(values))


@pytest.mark.parametrize(("shape", "window"), [((1, 16, 13), 11), ((3, 12, 12), 11), ((1, 4, 5), 3), ((1, 1, 1), 1)])
def test_ssim_equals_its_definition(shape: tuple[int, int, int], window: int) -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(-1, 1, (3, *shape)).astype(np.float32)
    b = np.clip(a + rng.normal(0, 0.3, a.shape), -1, 1).astype(np.float32)
    expected = [slow_ssim(x.astype(float), y.astype(float), window) for x, y in zip(a, b, strict=True)]
    assert ssim(a, b) == pytest.approx(expected, abs=1e-9)
    assert ssim(a, a) == pytest.approx(1.0)


def test_psnr_of_known_errors() -> None:
    assert psnr_of(np.array([4.0, 0.04, 0.0])) == pytest.approx([0.0, 20.0, 10 * math.log10(4e10)])


def test_picture_statistics_know_a_copy_from_a_stranger() -> None:
    truth = make_truth(heads=12)
    own = truth.images[truth.sets]

    def features_of(images: FloatTable) -> FloatTable:
        # A backbone that knows the pool's images by heart.
        flat = truth.images.reshape(len(truth.images), -1)
        return truth.features[[int(np.argmin(((flat - row) ** 2).sum(1))) for row in images.reshape(len(images), -1)]]

    copy = measure({"images": own}, truth, features_of=features_of)
    stranger = measure({"images": np.roll(own, 1, axis=0)}, truth, features_of=features_of)
    assert copy["ssim"].value == pytest.approx(1)
    assert copy["psnr"].value > 100
    assert copy["backbone_distance"].value == pytest.approx(0, abs=1e-6)
    assert stranger["backbone_distance"].value == pytest.approx(math.sqrt(2), rel=0.1)
    assert stranger["ssim"].value < 0.3
    assert copy["ssim"].chance is not None
    assert copy["ssim"].chance < 0.3


# ---- baselines ---------------------------------------------------------------------------------------------------


def with_public(truth: GroundTruth, each: int = 30) -> GroundTruth:
    """The truth with public images of every class, drawn like the private ones."""
    rng = np.random.default_rng(9)
    labels = np.repeat(np.arange(truth.classes), each)
    public = rng.uniform(-1, 1, (len(labels), *truth.images.shape[1:])).astype(np.float32)
    return dataclasses.replace(truth, public_images=public, public_labels=labels)


def test_baselines_of_public_images_stand_beside_the_claim() -> None:
    truth = with_public(make_truth(heads=40))
    assert truth.public_images is not None
    own = truth.images[truth.sets]
    found = measure({"images": own}, truth)
    assert found["identification_rate"].value == 1
    assert found["class_mean_identification_rate"].low <= (found["class_mean_identification_rate"].chance or 0)
    assert found["class_mean_mse"].value == pytest.approx(1 / 3, rel=0.05)  # the variance of a pixel
    assert found["nn_threshold_rate"].value == 1
    threshold = truth.nearest_neighbour_threshold
    slow = [
        min(float(((image - p) ** 2).mean()) for p in truth.public_images[truth.public_labels == label])
        for image, label in zip(truth.images, truth.labels, strict=True)
    ]
    assert threshold == pytest.approx(np.mean(slow), rel=1e-5)
    assert found["nearest_public_mse"].value == pytest.approx(threshold, rel=0.05), "of a perfect claim"
    errors = pixel_errors(truth, own)
    assert found["nn_threshold_rate"].chance == pytest.approx((errors.other <= threshold).mean())


def test_a_claim_that_recalls_public_images_is_its_own_baseline() -> None:
    truth = with_public(make_truth(heads=10))
    assert truth.public_images is not None
    claimed = truth.public_images[truth.labels[truth.sets] * 30]
    found = measure({"images": claimed}, truth)
    assert found["nearest_public_mse"].value == pytest.approx(found["mse"].value)


def test_null_arrays_give_the_same_statistics_under_their_own_names() -> None:
    truth = dataclasses.replace(make_truth(heads=60), agreement_features=np.eye(6, dtype=np.float32))
    rng = np.random.default_rng(0)
    own, features = truth.images[truth.sets], truth.features[truth.sets]
    null = {"null.images": rng.permutation(own), "null.features": rng.permutation(features)}
    found = measure({"images": own, "features": features, "whitener": np.eye(6), **null}, truth)
    for name in ("identification_rate", "tpr_at_fpr_1pct", "mse"):
        assert f"null_{name}" in found
    assert found["null_identification_rate"].value < 0.1
    assert found["null_identification_rate"].chance == found["identification_rate"].chance
    assert verdict(list(found.values())) == "leaked"
    assert verdict([r for name, r in found.items() if name.startswith("null_")]) == "not-leaked"


# ---- verdict -----------------------------------------------------------------------------------------------------


def test_pixel_error_alone_decides_nothing() -> None:
    assert verdict([Measured("mse", 0.01, 0.009, 0.011, 100, 0.5, 10, 0.009)]) == "not-leaked"


def test_secondary_statistics_are_held_to_the_stricter_level() -> None:
    primary = Measured("identification_rate", 0.02, 0.01, 0.03, 100, 0.02, 10, 0.005)
    lucky = Measured("tpr_at_fpr_1pct", 0.02, 0.011, 0.03, 100, 0.01, 10, 0.009)
    sure = dataclasses.replace(lucky, strict_low=0.0101)
    assert verdict([primary, lucky]) == "not-leaked"
    assert verdict([lucky]) == "leaked", "alone it is the primary statistic"
    assert verdict([primary, sure]) == "leaked"
    assert [result.statistic for result, _ in deciding([sure, primary])] == ["identification_rate", "tpr_at_fpr_1pct"]


def test_claims_without_signal_are_rarely_called_leaks() -> None:
    leaks = 0
    for trial in range(40):
        truth = make_truth(heads=30, classes=5, seed=trial)
        members = np.tile(np.arange(8) < 4, (30, 1))
        truth = dataclasses.replace(truth, members=members)
        rng = np.random.default_rng(1000 + trial)
        claim = {"features": rng.normal(size=(30, 5, 6))} if trial % 2 else {"scores": rng.normal(size=(30, 8))}
        leaks += verdict(list(measure(claim, truth).values())) == "leaked"
    assert leaks <= 4, "the primary statistic's level allows one in forty, the secondary ones' as much again"


# ---- bad claims and truths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        ({"images": np.zeros((12, 10, 1, 4, 5))}, "claimed images have shape"),
        ({"images": np.zeros((11, 10, 1, 4, 4))}, "expected [12, 10, 1, 4, 4]"),
        ({"images": np.full((12, 10, 1, 4, 4), np.nan)}, "NaN or infinite"),
        ({"features": np.zeros((12, 10, 5))}, "claimed features have shape"),
        ({"features": np.zeros((12, 10, 6)), "whitener": np.eye(5)}, "claimed whitener have shape"),
        ({"weights": np.zeros((12, 10, 5))}, "claimed weights"),
        ({"weights": np.zeros((12, 10, 6)), "biases": np.zeros((12, 9))}, "claimed biases"),
        ({"scores": np.zeros((12, 4))}, "asked about no candidates"),
        ({"property_scores": np.zeros((12, 2))}, "asked about no property"),
        ({"inputs": np.zeros((12, 2, 1, 4, 4))}, "asked about none"),
        ({"null.images": np.zeros((12, 9, 1, 4, 4))}, "claimed images have shape"),
    ],
)
def test_claims_that_cannot_be_compared_are_refused(claim: dict[str, FloatTable], words: str) -> None:
    with pytest.raises(NumericError) as caught:
        measure(claim, make_truth())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"targets": np.zeros((3, 1), int)}, "targets"),
        ({"members": np.zeros((12, 0), bool)}, "members"),
        ({"members": np.zeros(12, bool)}, "members"),
        ({"input_labels": np.zeros((12, 2), int)}, "input_labels"),
        ({"property_index": np.zeros(12, int)}, "belong together"),
        ({"property_index": np.full(12, 2), "property_values": np.array([0.1, 0.5])}, "0..1"),
        ({"public_labels": np.zeros(3, int)}, "belong together"),
        ({"delta": 1.0}, "delta"),
    ],
)
def test_truths_that_do_not_fit_together_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        dataclasses.replace(make_truth(), **fields)


def test_members_only_cannot_be_told_from_anything() -> None:
    truth = dataclasses.replace(make_truth(), members=np.ones((12, 3), bool))
    with pytest.raises(NumericError, match="some of both"):
        measure({"scores": np.zeros((12, 3))}, truth)


def test_an_empty_claim_gives_nothing() -> None:
    assert measure({}, make_truth()) == {}
    assert verdict([]) == "not-leaked"
