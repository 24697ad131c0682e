"""Scheme `bfv` against its integer twin, the twin against NumPy, and what a reply shows."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tenseal.sealapi as sealapi
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.errors import FailureCode, NumericError, ParameterError
from rhe_parties.he import plan as planning
from rhe_parties.he import sealio
from rhe_parties.he.plan import HeadPlan, plan_head
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.quantise import quantise_features, quantise_head
from rhe_parties.he.scheme import (
    KeyCustody,
    LogitCiphertexts,
    make_custody,
    make_encryptor,
    make_evaluator,
    scheme_catalogue,
)

Array = np.ndarray[Any, Any]


def head_of(plan: HeadPlan, seed: int, kind: str = "normal") -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    weight = rng.normal(size=(plan.classes, plan.features)).astype(np.float32)
    bias = rng.normal(size=plan.classes).astype(np.float32)
    if kind == "zero":
        weight, bias = np.zeros_like(weight), np.zeros_like(bias)
    elif kind == "huge":
        weight, bias = weight * np.float32(1e37), bias * np.float32(1e37)
    elif kind == "tiny":
        weight, bias = weight * np.float32(1e-40), bias * np.float32(1e-40)
    elif kind == "one":
        weight = np.zeros_like(weight)
        weight[-1, -1] = -3.0
    elif kind == "constant":
        weight = np.full_like(weight, 5.0)
    elif kind == "bias":
        weight, bias = weight * np.float32(1e-6), bias * np.float32(1e6)
    return weight, bias


def run(plan: HeadPlan, weight: Array, bias: Array, features: Array) -> tuple[Array, float, int, KeyCustody]:
    custody = make_custody(plan)
    head, unit = make_encryptor(custody.public).encrypt(weight, bias)
    reply, saturated = make_evaluator(custody.public, head).evaluate(features)
    return custody.decrypt(reply), unit, saturated, custody


def expected_integers(plan: HeadPlan, weight: Array, bias: Array, features: Array) -> Array:
    head = quantise_head(plan, weight, bias)
    integers, _ = quantise_features(plan, features)
    return integers @ head.weights[:, :-1].T + head.weights[:, -1]


def with_batch(plan: HeadPlan, batch: int) -> HeadPlan:
    """The same head in a layout with `batch` inputs per polynomial."""
    width = min(plan.features + 1, plan.degree // (batch * plan.tile_classes))
    for bits in range(int(plan.plain_modulus).bit_length() - 1, 12, -1):
        made = planning._complete(
            plan.scheme, plan.features, plan.classes, plan.feature_bound, plan.degree, plan.coeff_modulus,
            1 << bits, plan.feature_bits, width, plan.tile_classes, batch, plan.reply_primes,
        )  # fmt: skip
        if made.margin_bits >= 2:
            return HeadPlan.from_dict(made.to_dict())
    raise AssertionError("no plain modulus fits")


KINDS = ["normal", "zero", "huge", "tiny", "one", "constant", "bias"]


@settings(max_examples=40, deadline=None)
@given(
    features=st.one_of(st.sampled_from([1, 2, 255, 256, 257]), st.integers(1, 700)),
    classes=st.one_of(st.sampled_from([1, 2, 10]), st.integers(1, 60)),
    batch=st.integers(0, 3),
    kind=st.sampled_from(KINDS),
    scale=st.sampled_from([0.0, 0.3, 1.0, 100.0]),
    seed=st.integers(0, 2**32),
)
def test_bfv_equals_twin_equals_numpy(
    features: int, classes: int, batch: int, kind: str, scale: float, seed: int
) -> None:
    plans = {scheme: plan_head(features, classes, 4.0, scheme) for scheme in ("plain", "bfv")}
    weight, bias = head_of(plans["bfv"], seed, kind)
    inputs = (np.random.default_rng(seed + 1).normal(size=(batch, features)) * scale).astype(np.float32)
    wanted = expected_integers(plans["bfv"], weight, bias, inputs)
    for plan in plans.values():
        got, unit, _, _ = run(plan, weight, bias, inputs)
        assert got.dtype == np.int64
        assert got.shape == (batch, classes)
        np.testing.assert_array_equal(got, wanted)
        assert np.isfinite(unit)
        assert unit > 0


@pytest.mark.parametrize(
    ("features", "classes"), [(4096, 10), (1280, 100), (40, 1000), (2047, 1), (2048, 3), (4096, 1)]
)
def test_large_heads_are_exact(features: int, classes: int) -> None:
    plan = plan_head(features, classes, 8.0)
    weight, bias = head_of(plan, 3)
    inputs = np.random.default_rng(5).normal(size=(2, features)).astype(np.float32)
    got, _, _, _ = run(plan, weight, bias, inputs)
    np.testing.assert_array_equal(got, expected_integers(plan, weight, bias, inputs))


@pytest.mark.parametrize("scheme", ["plain", "bfv"])
@pytest.mark.parametrize(("batch", "inputs"), [(2, 2), (4, 7), (32, 5)])
def test_several_inputs_in_one_polynomial(scheme: str, batch: int, inputs: int) -> None:
    plan = with_batch(plan_head(50, 6, 4.0, scheme), batch)
    weight, bias = head_of(plan, 1)
    features = np.random.default_rng(2).normal(size=(inputs, 50))
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    reply, _ = make_evaluator(custody.public, head).evaluate(features)
    assert len(reply.ciphertexts) == -(-inputs // batch) * plan.class_tiles
    np.testing.assert_array_equal(custody.decrypt(reply), expected_integers(plan, weight, bias, features))


def test_reply_is_switched_to_fewer_primes_where_that_decrypts() -> None:
    base = plan_head(256, 10, 4.0)
    primes = ntt_primes(4096, (50, 30, 29))
    plan = planning._complete("bfv", 256, 10, 4.0, 4096, primes, 1 << 34, 12, 257, 10, 1, 1)
    plan = HeadPlan.from_dict(plan.to_dict())
    assert (plan.reply_primes, len(plan.data_primes)) == (1, 2)
    weight, bias = head_of(base, 1)
    features = np.random.default_rng(2).normal(size=(3, 256))
    got, unit, _, _ = run(plan, weight, bias, features)
    np.testing.assert_array_equal(got, expected_integers(plan, weight, bias, features))
    np.testing.assert_allclose(got * unit, features @ weight.T + bias, atol=0.05)


@pytest.mark.parametrize("features", [256, 1280])
def test_noise_budget_with_extreme_features_stays_above_the_floor(features: int) -> None:
    plan = plan_head(features, 10, 4.0)
    weight, bias = head_of(plan, 11)
    for inputs in (np.full((1, features), 4.0), np.tile([4.0, -4.0], (1, features // 2))):
        custody: Any = make_custody(plan)
        head, _ = make_encryptor(custody.public).encrypt(weight, bias)
        reply, saturated = make_evaluator(custody.public, head).evaluate(inputs)
        value = sealio.load_ciphertext(custody._context, reply.ciphertexts[0], plan.degree, 1, custody._level)
        budget = custody._BfvCustody__decryptor.invariant_noise_budget(value)
        assert plan.budget_floor <= budget <= plan.margin_bits + 6
        assert saturated == 0
        np.testing.assert_array_equal(custody.decrypt(reply), expected_integers(plan, weight, bias, inputs))


def test_decisions_follow_the_float_head() -> None:
    plan = plan_head(256, 10, 4.0)
    rng = np.random.default_rng(0)
    weight, bias = head_of(plan, 21)
    features = np.maximum(rng.normal(size=(300, 256)), 0).astype(np.float32)
    got, unit, saturated, _ = run(plan, weight, bias, features)
    real = features.astype(np.float64) @ weight.T.astype(np.float64) + bias
    assert saturated == int((features > 4 * (1 + 0.5 / plan.feature_limit)).sum())
    unsaturated = ~(features > 4).any(axis=1)
    error = (got * unit - real)[unsaturated]
    assert np.sqrt((error**2).mean()) < 2 * plan.logit_error * real.std()
    ordered = np.sort(real, axis=1)
    clear = unsaturated & (ordered[:, -1] - ordered[:, -2] > 2 * np.abs(error).max())
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got.argmax(axis=1)[clear], real.argmax(axis=1)[clear])


def test_saturation_is_counted_and_clips() -> None:
    plan = plan_head(3, 1, 2.0)
    integers, saturated = quantise_features(plan, np.array([[2.0, -2.0, 5.0], [-1e30, 0.0, 1.0]]))
    limit = plan.feature_limit
    assert integers.tolist() == [[limit, -limit, limit], [-limit, 0, limit // 2]]
    assert saturated == 2


@settings(max_examples=60, deadline=None)
@given(
    features=st.integers(1, 300),
    classes=st.integers(1, 8),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32),
)
def test_no_logit_can_wrap_and_the_modulus_is_used(features: int, classes: int, kind: str, seed: int) -> None:
    plan = plan_head(features, classes, 4.0)
    weight, bias = head_of(plan, seed, kind)
    head = quantise_head(plan, weight, bias)
    reach = np.abs(head.weights[:, :-1]).sum(axis=1) * plan.feature_limit + np.abs(head.weights[:, -1])
    assert reach.max() < plan.plain_modulus // 2
    if kind != "zero":
        assert reach.max() > 0.9 * plan.plain_modulus // 2


@pytest.mark.parametrize("scheme", ["plain", "bfv", "ckks"])
def test_bad_features_and_heads_are_named_errors(scheme: str) -> None:
    plan = plan_head(6, 2, 4.0, scheme)
    custody = make_custody(plan)
    encryptor = make_encryptor(custody.public)
    weight, bias = head_of(plan, 0)
    head, _ = encryptor.encrypt(weight, bias)
    evaluator = make_evaluator(custody.public, head)
    nothing, saturated = evaluator.evaluate(np.zeros((0, 6), dtype=np.float32))
    assert (nothing, saturated) == (LogitCiphertexts((), 0), 0)
    assert custody.decrypt(nothing).shape == (0, 2)
    for shape in ((6,), (1, 5), (1, 7), (1, 1, 6), ()):
        with pytest.raises(NumericError, match="features of shape") as caught:
            evaluator.evaluate(np.zeros(shape))
        assert caught.value.code is FailureCode.BAD_TENSOR
    with pytest.raises(NumericError, match="type") as caught:
        evaluator.evaluate(np.full((1, 6), "x"))
    assert caught.value.code is FailureCode.BAD_TENSOR
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(NumericError, match="1 of 6 features") as caught:
            evaluator.evaluate(np.array([[0, 0, bad, 0, 0, 0]]))
        assert caught.value.code is FailureCode.BAD_VALUE
        with pytest.raises(NumericError, match="NaN or infinite") as caught:
            encryptor.encrypt(np.full((2, 6), bad), bias)
        assert caught.value.code is FailureCode.BAD_VALUE
        with pytest.raises(NumericError, match="NaN or infinite"):
            encryptor.encrypt(weight, np.full(2, bad))
    with pytest.raises(NumericError, match="not a finite number"):
        encryptor.encrypt(np.full((2, 6), 1e308), bias)
    for wrong in (weight.T, weight[:1], weight[:, :5]):
        with pytest.raises(NumericError, match="a head with weights") as caught:
            encryptor.encrypt(wrong, bias)
        assert caught.value.code is FailureCode.BAD_TENSOR
    evaluator.evaluate(np.zeros((1, 6)))  # it goes on serving


def whole_plaintext(custody: Any, data: bytes) -> Array:
    plan = custody.public.plan
    plain = sealapi.Plaintext()
    value = sealio.load_ciphertext(custody._context, data, plan.degree, plan.reply_primes, custody._level)
    custody._BfvCustody__decryptor.decrypt(value, plain)
    return sealio.plaintext_values(plain, np.arange(plan.degree), plan.plain_modulus)


def test_coefficients_without_logits_are_fresh_and_uniform() -> None:
    plan = plan_head(256, 10, 4.0)
    weight, bias = head_of(plan, 4)
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    evaluator = make_evaluator(custody.public, head)
    features = np.random.default_rng(1).normal(size=(1, 256))
    first, second = (whole_plaintext(custody, evaluator.evaluate(features)[0].ciphertexts[0]) for _ in range(2))
    keep = plan.layout.output_positions(0, 1).ravel()
    np.testing.assert_array_equal(first[keep], second[keep])
    np.testing.assert_array_equal(first[keep], expected_integers(plan, weight, bias, features)[0])
    junk = np.setdiff1d(np.arange(plan.degree), keep)
    assert len(junk) == plan.degree - 10
    assert (first[junk] == second[junk]).mean() < 0.01
    for values in (first[junk], second[junk], first[junk] - second[junk]):
        counts = np.bincount((values % plan.plain_modulus) * 16 // plan.plain_modulus, minlength=16)
        expected = len(junk) / 16
        assert ((counts - expected) ** 2 / expected).sum() < 70  # 15 degrees of freedom: p about 4e-9


def test_two_encryptions_of_one_head_differ() -> None:
    plan = plan_head(16, 2, 4.0)
    custody = make_custody(plan)
    weight, bias = head_of(plan, 0)
    encryptor = make_encryptor(custody.public)
    assert encryptor.encrypt(weight, bias)[0] != encryptor.encrypt(weight, bias)[0]


@pytest.mark.parametrize(("features", "classes"), [(256, 10), (1280, 10), (2048, 10)])
def test_expected_bytes_are_those_on_the_wire(features: int, classes: int) -> None:
    plan = plan_head(features, classes, 4.0)
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(*head_of(plan, 0))
    reply, _ = make_evaluator(custody.public, head).evaluate(np.zeros((1, features)))
    for expected, got in (
        (plan.key_bytes, len(custody.public.public_key)),
        (plan.head_bytes, sum(map(len, head.ciphertexts))),
        (plan.reply_bytes, sum(map(len, reply.ciphertexts))),
        (plan.evaluation_key_bytes, len(custody.public.evaluation_keys)),
    ):
        assert got == pytest.approx(expected, rel=0.05)


def test_catalogue_and_unknown_scheme() -> None:
    assert set(scheme_catalogue()) == {"plain", "bfv", "ckks"}
    odd = dataclasses.replace(plan_head(4, 2, 1.0), scheme="ckk")
    with pytest.raises(ParameterError, match="did you mean 'ckks'"):
        make_custody(odd)
