"""The compiled training of linear heads: its random numbers, its vectors, and that it is exact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numba
import numpy as np
import pytest
import torch
from scipy import stats

from rhe_parties.attacks.shadows.sets import BalancedSets
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model import vectors
from rhe_parties.model.dp import DpMechanism
from rhe_parties.model.dual import train_many, train_tensors
from rhe_parties.model.head import Recipe, initial_weights, train_heads
from rhe_parties.model.philox import normals, philox, uniforms
from rhe_parties.rng import numpy_stream
from rhe_parties.types import FloatArray, IntArray
from tests.shadow_tools import PAPER, STRONG, pool

# --- random numbers and vectors of compiled code ---------------------------------------------------------------


def test_philox_gives_the_numbers_of_its_authors() -> None:
    """Known answers of Random123's Philox4x32-10."""

    @numba.njit  # type: ignore[untyped-decorator]
    def words(c: Any, k: Any) -> Any:
        u = numba.uint32
        return philox(u(c), u(c), u(c), u(c), u(k), u(k))

    assert [int(w) for w in words(0, 0)] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    full = 0xFFFFFFFF
    assert [int(w) for w in words(full, full)] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def test_normal_numbers_are_normal_independent_and_a_function_of_the_stream() -> None:
    drawn = np.empty(1_200_000, np.float32)
    normals(drawn, np.uint64(77), 1, 2, 3)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3
    assert stats.kstest(drawn.astype(np.float64) ** 2, "chi2", (1,)).pvalue > 1e-3
    assert abs(stats.kurtosis(drawn.astype(np.float64))) < 0.02
    rare = (np.abs(drawn) > 4).sum()  # 76 are expected
    assert stats.binomtest(int(rare), drawn.size, 2 * stats.norm.sf(4)).pvalue > 1e-3
    planes = np.corrcoef(np.concatenate([drawn.reshape(4, -1), np.abs(drawn).reshape(4, -1)]))
    assert np.abs(planes - np.eye(8)).max() < 5 / np.sqrt(drawn.size / 4)
    again = np.empty(4096, np.float32)
    others = [(77, 1, 2, 3), (78, 1, 2, 3), (77 + (1 << 40), 1, 2, 3), (77, 0, 2, 3), (77, 1, 3, 3), (77, 1, 2, 4)]
    found = []
    for key, *stream in others:
        normals(again, np.uint64(key), *stream)
        found.append(again.copy())
    assert np.abs(np.corrcoef(np.stack(found)) - np.eye(len(others))).max() < 5 / np.sqrt(4096)


def test_uniform_numbers_are_uniform() -> None:
    drawn = np.empty(400_000, np.float32)
    uniforms(drawn, np.uint64(5), 1, 2, 3)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    assert stats.kstest(drawn, "uniform").pvalue > 1e-3


def test_vectors_compute_what_numpy_computes() -> None:
    @numba.njit  # type: ignore[untyped-decorator]
    def compute(a: Any, b: Any, out: Any, sums: Any) -> None:
        x, y = vectors.load(a, 0), vectors.load(b, 0)
        vectors.store(out, 0, x * y + x - x / y)
        vectors.store(out, 16, vectors.exp(x))
        vectors.store(out, 32, vectors.root(y))
        vectors.store(out, 48, vectors.maximum(x, y) - vectors.minimum(x, y))
        vectors.store(out, 64, vectors.below(x, vectors.splat(numba.float32(-50))))
        sums[0] = vectors.total(x)

    for seed in range(50):
        rng = numpy_stream(seed, "vectors")
        a, b = -rng.uniform(0, 87, 16).astype(np.float32), rng.uniform(0.5, 2, 16).astype(np.float32)
        out, sums = np.zeros(80, np.float32), np.zeros(1, np.float32)
        compute(a, b, out, sums)
        np.testing.assert_allclose(out[:16], a * b + a - a / b, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(out[16:32], np.exp(a.astype(np.float64)), rtol=2e-7)
        np.testing.assert_allclose(out[32:48], np.sqrt(b), rtol=1e-6)
        np.testing.assert_array_equal(out[48:64], np.maximum(a, b) - np.minimum(a, b))
        np.testing.assert_array_equal(out[64:], a < -50)
        assert sums[0] == pytest.approx(a.sum(), rel=1e-5)


# --- training ---------------------------------------------------------------------------------------------------


def torch_training(
    x: FloatArray, y: IntArray, start: FloatArray, recipe: Recipe
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """One head the ordinary way: nn.Linear, autograd, torch.optim.SGD."""
    layer = torch.nn.Linear(x.shape[1], len(start)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start))
        layer.bias.zero_()
    optimiser = torch.optim.SGD(layer.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    for _ in range(recipe.epochs):
        optimiser.zero_grad()
        loss: Any = torch.nn.functional.cross_entropy(layer(torch.from_numpy(x).double()), torch.from_numpy(y))
        loss.backward()
        optimiser.step()
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()


@pytest.mark.parametrize("recipe", [PAPER, STRONG], ids=["paper", "strong"])
@pytest.mark.parametrize(
    ("width", "images", "classes"), [(256, 10, 10), (20, 7, 3), (33, 12, 2), (5, 16, 4), (16, 1, 2), (100, 40, 10)]
)
def test_heads_are_those_of_ordinary_training(recipe: Recipe, width: int, images: int, classes: int) -> None:
    features, labels = pool(width, classes)
    rng = numpy_stream(2, "case", width, images)
    sets = rng.integers(0, len(labels), (19, images))  # repeats and missing classes included; more than one group
    start = (rng.normal(size=(19, classes, width)) * recipe.init_std).astype(np.float32)
    weight, bias = train_many(features, labels, sets, classes, recipe, 0, initial=start)
    device_weight, device_bias = train_tensors(
        torch.from_numpy(features[sets]), torch.from_numpy(labels[sets]), torch.from_numpy(start), recipe
    )
    for head in range(19):
        alone = torch_training(features[sets[head]], labels[sets[head]], start[head], recipe)
        for ours, theirs in zip((weight[head], bias[head]), alone, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
        for tensor, theirs in zip((device_weight[head], device_bias[head]), alone, strict=True):
            np.testing.assert_allclose(tensor.numpy(), theirs, atol=1e-5)
    assert np.abs(weight - start).max() > 1e-3


def test_heads_are_those_of_the_data_owner() -> None:
    features, labels = pool(64, 4)
    sets = BalancedSets(labels, 4, 2, 1, "t", 30)(0)
    seeds = list(range(30))
    start = initial_weights(seeds, 4, 64, PAPER.init_std)
    ours = train_many(features, labels, sets, 4, PAPER, 0, initial=start)
    for one, other in zip(ours, train_heads(features[sets], labels[sets], 4, PAPER, seeds), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_random_starts_are_normal_and_belong_to_seed_and_head() -> None:
    features, labels = pool(20)
    still = Recipe(1e-12, 0.0, 0.5, 1)
    sets = np.tile(np.arange(8), (500, 1))
    weight, bias = train_many(features, labels, sets, 4, still, 1)
    assert stats.kstest(weight.ravel() / 0.5, "norm").pvalue > 1e-3
    assert np.abs(np.corrcoef(weight.reshape(500, -1).T) - np.eye(80)).max() < 5 / np.sqrt(500)
    assert np.abs(bias).max() < 1e-9
    np.testing.assert_array_equal(train_many(features, labels, sets[:5], 4, still, 1)[0], weight[:5])
    assert not (train_many(features, labels, sets[:5], 4, still, 2)[0] == weight[:5]).any()


@pytest.mark.parametrize("mechanism", [None, DpMechanism(1.0, 1.0, 0.5)], ids=["plain", "dp"])
def test_a_class_may_be_absent_from_a_set(mechanism: DpMechanism | None) -> None:
    features, labels = pool()
    sets = np.tile(np.flatnonzero(labels != 2)[:6], (3, 1))
    weight, _ = train_many(features, labels, sets, 4, replace(PAPER, mechanism=mechanism), 1)
    assert np.isfinite(weight).all()


def test_training_refuses_what_it_cannot_train_on() -> None:
    features, labels = pool()
    sets = np.tile(np.arange(8), (2, 1))

    def train(features: Any = features, labels: Any = labels, sets: Any = sets, classes: int = 4, **more: Any) -> None:
        train_many(features, labels, sets, classes, more.pop("recipe", PAPER), 0, **more)

    broken = features.copy()
    broken[3, 1] = np.nan
    with pytest.raises(NumericError, match="NaN"):
        train(broken)
    with pytest.raises(NumericError, match="NaN"):
        train(broken, recipe=replace(PAPER, mechanism=DpMechanism(1.0, 1.0)))
    with pytest.raises(NumericError, match="diverged with learning_rate = 1e"):
        train(recipe=Recipe(1e30, 1.0, 0.1, 50))
    with pytest.raises(DataError, match="zero images"):
        train(sets=sets[:, :0])
    with pytest.raises(DataError, match="zero images"):
        train(features[:0], labels[:0])
    with pytest.raises(DataError, match="index 60 is outside"):
        train(sets=sets + 53)
    with pytest.raises(DataError, match="label 3 is out of range"):
        train(classes=3)
    with pytest.raises(ParameterError, match="classes = 1"):
        train(labels=labels * 0, classes=1)
    with pytest.raises(NumericError, match="features \\[n, D\\]"):
        train(labels=labels[:-1])
    with pytest.raises(NumericError, match="must be \\[B, N\\]"):
        train(sets=sets[0])
    with pytest.raises(NumericError, match="initial weights"):
        train(initial=np.zeros((2, 4, 7), np.float32))
