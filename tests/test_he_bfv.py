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
from rhe_parties.he import sealio
from rhe_parties.he.evaluators import load_evaluator
from rhe_parties.he.plan import FINE_BITS, HeadPlan
from rhe_parties.he.planner import plan_head
from rhe_parties.he.precision import input_norms
from rhe_parties.he.quantise import lift_columns, quadratic_form, quantise_features, quantise_head
from rhe_parties.he.reply import reply_positions, unpack_reply
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
    return lift_columns(plan, integers) @ head.weights.T


KINDS = ["normal", "zero", "huge", "tiny", "one", "constant", "bias"]


@settings(max_examples=40, deadline=None)
@given(
    features=st.one_of(st.sampled_from([1, 2, 255, 256, 257]), st.integers(1, 700)),
    classes=st.one_of(st.sampled_from([1, 2, 10]), st.integers(1, 60)),
    batch=st.sampled_from([1, 1, 2, 7, 64]),
    inputs=st.integers(0, 3),
    kind=st.sampled_from(KINDS),
    scale=st.sampled_from([0.0, 0.3, 1.0, 100.0, 1e30]),
    seed=st.integers(0, 2**32),
)
def test_bfv_equals_twin_equals_numpy(
    features: int, classes: int, batch: int, inputs: int, kind: str, scale: float, seed: int
) -> None:
    plans = {scheme: plan_head(features, classes, batch=batch, scheme=scheme) for scheme in ("plain", "bfv")}
    weight, bias = head_of(plans["bfv"], seed, kind)
    rows = (np.random.default_rng(seed + 1).normal(size=(inputs, features)) * scale).astype(np.float32)
    wanted = expected_integers(plans["bfv"], weight, bias, rows)
    for plan in plans.values():
        got, unit, _, _ = run(plan, weight, bias, rows)
        assert got.dtype == np.int64
        assert got.shape == (inputs, classes)
        np.testing.assert_array_equal(got, wanted)
        assert np.isfinite(unit)
        assert unit > 0


@pytest.mark.parametrize(
    ("features", "classes"), [(4096, 10), (1280, 100), (40, 1000), (2047, 1), (2048, 3), (4096, 1)]
)
def test_large_heads_are_exact(features: int, classes: int) -> None:
    plan = plan_head(features, classes)
    weight, bias = head_of(plan, 3)
    inputs = np.random.default_rng(5).normal(size=(2, features)).astype(np.float32)
    got, _, _, _ = run(plan, weight, bias, inputs)
    np.testing.assert_array_equal(got, expected_integers(plan, weight, bias, inputs))


@pytest.mark.parametrize("scheme", ["plain", "bfv"])
@pytest.mark.parametrize(("batch", "inputs"), [(2, 2), (4, 7), (32, 5), (256, 256)])
def test_several_inputs_in_one_polynomial(scheme: str, batch: int, inputs: int) -> None:
    plan = plan_head(50, 6, batch=batch, scheme=scheme)
    assert plan.batch == batch
    weight, bias = head_of(plan, 1)
    features = np.random.default_rng(2).normal(size=(inputs, 50))
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    reply, _ = make_evaluator(custody.public, head).evaluate(features)
    assert len(reply.ciphertexts) == -(-inputs // batch) * plan.class_tiles
    np.testing.assert_array_equal(custody.decrypt(reply), expected_integers(plan, weight, bias, features))


@pytest.mark.parametrize("scheme", ["plain", "bfv"])
@pytest.mark.parametrize(("features", "classes", "hidden"), [(1, 1, 1), (30, 3, 4), (90, 2, 8)])
def test_heads_with_a_square_layer_are_exact(scheme: str, features: int, classes: int, hidden: int) -> None:
    plan = plan_head(features, classes, (hidden,), scheme=scheme)
    rng = np.random.default_rng(features)
    first = (rng.normal(size=(hidden, features)), rng.normal(size=hidden))
    last = (rng.normal(size=(classes, hidden)), rng.normal(size=classes))
    inputs = rng.normal(size=(4, features))
    inputs *= 16 * np.array([[0.1], [0.5], [1.0], [3.0]]) / np.linalg.norm(inputs, axis=1, keepdims=True)
    custody = make_custody(plan)
    head, unit = make_encryptor(custody.public).encrypt(*last, [first])
    reply, saturated = make_evaluator(custody.public, head).evaluate(inputs)
    got = custody.decrypt(reply)
    integers = quantise_head(plan, *last, [first])
    np.testing.assert_array_equal(got, lift_columns(plan, quantise_features(plan, inputs)[0]) @ integers.weights.T)
    real = np.square(inputs[:3] @ first[0].T + first[1]) @ last[0].T + last[1]
    reach = plan.plain_modulus / 2 * unit
    assert np.abs(got[:3] * unit - real).max() < 0.01 * reach
    assert saturated in (1, 2)  # rounding may carry the input at the bound over it
    products, linear, constant = quadratic_form([first, last])
    rows, columns = np.triu_indices(features)
    again = (inputs[:3, rows] * inputs[:3, columns]) @ products.T + inputs[:3] @ linear.T + constant
    np.testing.assert_allclose(again, real, rtol=1e-9, atol=1e-9 * np.abs(real).max())


@pytest.mark.parametrize("security", [128, 192, 256])
def test_security_levels_are_those_of_seal(security: int) -> None:
    plan = plan_head(256, 10, security=security)
    weight, bias = head_of(plan, 2)
    features = np.random.default_rng(2).normal(size=(2, 256))
    got, _, _, _ = run(plan, weight, bias, features)
    np.testing.assert_array_equal(got, expected_integers(plan, weight, bias, features))
    context = sealio.plan_context(plan)
    level = context.key_context_data().qualifiers().sec_level
    assert level == getattr(sealapi.SEC_LEVEL_TYPE, f"TC{security}")


@pytest.mark.parametrize(("features", "batch"), [(256, 1), (1280, 1), (1280, 64), (64, 256)])
def test_noise_of_extreme_inputs_stays_below_the_bound_and_near_it(features: int, batch: int) -> None:
    """Inputs at the norm bound, all in one coefficient or spread over all: the bound must hold and not be idle."""
    plan = plan_head(features, 10, batch=batch)
    weight, bias = head_of(plan, 11)
    spike = np.zeros((batch, features))
    spike[:, 3] = plan.feature_norm
    flat = np.full((batch, features), plan.feature_norm / np.sqrt(features))
    largest = 0.0
    for inputs in (spike, flat, flat * np.tile([1.0, -1.0], features // 2)):
        custody: Any = make_custody(plan)
        head, _ = make_encryptor(custody.public).encrypt(weight, bias)
        reply, _ = make_evaluator(custody.public, head).evaluate(inputs)
        noise = np.abs(noise_of(custody, reply, batch))
        largest = max(largest, float(noise.max()))
        np.testing.assert_array_equal(custody.decrypt(reply), expected_integers(plan, weight, bias, inputs))
    assert largest <= custody._tolerance
    assert largest > custody._tolerance / 32


def opened(custody: Any, reply: LogitCiphertexts, batch: int) -> tuple[Array, Array]:
    """What SEAL decrypts of a reply in units of 1/2^52, at the logits and at the checks."""
    plan = custody.public.plan
    logits, checks = [], []
    for index, data in enumerate(reply.ciphertexts):
        positions, more = reply_positions(plan, index % plan.class_tiles, batch)
        residues = unpack_reply(plan, sealio.without_checksum(data), positions)
        value = sealio.make_ciphertext(custody._context, np.stack([residues.c0, residues.c1]))
        plain = sealapi.Plaintext()
        custody._BfvCustody__decryptor.decrypt(value, plain)
        logits.append(sealio.plaintext_values(plain, positions.ravel(), 1 << FINE_BITS))
        checks.append(sealio.plaintext_values(plain, more, 1 << FINE_BITS))
    return np.concatenate(logits), np.concatenate(checks)


def noise_of(custody: Any, reply: LogitCiphertexts, batch: int) -> Array:
    unit = 1 << (FINE_BITS - custody.public.plan.plain_bits)
    values = np.concatenate(opened(custody, reply, batch))
    return (values + unit // 2) % unit - unit // 2


def test_decisions_follow_the_float_head() -> None:
    plan = plan_head(256, 10)
    rng = np.random.default_rng(0)
    weight, bias = head_of(plan, 21)
    features = np.maximum(rng.normal(size=(300, 256)), 0).astype(np.float32)
    features[:20] *= 5
    got, unit, saturated, _ = run(plan, weight, bias, features)
    long = np.linalg.norm(features, axis=1) > plan.feature_norm
    assert saturated == long.sum() >= 20
    real = features[~long].astype(np.float64) @ weight.T.astype(np.float64) + bias
    error = got[~long] * unit - real
    reach = plan.plain_modulus / 2 * unit
    assert np.sqrt((error**2).mean()) < plan.logit_error / 8 * reach  # logits were planned for an eighth of the reach
    ordered = np.sort(real, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * np.abs(error).max()
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(got[~long].argmax(axis=1)[clear], real.argmax(axis=1)[clear])


def test_long_inputs_are_scaled_down_and_counted() -> None:
    plan = plan_head(3, 1, feature_norm=2.0)
    limit = 1 << plan.feature_bits
    rows = np.array([[2.0, 0.0, 0.0], [3.0, -3.0, 0.0], [-1e30, 0.0, 1e30], [0.0, 0.0, 1.0]])
    integers, saturated = quantise_features(plan, rows)
    side = int(np.sqrt(0.5) * limit)
    assert integers.tolist() == [[limit, 0, 0], [side, -side, 0], [-side, 0, side], [0, 0, limit // 2]]
    assert saturated == 2


@settings(max_examples=60, deadline=None)
@given(
    features=st.integers(1, 300),
    classes=st.integers(1, 8),
    hidden=st.sampled_from([(), (), (3,)]),
    kind=st.sampled_from(KINDS),
    seed=st.integers(0, 2**32),
)
def test_no_logit_can_wrap_and_the_modulus_is_used(
    features: int, classes: int, hidden: tuple[int, ...], kind: str, seed: int
) -> None:
    """The worst input for a class is parallel to its weights; the Cauchy-Schwarz bound must leave room for it."""
    features = min(features, 40) if hidden else features
    plan = plan_head(features, classes, hidden)
    layers = [head_of(dataclasses.replace(plan, classes=hidden[0]), seed + 1, kind)] if hidden else []
    weight, bias = head_of(dataclasses.replace(plan, features=hidden[0] if hidden else features), seed, kind)
    head = quantise_head(plan, weight, bias, layers)
    norm2, _ = input_norms(features, hidden, plan.feature_bits)
    varying, constant = head.weights[:, :-1].astype(np.float64), np.abs(head.weights[:, -1]).astype(np.float64)
    reach = np.linalg.norm(varying, axis=1) * np.sqrt(norm2 - 1) + constant
    assert reach.max() < plan.plain_modulus // 2
    if kind not in ("zero", "tiny") and not hidden:
        assert reach.max() > 0.8 * plan.plain_modulus // 2
    worst = np.rint(varying / np.maximum(np.linalg.norm(varying, axis=1, keepdims=True), 1) * 2.0**plan.feature_bits)
    if not hidden:
        integers, _ = quantise_features(plan, worst * plan.feature_norm / 2.0**plan.feature_bits)
        logits = lift_columns(plan, integers) @ head.weights.T
        assert np.abs(logits).max() < plan.plain_modulus // 2


def test_the_scale_tells_the_key_holder_little_more_than_the_size() -> None:
    """Heads that differ by less than an eighth of an octave often share one scale, so it shows no exact extreme."""
    plan = plan_head(12, 3)
    weight = np.random.default_rng(0).normal(size=(3, 12))
    units = {quantise_head(plan, weight * factor, np.zeros(3)).unit for factor in np.linspace(1.0, 2.0, 400)}
    assert 8 <= len(units) <= 10


@pytest.mark.parametrize("scheme", ["plain", "bfv", "ckks"])
def test_bad_features_and_heads_are_named_errors(scheme: str) -> None:
    plan = plan_head(6, 2, scheme=scheme)
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
    with pytest.raises(NumericError, match="not finite numbers"):
        encryptor.encrypt(np.full((2, 6), 1e308), bias)
    for wrong in (weight.T, weight[:1], weight[:, :5]):
        with pytest.raises(NumericError, match="a head with weights") as caught:
            encryptor.encrypt(wrong, bias)
        assert caught.value.code is FailureCode.BAD_TENSOR
    evaluator.evaluate(np.zeros((1, 6)))  # it goes on serving


def test_only_logits_and_masked_checks_go_on_the_wire() -> None:
    plan = plan_head(256, 10)
    assert plan.check_count > 0
    weight, bias = head_of(plan, 4)
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    evaluator = make_evaluator(custody.public, head)
    features = np.random.default_rng(1).normal(size=(1, 256))
    low = FINE_BITS - plan.plain_bits
    checks = []
    for _ in range(200):
        reply, _ = evaluator.evaluate(features)
        logits, masked = opened(custody, reply, 1)
        np.testing.assert_array_equal(
            (logits + (1 << (low - 1))) >> low, expected_integers(plan, weight, bias, features)[0]
        )
        checks.append((masked + (1 << (low - 1))) >> low)
    words = plan.degree + 10 + plan.check_count
    assert len(reply.ciphertexts[0]) == words * plan.word_bytes + sealio.CHECKSUM_BYTES
    values = np.concatenate(checks) % plan.plain_modulus
    counts = np.bincount(values * 16 // plan.plain_modulus, minlength=16)
    expected = len(values) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 70  # 15 degrees of freedom: p about 4e-9
    assert len(np.unique(values)) > 0.99 * len(values)


def test_c1_of_a_reply_does_not_depend_on_the_head() -> None:
    """Adding weights to the head's c0 alone changes c0 of the reply and no bit of its c1."""
    plan = plan_head(30, 4)
    residues = np.random.default_rng(0).integers(0, plan.prime, (1, 1, 2, plan.degree)).astype(np.uint64)
    other = residues.copy()
    other[:, :, 0] = (other[:, :, 0] + np.uint64(12345678901)) % np.uint64(plan.prime)
    masks = np.zeros((1, 1, plan.check_count), dtype=np.int64)
    features = np.random.default_rng(1).normal(size=(1, 30))
    one, two = (load_evaluator(plan, values, "seal").evaluate(features, masks)[0][0] for values in (residues, other))
    cut = plan.degree * plan.word_bytes
    assert one[:cut] == two[:cut]
    assert one[cut:] != two[cut:]


def test_two_encryptions_of_one_head_differ() -> None:
    plan = plan_head(16, 2)
    custody = make_custody(plan)
    weight, bias = head_of(plan, 0)
    encryptor = make_encryptor(custody.public)
    assert encryptor.encrypt(weight, bias)[0] != encryptor.encrypt(weight, bias)[0]


@pytest.mark.parametrize(("features", "classes"), [(256, 10), (1280, 10), (2048, 10)])
def test_expected_bytes_are_those_on_the_wire(features: int, classes: int) -> None:
    plan = plan_head(features, classes)
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
    odd = dataclasses.replace(plan_head(4, 2), scheme="ckk")
    with pytest.raises(ParameterError, match="did you mean 'ckks'"):
        make_custody(odd)
