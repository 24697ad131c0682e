"""Levelled CKKS for square heads: packing, exactness, sizes, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import time
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import tenseal.sealapi as sealapi
from hypothesis import given, settings
from hypothesis import strategies as st

from rhe_parties.data.datasets import load_dataset
from rhe_parties.errors import FailureCode, NumericError, ParameterError, SchemeError
from rhe_parties.he import levelled, sealio
from rhe_parties.he.levelled import LevelledCustody, LevelledEvaluator
from rhe_parties.he.levelled_layout import (
    LevelledLayout,
    levelled_layout,
    levelled_milliseconds,
    levelled_parameters,
    levelled_size,
)
from rhe_parties.he.levelled_weights import packed_layers, scaled_layers
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.planner import ckks_plan
from rhe_parties.he.scheme import HeadCiphertexts, LogitCiphertexts, fingerprint
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.mlp import train_deep_head

Array = npt.NDArray[np.float64]
Layers = list[tuple[Array, Array]]


def _plan(features: int, classes: int, hidden: tuple[int, ...], norm: float = 4.0) -> HeadPlan:
    degree, primes = levelled_parameters(features, classes, hidden)
    plan = ckks_plan(features, classes, hidden, norm, 128)
    return dataclasses.replace(plan, degree=degree, coeff_modulus=primes)


def _layers(features: int, classes: int, hidden: Sequence[int], seed: int = 0, size: float = 1.0) -> Layers:
    rng, widths = np.random.default_rng(seed), (features, *hidden, classes)
    return [(size * rng.normal(size=(o, i)), size * rng.normal(size=o)) for i, o in pairwise(widths)]


def _logits(layers: Layers, values: Array) -> Array:
    for index, (weight, bias) in enumerate(layers):
        values = (np.square(values) if index else values) @ weight.T + bias
    return values


class _Setting:
    """Keys, a head and its evaluator."""

    def __init__(self, plan: HeadPlan, layers: Layers) -> None:
        self.plan, self.layers = plan, layers
        self.custody: LevelledCustody = levelled.custody_of(*levelled.fresh_keys(plan))
        self.head, self.unit = levelled.make_encryptor(self.custody.public).encrypt(*layers[-1], layers[:-1])
        self.evaluator: LevelledEvaluator = levelled.make_evaluator(self.custody.public, self.head)

    def error(self, inputs: Array) -> float:
        reply, _ = self.evaluator.evaluate(inputs)
        return float(np.abs(self.custody.decrypt(reply) - _logits(self.layers, inputs) / self.unit).max(initial=0))


@pytest.fixture(scope="module")
def two() -> _Setting:
    return _Setting(_plan(20, 9, (3,)), _layers(20, 9, (3,)))


@pytest.fixture(scope="module")
def three() -> _Setting:
    return _Setting(_plan(30, 7, (5, 3)), _layers(30, 7, (5, 3)))


def _inputs(count: int, width: int, norm: float, seed: int = 1) -> Array:
    values = np.random.default_rng(seed).normal(size=(count, width))
    return np.asarray(values * (norm / np.linalg.norm(values, axis=1))[:, None])


def _simulated(layout: LevelledLayout, layers: Layers, row: Array) -> Array:
    """What the host does, on plain slots."""

    def add_up(value: Array, steps: Sequence[int]) -> Array:
        for step in steps:
            value = value + np.roll(value, -step)
        return value

    grids = packed_layers(layout, layers)
    assert len(grids) == layout.head_ciphertexts
    padded = np.zeros(layout.input_tiles * layout.blocks)
    padded[: len(row)] = row
    parts = np.split(padded, layout.input_tiles)
    tiles = [g * np.repeat(p, layout.block) for g, p in zip(grids, parts, strict=False)]
    value, later = add_up(sum(tiles, np.zeros(layout.degree // 2)), layout.dot_rotations), grids[layout.input_tiles :]
    if layout.run:
        value = add_up(value**2 * later[0], layout.unit_rotations) + later[1]
        later = later[2:]
    found: list[float] = []
    for weight, bias in zip(later[::2], later[1::2], strict=True):
        steps = layout.run_rotations if layout.run else layout.unit_rotations
        logits = add_up(value**2 * weight, steps) + bias
        found += logits[: layout.tile_classes * layout.class_step : layout.class_step].tolist()
    return np.array(found)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_packing_computes_the_head(data: st.DataObject) -> None:
    degree = data.draw(st.sampled_from([16, 64, 256]))
    first = data.draw(st.integers(1, degree // 2))
    hidden: tuple[int, ...] = (first,)
    block = 1 << (first - 1).bit_length()
    if degree // 2 // block >= 2 and data.draw(st.booleans()):
        hidden = (first, data.draw(st.integers(1, degree // 2 // block // 2)))
    features, classes = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 30))
    layout = levelled_layout(features, classes, hidden, degree)
    layers, row = _layers(features, classes, hidden), np.append(_inputs(1, features, 1.0)[0], 1.0)
    found = _simulated(layout, layers, row)
    wanted = _logits(layers, row[None, :-1])[0]
    np.testing.assert_allclose(found[:classes], wanted, rtol=1e-9, atol=1e-9 * np.abs(wanted).max())
    assert len(found) == layout.class_tiles * layout.tile_classes


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), hidden=st.sampled_from([(1,), (4,), (9,), (3, 2)]), power=st.integers(-12, 12))
def test_scaled_heads_stay_in_range(seed: int, hidden: tuple[int, ...], power: int) -> None:
    plan = _plan(6, 4, hidden)
    layers = _layers(6, 4, hidden, seed, 10.0**power)
    scaled, unit = scaled_layers(plan, layers)
    inputs = np.concatenate([_inputs(40, 6, 4.0, seed), 4 * np.eye(6), -4 * np.eye(6), np.zeros((1, 6))])
    values = inputs / 4.0
    for index, (weight, bias) in enumerate(scaled):
        assert index == 0 or np.abs(weight).sum(axis=1).max() <= 2.0**8 * (1 + 1e-9)
        values = (np.square(values) if index else values) @ weight.T + bias
        assert np.abs(values).max() <= 1 + 1e-9
    np.testing.assert_allclose(values * unit, _logits(layers, inputs), rtol=1e-7, atol=1e-9 * unit)


def test_two_layers(two: _Setting) -> None:
    estimate = levelled_size(20, 9, (3,), two.plan.degree, two.plan.coeff_modulus).error
    assert two.error(_inputs(4, 20, 3.9)) < 10 * estimate < 1e-3
    assert two.error(np.zeros((1, 20))) < 10 * estimate
    assert two.error(np.full((1, 20), 1e-30)) < 10 * estimate
    reply, saturated = two.evaluator.evaluate(np.zeros((0, 20)))
    assert (reply.ciphertexts, saturated, two.custody.decrypt(reply).shape) == ((), 0, (0, 9))


def test_three_layers(three: _Setting) -> None:
    estimate = levelled_size(30, 7, (5, 3), three.plan.degree, three.plan.coeff_modulus).error
    assert three.error(_inputs(2, 30, 3.9)) < 10 * estimate < 1e-3


def test_long_inputs_are_scaled_to_the_bound(two: _Setting) -> None:
    inputs = _inputs(3, 20, 4.0) * np.array([[1e30], [0.5], [2.0]])
    reply, saturated = two.evaluator.evaluate(inputs)
    assert saturated == 2
    np.testing.assert_allclose(
        two.custody.decrypt(reply),
        _logits(two.layers, _inputs(3, 20, 4.0) * np.array([[1.0], [0.5], [1.0]])) / two.unit,
        atol=1e-4,
    )


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-160, 1e25])
def test_extreme_heads(two: _Setting, size: float) -> None:
    layers = _layers(20, 9, (3,), 5, size)
    head, unit = levelled.make_encryptor(two.custody.public).encrypt(*layers[-1], layers[:-1])
    inputs = _inputs(1, 20, 4.0)
    reply, _ = levelled.make_evaluator(two.custody.public, head).evaluate(inputs)
    np.testing.assert_allclose(two.custody.decrypt(reply), _logits(layers, inputs) / unit, atol=1e-4)


def test_heads_that_are_refused(two: _Setting) -> None:
    encryptor = levelled.make_encryptor(two.custody.public)
    huge = _layers(20, 9, (3,), 5, 1e150)
    with pytest.raises(NumericError, match="too large"):
        encryptor.encrypt(*huge[-1], huge[:-1])
    with pytest.raises(NumericError, match="0 hidden layers"):
        encryptor.encrypt(*two.layers[-1])
    with pytest.raises(NumericError, match="NaN"):
        two.evaluator.evaluate(np.full((1, 20), np.nan))


def test_trained_head_decides_the_same() -> None:
    digits, backbone = load_dataset("digits"), load_backbone("strokenet")
    features, labels = backbone.extract(digits.images[:120]), digits.labels[:120]
    train = np.concatenate([np.flatnonzero(labels == label)[:4] for label in range(10)])
    head = train_deep_head(features[train], labels[train], 10, (8,), "square", 0)
    norm = float(2 ** np.ceil(np.log2(np.linalg.norm(features, axis=1).max())))
    layers = [(w.astype(float), b.astype(float)) for w, b in head.layers]
    setting = _Setting(_plan(256, 10, (8,), norm), layers)
    reply, saturated = setting.evaluator.evaluate(features[:30])
    got, wanted = setting.custody.decrypt(reply) * setting.unit, head.logits(features[:30])
    assert saturated == 0
    assert np.sqrt(np.square(got - wanted).mean()) < 2e-3 * wanted.std()
    np.testing.assert_array_equal(got.argmax(1), wanted.argmax(1))


def test_expected_bytes(two: _Setting, three: _Setting) -> None:
    for setting in (two, three):
        plan = setting.plan
        size = levelled_size(plan.features, plan.classes, plan.hidden, plan.degree, plan.coeff_modulus)
        reply, _ = setting.evaluator.evaluate(np.zeros((1, plan.features)))
        assert len(reply.ciphertexts) == 1
        assert len(setting.custody.public.public_key) == pytest.approx(size.key_bytes, rel=0.05)
        assert len(setting.custody.public.evaluation_keys) == pytest.approx(size.evaluation_key_bytes, rel=0.05)
        assert sum(map(len, setting.head.ciphertexts)) == pytest.approx(size.head_bytes, rel=0.05)
        assert sum(map(len, reply.ciphertexts)) == pytest.approx(size.reply_bytes, rel=0.05)


def test_predicted_time_has_the_right_ratio(two: _Setting, three: _Setting) -> None:
    measured, predicted = [], []
    for setting in (two, three):
        plan, inputs = setting.plan, np.zeros((1, setting.plan.features))
        times = []
        for _ in range(5):
            start = time.process_time()
            setting.evaluator.evaluate(inputs)
            times.append(time.process_time() - start)
        measured.append(min(times))
        predicted.append(
            levelled_milliseconds(plan.features, plan.classes, plan.hidden, plan.degree, plan.coeff_modulus)
        )
    assert measured[1] / measured[0] == pytest.approx(predicted[1] / predicted[0], rel=0.3)


def test_slots_without_a_logit_are_masked(two: _Setting) -> None:
    context, seen = sealio.plan_context(two.plan), []
    for _ in range(2):
        reply, _ = two.evaluator.evaluate(_inputs(1, 20, 3.0))
        plain = sealapi.Plaintext()
        value = sealio.load_ciphertext(context, reply.ciphertexts[0], two.plan.degree, 1, list(context.last_parms_id()))
        two.custody._LevelledCustody__decryptor.decrypt(value, plain)  # type: ignore[attr-defined]
        slots = np.array(sealapi.CKKSEncoder(context).decode_double(plain)).reshape(-1, 4)
        assert np.abs(slots[:, 0]).max() < 1.01
        assert np.abs(slots[9:, 0]).max() < 1e-3
        seen.append(slots[:, 1:])
        assert slots[:, 1:].std() > 2**14
    assert abs(np.corrcoef(seen[0].ravel(), seen[1].ravel())[0, 1]) < 0.1


def test_foreign_keys_and_tampered_replies(two: _Setting) -> None:
    other = levelled.custody_of(*levelled.fresh_keys(two.plan))
    reply, _ = two.evaluator.evaluate(np.ones((1, 20)) / 9)
    with pytest.raises(SchemeError, match="another key") as caught:
        other.decrypt(reply)
    assert caught.value.code is FailureCode.WRONG_KEY
    with pytest.raises(SchemeError, match="2 inputs"):
        two.custody.decrypt(LogitCiphertexts(reply.ciphertexts, 2))
    with pytest.raises(SchemeError, match="not allowed"):
        two.custody.decrypt(LogitCiphertexts(reply.ciphertexts, -1))
    rng, outcomes, wanted = np.random.default_rng(3), [], two.custody.decrypt(reply)
    good = sealio.without_checksum(reply.ciphertexts[0])
    for index in range(40):
        data = bytearray(good)
        if index % 3 == 0:
            data = data[: int(rng.integers(0, len(data)))]
        else:
            place = rng.integers(0, 200) if index % 3 == 1 else rng.integers(200, len(data))
            data[int(place)] ^= 1 << int(rng.integers(0, 8))
        with pytest.raises(SchemeError, match="checksum"):
            two.custody.decrypt(LogitCiphertexts((bytes(data),), 1))
        try:
            got = two.custody.decrypt(LogitCiphertexts((sealio.with_checksum(bytes(data)),), 1))
        except SchemeError:
            outcomes.append("refused")
        else:  # a bit that means nothing, such as the minor version
            outcomes.append("same")
            np.testing.assert_array_equal(got, wanted)
    assert outcomes.count("refused") > 32
    for wrong in (two.head.ciphertexts[0], two.head.ciphertexts[-2], two.custody.public.public_key, b""):
        with pytest.raises(SchemeError) as caught:
            two.custody.decrypt(LogitCiphertexts((wrong,), 1))
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT


def test_damaged_heads_and_keys(two: _Setting) -> None:
    public, parts = two.custody.public, two.head.ciphertexts
    for broken in (parts[:-1], (*parts, parts[0]), (parts[-1], *parts[1:]), (b"\x5e\xa1", *parts[1:]), parts[::-1]):
        with pytest.raises(SchemeError) as caught:
            levelled.make_evaluator(public, HeadCiphertexts(broken, public.fingerprint))
        assert caught.value.code is FailureCode.BAD_CIPHERTEXT
    keys = public.evaluation_keys
    swapped = keys[:8] + keys[-len(keys) // 2 :]
    for wrong in (
        b"",
        keys[:5],
        keys[:-5],
        keys[:100],
        keys + b"x",
        b"\xff" * 8 + keys[8:],
        public.public_key,
        swapped,
    ):
        mark = fingerprint(two.plan, public.public_key, wrong)
        material = dataclasses.replace(public, evaluation_keys=wrong, fingerprint=mark)
        with pytest.raises(SchemeError) as caught:
            levelled.make_evaluator(material, two.head)
        assert caught.value.code is FailureCode.WRONG_KEY


def test_the_secret_stays(two: _Setting) -> None:
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be copied or serialised"):
            action(two.custody)
    assert repr(two.custody) == f"LevelledCustody(fingerprint={two.custody.public.fingerprint[:16]!r})"


def test_shapes_that_are_refused() -> None:
    for wrong in ((), (1, 1, 1)):
        with pytest.raises(ParameterError, match="one or two widths"):
            levelled_parameters(4, 2, wrong)
    with pytest.raises(ParameterError, match="1 to 4096"):
        levelled_parameters(4, 2, (4097,))
    with pytest.raises(ParameterError, match="product may be 4096"):
        levelled_parameters(4, 2, (65, 64))
    with pytest.raises(ParameterError, match="positive numbers"):
        levelled_layout(0, 2, (4,), 8192)
    for layers, most in ((1, 218), (2, 438)):
        _, primes = levelled_parameters(1280, 10, (8,) * layers)
        assert sum(prime.bit_length() for prime in primes) <= most
