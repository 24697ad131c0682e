"""The shadow factory: exact heads, streams that no pool changes, bounded memory, a cache that refuses what differs."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from scipy import stats

from rhe_parties.attacks.pools import SerialPool, ThreadPool
from rhe_parties.attacks.shadows.cache import CachedSource
from rhe_parties.attacks.shadows.factory import ShadowBlock, ShadowFactory
from rhe_parties.attacks.shadows.sets import BalancedSets
from rhe_parties.attacks.shadows.stream import BlockSource
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model import vectors
from rhe_parties.model.dp import DpMechanism
from rhe_parties.model.dual import train_many, train_tensors
from rhe_parties.model.head import Recipe, initial_weights, train_heads
from rhe_parties.model.philox import normals, philox, uniforms
from rhe_parties.rng import numpy_stream
from rhe_parties.transport.ray_tasks import RayPool
from rhe_parties.types import FloatArray, IntArray

PAPER = Recipe.paper("strokenet", 1)
STRONG = Recipe(0.05, 0.02, 0.3, 20)


def pool(width: int = 20, classes: int = 4, images: int = 60) -> tuple[FloatArray, IntArray]:
    features = np.maximum(numpy_stream(1, "pool", width).normal(size=(images, width)), 0).astype(np.float32) * 3
    return features, (np.arange(images) % classes).astype(np.int64)


def factory(seed: int = 3, **more: Any) -> ShadowFactory:
    features, labels = pool()
    return ShadowFactory(features, labels, 4, 2, PAPER, seed, **({"block": 32} | more))


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
    weight, _ = train_many(features, labels, sets, 4, PAPER, 1, mechanism)
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
        train(broken, mechanism=DpMechanism(1.0, 1.0))
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


# --- the factory ------------------------------------------------------------------------------------------------


def same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("mechanism", [None, DpMechanism(1.0, 1.0, 0.5)], ids=["plain", "dp"])
def test_heads_do_not_depend_on_the_pool(ray_session: None, mechanism: DpMechanism | None) -> None:
    made = factory(mechanism=mechanism)
    serial = made.take(130, SerialPool())
    assert serial.weight.shape == (130, 4, 20)
    for other in (ThreadPool(1), ThreadPool(2), RayPool(1), RayPool(2)):
        assert same(serial, made.take(130, other)), other
    assert same(serial, (np.concatenate(parts)[:130] for parts in zip(*(made.block(i) for i in range(5)), strict=True)))
    assert not same(serial[1:], factory(4, mechanism=mechanism).take(130, SerialPool())[1:])
    assert not same(serial[1:], factory(purpose="other", mechanism=mechanism).take(130, SerialPool())[1:])


def test_blocks_are_trained_on_their_sets() -> None:
    features, labels = pool()
    made = factory()
    block = made.block(1)
    again = train_many(features, labels, block.sets, 4, PAPER, 0, initial=np.zeros((32, 4, 20), np.float32))
    # The starts are small, so that heads are near those of zero starts on their own sets, and far from other sets'.
    own = np.linalg.norm(block.weight - again[0], axis=(1, 2))
    others = np.linalg.norm(block.weight - np.roll(again[0], 1, axis=0), axis=(1, 2))
    assert own.max() < 0.5 * others.min()


def test_sets_are_balanced_and_use_every_image_before_one_serves_twice() -> None:
    labels = np.repeat(np.arange(3), (7, 10, 30)).astype(np.int64)
    rule = BalancedSets(labels, 3, 2, 5, "t", 4)
    sets = np.concatenate([rule(i) for i in range(30)])
    assert (labels[sets] == np.repeat(np.arange(3), 2)).all()
    for label, size in ((0, 7), (1, 10), (2, 30)):
        column = sets[:, 2 * label : 2 * label + 2]
        turns = size // 2
        for start in range(0, len(sets) - turns, turns):
            assert len(np.unique(column[start : start + turns])) == 2 * turns
        assert len(np.unique(column)) == size
    assert same([rule(17)], [BalancedSets(labels, 3, 2, 5, "t", 4)(17)])
    assert same([rule(17)], [pickle.loads(pickle.dumps(rule))(17)])
    assert not same([rule(17)], [BalancedSets(labels, 3, 2, 6, "t", 4)(17)])


def _two_of_one_class(index: int) -> IntArray:
    return numpy_stream(index, "sets").integers(0, 60, (32, 5))


def test_sets_may_be_given(ray_session: None) -> None:
    sets = numpy_stream(0, "given").integers(0, 60, (50, 6))
    made = factory(sets=sets)
    block = made.take(50, RayPool(2))
    np.testing.assert_array_equal(block.sets, sets)
    with pytest.raises(DataError, match="51 shadow heads are wanted, but only 50"):
        made.take(51, SerialPool())
    called = factory(sets=_two_of_one_class)
    assert same(called.take(70, RayPool(2)), called.take(70, SerialPool()))
    np.testing.assert_array_equal(called.block(1).sets, _two_of_one_class(1))
    with pytest.raises(DataError, match="given sets"):
        factory(sets=sets[:0])


def test_the_start_may_be_known() -> None:
    start = numpy_stream(0, "start").normal(size=(4, 20)).astype(np.float32)
    made = factory(initial=start)
    block = made.block(0)
    features, labels = pool()
    again = train_many(features, labels, block.sets, 4, PAPER, 99, initial=np.tile(start, (32, 1, 1)))
    assert same(block[1:], again)
    with pytest.raises(NumericError, match="initial weights"):
        factory(initial=start[:3])


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"features": np.full((60, 20), np.nan, np.float32)}, NumericError, "NaN"),
        ({"features": np.zeros((59, 20), np.float32)}, NumericError, "features"),
        ({"images_per_class": 0}, ParameterError, "images_per_class = 0"),
        ({"images_per_class": 16}, DataError, "class 0 has 15 auxiliary images, 16"),
        ({"classes": 5}, DataError, "class 4 has 0"),
        ({"classes": 3}, DataError, "label 3"),
        ({"block": 0}, ParameterError, "block = 0"),
    ],
)
def test_a_factory_that_cannot_work_is_refused(given: dict[str, Any], error: type[Exception], words: str) -> None:
    features, labels = pool()
    arguments = {
        "features": features, "labels": labels, "classes": 4, "images_per_class": 2, "recipe": PAPER, "seed": 1,
    }  # fmt: skip
    with pytest.raises(error, match=words):
        ShadowFactory(**(arguments | given))
    with pytest.raises(ParameterError, match="shadow heads = 0"):
        factory().stream(0, SerialPool())
    with pytest.raises(ParameterError, match="workers = 0"):
        ThreadPool(0)


def test_progress_tells_rate_and_time_left() -> None:
    told: list[tuple[float, str]] = []
    for _ in factory().stream(80, SerialPool(), lambda share, text: told.append((share, text))):
        pass
    assert [share for share, _ in told] == [0.4, 0.8, 1.0]
    assert all("heads/s, " in text and text.endswith(" left") for _, text in told)


# --- pools --------------------------------------------------------------------------------------------------------


class Counted:
    """Pieces that say how many have been asked for."""

    def __init__(self, total: int) -> None:
        self.asked, self._total = 0, total

    def __iter__(self) -> Iterator[int]:
        for piece in range(self._total):
            self.asked = piece + 1
            yield piece


def _square(piece: int) -> int:
    return piece * piece


def _fail_at_seven(piece: int) -> int:
    if piece == 7:
        raise ParameterError("piece = 7 is not allowed")
    return piece


@pytest.mark.parametrize("make", [lambda: ThreadPool(2), lambda: RayPool(2)], ids=["threads", "ray"])
def test_a_stream_runs_ahead_by_a_bounded_number_of_pieces(ray_session: None, make: Any) -> None:
    pieces = Counted(60)
    results = []
    for taken, value in enumerate(make().stream(_square, pieces), 1):
        results.append(value)
        assert pieces.asked <= taken + 4
    assert results == [piece * piece for piece in range(60)]
    endless = Counted(10**9)  # a consumer may stop: nothing more is asked for
    for _, _ in zip(range(3), make().stream(_square, endless), strict=False):
        pass
    assert endless.asked <= 8


@pytest.mark.parametrize(
    "make", [SerialPool, lambda: ThreadPool(2), lambda: RayPool(2)], ids=["serial", "threads", "ray"]
)
def test_an_exception_comes_where_its_result_would_have_come(ray_session: None, make: Any) -> None:
    results = make().stream(_fail_at_seven, range(20))
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(ParameterError, match=r"^piece = 7 is not allowed$"):
        next(results)
    with pytest.raises(ParameterError, match=r"^piece = 7 is not allowed$"):
        make().map(_fail_at_seven, range(20))


class DiesOnce:
    """Kills its own worker at one piece, the first time it gets there."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __call__(self, piece: int) -> int:
        if piece == 3 and not self._marker.exists():
            self._marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return piece


def test_a_killed_worker_does_no_harm(ray_session: None, tmp_path: Path) -> None:
    assert list(RayPool(2).stream(DiesOnce(tmp_path / "died"), range(8))) == list(range(8))
    assert (tmp_path / "died").exists()


def test_threads_of_a_pool_work_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=20)  # breaks unless two pieces are under way at once
    assert ThreadPool(2).map(lambda piece: (meeting.wait(), piece)[1], range(4)) == [0, 1, 2, 3]


# --- the cache ----------------------------------------------------------------------------------------------------


class Unwilling(BlockSource[ShadowBlock]):
    """A factory's double that must not be asked for a block."""

    def __init__(self, double: ShadowFactory) -> None:
        self._double, self.heads_per_block = double, double.heads_per_block

    def provenance(self) -> dict[str, str]:
        return self._double.provenance()

    def block(self, index: int) -> ShadowBlock:
        raise AssertionError(f"block {index} should have come from the cache")


def test_cached_blocks_are_read_again_to_the_bit(tmp_path: Path) -> None:
    made = factory()
    first = CachedSource(made, ShadowBlock, tmp_path).take(70, SerialPool())
    again = CachedSource(Unwilling(made), ShadowBlock, tmp_path).take(70, ThreadPool(2))
    assert same(first, again)
    assert same(first, made.take(70, SerialPool()))
    assert len(list(tmp_path.glob("*/block-*.safetensors"))) == 3
    assert not list(tmp_path.glob("*/tmp*"))


OTHERS: dict[str, dict[str, Any]] = {
    "seed": {"seed": 4},
    "purpose": {"purpose": "other"},
    "block": {"block": 16},
    "mechanism": {"mechanism": DpMechanism(1.0, 1.0)},
    "initial": {"initial": np.zeros((4, 20), np.float32)},
    "sets": {"sets": np.zeros((32, 8), np.int64)},
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_provenance_has_another_folder(tmp_path: Path, what: str) -> None:
    one, other = factory(), factory(**OTHERS[what])
    assert one.provenance()[what] != other.provenance()[what]
    assert CachedSource(one, ShadowBlock, tmp_path).key != CachedSource(other, ShadowBlock, tmp_path).key


def test_features_labels_and_recipe_are_in_the_provenance() -> None:
    features, labels = pool()
    base = ShadowFactory(features, labels, 4, 2, PAPER, 1).provenance()
    changed = features.copy()
    changed[0, 0] += np.float32(1e-6)
    turned = np.roll(labels, 1)
    for key, other in (
        ("features", ShadowFactory(changed, labels, 4, 2, PAPER, 1)),
        ("labels", ShadowFactory(features, turned, 4, 2, PAPER, 1)),
        ("recipe", ShadowFactory(features, labels, 4, 2, STRONG, 1)),
        ("sets", ShadowFactory(features, labels, 4, 1, PAPER, 1)),
    ):
        assert {name for name in base if base[name] != other.provenance()[name]} == {key}


def test_what_was_changed_or_damaged_is_refused(tmp_path: Path) -> None:
    made = factory()
    cached = CachedSource(made, ShadowBlock, tmp_path)
    cached.take(64, SerialPool())
    first, second = sorted(cached.folder.glob("block-*.safetensors"))
    data = first.read_bytes()
    for damaged in (data[:-1] + bytes([data[-1] ^ 1]), data[: len(data) // 2], b"", b"no safetensors at all"):
        first.write_bytes(damaged)
        with pytest.raises(DataError, match="are damaged"):
            cached.block(0)
    first.write_bytes(second.read_bytes())
    with pytest.raises(DataError, match="another factory or block"):
        cached.block(0)
    foreign = CachedSource(factory(9), ShadowBlock, tmp_path)
    foreign.block(0)
    first.write_bytes((foreign.folder / first.name).read_bytes())
    with pytest.raises(DataError, match="another factory or block"):
        cached.block(0)
    manifest = cached.folder / "provenance.json"
    stored = json.loads(manifest.read_text())
    for text, words in (
        (json.dumps(stored | {"seed": "8"}), "manifest differs in seed"),
        (json.dumps(stored), "written differently"),
        ("{", "manifest is damaged"),
        ("[]", "manifest is damaged"),
    ):
        manifest.write_text(text)
        with pytest.raises(DataError, match=words):
            CachedSource(made, ShadowBlock, tmp_path)


def test_a_cache_needs_a_folder_and_a_provenance(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be used"):
        CachedSource(factory(), ShadowBlock, tmp_path / "file")
    with pytest.raises(ParameterError, match="come from a function"):
        CachedSource(factory(sets=_two_of_one_class), ShadowBlock, tmp_path)
