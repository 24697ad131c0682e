"""The paper's reconstructor: loss, standardisation, network, training on a stream, and what it learns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rhe_parties.attacks.reconstructor.loss import pair_errors, softmin_set_loss
from rhe_parties.attacks.reconstructor.network import ReconstructorNet
from rhe_parties.attacks.reconstructor.neurons import sort_hidden_units
from rhe_parties.attacks.reconstructor.standardise import Moments, Standardiser, flatten_heads
from rhe_parties.attacks.reconstructor.training import (
    FlatShadows,
    ReconstructorSettings,
    Training,
    train_reconstructor,
)
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, UInt8Array

TINY = ReconstructorSettings(width=2, batch=4, statistics_heads=8)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with limited_threads(1):
        yield


def _images(count: int, side: int = 16) -> UInt8Array:
    return np.random.default_rng(0).integers(0, 256, (count, 1, side, side), np.uint8)


def _toy_stream(blocks: int, size: int = 6, groups: int = 2, per_group: int = 1, seed: int = 0) -> list[FlatShadows]:
    """Random heads of nine weights over eight images a group; the last weight is constant."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(blocks):
        flat = rng.normal(size=(size, 9)).astype(np.float32)
        flat[:, 8] = 3.0
        sets = np.concatenate([8 * g + rng.integers(8, size=(size, per_group)) for g in range(groups)], axis=1)
        found.append(FlatShadows(flat, sets.astype(np.int64)))
    return found


def _slow_set_loss(drawn: Tensor, targets: Tensor, alpha: float) -> list[float]:
    losses = []
    for image, members in zip(drawn.tolist(), targets.tolist(), strict=True):
        errors = []
        for member in members:
            pixels = [
                a - b
                for rows_a, rows_b in zip(image, member, strict=True)
                for row_a, row_b in zip(rows_a, rows_b, strict=True)
                for a, b in zip(row_a, row_b, strict=True)
            ]
            errors.append(0.5 * (sum(p * p for p in pixels) + sum(map(abs, pixels))) / len(pixels))
        weights = [math.exp(-alpha * (e - min(errors))) for e in errors]
        losses.append(sum(e * w for e, w in zip(errors, weights, strict=True)) / sum(weights))
    return losses


@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize("alpha", [0.0, 3.0, 100.0])
def test_set_loss_is_the_slow_one(members: int, alpha: float) -> None:
    stream = torch.Generator().manual_seed(members)
    drawn = torch.rand((3, 2, 5, 4), generator=stream) * 2 - 1
    targets = torch.rand((3, members, 2, 5, 4), generator=stream) * 2 - 1
    found = softmin_set_loss(drawn, targets, alpha)
    assert found.tolist() == pytest.approx(_slow_set_loss(drawn, targets, alpha), rel=1e-5)
    if members == 1:
        assert torch.equal(found, pair_errors(drawn, targets)[:, 0])


def test_gradient_flows_through_the_softmin_weights() -> None:
    stream = torch.Generator().manual_seed(1)
    drawn = (torch.rand((1, 1, 3, 3), generator=stream) * 2 - 1).double().requires_grad_()
    targets = (torch.rand((1, 4, 1, 3, 3), generator=stream) * 2 - 1).double()
    assert torch.autograd.gradcheck(lambda u: softmin_set_loss(u, targets, 20.0), drawn)
    errors = pair_errors(drawn, targets)
    frozen = (errors * (-20.0 * errors).softmax(1).detach()).sum()
    (through,) = torch.autograd.grad(softmin_set_loss(drawn, targets, 20.0).sum(), drawn)
    (around,) = torch.autograd.grad(frozen, drawn)
    assert not torch.allclose(through, around)


def test_set_loss_refuses_what_does_not_fit() -> None:
    drawn = torch.zeros(2, 1, 4, 4)
    for targets in (torch.zeros(2, 1, 4, 4), torch.zeros(3, 1, 1, 4, 4), torch.zeros(2, 0, 1, 4, 4)):
        with pytest.raises(NumericError, match="set loss takes images"):
            softmin_set_loss(drawn, targets, 100.0)
    for alpha in (-1.0, math.nan):
        with pytest.raises(ParameterError, match="alpha"):
            softmin_set_loss(drawn, torch.zeros(2, 1, 1, 4, 4), alpha)


def test_streamed_statistics_are_those_of_the_whole_bank() -> None:
    rng = np.random.default_rng(2)
    bank = (rng.normal(size=(1000, 30)) * rng.uniform(1e-3, 5, 30) + rng.normal(size=30) * 50).astype(np.float32)
    bank[:, 7] = 0.125
    bank[:, 9] = 0.0
    moments = Moments()
    for part in np.split(bank, [1, 4, 300, 300, 777]):
        moments.add(part)
    exact = bank.astype(np.float64)
    np.testing.assert_allclose(moments.mean, exact.mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.deviation, exact.std(0), rtol=1e-9, atol=1e-12)
    standardiser = Standardiser.fit(moments)
    kept = [i for i in range(30) if i not in (7, 9)]
    assert standardiser.kept.tolist() == kept
    wanted = (exact - exact.mean(0))[:, kept] / exact.std(0)[kept]
    np.testing.assert_allclose(standardiser.apply(bank), wanted, atol=1e-5)


def test_statistics_refuse_bad_heads() -> None:
    moments = Moments()
    moments.add(np.zeros((1, 3), np.float32))
    with pytest.raises(DataError, match="1 shadow heads are too few"):
        Standardiser.fit(moments)
    moments.add(np.zeros((4, 3), np.float32))
    with pytest.raises(DataError, match="all 5 shadow heads are the same"):
        Standardiser.fit(moments)
    with pytest.raises(NumericError, match=r"must be \[B, 3\], got \(2, 4\)"):
        moments.add(np.zeros((2, 4), np.float32))
    with pytest.raises(NumericError, match="NaN or infinity"):
        moments.add(np.full((2, 3), np.nan, np.float32))
    with pytest.raises(NumericError, match="layers of one batch"):
        flatten_heads(np.zeros((2, 3, 4), np.float32), np.zeros((3, 3), np.float32))
    flat = flatten_heads(np.arange(24, dtype=np.float32).reshape(2, 3, 4), np.zeros((2, 3), np.float32))
    assert flat[1].tolist() == [*range(12, 24), 0, 0, 0]


def _plain_forward(net: ReconstructorNet, vectors: Tensor) -> Tensor:
    """The network as the paper writes it: convolutions behind the doubled image."""
    x = F.conv_transpose2d(vectors[:, :, None, None], net.first.weight, net.first.bias)
    for block in net.blocks:
        double = nn.Upsample(scale_factor=2, mode="nearest")
        y = block.conv1(double(F.relu(block.norm1(x))))  # type: ignore[operator, union-attr]
        y = block.conv2(F.relu(block.norm2(y)))  # type: ignore[operator]
        x = y + block.bypass(double(x))  # type: ignore[operator]
    return torch.tanh(net.last(F.relu(net.norm(x))))


@pytest.mark.parametrize(("shape", "blocks"), [((1, 16, 16), 2), ((3, 32, 32), 3), ((1, 64, 64), 4)])
def test_network_is_the_papers(shape: tuple[int, int, int], blocks: int) -> None:
    net = ReconstructorNet(11, shape, 3)
    net.initialise(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d):
                layer.bias.uniform_(-1, 1)  # type: ignore[union-attr]
    vectors = torch.randn((5, 11), generator=torch.Generator().manual_seed(1))
    drawn = net(vectors)
    assert drawn.shape == (5, *shape)
    assert len(net.blocks) == blocks
    torch.testing.assert_close(drawn, _plain_forward(net, vectors), atol=1e-5, rtol=1e-4)


def test_network_refuses_sizes() -> None:
    for shape in ((1, 28, 28), (1, 32, 16)):
        with pytest.raises(ParameterError, match=r"not allowed \(sides 16, 32, 64\)"):
            ReconstructorNet(5, shape, 2)
    with pytest.raises(ParameterError, match="width 0"):
        ReconstructorNet(5, (1, 32, 32), 0)


@pytest.mark.parametrize(("conditional", "drawn"), [(True, 2), (False, 1)])
@pytest.mark.parametrize("per_group", [1, 4])
def test_both_variants_draw_their_shapes(conditional: bool, drawn: int, per_group: int) -> None:
    settings = ReconstructorSettings(conditional, width=2, batch=4, statistics_heads=8)
    stream = _toy_stream(4, per_group=per_group)
    trained = train_reconstructor(stream, _images(16), 2, settings, 0)
    assert len(trained.standardiser.kept) == 8
    heads = np.random.default_rng(5).normal(size=(40, 9)).astype(np.float32)
    heads[39] = heads[3]
    images = trained.draw(heads)
    assert images.shape == (40, drawn, 1, 16, 16)
    assert np.abs(images).max() <= 1
    # Neither its place nor its company changes what is drawn of a head.
    np.testing.assert_array_equal(images[39], images[3])
    np.testing.assert_array_equal(trained.draw(heads[3:4])[0], images[3])
    for bad, text in ((heads[:, :8], r"must be \[V, 9\]"), (np.full((1, 9), np.inf, np.float32), "NaN or infinity")):
        with pytest.raises(NumericError, match=text):
            trained.draw(bad)


def test_training_depends_on_seed_and_steps_alone() -> None:
    heads = np.random.default_rng(6).normal(size=(3, 9)).astype(np.float32)

    def drawn(seed: int, parts: tuple[int, ...]) -> FloatArray:
        training = Training(iter(_toy_stream(10)), _images(16), 2, TINY, seed)
        for steps in parts:
            training.advance(steps)
        assert training.steps == parts[-1]
        return training.reconstructor().draw(heads)

    np.testing.assert_array_equal(drawn(1, (12,)), drawn(1, (5, 7, 12)))
    assert not np.array_equal(drawn(1, (12,)), drawn(2, (12,)))


def test_a_snapshot_stays_as_it_was() -> None:
    training = Training(_toy_stream(10), _images(16), 2, TINY, 0)
    training.advance(3)
    heads = np.ones((1, 9), np.float32)
    snapshot = training.reconstructor()
    before = snapshot.draw(heads)
    training.advance(9)
    np.testing.assert_array_equal(snapshot.draw(heads), before)
    assert not np.array_equal(training.reconstructor().draw(heads), before)


@pytest.mark.parametrize("uses", [1, 3])
def test_every_head_is_used_as_often_as_said_and_then_forgotten(uses: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def stream() -> Iterator[FlatShadows]:
        nonlocal made
        for block in _toy_stream(7, size=8):
            made += len(block.flat)
            yield block

    seen: list[FloatArray] = []
    original = Standardiser.apply

    def spy(self: Standardiser, flat: FloatArray) -> FloatArray:
        seen.append(flat)
        return original(self, flat)

    monkeypatch.setattr(Standardiser, "apply", spy)
    settings = ReconstructorSettings(width=1, batch=5, statistics_heads=16, uses=uses)
    training = Training(stream(), _images(16), 2, settings, 0)
    assert made == 16
    training.advance(steps=8)
    assert made <= 16 + 8 * 5, "no more is read than is needed"
    training.advance(steps=10_000)
    rows, counts = np.unique(np.concatenate(seen), axis=0, return_counts=True)
    # Batches are whole: at most the rest of one batch is never used.
    assert counts.sum() == 7 * 8 * uses // 5 * 5
    assert counts.max() == uses
    assert len(rows) >= 7 * 8 - 4
    assert training.heads == 56


def test_progress_tells_rate_and_time_left() -> None:
    told: list[tuple[float, str]] = []
    train_reconstructor(_toy_stream(10), _images(16), 2, TINY, 0, steps=5, progress=lambda d, t: told.append((d, t)))
    assert [share for share, _ in told] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert "step 5, " in told[-1][1]
    assert "heads/s, 0 s left" in told[-1][1]


def test_time_ends_a_training() -> None:
    training = Training(itertools.cycle(_toy_stream(10)), _images(16), 2, TINY, 0)
    training.advance(seconds=0.2)
    assert training.steps > 0
    assert 0.2 <= training.seconds < 2


def _short(blocks: list[FlatShadows], groups: int = 2, images: UInt8Array | None = None) -> None:
    train_reconstructor(blocks, _images(16) if images is None else images, groups, TINY, 0, steps=2)


@pytest.mark.parametrize(
    ("action", "kind", "text"),
    [
        (lambda: _short([]), DataError, "0 shadow heads are too few"),
        (lambda: _short(_toy_stream(1, size=3)), DataError, "before one batch of 4 heads"),
        (lambda: _short(_toy_stream(4), groups=3), NumericError, "N a multiple of 3"),
        (lambda: _short(_toy_stream(4), groups=0), ParameterError, "0 groups"),
        (lambda: _short(_toy_stream(4), images=_images(9)), DataError, "there are 9"),
        (lambda: _short(_toy_stream(4), images=_images(0)), DataError, "n > 0"),
        (lambda: _short(_toy_stream(4), images=np.zeros((9, 1, 16, 16), np.int64)), DataError, "uint8"),  # type: ignore[arg-type]
        (lambda: _short(_toy_stream(4), images=_images(16, 28)), ParameterError, "28×28"),
        (lambda: _short([b._replace(flat=b.flat * np.nan) for b in _toy_stream(4)]), NumericError, "NaN"),
        (lambda: _short([b._replace(sets=b.sets[:3]) for b in _toy_stream(4)]), NumericError, r"must be \[B, N\]"),
        (lambda: _short([b._replace(flat=b.flat * 0) for b in _toy_stream(4)]), DataError, "are the same"),
        (lambda: train_reconstructor(_toy_stream(4), _images(16), 2, TINY, 0, minutes=-1), ParameterError, "minutes"),
        (lambda: ReconstructorSettings(width=0), ParameterError, "width = 0"),
        (lambda: ReconstructorSettings(batch=1), ParameterError, "batch = 1"),
        (lambda: ReconstructorSettings(uses=0), ParameterError, "uses = 0"),
        (lambda: ReconstructorSettings(learning_rate=math.nan), ParameterError, "learning_rate = nan"),
        (lambda: ReconstructorSettings(alpha=-2.0), ParameterError, "alpha = -2"),
    ],
)
def test_mistakes_are_named(action: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        action()


def test_divergence_is_an_error() -> None:
    settings = ReconstructorSettings(width=1, batch=2, learning_rate=1e30, statistics_heads=8)
    with pytest.raises(NumericError, match=r"diverged with learning_rate = 1e\+30"):
        train_reconstructor(itertools.cycle(_toy_stream(10)), _images(16), 2, settings, 0, steps=50)


def test_one_class_alone_is_a_group_like_any_other() -> None:
    trained = train_reconstructor(_toy_stream(4, groups=1), _images(8), 1, TINY, 0)
    assert trained.draw(np.ones((2, 9), np.float32)).shape == (2, 1, 1, 16, 16)


def _two_layer(flat: FloatArray, x: FloatArray) -> FloatArray:
    w1, b1 = flat[:, :20].reshape(-1, 4, 5), flat[:, 20:24]
    w2, b2 = flat[:, 24:32].reshape(-1, 2, 4), flat[:, 32:]
    hidden = np.maximum(np.einsum("vhd,nd->vnh", w1, x) + b1[:, None], 0)
    return np.einsum("vnh,voh->vno", hidden, w2) + b2[:, None]


def test_sorting_hidden_units_undoes_a_permutation_and_keeps_the_function() -> None:
    rng = np.random.default_rng(3)
    flat = rng.normal(size=(6, 34)).astype(np.float32)
    order = rng.permutation(4)
    mixed = np.concatenate(
        [
            flat[:, :20].reshape(6, 4, 5)[:, order].reshape(6, 20),
            flat[:, 20:24][:, order],
            flat[:, 24:32].reshape(6, 2, 4)[:, :, order].reshape(6, 8),
            flat[:, 32:],
        ],
        axis=1,
    )
    done = sort_hidden_units(flat, 5, 4, 2)
    assert not np.array_equal(mixed, flat)
    np.testing.assert_array_equal(sort_hidden_units(mixed, 5, 4, 2), done)
    x = rng.normal(size=(7, 5)).astype(np.float32)
    np.testing.assert_allclose(_two_layer(done, x), _two_layer(flat, x), atol=1e-5)
    with pytest.raises(NumericError, match=r"must be \[V, 34\]"):
        sort_hidden_units(flat[:, 1:], 5, 4, 2)
    with pytest.raises(ParameterError, match="0 units"):
        sort_hidden_units(flat, 5, 0, 2)
