"""The torch ring and evaluator against exact integers, the slow reference, and their own promises."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from rhe_parties.errors import FailureCode, NumericError, ParameterError, SchemeError
from rhe_parties.he import torch_ring
from rhe_parties.he.primes import ntt_primes
from rhe_parties.he.torch_evaluator import TorchEvaluator, lift_masks
from rhe_parties.he.torch_ring import MAX_TERMS, SMALL_BITS, TorchRing, balanced_limbs, join, split
from tests.ring_reference import negacyclic_product, reference_plan, reference_replies

RINGS = [(2, 5), (4, 97), (16, 97), (64, 7681), (256, 12289), (1024, ntt_primes(1024, (27,))[0])]
RINGS += [(512, ntt_primes(512, (40,))[0]), (2048, 0x3FFFFFFFFED001), (4096, 0x3FFFFFFFFD6001)]
RINGS += [(16384, ntt_primes(16384, (54,))[0])]


def extremes(rng: np.random.Generator, degree: int, prime: int) -> list[list[int]]:
    """Polynomials in [0, q): random, all largest, near q/2, alternating, one."""
    half = [prime // 2 + i % 2 for i in range(degree)]
    alternating = [(prime - 1) * (i % 2) for i in range(degree)]
    drawn = rng.integers(0, prime, degree).tolist()
    return [drawn, [prime - 1] * degree, half, alternating, [1] + [0] * (degree - 1)]


@pytest.mark.parametrize(("degree", "prime"), RINGS)
def test_transforms_are_inverse_and_lazy(degree: int, prime: int) -> None:
    ring, rng = TorchRing(degree, prime), np.random.default_rng(degree)
    values = torch.tensor(extremes(rng, degree, prime)).T.contiguous()
    for shift in (0, prime, -prime):  # any lazy representative of the same residues
        lazy = torch.where(values + shift < 1.03 * prime, values + shift, values)
        transformed = ring.forward(lazy)
        assert int(transformed.abs().max()) <= 1.04 * prime
        back = ring.inverse(transformed)
        assert int(back.abs().max()) <= 1.04 * prime
        assert torch.equal(ring.canonical(back), values)


@pytest.mark.parametrize(("degree", "prime"), RINGS)
def test_the_transform_is_evaluation_at_odd_powers_of_a_root(degree: int, prime: int) -> None:
    """The constant polynomial gives itself everywhere; t gives N different N-th roots of -1, and t^j their powers."""
    ring = TorchRing(degree, prime)
    exponent = min(3, degree - 1)
    values = torch.zeros(degree, 3, dtype=torch.int64)
    values[0, 0] = values[1, 1] = values[exponent, 2] = 1
    constant, roots, powers = ring.canonical(ring.forward(values)).T.tolist()
    assert set(constant) == {1}
    assert len(set(roots)) == degree
    assert all(pow(root, degree, prime) == prime - 1 for root in roots)
    assert [pow(root, exponent, prime) for root in roots] == powers


@pytest.mark.parametrize(("degree", "prime"), RINGS)
def test_small_polynomials(degree: int, prime: int) -> None:
    ring, rng = TorchRing(degree, prime), np.random.default_rng(1)
    most = 1 << SMALL_BITS
    rows = [rng.integers(-most, most + 1, degree), np.full(degree, most), np.full(degree, -most)]
    values = torch.from_numpy(np.stack(rows, axis=1))
    expected = ring.canonical(ring.forward(ring.canonical(values)))
    assert torch.equal(ring.canonical(ring.forward_small(values.double())), expected)


@pytest.mark.parametrize(("degree", "prime"), [ring for ring in RINGS if ring[0] <= 1024])
def test_products_are_those_of_the_ring(degree: int, prime: int) -> None:
    ring, rng = TorchRing(degree, prime), np.random.default_rng(degree)
    left = extremes(rng, degree, prime)
    right = [[int(v) for v in rng.integers(-1000, 1000, degree)], [1000] * degree, [0] * (degree - 1) + [-1]]
    data = ring.forward_small(torch.tensor(right, dtype=torch.float64).T.contiguous())
    factor = ring.split_factor(ring.forward(torch.tensor(left).T.contiguous()).unsqueeze(1))
    assert factor.dtype == torch.int32
    assert factor.nelement() * factor.element_size() == 8 * degree * len(left)
    product = ring.multiply(data.unsqueeze(2), factor)
    result = ring.canonical(ring.inverse(product.view(degree, -1))).view(degree, len(right), len(left))
    for j, small in enumerate(right):
        for i, large in enumerate(left):
            assert result[:, j, i].tolist() == negacyclic_product(large, small, prime)


@pytest.mark.parametrize("prime", [97, 12289, ntt_primes(16, (40,))[0], ntt_primes(16, (54,))[0]])
@pytest.mark.parametrize("terms", [1, 7, MAX_TERMS])
def test_the_longest_sums_of_products_are_exact(prime: int, terms: int) -> None:
    ring, rng = TorchRing(16, prime), np.random.default_rng(terms)
    edge = int(1.03 * prime)
    left = rng.integers(-edge, edge, (16, 2, terms))
    right = rng.integers(0, prime, (16, terms, 3))
    left[0], left[1], left[2] = edge, -edge, edge
    right[0], right[1], right[2] = prime // 2, prime // 2, prime // 2 + 1
    product = ring.multiply(torch.from_numpy(left), ring.split_factor(torch.from_numpy(right)))
    assert int(product.abs().max()) <= 1.04 * prime
    expected = (left.astype(object) @ right.astype(object)) % prime
    assert ring.canonical(product).tolist() == expected.tolist()
    total = ring.add(product.clone(), product)
    assert int(total.abs().max()) <= 1.04 * prime
    assert ring.canonical(total).tolist() == (2 * expected % prime).tolist()


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(st.integers(-(2**52), 2**52), min_size=2, max_size=3),
    prime=st.sampled_from([ntt_primes(2048, (54,))[0], 0x3FFFFFFFFED001, ntt_primes(2048, (50,))[0]]),
    bits=st.sampled_from([18, 27]),
)
def test_join_is_the_sum_modulo_the_prime(parts: list[int], prime: int, bits: int) -> None:
    if bits == 27 and len(parts) == 3:
        parts = parts[:2]
    exact = sum(part << (bits * i) for i, part in enumerate(parts))
    for kind in (torch.float64, torch.int64):
        result = int(join(torch.tensor(parts, dtype=kind).view(1, -1, 1), bits, prime))
        assert result % prime == exact % prime
        assert abs(result) <= 1.04 * prime


@settings(max_examples=100, deadline=None)
@given(value=st.integers(-(2**60), 2**60), bits=st.sampled_from([18, 27]))
def test_limbs(value: int, bits: int) -> None:
    for count in (2, 3):
        parts = split(torch.tensor([[value]]), bits, count)[0]
        whole = [int(part) for part in parts]
        assert sum(part << (bits * i) for i, part in enumerate(whole)) == value
        assert all(0 <= part < 1 << bits for part in whole[:-1])
        balanced_limbs(torch.tensor([value]), bits, parts.unbind(0))
        whole = [int(part) for part in parts]
        assert sum(part << (bits * i) for i, part in enumerate(whole)) == value
        assert all(abs(part) <= 1 << (bits - 1) for part in whole[:-1])
        if count == 3:
            assert sum(abs(part) << (bits * i) for i, part in enumerate(whole)) <= 7 * abs(value)


@pytest.mark.parametrize(("degree", "prime"), [(3, 97), (1 << 15, 0x3FFFFFFFFED001), (16, 99), (16, (1 << 55) + 1)])
def test_rings_that_are_not_supported(degree: int, prime: int) -> None:
    with pytest.raises(ParameterError, match=r"allowed|root of unity"):
        TorchRing(degree, prime)


@settings(max_examples=200, deadline=None)
@given(data=st.data(), shift=st.integers(1, 45), bits=st.sampled_from([27, 40, 54]))
def test_masks_are_lifted_exactly(data: st.DataObject, shift: int, bits: int) -> None:
    prime, modulus = ntt_primes(1024, (bits,))[0], 1 << shift
    edges = st.sampled_from([0, 1, modulus // 2, modulus - 1])
    masks = data.draw(st.lists(st.one_of(edges, st.integers(0, modulus - 1)), min_size=1, max_size=8))
    expected = [(prime * mask + modulus // 2) // modulus for mask in masks]
    assert lift_masks(np.array(masks), prime, modulus).tolist() == expected


def make_case(plan: Any, count: int, seed: int = 0, spread: float = 1.0) -> tuple[Any, Any, Any]:
    """Residues, features (some of them too long, zero or huge) and masks."""
    rng = np.random.default_rng(seed)
    shape = (plan.class_tiles, plan.feature_tiles, 2, plan.degree)
    residues = rng.integers(0, plan.prime, shape).astype(np.uint64)
    residues[0, 0, :, : plan.degree // 2] = plan.prime - 1
    features = rng.normal(size=(count, plan.features)) * spread * plan.feature_norm / np.sqrt(plan.features)
    if count > 2:
        features[0], features[1], features[2] = 0.0, 1e300, plan.feature_norm
    requests = -(-count // plan.batch)
    masks = rng.integers(0, plan.plain_modulus, (requests, plan.class_tiles, len(plan.check_positions)))
    return residues, features, masks


def case(count: int, **options: Any) -> tuple[int, dict[str, Any]]:
    return count, options


FINE = 0x3FFFFFFFFED001
CASES = {
    "tiny": case(
        5, features=10, classes=3, degree=16, prime=97, tile_width=4, tile_classes=2, batch=2, feature_bits=4,
        plain_modulus=16, check_positions=(0, 2), reply_bytes=1,
    ),
    "latency": case(3, features=50, classes=5, degree=256, tile_width=51, tile_classes=5, check_positions=(3,)),
    "several class tiles": case(
        20, features=30, classes=5, degree=256, tile_width=8, tile_classes=2, batch=9, check_positions=(0, 1),
        reply_bytes=5,
    ),
    "throughput": case(
        150, features=20, classes=3, degree=1024, tile_width=8, batch=128, check_positions=(0, 1), reply_bytes=4
    ),
    "square": case(
        20, features=5, hidden=(3,), classes=4, degree=512, tile_width=4, tile_classes=3, batch=9,
        check_positions=(0, 1), reply_bytes=5,
    ),
    "square of two": case(4, features=2, hidden=(1,), classes=1, degree=16, prime=97, tile_width=3, feature_bits=2),
    "more tiles than one sum takes": case(
        4, features=300, classes=2, degree=16, tile_width=1, tile_classes=2, batch=3
    ),
    "most bits": case(
        3, features=12, classes=2, degree=2048, prime=FINE, tile_width=8, tile_classes=2, batch=100, feature_bits=24,
        plain_modulus=1 << 44, check_positions=(0, 2047),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_replies_equal_the_reference_bit_by_bit(name: str) -> None:
    count, options = CASES[name]
    plan = reference_plan(**options)
    residues, features, masks = make_case(plan, count)
    expected = reference_replies(plan, residues, features, masks)
    assert 0 < expected[1] < count
    for limit in (None, 1, 24 * plan.degree * 200):
        evaluator = TorchEvaluator(plan, residues, memory_limit=limit)
        for _ in range(2):
            assert evaluator.evaluate(features, masks) == expected


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_random_shapes_equal_the_reference(data: st.DataObject) -> None:
    degree = data.draw(st.sampled_from([16, 64, 128]))
    width = data.draw(st.integers(1, degree))
    tile_classes = data.draw(st.integers(1, degree // width))
    plan = reference_plan(
        features=data.draw(st.integers(1, 12)),
        classes=data.draw(st.integers(tile_classes, tile_classes + 4)),
        hidden=data.draw(st.sampled_from([(), (2,)])),
        degree=degree,
        prime=ntt_primes(degree, (data.draw(st.sampled_from([20, 36, 54])),))[0],
        tile_width=width,
        tile_classes=tile_classes,
        batch=data.draw(st.integers(1, degree // (width * tile_classes))),
        feature_bits=data.draw(st.integers(1, 20)),
        reply_bytes=data.draw(st.integers(1, 7)),
        check_positions=tuple(data.draw(st.lists(st.integers(0, degree - 1), unique=True, max_size=3))),
    )
    case = make_case(plan, data.draw(st.integers(1, 7)), data.draw(st.integers(0, 99)))
    limit = data.draw(st.sampled_from([None, 1, 400 * degree]))
    assert TorchEvaluator(plan, case[0], memory_limit=limit).evaluate(*case[1:]) == reference_replies(plan, *case)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on CPUs")
def test_fused_steps_give_the_same_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    count, options = CASES["several class tiles"]
    plan = reference_plan(**options)
    residues, features, masks = make_case(plan, count)
    plain = TorchEvaluator(plan, residues).evaluate(features, masks)
    assert TorchEvaluator(plan, residues, fuse=True).evaluate(features, masks) == plain

    def off_by_one(sums: torch.Tensor, bits: int, prime: int) -> torch.Tensor:
        return join(sums, bits, prime) + 1

    monkeypatch.setattr(torch_ring, "_compiled", lambda: (off_by_one, split))
    with pytest.raises(ParameterError, match="fuse is not allowed"):
        TorchEvaluator(plan, residues, fuse=True)


def test_features_of_any_real_type_stay_as_they_are() -> None:
    plan = reference_plan(**CASES["several class tiles"][1])
    residues, features, masks = make_case(plan, 11)
    evaluator = TorchEvaluator(plan, residues)
    features[1] = 3.0
    for kind in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        tensor = torch.from_numpy(features).to(kind)
        before = tensor.clone()
        result = evaluator.evaluate_tensor(tensor.requires_grad_(), masks)
        assert result == reference_replies(plan, residues, before.double().numpy(), masks)
        assert torch.equal(tensor, before)
    features.flags.writeable = False
    assert evaluator.evaluate(features, masks) == reference_replies(plan, residues, features, masks)
    strided = np.asfortranarray(features)
    assert evaluator.evaluate(strided, masks) == reference_replies(plan, residues, features, masks)


def test_wrong_input_is_refused() -> None:
    plan = reference_plan(**CASES["several class tiles"][1])
    residues, features, masks = make_case(plan, 11)
    evaluator = TorchEvaluator(plan, residues)
    assert evaluator.evaluate(features[:0], masks[:0]) == ([], 0)
    for bad in (np.nan, np.inf, -np.inf):
        damaged = features.copy()
        damaged[10, 29] = bad
        with pytest.raises(NumericError, match="NaN or infinite") as caught:
            evaluator.evaluate(damaged, masks)
        assert caught.value.code is FailureCode.BAD_VALUE
    wrong = [(features[:, 1:], masks), (features[0], masks), (features * 1j, masks), (features, masks[:1])]
    for values, drawn in wrong:
        with pytest.raises(NumericError, match="allowed") as caught:
            evaluator.evaluate(values, drawn)
        assert caught.value.code is FailureCode.BAD_TENSOR
    with pytest.raises(SchemeError, match="allowed"):
        TorchEvaluator(plan, residues[:, :, :1])
    assert evaluator.evaluate(features, masks) == reference_replies(plan, residues, features, masks)


class Watch(TorchDispatchMode):
    """Counts the operations and refuses those that make the host wait for a device."""

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero", "item")

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.partition("::")[2]
        if name in self.WAITING:
            raise AssertionError(f"{name} waits for the device")
        self.operations += 1
        return function(*args, **(kwargs or {}))


def test_the_number_of_operations_depends_on_neither_batch_nor_head() -> None:
    counts = []
    for count, features, classes in ((1, 10, 2), (200, 10, 2), (7, 200, 9)):
        plan = reference_plan(
            features=features, classes=classes, degree=256, tile_width=8, batch=32, check_positions=(0,)
        )
        residues, values, masks = make_case(plan, count)
        evaluator = TorchEvaluator(plan, residues)
        with Watch() as watch:
            evaluator.evaluate(values, masks)
        counts.append(watch.operations)
    assert len(set(counts)) == 1
    assert counts[0] < 250


def test_everything_happens_on_the_device() -> None:
    """On the device `meta` nothing is computed, but mixing in a tensor of the CPU, or reading a value, is an error."""
    for name in CASES:
        count, options = CASES[name]
        plan = reference_plan(**options)
        residues, features, masks = make_case(plan, count)
        evaluator = TorchEvaluator(plan, residues, device="meta", memory_limit=24 * plan.degree * 200)
        lifted = torch.from_numpy(masks).to("meta")
        inputs, counts = evaluator._quantised(torch.from_numpy(features).to("meta"), len(masks))
        wire = evaluator._all_replies(inputs, counts, lifted)
        words = plan.degree + plan.batch * plan.tile_classes + len(plan.check_positions)
        assert wire.device.type == "meta"
        assert wire.shape == (len(masks) * plan.class_tiles * words * plan.word_bytes + 16,)


ALONE = """
import sys
FORBIDDEN = {"ray", "tenseal", "opacus", "numba", "torchvision", "pydantic", "zstandard", "google", "sklearn", "scipy"}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not installed here")

sys.meta_path.insert(0, Refuse())
import numpy as np
from rhe_parties.he.torch_evaluator import TorchEvaluator
from types import SimpleNamespace
from rhe_parties.he.layout import Layout

plan = SimpleNamespace(
    features=3, classes=1, hidden=(), feature_norm=1.0, degree=16, prime=97, plain_modulus=16, feature_bits=4,
    tile_width=4, tile_classes=1, batch=4, word_bytes=1, columns=4, feature_tiles=1, class_tiles=1, reply_shift=0,
    layout=Layout(16, 4, 1, 4, 1, 4), check_positions=np.array([0]),
)
evaluator = TorchEvaluator(plan, np.ones((1, 1, 2, 16), dtype=np.uint64))
replies, saturated = evaluator.evaluate(np.zeros((4, 3), dtype=np.float32), np.zeros((1, 1, 1), dtype=np.int64))
assert len(replies) == 1 and len(replies[0]) == 16 + 4 + 1 and saturated == 0, replies
assert not FORBIDDEN & {name.partition(".")[0] for name in sys.modules}
print("ran")
"""


def test_it_runs_where_only_torch_and_numpy_are_installed() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120)
    assert done.stdout == "ran\n", done.stderr
