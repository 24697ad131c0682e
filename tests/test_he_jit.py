"""The compiled evaluator equals the schoolbook reference bit by bit, at the edges of every bound it relies on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rhe_parties.errors import ParameterError
from rhe_parties.he import jit_evaluator, jit_ring, jit_tables
from rhe_parties.he.jit_evaluator import JitEvaluator
from rhe_parties.he.jit_vectors import CHUNK
from rhe_parties.he.primes import ntt_primes
from tests.ring_reference import (
    negacyclic_product,
    reference_lift,
    reference_plan,
    reference_quantise,
    reference_replies,
)

RINGS = [(1024, 54), (2048, 54), (4096, 54), (8192, 54), (1024, 30), (1024, 41), (2048, 50), (4096, 53)]


def centred(values: list[int], prime: int) -> Any:
    return np.array([value - prime if value > prime // 2 else value for value in (v % prime for v in values)], np.int64)


def transformed(coefficients: list[int], degree: int, prime: int, full: bool = True) -> Any:
    ring = jit_tables.make_ring(degree, prime)
    result = np.empty(degree, np.int64)
    values = centred(coefficients, prime)
    last = max((i + 1 for i, value in enumerate(coefficients) if value), default=1)
    # What lies beyond the stated support must not be read.
    values[last:] = 12345
    jit_ring.forward(values, result, ring, ring.full if full else ring.small, last)
    return result


def back(values: Any, degree: int, prime: int) -> list[int]:
    result = np.empty(degree, np.int64)
    jit_ring.inverse(values.copy(), result, jit_tables.make_ring(degree, prime))
    return [int(value) for value in result]


def hard_values(rng: np.random.Generator, kind: str, size: int, prime: int) -> list[int]:
    half = prime // 2
    if kind == "uniform":
        return [int(value) for value in rng.integers(0, prime, size)]
    if kind == "top":
        return [prime - 1] * size
    if kind == "half":
        return [half] * size
    if kind == "alternating":
        return [half if i % 2 else half + 1 for i in range(size)]
    return [half if bit else half + 1 for bit in rng.integers(0, 2, size).tolist()]


@pytest.mark.parametrize("kind", ["uniform", "top", "half", "alternating", "signs"])
@pytest.mark.parametrize(("degree", "bits"), [*RINGS, (16384, 54), (32768, 54), (32768, 35)])
def test_inverse_undoes_forward(degree: int, bits: int, kind: str) -> None:
    prime = ntt_primes(degree, (bits,))[0]
    values = hard_values(np.random.default_rng(bits), kind, degree, prime)
    result = transformed(values, degree, prime)
    assert np.abs(result).max() <= prime // 2 + prime // 2**38
    assert back(result, degree, prime) == [value * degree % prime for value in values]


@pytest.mark.parametrize("kind", ["half", "signs"])
@pytest.mark.parametrize("degree", [1024, 2048, 4096, 8192, 32768])
def test_inverse_of_hard_values(degree: int, kind: str) -> None:
    """The same the other way round: extreme values in the transformed domain."""
    prime = ntt_primes(degree, (54,))[0]
    values = hard_values(np.random.default_rng(7), kind, degree, prime)
    again = transformed(back(centred(values, prime), degree, prime), degree, prime)
    assert [int(value) % prime for value in again] == [value * degree % prime for value in values]


@pytest.mark.parametrize("support", [1, 3, 15, 16, 17, 32, 33, 64, 100, 204, 257, 512, 600, 1024])
@pytest.mark.parametrize(("degree", "bits"), RINGS)
def test_pointwise_products_are_negacyclic_convolutions(degree: int, bits: int, support: int) -> None:
    prime = ntt_primes(degree, (bits,))[0]
    rng = np.random.default_rng(support)
    left = hard_values(rng, "uniform", degree, prime)
    right = rng.integers(-(2**20), 2**20 + 1, support).tolist()
    right[-1] = right[-1] or 1
    right += [0] * (degree - support)
    a, b = transformed(left, degree, prime), transformed(right, degree, prime, full=False)
    product = [int(x) * int(y) * pow(degree, -1, prime) % prime for x, y in zip(a, b, strict=True)]
    assert back(centred(product, prime), degree, prime) == negacyclic_product(left, right, prime)


def test_first_values_of_the_transform_are_values_at_roots_of_unity() -> None:
    degree, prime = 1024, ntt_primes(1024, (54,))[0]
    rng = np.random.default_rng(3)
    values = hard_values(rng, "uniform", degree, prime)
    got = sorted(int(value) % prime for value in transformed(values, degree, prime))
    root = jit_tables._primitive_root(degree, prime)
    want = []
    for odd in range(1, 2 * degree, 2):
        point, total = pow(root, odd, prime), 0
        for value in reversed(values):
            total = (total * point + value) % prime
        want.append(total)
    assert got == sorted(want)


@pytest.mark.parametrize("tiles", [1, 3, 4, 7, 31, 32, 33, 64, 161, 1000])
@pytest.mark.parametrize("kind", ["uniform", "top", "half", "alternating", "signs"])
def test_sums_of_products_are_exact(tiles: int, kind: str) -> None:
    prime = ntt_primes(2048, (54,))[0]
    ring = jit_tables.make_ring(2048, prime)
    rng = np.random.default_rng(tiles)
    size = CHUNK
    head = centred(hard_values(rng, kind, tiles * 2 * size, prime), prime).reshape(tiles, 2, size)
    request = centred(hard_values(rng, kind, tiles * size, prime), prime).reshape(tiles, size)
    total = np.zeros(2 * size, np.int64)
    jit_ring.multiply_add(head.ravel(), 0, request.ravel(), 0, tiles, total, np.empty(2 * size), ring)
    want = (head.astype(object) * request[:, None].astype(object)).sum(axis=0) % prime
    assert np.array_equal(total.reshape(2, size).astype(object) % prime, want)
    assert np.abs(total).max() <= prime // 2 + prime // 2**38


@pytest.mark.parametrize(
    ("degree", "prime"),
    [(1000, 12289), (512, 12289), (65536, 786433), (1024, 12287), (1024, (1 << 54) + 1), (1024, 2047)],
)
def test_rings_that_are_refused(degree: int, prime: int) -> None:
    with pytest.raises(ParameterError, match="not allowed"):
        jit_tables.make_ring(degree, prime)


def head_of(plan: Any, seed: int, kind: str = "uniform") -> Any:
    shape = (plan.class_tiles, plan.feature_tiles, 2, plan.degree)
    values = hard_values(np.random.default_rng(seed), kind, int(np.prod(shape)), plan.prime)
    return np.array(values, dtype=np.uint64).reshape(shape)


def masks_of(plan: Any, count: int, seed: int) -> Any:
    shape = (-(-count // plan.batch), plan.class_tiles, plan.check_positions.size)
    masks = np.random.default_rng(seed).integers(0, plan.plain_modulus, shape)
    if masks.size:
        masks.flat[0], masks.flat[-1] = plan.plain_modulus - 1, 0
    return masks


def check(plan: Any, residues: Any, features: Any, threads: int = 1, seed: int = 0) -> tuple[list[bytes], int]:
    masks = masks_of(plan, len(features), seed)
    got = JitEvaluator(plan, residues, threads).evaluate(features, masks)
    want = reference_replies(plan, residues, features, masks)
    assert got[1] == want[1]
    assert got[0] == want[0]
    return got


@st.composite
def shapes(draw: st.DrawFn) -> Any:
    degree = draw(st.sampled_from([1024, 2048]))
    bits = draw(st.sampled_from([54, 54, 54, 49, 40, 31]))
    batch = draw(st.integers(1, 5))
    tile_classes = draw(st.integers(1, 4))
    most = degree // (batch * tile_classes)
    width = draw(st.one_of(st.integers(1, min(most, 40)), st.just(most)))
    hidden = draw(st.sampled_from([(), (), (8,)]))
    # About six tiles at most, of either kind of head.
    room = min(6 * width, 4000)
    features = draw(st.integers(1, max(1, min(room, 400) if not hidden else int((2 * room) ** 0.5) - 2)))
    return reference_plan(
        features,
        draw(st.integers(1, 2 * tile_classes)),
        hidden=hidden,
        degree=degree,
        prime=ntt_primes(degree, (bits,))[0],
        tile_width=width,
        tile_classes=tile_classes,
        batch=batch,
        feature_bits=draw(st.integers(1, 20)),
        feature_norm=draw(st.sampled_from([0.37, 1.0, 8.0, 1000.0])),
        plain_modulus=1 << draw(st.integers(2, min(bits - 1, 45))),
        reply_bytes=draw(st.integers(4, 8)),
        check_positions=tuple(draw(st.lists(st.integers(0, degree - 1), max_size=5))),
    )


def sample_features(rng: np.random.Generator, plan: Any, count: int) -> Any:
    """Rows of every kind: inside the norm, at it, far outside, tiny, huge, zero, one coefficient at its limit."""
    features = rng.normal(size=(count, plan.features)) * plan.feature_norm / np.sqrt(plan.features)
    for row in features:
        kind = rng.integers(0, 8)
        if kind < 4:
            row *= [0.3, 1e-30, 1e30, 0.0][kind]
        elif kind == 4:
            row[:] = plan.feature_norm
        elif kind == 5:
            row[:] = 0
            row[rng.integers(0, row.size)] = -plan.feature_norm * rng.choice([1.0, 1.0 + 1e-9, 0.5])
        elif kind == 6:  # halves, which round to even
            row[:] = (rng.integers(-9, 9, row.size) + 0.5) * plan.feature_norm / 2**plan.feature_bits
    return features


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    plan=shapes(),
    count=st.integers(0, 12),
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["uniform", "top", "half", "signs"]),
    single=st.booleans(),
    threads=st.sampled_from([1, 1, 2, 3]),
)
def test_replies_equal_the_reference(plan: Any, count: int, seed: int, kind: str, single: bool, threads: int) -> None:
    count = min(count, 2 * plan.batch + 1)
    features = sample_features(np.random.default_rng(seed), plan, count)
    check(plan, head_of(plan, seed, kind), features.astype(np.float32) if single else features, threads, seed)


def test_no_input_gives_no_reply() -> None:
    plan = reference_plan(10, 3, tile_classes=3, check_positions=(4,))
    evaluator = JitEvaluator(plan, head_of(plan, 0))
    assert evaluator.evaluate(np.zeros((0, 10), np.float32), np.zeros((0, 1, 1), np.int64)) == ([], 0)


@pytest.mark.parametrize("scale", [1.0, 1e30, -1e30, 1e300, 1e-300, 0.0])
def test_extreme_features(scale: float) -> None:
    plan = reference_plan(70, 2, tile_width=40, tile_classes=2, feature_bits=20, batch=2)
    features = np.full((3, 70), scale)
    _, saturated = check(plan, head_of(plan, 1, "top"), features)
    assert saturated == (3 if abs(scale) >= 1 else 0)


def test_longest_sums_of_largest_values() -> None:
    """Every residue q-1 or q/2, every feature at the bound of the norm: 513 tiles."""
    plan = reference_plan(4096, 1, tile_width=8, degree=1024, feature_bits=20, feature_norm=1.0)
    for kind in ("top", "half"):
        check(plan, head_of(plan, 2, kind), np.ones((1, 4096), np.float32))


def test_lifted_columns_across_tiles() -> None:
    plan = reference_plan(45, 1, hidden=(8,), tile_width=101, feature_bits=9, feature_norm=3.0)
    features = sample_features(np.random.default_rng(5), plan, 3)
    check(plan, head_of(plan, 3), features)
    whole, _ = reference_quantise(plan, features)
    starts = jit_evaluator._tile_starts(45, True, 101, plan.feature_tiles)
    padded = np.zeros(plan.feature_tiles * 101, np.int64)
    padded[: plan.columns] = reference_lift(plan, whole)[0]
    for tile, (row, offset) in enumerate(starts):
        got = np.zeros(101, np.int64)
        jit_ring.fill_columns(whole[0], row, offset, 9, got, 0, 101)
        assert np.array_equal(got, padded[tile * 101 : (tile + 1) * 101])


def test_requests_are_split_into_groups_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = reference_plan(50, 5, tile_width=16, tile_classes=2, batch=3, check_positions=(9, 1000))
    residues, features = head_of(plan, 4), sample_features(np.random.default_rng(6), plan, 20)
    masks = masks_of(plan, 20, 6)
    evaluator = JitEvaluator(plan, residues)
    whole = evaluator.evaluate(features, masks)
    assert whole[1] > 0
    for size in (1, 2, 3):
        monkeypatch.setattr(jit_evaluator, "_WORKSPACE_BYTES", size * plan.feature_tiles * plan.degree * 8)
        assert JitEvaluator(plan, residues).evaluate(features, masks) == whole
        assert evaluator.evaluate(features, masks) == whole
    assert whole == reference_replies(plan, residues, features, masks)


def test_the_head_takes_eight_bytes_per_residue() -> None:
    plan = reference_plan(50, 5, tile_width=16, tile_classes=2)
    residues = head_of(plan, 4)
    assert JitEvaluator(plan, residues)._head.nbytes == residues.nbytes


def test_bad_heads_are_refused() -> None:
    plan = reference_plan(10, 3, tile_classes=3)
    good = head_of(plan, 0)
    bad = good.copy()
    bad[0, 0, 1, 5] = plan.prime
    cases = [(plan, bad, 1), (plan, good[..., :-1], 1), (plan, good.astype(np.int64), 1), (plan, good, 0)]
    for name, value in [("feature_bits", 31), ("word_bytes", 3), ("batch", 1000), ("check_positions", [1024])]:
        wrong = reference_plan(10, 3, tile_classes=3)
        setattr(wrong, name, value)
        cases.append((wrong, good, 1))
    for wrong_plan, head, threads in cases:
        with pytest.raises(ParameterError, match="not allowed"):
            JitEvaluator(wrong_plan, head, threads)


def test_arrays_of_another_shape_are_refused() -> None:
    plan = reference_plan(10, 3, tile_classes=3, check_positions=(4,))
    evaluator = JitEvaluator(plan, head_of(plan, 0))
    features, masks = np.zeros((2, 10)), np.zeros((2, 1, 1), np.int64)
    assert len(evaluator.evaluate(features, masks)[0]) == 2
    for wrong_features, wrong_masks in [(features[:, :9], masks), (features[:1], masks), (features, masks[..., :0])]:
        with pytest.raises(ParameterError, match="shape"):
            evaluator.evaluate(wrong_features, wrong_masks)


@pytest.mark.parametrize("bits", [30, 45, 53, 54])
def test_products_stay_within_their_bound(bits: int) -> None:
    """Any v and w: the product that kernels compute is congruent to v·w and not above the bound of `_product_bound`."""
    prime = ntt_primes(2048, (bits,))[0]
    rng = np.random.default_rng(bits)
    half = prime // 2
    factors = np.concatenate([[half, -half, half - 1, 1, 0], rng.integers(-half, half + 1, 20_000)])
    for exponent in np.arange(10, min(63.0, bits + 9), 0.25):
        bound = 2.0**exponent
        values = (bound * rng.choice([1.0, -1.0, 0.999999, 0.500001, 0.7], factors.size)).astype(np.int64)
        values += rng.integers(-300, 1, factors.size) * np.sign(values)
        ratios = np.array([factor / prime for factor in factors.tolist()])
        quotients = (values.astype(np.float64) * ratios).astype(np.int64)
        pairs = zip(values.tolist(), factors.tolist(), quotients.tolist(), strict=True)
        worst = max(abs(value * factor - quotient * prime) for value, factor, quotient in pairs)
        assert worst <= jit_tables._product_bound(bound, prime)


@pytest.mark.parametrize("bits", [32, 50, 54])
@pytest.mark.parametrize("levels", range(10, 16))
@pytest.mark.parametrize("kind", ["small", "full", "back"])
def test_no_level_can_leave_64_bits(levels: int, bits: int, kind: str) -> None:
    """A walk through the levels with the product's bound, by the schedule that the tables carry."""
    prime = ntt_primes(1 << levels, (bits,))[0]
    flags = getattr(jit_tables.make_ring(1 << levels, prime), kind)
    bound = 2.0**30 if kind == "small" else 0.5001 * prime
    for level in range(levels) if kind != "back" else reversed(range(levels)):
        # The inverse takes two levels at a time from the higher one on, and reduces before both.
        due = level if kind != "back" or (level == levels - 1 and level % 2 == 0) else level - 1 if level % 2 else None
        if due is not None and flags >> due & 1:
            bound = 0.5001 * prime
        if kind == "back":
            bound = max(2 * bound, jit_tables._product_bound(2 * bound, prime))
        else:
            bound += jit_tables._product_bound(bound, prime)
        assert bound < min(2.0**63, 2.0**10 * prime)
    assert bits < 54 or flags


def test_without_a_writable_folder_kernels_are_cached_elsewhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import numba

    from rhe_parties import jit_cache

    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    jit_cache.ensure_cache_folder(tmp_path)
    assert numba.config.CACHE_DIR == ""
    monkeypatch.setattr(jit_cache.os, "access", lambda *_: False)
    jit_cache.ensure_cache_folder(tmp_path)
    assert Path(numba.config.CACHE_DIR).is_dir()
