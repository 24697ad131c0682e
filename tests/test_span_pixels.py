"""From inverted features to pixels: decoder, refinement and the whole pipeline, on a small share of the digits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from rhe_parties.attacks.span.decoder import Decoder, DecoderSize, train_decoder
from rhe_parties.attacks.span.inversion import invert_heads
from rhe_parties.attacks.span.kernel import fit_kernel_decoder
from rhe_parties.attacks.span.pipeline import SpanAttack, SpanSettings, prepare
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.span.refine import ImageBasis, Refinement, choose_refinement, refine_images
from rhe_parties.attacks.span.shadows import augment_images, balanced_sets
from rhe_parties.data.datasets import load_dataset, to_unit
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.types import FloatArray, IntArray

K = 10
RECIPE = Recipe.paper("strokenet", 1)
FAST = SpanSettings(
    copies=2,
    shadow_heads=120,
    decoder_steps=200,
    size=DecoderSize(128, 0, 32),
    refine_steps=15,
    held_out=2,
    iterations=3,
)
Scene = tuple[Backbone, SpanAttack, FloatArray, FloatArray, FloatArray, FloatArray]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Backbone, prepared attack, victims' weights, biases and images [V, N, C, H, W], and the class averages."""
    dataset = load_dataset("digits")
    splits = split_dataset(dataset, 3)
    backbone = load_backbone("strokenet")
    images, labels = dataset.images[splits.auxiliary], dataset.labels[splits.auxiliary]
    attack = prepare(backbone, images, labels, K, RECIPE, 1, 11, FAST)
    sets = victim_sets(dataset.labels, splits.private, 1, 6, 3)
    features = backbone.extract(dataset.images[sets.ravel()]).reshape(*sets.shape, -1)
    weight, bias = train_heads(features, dataset.labels[sets], K, RECIPE, range(6))
    average = np.stack([to_unit(images[labels == label]).mean(0) for label in range(K)])
    return backbone, attack, weight, bias, to_unit(dataset.images[sets]), average


def test_pictures_come_nearer_than_the_class_average(scene: Scene) -> None:
    backbone, attack, weight, bias, truth, average = scene
    _, images = attack.run(backbone, weight, bias)
    assert images.shape == truth.shape
    assert np.abs(images).max() <= 1
    error = np.square(images - truth).mean()
    assert error < 0.7 * np.square(average - truth).mean()
    others = np.square(images - np.roll(truth, 1, axis=0)).mean()
    assert error < 0.5 * others


def test_refinement_helps_on_victims_as_it_did_on_auxiliary_heads(scene: Scene) -> None:
    backbone, attack, weight, bias, truth, _ = scene
    assert attack.refinement.steps == FAST.refine_steps
    assert attack.errors.min() < attack.errors[0]
    inversion = attack.invert(weight, bias)
    decoded = attack.decode(inversion)
    refined = attack.picture(backbone, weight, inversion)
    assert np.square(refined - truth).mean() < 0.95 * np.square(decoded - truth).mean()


def test_decoders_are_blended_by_their_held_out_errors(scene: Scene) -> None:
    _, attack, weight, bias, truth, _ = scene
    assert attack.decoder is not None
    assert 0 < attack.share < 1
    assert attack.errors[0] < attack.decoder_errors.min()
    inversion = attack.invert(weight, bias)
    alone = dataclasses.replace(attack, share=0.0).decode(inversion)
    network = dataclasses.replace(attack, share=1.0).decode(inversion)
    error = np.square(attack.decode(inversion) - truth).mean()
    assert error < max(np.square(alone - truth).mean(), np.square(network - truth).mean())


def test_effort_is_one_number() -> None:
    for count in (500, 20_000, 60_000):
        low, high = SpanSettings.for_images(count, 0.5), SpanSettings.for_images(count, 4)
        assert high.decoder_steps == 8 * low.decoder_steps
        assert high.refine_steps == 8 * low.refine_steps
    for effort in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ParameterError, match="effort"):
            SpanSettings.for_images(500, effort)


def test_refinement_that_cannot_help_is_left_out(scene: Scene) -> None:
    backbone, attack, weight, bias, truth, _ = scene
    inversion = attack.invert(weight[:1], bias[:1])
    choice, errors = choose_refinement(backbone, truth[:1], truth[:1], inversion, attack.basis, 4)
    assert choice == Refinement(0)
    assert errors[0] == 0


def test_a_head_has_the_same_bits_in_any_company(scene: Scene) -> None:
    backbone, attack, weight, bias, _, _ = scene
    _, whole = attack.run(backbone, weight, bias)
    _, alone = attack.run(backbone, weight[3:5], bias[3:5])
    np.testing.assert_array_equal(alone, whole[3:5])


def test_several_images_are_explained_together(scene: Scene) -> None:
    backbone, attack, weight, bias, _, _ = scene
    inversion = attack.invert(weight[:2], bias[:2])
    decoded = attack.decode(inversion)
    joint = refine_images(backbone, decoded, inversion, attack.basis, Refinement(12), weight[:2])

    def unexplained(images: FloatArray) -> float:
        with torch.no_grad():
            features = backbone.forward(torch.from_numpy(images.reshape(-1, 1, 32, 32))).numpy().reshape(2, K, -1)
        return float(np.square(weight[:2] - inversion.coefficients.transpose(0, 2, 1) @ features).mean())

    assert unexplained(joint) < 0.7 * unexplained(decoded)


def test_decoder_is_deterministic_and_survives_saving() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 12)).astype(np.float32)
    features[:, 4] = 0
    images = np.tanh(features[:, :9].reshape(60, 1, 3, 3).repeat(7, 2).repeat(6, 3)).astype(np.float32)
    size = DecoderSize(32, 8, 16)
    first, second = (train_decoder(features, images, steps=100, seed=4, batch_size=20, size=size) for _ in range(2))
    other = train_decoder(features, images, steps=100, seed=5, batch_size=20, size=size)
    np.testing.assert_array_equal(first.decode(features), second.decode(features))
    assert not np.array_equal(first.decode(features), other.decode(features))
    loaded = Decoder.from_tensors(load(save(first.tensors())))
    np.testing.assert_array_equal(first.decode(features), loaded.decode(features))
    np.testing.assert_array_equal(first.decode(features)[13:37], first.decode(features[13:37]))
    assert np.square(first.decode(features) - images).mean() < 0.5 * images.var()
    changed = features.copy()
    changed[:, 4] = 100
    np.testing.assert_array_equal(first.decode(features), first.decode(changed))
    with pytest.raises(DataError, match="no decoder"):
        Decoder.from_tensors({"sizes": torch.tensor([1, 2])})
    with pytest.raises(NumericError, match="12"):
        first.decode(np.full((2, 12), np.nan, np.float32))


def _pairs(count: int, seed: int = 0) -> tuple[FloatArray, FloatArray, IntArray]:
    """Features whose first three say all about the images; the others are louder and say nothing."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 12)).astype(np.float32)
    features[:, 3:] *= 2
    labels = (np.arange(count) % 2).astype(np.int64)
    curved = np.sin(features[:, :3] + labels[:, None])
    images = (curved @ np.random.default_rng(9).normal(size=(3, 30)) / 4).reshape(count, 1, 5, 6)
    return features, images.clip(-1, 1).astype(np.float32), labels


def test_kernel_decoder_learns_which_features_matter() -> None:
    features, images, labels = _pairs(800)
    decoder = fit_kernel_decoder(features, images, labels, 2, seed=1)
    fresh, truth, own = _pairs(200, seed=5)
    error = np.square(decoder.decode(fresh, own) - truth).mean()
    assert error < 0.2 * truth.var()
    assert 0.5 < error / decoder.held_out_error < 2
    shifted = fresh.copy()
    shifted[:, 3:] = 0
    assert np.square(decoder.decode(shifted, own) - truth).mean() < 0.3 * truth.var()
    wrong = decoder.decode(fresh, 1 - own)
    assert np.square(wrong - truth).mean() > 2 * error


def test_kernel_decoder_is_deterministic_in_any_company() -> None:
    features, images, labels = _pairs(60)
    seen: list[float] = []
    first = fit_kernel_decoder(features, images, labels, 2, seed=1, progress=seen.append)
    again = fit_kernel_decoder(features, images, labels, 2, seed=1)
    whole = first.decode(features, labels)
    np.testing.assert_array_equal(whole, again.decode(features, labels))
    np.testing.assert_array_equal(whole[7:33], first.decode(features[7:33], labels[7:33]))
    assert np.abs(whole).max() <= 1
    assert seen == sorted(seen)
    assert len(seen) > 2
    few = fit_kernel_decoder(features, images, labels, 2, seed=1, most_points=4)
    assert np.square(few.decode(features, labels) - images).mean() > np.square(whole - images).mean()


def test_kernel_decoder_names_bad_input() -> None:
    features, images, labels = _pairs(20)
    with pytest.raises(NumericError, match="NaN"):
        fit_kernel_decoder(features * np.nan, images, labels, 2, 0)
    with pytest.raises(NumericError, match="labels"):
        fit_kernel_decoder(features, images, labels[:-1], 2, 0)
    with pytest.raises(DataError, match="class 2 has 0"):
        fit_kernel_decoder(features, images, labels, 3, 0)
    with pytest.raises(ParameterError, match="most_points"):
        fit_kernel_decoder(features, images, labels, 2, 0, most_points=1)
    alike = fit_kernel_decoder(np.ones_like(features), images, labels, 2, 0)
    np.testing.assert_allclose(alike.decode(features[:1], labels[:1])[0], images[::2].mean(0), atol=0.1)
    with pytest.raises(NumericError, match="12"):
        alike.decode(features[:, :-1], labels)
    with pytest.raises(NumericError, match="labels"):
        alike.decode(features, labels + 1)


def test_colour_images_and_dense_only() -> None:
    rng = np.random.default_rng(1)
    features = rng.normal(size=(40, 8)).astype(np.float32)
    images = rng.uniform(-1, 1, (40, 3, 64, 48)).astype(np.float32)
    for size in (DecoderSize(16, 8, 8), DecoderSize(16, 0, 8)):
        seen: list[float] = []
        decoder = train_decoder(features, images, steps=2, seed=0, batch_size=8, size=size, progress=seen.append)
        assert decoder.decode(features[:3]).shape == (3, 3, 64, 48)
        assert seen
    basis = ImageBasis.fit(images, np.arange(40) % 2, rank=6)
    assert basis.directions.shape == (2, 6, 3 * 64 * 48)


def test_basis_has_the_variance_of_the_class() -> None:
    rng = np.random.default_rng(2)
    labels = np.arange(400) % 2
    loud = np.where(labels == 0, 2.0, 0.5)[:, None]
    images = (rng.normal(size=(400, 6)) * loud).astype(np.float32).reshape(400, 1, 2, 3)
    basis = ImageBasis.fit(images, labels, rank=6)
    for label, own in ((0, 4.0), (1, 0.25)):
        expected = 0.7 * own + 0.3 * (4.0 + 0.25) / 2
        np.testing.assert_allclose(np.square(basis.directions[label]).sum() / 6, expected, rtol=0.1)


def test_bad_input_is_named() -> None:
    features, images = np.zeros((4, 3), np.float32), np.zeros((4, 1, 80, 8), np.float32)
    with pytest.raises(ParameterError, match="64"):
        train_decoder(features, images, steps=1, seed=0)
    with pytest.raises(NumericError, match="NaN"):
        train_decoder(features + np.nan, images[:, :, :8], steps=1, seed=0)
    with pytest.raises(ParameterError, match="steps"):
        Refinement(-1)
    with pytest.raises(DataError, match="alike"):
        ImageBasis.fit(np.ones((4, 1, 4, 4), np.float32), np.array([0, 0, 1, 1]))
    with pytest.raises(DataError, match="class 1"):
        balanced_sets(np.array([0, 0, 0]), 2, 2, 5, 0)


def test_sets_are_balanced_and_augmentation_moves_little() -> None:
    labels = np.repeat(np.arange(3), 7)
    sets = balanced_sets(labels, 3, 2, 9, 1)
    assert (labels[sets] == np.repeat(np.arange(3), 2)).all()
    assert all(len(set(row)) == 6 for row in sets.tolist())
    images = load_dataset("digits").images[:20]
    moved = augment_images(images, 2, 5)
    assert moved.shape == (40, *images.shape[1:])
    away = np.square(to_unit(moved[:20]) - to_unit(images)).mean()
    assert 0.005 < away < np.square(to_unit(np.roll(images, 1, 0)) - to_unit(images)).mean() / 2
    np.testing.assert_array_equal(moved, augment_images(images, 2, 5))


def test_prepared_attack_still_inverts_like_the_plain_function(scene: Scene) -> None:
    _, attack, weight, bias, _, _ = scene
    assert isinstance(attack.prior, FeaturePrior)
    plain = invert_heads(weight, bias, RECIPE, attack.prior, 1, FAST.iterations)
    np.testing.assert_array_equal(plain.features, attack.invert(weight, bias).features)
