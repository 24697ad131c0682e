"""Scheme `ckks`: close to the float head within the derived error; wrong keys and damage are named."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he import sealio
from rhe_parties.he.noise import ckks_error
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import (
    HeadCiphertexts,
    KeyCustody,
    LogitCiphertexts,
    fingerprint,
    make_custody,
    make_encryptor,
    make_evaluator,
)

PLAN = plan_head(20, 3, scheme="ckks")


@pytest.fixture(scope="module")
def custody() -> KeyCustody:
    return make_custody(PLAN)


def make_head(
    custody: KeyCustody,
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], HeadCiphertexts, float]:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(3, 20)), rng.normal(size=3)
    return weight, bias, *make_encryptor(custody.public).encrypt(weight, bias)


@pytest.mark.parametrize(("features", "classes"), [(1, 1), (20, 3), (256, 2), (4095, 1)])
def test_logits_are_within_the_derived_error(features: int, classes: int) -> None:
    plan = plan_head(features, classes, scheme="ckks")
    custody = make_custody(plan)
    rng = np.random.default_rng(features)
    weight, bias = rng.normal(size=(classes, features)), rng.normal(size=classes)
    inputs = rng.uniform(-1, 1, size=(2, features)) * plan.feature_norm / np.sqrt(features)
    inputs[0, 0] = 2 * plan.feature_norm
    head, unit = make_encryptor(custody.public).encrypt(weight, bias)
    reply, saturated = make_evaluator(custody.public, head).evaluate(inputs)
    got = custody.decrypt(reply)
    assert got.dtype == np.float64
    assert saturated == 1
    inputs[0] *= plan.feature_norm / np.linalg.norm(inputs[0])
    wanted = (inputs @ weight.T + bias) / unit
    assert np.abs(got - wanted).max() < 8 * ckks_error(plan.degree, features, 40)


def test_extreme_heads(custody: KeyCustody) -> None:
    encryptor = make_encryptor(custody.public)
    inputs = np.full((1, 20), 3.0)
    for factor in (0.0, 1e-40, 1e37):
        weight = np.arange(60.0).reshape(3, 20) * factor
        head, unit = encryptor.encrypt(weight, np.zeros(3))
        got = custody.decrypt(make_evaluator(custody.public, head).evaluate(inputs)[0])
        np.testing.assert_allclose(got, inputs @ weight.T / unit, atol=1e-4)


def test_expected_bytes(custody: KeyCustody) -> None:
    _, _, head, _ = make_head(custody)
    reply, _ = make_evaluator(custody.public, head).evaluate(np.zeros((1, 20)))
    assert len(custody.public.evaluation_keys) == pytest.approx(PLAN.evaluation_key_bytes, rel=0.05)
    assert len(custody.public.public_key) == pytest.approx(PLAN.key_bytes, rel=0.05)
    assert sum(map(len, head.ciphertexts)) == pytest.approx(PLAN.head_bytes, rel=0.05)
    assert sum(map(len, reply.ciphertexts)) == pytest.approx(PLAN.reply_bytes, rel=0.05)


def test_foreign_keys_are_named(custody: KeyCustody) -> None:
    other = make_custody(PLAN)
    _, _, head, _ = make_head(custody)
    with pytest.raises(SchemeError, match="encrypted for other keys") as caught:
        make_evaluator(other.public, head)
    assert caught.value.code is FailureCode.WRONG_KEY
    reply, _ = make_evaluator(custody.public, head).evaluate(np.ones((1, 20)))
    with pytest.raises(SchemeError, match="another key") as caught:
        other.decrypt(reply)
    assert caught.value.code is FailureCode.WRONG_KEY
    mixed = dataclasses.replace(custody.public, evaluation_keys=other.public.evaluation_keys)
    with pytest.raises(SchemeError, match="fingerprint"):
        make_evaluator(mixed, head)


def test_damaged_ciphertexts_are_named(custody: KeyCustody) -> None:
    _, _, head, _ = make_head(custody)
    reply, _ = make_evaluator(custody.public, head).evaluate(np.ones((1, 20)))
    good, rng = sealio.without_checksum(reply.ciphertexts[0]), np.random.default_rng(3)
    wanted, outcomes = custody.decrypt(reply), []
    for index in range(60):
        data = bytearray(good)
        if index % 3 == 0:
            data = data[: int(rng.integers(0, len(data)))]
        elif index % 3 == 1:
            data[int(rng.integers(0, 200))] ^= int(rng.integers(1, 256))
        else:
            data[int(rng.integers(200, len(data)))] ^= 1 << int(rng.integers(0, 8))
        with pytest.raises(SchemeError, match="checksum"):
            custody.decrypt(LogitCiphertexts((bytes(data), *reply.ciphertexts[1:]), 1))
        resealed = sealio.with_checksum(bytes(data))
        try:
            got = custody.decrypt(LogitCiphertexts((resealed, *reply.ciphertexts[1:]), 1))
        except SchemeError:
            outcomes.append("refused")
        else:  # a byte that means nothing, such as the minor version
            outcomes.append("same")
            np.testing.assert_array_equal(got, wanted)
    assert outcomes.count("refused") > 50
    for wrong in (head.ciphertexts[0], custody.public.public_key, b""):
        with pytest.raises(SchemeError) as caught:
            custody.decrypt(LogitCiphertexts((wrong, *reply.ciphertexts[1:]), 1))
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT
    broken = HeadCiphertexts((b"\x5e\xa1", *head.ciphertexts[1:]), head.key_fingerprint)
    with pytest.raises(SchemeError) as caught:
        make_evaluator(custody.public, broken)
    assert caught.value.code is FailureCode.BAD_CIPHERTEXT


def test_damaged_evaluation_keys_are_named(custody: KeyCustody) -> None:
    _, _, head, _ = make_head(custody)
    public = custody.public
    for keys in (b"", public.evaluation_keys[:-5], public.evaluation_keys[:100], public.public_key):
        mark = fingerprint(PLAN, public.public_key, keys)
        material = dataclasses.replace(public, evaluation_keys=keys, fingerprint=mark)
        with pytest.raises(SchemeError) as caught:
            make_evaluator(material, dataclasses.replace(head, key_fingerprint=mark))
        assert caught.value.code is FailureCode.WRONG_KEY
