"""The evaluators on real ciphertexts: SEAL judges, every byte must agree."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from rhe_parties.errors import ParameterError
from rhe_parties.he.bfv import head_residues
from rhe_parties.he.evaluators import BACKENDS, load_evaluator
from rhe_parties.he.masking import fresh_masks
from rhe_parties.he.planner import plan_head
from rhe_parties.he.scheme import make_custody, make_encryptor, make_evaluator

SHAPES: list[tuple[int, int, tuple[int, ...], int, int, int]] = [
    # features, classes, hidden, batch of the plan, inputs, security
    (256, 10, (), 1, 2, 128),
    (256, 10, (), 64, 70, 128),
    (1280, 3, (), 1, 1, 256),
    (40, 200, (), 16, 5, 192),
    (50, 2, (8,), 1, 2, 128),
]


@pytest.mark.parametrize(("features", "classes", "hidden", "batch", "inputs", "security"), SHAPES)
def test_all_evaluators_give_the_bytes_of_seal(
    features: int, classes: int, hidden: tuple[int, ...], batch: int, inputs: int, security: int
) -> None:
    plan = plan_head(features, classes, hidden, batch, security=security, scheme="bfv")
    rng = np.random.default_rng(features)
    widths = (features, *hidden, classes)
    layers = [(rng.normal(size=(b, a)), rng.normal(size=b)) for a, b in pairwise(widths)]
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(*layers[-1], layers[:-1])
    residues = head_residues(custody.public, head)
    rows = rng.normal(size=(inputs, features)) * plan.feature_norm / np.sqrt(features) * rng.uniform(0, 2)
    masks = fresh_masks(plan, inputs)
    wanted = load_evaluator(plan, residues, "seal").evaluate(rows, masks)
    for backend in ("jit", "torch"):
        assert load_evaluator(plan, residues, backend).evaluate(rows, masks) == wanted, backend


def test_features_in_a_tensor_stay_there() -> None:
    torch = pytest.importorskip("torch")
    plan = plan_head(30, 3)
    custody = make_custody(plan)
    head, _ = make_encryptor(custody.public).encrypt(np.ones((3, 30)), np.arange(3.0))
    rows = np.random.default_rng(0).normal(size=(2, 30)).astype(np.float32)
    wanted = custody.decrypt(make_evaluator(custody.public, head).evaluate(rows)[0])
    evaluator: Any = make_evaluator(custody.public, head, "torch")
    assert evaluator.on_device
    np.testing.assert_array_equal(custody.decrypt(evaluator.evaluate(torch.from_numpy(rows))[0]), wanted)
    np.testing.assert_array_equal(custody.decrypt(evaluator.evaluate(rows)[0]), wanted)
    compiled: Any = make_evaluator(custody.public, head)
    assert not compiled.on_device


def test_an_unknown_evaluator_is_named() -> None:
    plan = plan_head(4, 2)
    residues = np.zeros((plan.class_tiles, plan.feature_tiles, 2, plan.degree), dtype=np.uint64)
    with pytest.raises(ParameterError, match="unknown evaluator 'trch'; did you mean 'torch'"):
        load_evaluator(plan, residues, "trch")
    assert set(BACKENDS) == {"jit", "torch", "torch-fused", "seal"}
