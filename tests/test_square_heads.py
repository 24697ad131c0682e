"""Heads with ReLU and square activation: training, folding, bad input, and the table's command."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from rhe_parties.cli.main import app
from rhe_parties.data.datasets import load_dataset, to_unit
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.model import mlp
from rhe_parties.model.mlp import DeepHead, DeepRecipe, train_deep_head, train_deep_heads
from rhe_parties.model.patches import PatchFeatures
from rhe_parties.runner.square_table import HEADS, Mean, load_photographs, square_rows, square_task
from rhe_parties.types import FloatArray, IntArray


def _problem(heads: int, shots: int, width: int, classes: int = 10, seed: int = 0) -> tuple[FloatArray, IntArray]:
    """Clusters around class means, far from the origin, in units that no recipe would guess."""
    generator = np.random.default_rng(seed)
    labels = np.tile(np.repeat(np.arange(classes), shots), (heads, 1))
    middles = generator.normal(size=(classes, width))
    values = middles[labels] + 0.3 * generator.normal(size=(*labels.shape, width))
    return (40 + 7 * values).astype(np.float32), labels


@pytest.mark.parametrize(("activation", "hidden"), [("relu", (8,)), ("square", (8,)), ("square", (12, 8))])
def test_heads_learn_and_generalise(activation: str, hidden: tuple[int, ...]) -> None:
    features, labels = _problem(4, 9, 48)
    heads = train_deep_heads(features[:, ::3], labels[:, ::3], 10, hidden, activation, range(4))
    for head, x, y in zip(heads, features, labels, strict=True):
        assert (head.hidden, head.features, head.classes, head.activation) == (hidden, 48, 10, activation)
        assert (head.logits(x[::3]).argmax(1) == y[::3]).all()
        assert (head.logits(np.delete(x, np.s_[::3], 0)).argmax(1) == np.delete(y, np.s_[::3])).mean() > 0.95


def test_a_square_head_is_its_formula() -> None:
    features, labels = _problem(1, 2, 20)
    head = train_deep_head(features[0], labels[0], 10, (8,), "square", 3)
    (first, b), (second, c) = ((w.astype(float), v.astype(float)) for w, v in head.layers)
    expected = (features[0].astype(float) @ first.T + b) ** 2 @ second.T + c
    np.testing.assert_allclose(head.logits(features[0]), expected, rtol=1e-5)


def test_units_and_origin_of_features_do_not_matter() -> None:
    features, labels = _problem(2, 2, 24)
    for activation in mlp.ACTIVATIONS:
        here = train_deep_heads(features, labels, 10, (8,), activation, [1, 2])
        there = train_deep_heads(features * 0.01 - 3, labels, 10, (8,), activation, [1, 2])
        for one, other, x in zip(here, there, features, strict=True):
            np.testing.assert_allclose(one.logits(x), other.logits(x * np.float32(0.01) - 3), atol=0.02)


@settings(max_examples=8, deadline=None)
@given(cuts=st.lists(st.integers(1, 11), max_size=3, unique=True), activation=st.sampled_from(mlp.ACTIVATIONS))
def test_heads_do_not_depend_on_their_company(cuts: list[int], activation: str) -> None:
    features, labels = _problem(12, 1, 32)
    recipe = replace(DeepRecipe.default(activation), steps=60)
    seeds = list(range(50, 62))
    whole = train_deep_heads(features, labels, 10, (8,), activation, seeds, recipe)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 12], strict=True):
        part = slice(start, end)
        alone = train_deep_heads(features[part], labels[part], 10, (8,), activation, seeds[part], recipe)
        for one, other in zip(alone, whole[part], strict=True):
            for (w, b), (v, c) in zip(one.layers, other.layers, strict=True):
                np.testing.assert_allclose(w, v, atol=1e-6)
                np.testing.assert_allclose(b, c, atol=1e-5)


def test_work_space_limit_and_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = _problem(3, 1, 32)
    features[:], labels[:] = features[0], labels[0]
    whole = train_deep_heads(features, labels, 10, (8,), "square", [1, 1, 2])
    assert whole[0].fingerprint == whole[1].fingerprint != whole[2].fingerprint
    monkeypatch.setattr(mlp, "_CHUNK_BYTES", 1)
    again = train_deep_heads(features, labels, 10, (8,), "square", [1, 1, 2])
    np.testing.assert_allclose(again[2].layers[0][0], whole[2].layers[0][0], atol=1e-6)


@pytest.mark.parametrize(("classes", "hidden"), [(2, 8), (3, 1), (10, 8), (4, 40)])
def test_initial_layers_are_isometries(classes: int, hidden: int) -> None:
    (first, bias), (second, _) = mlp._initial_layers((5, hidden, classes), [1, 2], 1.0)
    assert not first.any()
    assert (bias == 1).all()
    assert second.sum(1).abs().max() < 1e-12
    values = np.linalg.svd(second.numpy(), compute_uv=False)
    assert np.allclose(values.sum(1), min(hidden, classes - 1))
    assert np.allclose(values[values > 0.5], 1)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_training_is_stable_over_scales(scale: float) -> None:
    features, labels = _problem(20, 1, 64, seed=5)
    heads = train_deep_heads((features * scale).astype(np.float32), labels, 10, (8,), "square", range(20))
    for head, x, y in zip(heads, features, labels, strict=True):
        assert (head.logits((x * scale).astype(np.float32)).argmax(1) == y).all()


def test_bad_heads_recipes_and_training_sets() -> None:
    one, two = np.ones((3, 4), np.float32), np.ones((2, 3), np.float32)
    good = DeepHead(((one, np.zeros(3, np.float32)), (two, np.zeros(2, np.float32))), "square")
    np.testing.assert_array_equal(good.logits(np.ones((1, 4), np.float32)), [[48, 48]])
    assert good.fingerprint != DeepHead(good.layers, "relu").fingerprint
    with pytest.raises(NumericError, match="4 features got features of shape"):
        good.logits(np.ones((1, 3), np.float32))
    with pytest.raises(NumericError, match="1 layers are not allowed"):
        DeepHead(good.layers[:1], "square")
    with pytest.raises(NumericError, match="feeds one of"):
        DeepHead((good.layers[0], good.layers[0]), "square")
    with pytest.raises(NumericError, match="NaN"):
        DeepHead((good.layers[0], (two * np.nan, np.zeros(2, np.float32))), "relu")
    with pytest.raises(ParameterError, match="did you mean 'square'"):
        DeepHead(good.layers, "squares")
    with pytest.raises(ParameterError, match="momentum = 1"):
        DeepRecipe(momentum=1.0)
    features, labels = _problem(2, 1, 8)
    with pytest.raises(ParameterError, match="hidden = "):
        train_deep_heads(features, labels, 10, (), "square", [0, 1])
    with pytest.raises(DataError, match="are of class 4: at least 2 classes"):
        train_deep_heads(features, np.full_like(labels, 4), 10, (8,), "square", [0, 1])
    with pytest.raises(NumericError, match="NaN or infinity"):
        train_deep_heads(features * np.nan, labels, 10, (8,), "square", [0, 1])


def test_means_and_intervals() -> None:
    mean = Mean.of(np.array([0.1, 0.2, 0.3, 0.4]))
    assert mean.value == pytest.approx(0.25)
    assert mean.high - mean.value == pytest.approx(3.18245 * np.std([1, 2, 3, 4], ddof=1) / 20, rel=1e-4)
    assert mean.low == pytest.approx(0.5 - mean.high)


def test_square_heads_reach_relu_heads_on_digits() -> None:
    task = square_task("digits", "strokenet", None, 0)
    (row,) = square_rows(task, [40], (8,), 20)
    assert row.accuracy["square"].value > 0.85
    assert row.difference.value > -0.01
    assert row.lowest["square"] > 0.75
    paired = row.accuracy["square"].value - row.accuracy["relu"].value
    assert row.difference.value == pytest.approx(paired)
    with pytest.raises(ParameterError, match="15 training images"):
        square_rows(task, [15])


def test_patch_features_are_those_of_normalised_patches() -> None:
    generator = np.random.default_rng(0)
    images = generator.integers(60, 120, (80, 3, 16, 16)).astype(np.uint8)
    patches = PatchFeatures(images, entries=12)
    got = patches.extract(images[:3])
    assert got.shape == (3, 48)
    assert got.dtype == np.float32
    assert np.linalg.norm(patches.extract(images), axis=1).mean() == pytest.approx(12.6, rel=1e-3)
    np.testing.assert_allclose(patches.extract(images[:3] + 100), got, atol=1e-3)
    block = F.unfold(torch.from_numpy(to_unit(images[:3])), 6).mT
    block = (block - block.mean(2, keepdim=True)) / (block.var(2, keepdim=True) + 0.01).sqrt()
    code = (block @ patches._filters.flatten(1).T - patches._shift).clamp(min=0).mT.reshape(3, 12, 11, 11)
    direct = F.adaptive_avg_pool2d(code, 2).flatten(1).sqrt() * patches._gain
    np.testing.assert_allclose(got, direct, atol=1e-3)
    np.testing.assert_array_equal(PatchFeatures(images, entries=12).extract(images[:3]), got)
    assert not np.array_equal(PatchFeatures(images, entries=12, seed=1).extract(images[:3]), got)
    with pytest.raises(DataError, match="too few or small"):
        PatchFeatures(images[:5])


def test_photographs_come_from_a_zip(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cifar10-jpeg.zip", "w") as archive:
        for part in ("train", "test"):
            for index, name in enumerate(("cat", "dog")):
                Image.new("RGB", (32, 32), (100 * index, 9, 9)).save(tmp_path / "one.jpg")
                archive.write(tmp_path / "one.jpg", f"{part}/{name}/0.jpg")
    dataset = load_photographs("cifar10", tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.official_test is not None
    assert dataset.official_test.sum() == 2
    with pytest.raises(DataError, match="cifar10 is not there"):
        load_photographs("cifar10", tmp_path / "nowhere")


def test_command() -> None:
    arguments = ["bench", "square-heads", "--datasets", "digits", "--draws", "3", "--images", "10"]
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == 0, result.output
    (row,) = json.loads(result.stdout)["rows"]
    assert row["dataset"] == "digits"
    assert set(row["accuracy"]) == set(HEADS)
    assert row["accuracy"]["square"]["low"] < row["accuracy"]["square"]["value"] < row["accuracy"]["square"]["high"]
    shown = CliRunner().invoke(app, arguments)
    assert "square − ReLU, paired" in shown.stdout
    assert "digits" in shown.stdout
    wrong = CliRunner().invoke(app, [*arguments, "--hidden", "eight"])
    assert isinstance(wrong.exception, ParameterError)
    assert load_dataset("digits").classes == 10
