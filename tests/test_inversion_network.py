"""The inversion network: pre-maps, pairs, training, and what it learns from scores that hold something or nothing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from rhe_parties.attacks.inversion_network.inputs import ConfidenceInputs, HeadInputs
from rhe_parties.attacks.inversion_network.network import InversionNetwork
from rhe_parties.attacks.inversion_network.pairs import Nudge, PairBatch, ShadowPairs
from rhe_parties.attacks.inversion_network.training import TrainingSettings, train_inverter
from rhe_parties.attacks.shadows.factory import ShadowFactory
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.data.datasets import load_dataset
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import Recipe
from rhe_parties.rng import torch_stream
from rhe_parties.types import FloatArray, IntArray, UInt8Array

K = 10
FAST = TrainingSettings(steps=200, batch=48, width=8, learning_rate=2e-2)


@dataclasses.dataclass(frozen=True)
class Digits:
    """Auxiliary digits at 16 pixels, and heads trained on the first 560 of them."""

    backbone: Backbone
    images: UInt8Array
    labels: IntArray
    features: FloatArray
    weight: FloatArray
    bias: FloatArray
    sets: IntArray
    prior: FeaturePrior

    def pairs(self, held_out: bool = False, grid: float = 0.0, nudge: Nudge | None = None) -> ShadowPairs:
        rows = slice(560, 700) if held_out else slice(0, 560)
        heads = slice(96, 128) if held_out else slice(0, 96)
        sets = self.sets[heads, :0] if held_out else self.sets[heads]
        return ShadowPairs(
            self.backbone, self.images[rows], self.features[rows], self.weight[heads], self.bias[heads], sets,
            grid, 0.0, nudge,
        )  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> Digits:
    dataset = load_dataset("digits", image_size=16)
    images, labels = dataset.images[:700], dataset.labels[:700]
    backbone = load_backbone("strokenet")
    features = backbone.extract(images)
    kept = features[:560], labels[:560]
    bank = ShadowFactory(*kept, K, 1, Recipe.paper("strokenet", 1), 5).block(0)
    return Digits(backbone, images, labels, features, bank.weight, bank.bias, bank.sets, FeaturePrior.fit(*kept, K))


def confidence(pairs: ShadowPairs, truncation: int = 0) -> ConfidenceInputs:
    return ConfidenceInputs.fit(pairs.draw(1024, torch_stream(1, "fit")).logits, truncation)


def test_confidences_do_not_depend_on_a_common_shift_and_truncation_keeps_the_largest() -> None:
    logits = torch.randn((20, K), generator=torch.Generator().manual_seed(1))
    heads, empty = torch.zeros(20, dtype=torch.int64), torch.zeros(0)
    whole = ConfidenceInputs.fit(logits).bind(empty, empty)
    torch.testing.assert_close(whole(logits, heads), whole(logits + 7, heads), atol=1e-5, rtol=0)
    assert abs(float(whole(logits, heads).mean())) < 1e-5
    cut = ConfidenceInputs.fit(logits, 3).bind(empty, empty)(logits, heads)
    assert ((cut != 0).sum(dim=1) == 3).all()
    assert (cut.argmax(dim=1) == logits.argmax(dim=1)).all()
    with pytest.raises(ParameterError, match="truncation = 11"):
        ConfidenceInputs.fit(logits, 11)
    with pytest.raises(NumericError, match="finite scores"):
        whole(torch.full((1, K), float("nan")), heads[:1])


def test_features_come_back_from_scores_and_head(digits: Digits) -> None:
    rank = 20
    inputs = HeadInputs(digits.prior, rank)
    assert inputs.width == rank + K
    weight, bias = torch.from_numpy(digits.weight[:3]), torch.from_numpy(digits.bias[:3])
    features = torch.from_numpy(digits.features[560:])
    for head in range(3):
        index = torch.full((len(features),), head)
        given = inputs.bind(weight, bias)(features @ weight[head].T + bias[head], index)
        share = given[:, rank:]
        torch.testing.assert_close(share.sum(dim=1), torch.ones(len(features)))
        own = share[torch.arange(len(features)), torch.from_numpy(digits.labels[560:])]
        assert float(own.mean()) > 0.6
        # Against the truth on the same axes: clearly nearer than the average image.
        exact = (features.double() @ inputs._directions - inputs._centre) / inputs._scale
        error = (given[:, :rank] - exact).square().mean()
        assert error < 0.75 * exact.square().mean()


def test_pairs_leave_out_the_heads_own_images(digits: Digits) -> None:
    pairs = digits.pairs()
    batch = pairs.draw(4000, torch_stream(2, "draw"))
    flat = torch.from_numpy(digits.images[:560].reshape(560, -1).astype(np.float32) / 127.5 - 1)
    found = torch.cdist(batch.images.flatten(1), flat).argmin(dim=1)
    own = (torch.from_numpy(digits.sets)[batch.heads] == found[:, None]).any(dim=1)
    assert not own.any()
    assert len(set(found.tolist())) > 500
    members = ShadowPairs(
        digits.backbone, digits.images[:560], digits.features[:560], digits.weight, digits.bias, digits.sets,
        member_share=1.0,
    ).draw(200, torch_stream(2, "draw"))  # fmt: skip
    found = torch.cdist(members.images.flatten(1), flat).argmin(dim=1)
    assert (torch.from_numpy(digits.sets)[members.heads] == found[:, None]).any(dim=1).all()


def test_rounded_pairs_carry_rounded_scores(digits: Digits) -> None:
    logits = digits.pairs(grid=0.1).draw(100, torch_stream(2, "draw")).logits
    np.testing.assert_allclose(np.round(logits.numpy(), 1), logits.numpy(), atol=1e-6)


def test_moved_images_stay_near_and_change_scores(digits: Digits) -> None:
    plain = digits.pairs().draw(64, torch_stream(3, "draw"))
    nudged = digits.pairs(nudge=Nudge(0.5, 0.2, 2)).draw(64, torch_stream(3, "draw"))
    away = (plain.images - nudged.images).abs().amax(dim=(1, 2, 3))
    assert float(away.max()) <= 0.2 + 1e-6
    assert (away[:32] > 0.1).all()
    assert (away[32:] == 0).all()
    assert (plain.logits[:32] - nudged.logits[:32]).abs().amax(dim=1).min() > 0.02
    assert float(nudged.images.abs().max()) <= 1


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (12, 3), (16, 1), (32, 1)])
def test_network_shapes_and_company(side: int, channels: int) -> None:
    network = InversionNetwork(K, (channels, side, side), 4)
    network.initialise(torch_stream(1, "init"))
    inputs = torch.randn((70, K), generator=torch.Generator().manual_seed(2))
    images = network.decode(inputs)
    assert images.shape == (70, channels, side, side)
    assert np.abs(images).max() <= 1
    np.testing.assert_array_equal(network.decode(inputs[33:40]), images[33:40])
    assert network.decode(inputs[:0]).shape == (0, channels, side, side)
    with pytest.raises(NumericError, match=r"inputs \[n, 10\]"):
        network.decode(inputs[:, :4])


def test_network_sides_are_limited() -> None:
    with pytest.raises(ParameterError, match="sides 1 to 64"):
        InversionNetwork(K, (1, 65, 32))


def test_known_heads_beat_the_class_mean_and_random_scores_do_not(digits: Digits) -> None:
    pairs, held = digits.pairs(), digits.pairs(held_out=True)
    inverter = train_inverter(pairs, held, HeadInputs(digits.prior, 32), FAST, 7)
    report = inverter.held_out
    assert 130 <= report.images <= 140
    assert report.gain - report.half_width > 0.01
    assert report.network < 0.85 * report.class_mean
    blind = train_inverter(Scrambled(pairs), Scrambled(held), confidence(pairs), FAST, 7)
    spread = float((held.images - held.images.mean(dim=0)).square().mean())
    assert blind.held_out.network > 0.97 * spread
    assert blind.held_out.network > 1.5 * report.network


def test_confidences_alone_beat_the_class_mean(digits: Digits) -> None:
    pairs, held = digits.pairs(), digits.pairs(held_out=True)
    report = train_inverter(pairs, held, confidence(pairs), FAST, 7).held_out
    assert report.gain - report.half_width > 0


class Scrambled(ShadowPairs):
    """The same images beside scores that have nothing to do with them."""

    def __init__(self, pairs: ShadowPairs) -> None:
        self.__dict__.update(pairs.__dict__)

    def draw(self, count: int, generator: torch.Generator, nudged: bool = True) -> PairBatch:
        batch = super().draw(count, generator, nudged)
        return batch._replace(logits=torch.randn(batch.logits.shape, generator=generator))


def test_semantic_training_is_repeatable(digits: Digits) -> None:
    settings = dataclasses.replace(FAST, steps=3, semantic=0.05)
    pairs, held = digits.pairs(nudge=Nudge(0.25)), digits.pairs(held_out=True)
    logits = held.draw(9, torch_stream(4, "logits")).logits.numpy()[None]
    first, again = (train_inverter(pairs, held, confidence(pairs), settings, 3) for _ in range(2))
    np.testing.assert_array_equal(first.decode(logits), again.decode(logits))
    assert first.held_out == again.held_out
    plain = train_inverter(digits.pairs(), held, confidence(pairs), dataclasses.replace(settings, semantic=0), 3)
    assert not np.array_equal(plain.decode(logits), first.decode(logits))


@pytest.mark.parametrize(
    "change", [{"steps": 0}, {"batch": 1}, {"width": 0}, {"semantic": -1.0}, {"learning_rate": float("nan")}]
)
def test_settings_are_checked(change: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match=next(iter(change))):
        dataclasses.replace(FAST, **change)


def test_diverged_training_is_named(digits: Digits) -> None:
    pairs, held = digits.pairs(), digits.pairs(held_out=True)
    with pytest.raises(NumericError, match="diverged"):
        train_inverter(pairs, held, confidence(pairs), dataclasses.replace(FAST, steps=3, learning_rate=1e38), 1)


def test_bad_pairs_are_named(digits: Digits) -> None:
    good = (digits.backbone, digits.images, digits.features, digits.weight, digits.bias, digits.sets)
    broken = digits.weight.copy()
    broken[3, 0, 0] = np.nan
    with pytest.raises(NumericError, match="NaN"):
        ShadowPairs(*good[:3], broken, *good[4:])
    with pytest.raises(NumericError, match="must fit"):
        ShadowPairs(digits.backbone, digits.images[:0], digits.features[:0], *good[3:])
    with pytest.raises(NumericError, match="must fit"):
        ShadowPairs(*good[:4], digits.bias[:, :4], digits.sets)
    with pytest.raises(NumericError, match="leave none outside"):
        ShadowPairs(digits.backbone, digits.images[:10], digits.features[:10], *good[3:])
    with pytest.raises(ParameterError, match="member_share"):
        ShadowPairs(*good, member_share=1.5)
    with pytest.raises(ParameterError, match="adversarial"):
        Nudge(share=2)
    with pytest.raises(ParameterError, match="rank"):
        HeadInputs(digits.prior, 0)
