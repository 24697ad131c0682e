"""The numbers that an adversary at the host reads out of a head's bytes."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

from rhe_parties.errors import FailureCode, SchemeError
from rhe_parties.he.inspect import numeric_view
from rhe_parties.he.planner import plan_head
from rhe_parties.he.quantise import quantise_head
from rhe_parties.he.scheme import make_custody, make_encryptor


def test_plain_view_is_the_head_itself() -> None:
    plan = plan_head(20, 3, scheme="plain")
    custody = make_custody(plan)
    weight, bias = np.random.default_rng(0).normal(size=(3, 20)), np.arange(3.0)
    head, _ = make_encryptor(custody.public).encrypt(weight, bias)
    view = numeric_view(custody.public, head).reshape(plan.class_tiles, plan.feature_tiles, plan.degree)
    integers = quantise_head(plan, weight, bias).weights
    rows = view[0, :, : plan.layout.stride]
    tiles = rows.reshape(plan.feature_tiles, plan.tile_classes, plan.tile_width)[..., ::-1]
    read = tiles.transpose(1, 0, 2).reshape(plan.tile_classes, -1)[:3, :21]
    np.testing.assert_array_equal(read, integers)


@pytest.mark.parametrize(("scheme", "per_cipher"), [("bfv", 2 * 2048), ("ckks", 2 * 2 * 8192)])
def test_encrypted_view_is_uniform_whatever_the_head(scheme: str, per_cipher: int) -> None:
    plan = plan_head(20, 3, scheme=scheme)
    custody = make_custody(plan)
    encryptor = make_encryptor(custody.public)
    heads = [np.zeros((3, 20)), np.full((3, 20), 100.0), np.random.default_rng(1).normal(size=(3, 20))]
    views = [numeric_view(custody.public, encryptor.encrypt(weight, np.ones(3))[0]) for weight in heads]
    for view in views:
        assert view.shape == (plan.class_tiles * plan.feature_tiles * per_cipher,)
        assert view.dtype == np.float64
        assert np.abs(view).max() <= 1
        assert abs(view.mean()) < 5 / np.sqrt(3 * view.size)
        assert view.var() == pytest.approx(1 / 3, rel=0.1)
    again = numeric_view(custody.public, encryptor.encrypt(heads[2], np.ones(3))[0])
    assert abs(np.corrcoef(views[2], again)[0, 1]) < 5 / np.sqrt(again.size)


def test_view_refuses_a_head_for_other_keys() -> None:
    plan = plan_head(20, 3)
    custody, other = make_custody(plan), make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(np.ones((3, 20)), np.ones(3))
    with pytest.raises(SchemeError) as caught:
        numeric_view(other.public, head)
    assert caught.value.code is FailureCode.WRONG_KEY
    with pytest.raises(SchemeError):
        numeric_view(custody.public, dataclasses.replace(head, ciphertexts=(b"x",)))


def test_view_is_fast_enough_for_hundreds_of_heads() -> None:
    plan = plan_head(256, 10)
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(np.ones((10, 256)), np.ones(10))
    start = time.perf_counter()
    for _ in range(20):
        numeric_view(custody.public, head)
    assert (time.perf_counter() - start) / 20 < 0.03
