"""Membership, property, extraction, inputs and the paper's test, against slow references and known answers."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.stats import norm

from rhe_parties.metrics.claims import measure_claim, verdict
from rhe_parties.metrics.curves import claim_curves, claim_histograms
from rhe_parties.metrics.extraction import head_cosine, weight_errors
from rhe_parties.metrics.membership import epsilon_lower_bound, membership_separation
from rhe_parties.metrics.neyman_pearson import measure_neyman_pearson
from rhe_parties.metrics.reconstruction import Errors, tpr_at_fpr
from rhe_parties.metrics.separation import Separation, advantage, auc, rate_at_fpr, roc_curve
from rhe_parties.metrics.truth import GroundTruth, MeasuredClaim
from rhe_parties.model.head import LinearHead
from rhe_parties.rng import numpy_stream
from tests.test_metrics import make_truth
from tests.test_metrics_claims import FloatTable, by_name, measure, random_heads


def with_members(heads: int = 60, members: int = 5, others: int = 5) -> GroundTruth:
    """A truth that asks about members first, then non-members."""
    asked = np.tile(np.arange(members + others) < members, (heads, 1))
    return dataclasses.replace(make_truth(heads=heads), members=asked)


# ---- membership ----------------------------------------------------------------------------------------------------


def test_auc_equals_a_slow_reference_with_ties() -> None:
    truth = with_members(heads=7)
    scores = np.random.default_rng(0).integers(0, 4, (7, 10)).astype(np.float32)
    assert truth.members is not None
    positives, negatives = scores[truth.members], scores[~truth.members]
    slow = np.mean([(p > n) + 0.5 * (p == n) for p in positives for n in negatives])
    found = measure({"scores": scores}, truth)["auc"]
    assert found.value == pytest.approx(slow)
    assert found.low < slow < found.high


def test_membership_rates_equal_a_slow_reference_and_are_refused_where_unresolved() -> None:
    truth = with_members(heads=100)
    assert truth.members is not None
    scores = (np.random.default_rng(0).normal(size=(100, 10)) + 1.5 * truth.members).astype(np.float32)
    found = measure({"scores": scores}, truth)
    negatives = np.sort(scores[~truth.members])[::-1]
    threshold = negatives[int(0.1 * len(negatives)) - 1]
    assert found["tpr_at_fpr_10pct"].value == pytest.approx((scores[truth.members] > threshold).mean())
    assert "tpr_at_fpr_1pct" not in found, "500 negatives are fewer than 30 / 0.01"
    assert verdict(list(found.values())) == "leaked"


def test_scores_without_meaning_are_at_chance_everywhere() -> None:
    truth = with_members(heads=400)
    found = measure({"scores": np.random.default_rng(0).normal(size=(400, 10))}, truth)
    for name in ("auc", "tpr_at_fpr_10pct", "advantage"):
        assert found[name].low <= (found[name].chance or 0.0) <= found[name].high, name
    assert found["epsilon_lower_bound"].value == 0
    assert found["auc"].high - found["auc"].low < 0.06
    assert verdict(list(found.values())) == "not-leaked"


def test_equal_scores_are_exactly_chance() -> None:
    found = measure({"scores": np.zeros((60, 10))}, with_members())
    assert found["auc"].value == 0.5
    assert found["tpr_at_fpr_10pct"].value == 0
    assert found["advantage"].value == 0


def test_perfect_scores_have_an_interval_all_the_same() -> None:
    truth = with_members()
    assert truth.members is not None
    found = measure({"scores": truth.members.astype(float)}, truth)
    assert found["auc"].value == 1
    assert found["auc"].low < 1
    assert found["advantage"].value == 1
    assert found["advantage"].low < 1
    assert found["epsilon_lower_bound"].value > 3


def test_advantage_of_noise_is_not_biased_upwards() -> None:
    rng = np.random.default_rng(0)
    heads = np.repeat(np.arange(20), 3)
    values = [
        advantage("a", Separation(rng.random(60), heads, rng.random(60), heads, 20), numpy_stream(i, "a")).value
        for i in range(150)
    ]
    assert abs(np.mean(values)) < 0.03, "chosen and counted on the same heads it would be about 0.2"


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 2.0])
def test_epsilon_bound_holds_for_randomised_response_and_comes_near(epsilon: float) -> None:
    truth = with_members(heads=600)
    assert truth.members is not None
    keep = math.exp(epsilon) / (1 + math.exp(epsilon))
    broken, bounds = 0, []
    for trial in range(20):
        rng = np.random.default_rng(trial)
        told = np.where(rng.random(truth.members.shape) < keep, truth.members, ~truth.members)
        data = membership_separation(truth, told.astype(np.float32))
        bound = epsilon_lower_bound(data, 0.0, numpy_stream(trial, "e")).value
        broken += bound > epsilon
        bounds.append(bound)
    assert broken <= 3
    assert np.mean(bounds) > epsilon - 0.25


def test_epsilon_bound_takes_the_side_on_which_the_leak_is() -> None:
    # Non-members are sometimes recognised for certain, members never: only TNR / FNR shows it.
    truth = with_members(heads=400)
    assert truth.members is not None
    rng = np.random.default_rng(0)
    scores = np.where(~truth.members & (rng.random(truth.members.shape) < 0.3), -1.0, 0.0)
    data = membership_separation(truth, scores.astype(np.float32))
    assert epsilon_lower_bound(data, 0.0, numpy_stream(0, "e")).value > 3
    assert epsilon_lower_bound(data, 0.5, numpy_stream(0, "e")).value == 0, "delta allows as much"


# ---- rates and curves ----------------------------------------------------------------------------------------------


def test_rate_interval_covers_the_truth_for_clustered_scores() -> None:
    covered, trials = 0, 60
    heads = np.repeat(np.arange(60), 10)
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        shift = np.repeat(rng.normal(size=60), 10) * 0.7  # the images of a head share their luck
        data = Separation(
            rng.normal(size=600) * 0.7 + shift - 1.5, heads, rng.normal(size=600) * 0.7 + shift, heads, 60
        )
        found = rate_at_fpr("x", [data], 0.1, numpy_stream(trial, "r"))
        assert found is not None
        scale = math.sqrt(2) * 0.7
        covered += found.low <= norm.cdf(norm.ppf(0.1) + 1.5 / scale) <= found.high
    assert covered >= 0.9 * trials


def test_roc_curve_is_monotone_conservative_and_meets_the_rate() -> None:
    truth = make_truth(heads=50)
    claimed = (truth.images[truth.sets] + np.random.default_rng(0).normal(0, 0.8, (50, 10, 1, 4, 4))).astype("f4")
    claim = MeasuredClaim({"images": claimed, "null.images": np.roll(claimed, 1, axis=0)})
    curves = {curve.name: curve for curve in claim_curves(claim, truth, numpy_stream(0, "c"))}
    assert {"roc", "null_roc", "np_roc", "np_roc_by_class", "np_roc_class_3", "np_roc_analytic"} <= set(curves)
    for curve in curves.values():
        assert len(curve.x) == len(curve.y) == len(curve.low) == len(curve.high) <= 200
        assert (np.diff(curve.x) > 0).all()
        assert (np.diff(curve.y) >= -1e-12).all()
        assert (curve.low <= curve.y).all()
        assert (curve.y <= curve.high).all()
        assert curve.high.max() <= 1 + 1e-12
    rate = tpr_at_fpr(truth, claimed, 0.01, numpy_stream(0, "t"))
    assert rate is not None
    assert np.interp(0.01, curves["roc"].x, curves["roc"].y) == pytest.approx(rate.value, abs=0.05)
    null = curves["null_roc"]
    assert (null.low[null.x > 0.02] <= null.x[null.x > 0.02] + 0.02).all(), "claims of other heads lie on the diagonal"


def test_histograms_of_scores_add_up() -> None:
    truth = with_members()
    assert truth.members is not None
    scores = (truth.members * 2.0 + np.random.default_rng(0).normal(size=(60, 10))).astype(np.float32)
    (found,) = claim_histograms(MeasuredClaim({"scores": scores}), truth)
    assert found.name == "membership"
    assert found.positives.sum() == pytest.approx(1)
    assert found.negatives.sum() == pytest.approx(1)
    middle = (found.edges[1:] + found.edges[:-1]) / 2
    assert middle @ found.positives > middle @ found.negatives + 1.5
    flat = claim_histograms(MeasuredClaim({"scores": np.zeros((60, 10), np.float32)}), truth)
    assert flat[0].positives.sum() == pytest.approx(1)


# ---- the paper's test ----------------------------------------------------------------------------------------------


def log_normal_errors(mean: float, deviation: float, seed: int, heads: int = 600) -> Errors:
    """Errors whose t is normal."""
    t = np.random.default_rng(seed).normal(mean, deviation, (heads, 10))
    own = 4 / (1 + np.exp(-t))
    labels = np.tile(np.arange(10), (heads, 1))
    nothing = np.empty(0, dtype=np.int64)
    return Errors(own, np.zeros(own.shape, int), labels, np.empty(0), nothing, nothing, nothing)


def test_neyman_pearson_rates_match_the_normals_they_come_from() -> None:
    # The authors' plot: t ~ N(-4.4, 0.65²) for the true head, N(-2.65, 0.43²) for a random one.
    own, null = log_normal_errors(-4.4, 0.65, 0), log_normal_errors(-2.65, 0.43, 1)
    found = by_name(measure_neyman_pearson(own, null, numpy_stream(0, "np")))
    analytic = norm.cdf((-2.65 + 0.43 * norm.ppf(0.01) + 4.4) / 0.65)
    assert found["np_tpr_at_fpr_1pct_analytic"].value == pytest.approx(analytic, abs=0.02)
    for name in ("np_tpr_at_fpr_1pct", "np_tpr_at_fpr_1pct_by_class"):
        assert found[name].value == pytest.approx(analytic, abs=0.04), name
        assert found[name].low < found[name].value < found[name].high


def test_neyman_pearson_of_equal_normals_is_at_chance() -> None:
    own, null = log_normal_errors(-3, 0.5, 0), log_normal_errors(-3, 0.5, 1)
    for result in measure_neyman_pearson(own, null, numpy_stream(0, "np")):
        assert result.low <= 0.01 <= result.high, result.statistic


def test_neyman_pearson_takes_an_interval_of_errors_where_the_widths_differ() -> None:
    # Equal means: no threshold on the error separates them, the likelihood ratio does.
    own, null = log_normal_errors(-3, 0.1, 0), log_normal_errors(-3, 1.0, 1)
    found = by_name(measure_neyman_pearson(own, null, numpy_stream(0, "np")))
    assert found["np_tpr_at_fpr_1pct"].value > 3 * found["np_tpr_at_fpr_1pct_analytic"].value


# ---- property ------------------------------------------------------------------------------------------------------


def with_property(values: list[float], heads: int = 300, seed: int = 0) -> GroundTruth:
    """A truth whose heads have one of the values each."""
    index = np.random.default_rng(seed).integers(0, len(values), heads)
    small = make_truth(heads=heads, classes=2, spare=1)
    return dataclasses.replace(small, property_index=index, property_values=np.array(values))


def test_property_of_three_values() -> None:
    truth = with_property([0.1, 0.5, 0.9])
    assert truth.property_index is not None
    scores = 2.0 * np.eye(3)[truth.property_index] + np.random.default_rng(1).normal(size=(300, 3))
    found = measure({"property_scores": scores}, truth)
    guess = scores.argmax(axis=1)
    assert found["property_accuracy"].value == pytest.approx((guess == truth.property_index).mean())
    assert found["property_accuracy"].chance == pytest.approx(np.bincount(truth.property_index).max() / 300)
    assert found["property_mae"].value == pytest.approx(0.4 * np.abs(guess - truth.property_index).mean())
    assert found["property_mae"].chance is not None
    assert found["property_mae"].value < found["property_mae"].chance
    assert "property_auc" not in found
    assert verdict(list(found.values())) == "leaked"


def test_property_of_two_values_has_an_auc_and_a_constant_guess_is_chance() -> None:
    truth = with_property([0.1, 0.5])
    constant = measure({"property_scores": np.tile([0.0, 1.0], (300, 1))}, truth)
    assert constant["property_auc"].value == 0.5
    assert constant["property_accuracy"].value <= (constant["property_accuracy"].chance or 0)
    assert verdict(list(constant.values())) == "not-leaked"
    assert truth.property_index is not None
    clear = measure({"property_scores": np.eye(2)[truth.property_index]}, truth)
    assert clear["property_auc"].value == clear["property_accuracy"].value == 1


# ---- extraction ----------------------------------------------------------------------------------------------------


def test_a_copied_head_agrees_and_another_victims_does_not() -> None:
    rng = np.random.default_rng(0)
    heads = random_heads(40)
    truth = dataclasses.replace(
        make_truth(heads=40),
        agreement_features=rng.normal(size=(200, 6)).astype("f4"),
        random_features=rng.normal(size=(100, 6)).astype("f4"),
    )
    weights, biases = np.stack([h.weight for h in heads]), np.stack([h.bias for h in heads])
    shift = rng.normal(size=(40, 1, 6))  # the gauge: no decision depends on it
    copy = measure({"weights": 3 * (weights + shift), "biases": 3 * biases}, truth, heads=heads)
    for name in ("extraction_agreement", "extraction_agreement_mixes"):
        assert copy[name].value > 0.999
        assert copy[name].chance == pytest.approx(0.1, abs=0.04)
    assert verdict(list(copy.values())) == "leaked"
    other = measure({"weights": np.roll(weights, 7, axis=0), "biases": np.roll(biases, 7, axis=0)}, truth, heads=heads)
    assert verdict(list(other.values())) == "not-leaked"


def test_the_mean_head_is_exactly_at_chance_although_it_agrees_with_everybody() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(10, 6))
    heads = [LinearHead((common + 0.3 * rng.normal(size=(10, 6))).astype("f4"), np.zeros(10, "f4")) for _ in range(30)]
    features = rng.normal(size=(300, 6)).astype("f4")
    truth = dataclasses.replace(make_truth(heads=30), agreement_features=features)
    found = measure({"weights": np.tile(common, (30, 1, 1))}, truth, heads=heads)
    assert found["extraction_agreement"].value > 0.6
    assert found["extraction_agreement"].chance == pytest.approx(found["extraction_agreement"].value)
    assert verdict(list(found.values())) == "not-leaked"


def test_bits_of_a_weight_are_those_of_rounding_to_so_many_steps() -> None:
    rng = np.random.default_rng(2)
    heads = [LinearHead(rng.normal(size=(10, 60)).astype("f4"), np.zeros(10, "f4")) for _ in range(6)]
    weights = np.stack([h.weight for h in heads]).astype(np.float64)
    centred = weights - weights.mean(axis=1, keepdims=True)
    for bits in (5, 8, 10):
        step = np.ptp(centred, axis=(1, 2))[:, None, None] * 2.0**-bits
        copy = 7.0 * (np.rint(weights / step) * step + rng.normal(size=(6, 1, 60)))
        share, found = weight_errors(copy.astype("f4"), heads, numpy_stream(0, "w"))
        assert (share.statistic, found.statistic) == ("weights_within_8_bits", "bits_per_weight")
        assert found.value == pytest.approx(bits, abs=0.3)
        assert (share.value == 1) == (bits >= 8)
        assert found.chance is not None
        assert found.chance < 2
    (_, exact), (_, nothing) = (weight_errors(w, heads, numpy_stream(0, "w")) for w in (weights, 0 * weights))
    assert exact.value > 20
    assert nothing.value < 2


def test_cosine_of_a_single_head_and_of_a_zero_claim() -> None:
    heads = random_heads(3)
    weights = np.stack([h.weight for h in heads])
    assert head_cosine(weights, heads, numpy_stream(0, "h")).value == pytest.approx(1)
    assert head_cosine(np.zeros_like(weights), heads, numpy_stream(0, "h")).value == 0
    assert head_cosine(weights[:1], heads[:1], numpy_stream(0, "h")).chance == pytest.approx(1)


def test_queries_are_the_key_holders_count() -> None:
    claim = MeasuredClaim({}, np.array([100, 300]))
    (found,) = measure_claim(claim, make_truth(heads=2), random_heads(2), numpy_stream(0, "q"))
    assert (found.statistic, found.value, found.n, found.heads) == ("queries", 200, 400, 2)


# ---- inputs --------------------------------------------------------------------------------------------------------


def with_inputs(heads: int = 20, each: int = 12) -> GroundTruth:
    """A truth with inputs of three classes per head, a third of them training images."""
    rng = np.random.default_rng(0)
    return dataclasses.replace(
        make_truth(heads=heads),
        inputs=rng.uniform(-1, 1, (heads, each, 1, 12, 12)).astype("f4"),
        input_labels=np.tile(np.arange(each) % 3, (heads, 1)),
        input_members=np.tile(np.arange(each) % 3 == 0, (heads, 1)),
    )


def test_inputs_are_identified_among_those_of_their_class() -> None:
    truth = with_inputs()
    assert truth.inputs is not None
    claimed = truth.inputs + np.random.default_rng(1).normal(0, 0.3, truth.inputs.shape)
    found = measure({"inputs": claimed, "null.inputs": np.roll(claimed, 1, axis=0)}, truth)
    assert found["input_identification_rate"].value == 1
    assert found["input_identification_rate"].chance == pytest.approx(1 / 4)
    assert found["input_mse"].value == pytest.approx(0.09, rel=0.1)
    assert found["input_mse_members"].n == 20 * 4
    assert found["input_ssim"].value > 0.5 > (found["input_ssim"].chance or 0)
    assert found["null_input_identification_rate"].low <= 0.25 <= found["null_input_identification_rate"].high
    assert verdict(list(found.values())) == "leaked"


def test_claims_that_know_the_class_alone_are_exactly_at_chance() -> None:
    truth = with_inputs()
    assert truth.inputs is not None
    means = np.stack([truth.inputs[:, k::3].mean(axis=(0, 1)) for k in range(3)])
    claimed: FloatTable = means[np.arange(12) % 3][None].repeat(20, axis=0)
    found = measure({"inputs": claimed}, truth)
    assert found["input_identification_rate"].value == pytest.approx(1 / 4)
    assert verdict(list(found.values())) == "not-leaked"


def test_a_tie_is_shared_and_a_single_input_of_a_class_is_no_success() -> None:
    truth = with_inputs(heads=4, each=3)
    assert truth.inputs is not None
    found = measure({"inputs": truth.inputs}, truth)
    assert found["input_identification_rate"].value == found["input_identification_rate"].chance == 1
    assert verdict(list(found.values())) == "not-leaked"


def test_curves_of_every_task_have_their_names() -> None:
    truth = dataclasses.replace(with_inputs(heads=30), members=np.tile(np.arange(6) < 3, (30, 1)))
    truth = dataclasses.replace(truth, property_index=np.arange(30) % 2, property_values=np.array([0.0, 1.0]))
    assert truth.inputs is not None
    rng = np.random.default_rng(0)
    arrays = {"inputs": truth.inputs, "scores": rng.normal(size=(30, 6)), "property_scores": rng.normal(size=(30, 2))}
    claim = MeasuredClaim({name: array.astype(np.float32) for name, array in arrays.items()})
    names = {curve.name for curve in claim_curves(claim, truth, numpy_stream(0, "c"))}
    assert names == {"input_roc", "membership_roc", "property_roc"}
    assert {h.name for h in claim_histograms(claim, truth)} == {"membership", "property"}


def test_auc_interval_covers_the_truth() -> None:
    covered = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        heads = np.arange(40)
        data = Separation(rng.normal(-1, 1, 40), heads, rng.normal(0, 1, 40), heads, 40)
        found = auc("auc", data, numpy_stream(trial, "auc"))
        covered += found.low <= norm.cdf(1 / math.sqrt(2)) <= found.high
    assert covered >= 56


def test_curve_of_one_head_has_no_gaps() -> None:
    heads = np.zeros(50, dtype=int)
    rng = np.random.default_rng(0)
    curve = roc_curve("x", Separation(rng.random(50), heads, rng.random(50), heads, 1), numpy_stream(0, "c"))
    assert np.isfinite(curve.y).all()
    assert np.isfinite(curve.low).all()
