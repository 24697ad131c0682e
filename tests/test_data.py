"""Datasets, splits, victims' sets and procedural handwriting."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rhe_parties.data.datasets import (
    ROOT_VARIABLE,
    Dataset,
    dataset_catalogue,
    default_root,
    load_dataset,
    resize,
    to_unit,
)
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.data.strokes import DEFAULT_STYLE, draw_characters, draw_samples, render
from rhe_parties.errors import DataError, ParameterError
from rhe_parties.rng import torch_stream


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


def _synthetic(counts: list[int], tests: int = 0) -> Dataset:
    labels = np.concatenate([np.full(n + tests, k) for k, n in enumerate(counts)]).astype(np.int64)
    images = np.arange(len(labels), dtype=np.int64)[:, None, None, None] // np.array([256, 1])[None, None, None] % 256
    official = np.concatenate([np.arange(n + tests) >= n for n in counts]) if tests else None
    return Dataset("made-up", images.astype(np.uint8), labels, tuple(map(str, range(len(counts)))), official)


def test_digits_are_the_real_ones(digits: Dataset) -> None:
    assert digits.images.shape == (1797, 1, 32, 32)
    assert digits.classes == 10
    assert digits.official_test is None
    assert digits.images.min() == 0
    assert digits.images.max() == 255
    from sklearn.datasets import load_digits

    source = load_digits()
    np.testing.assert_array_equal(digits.labels, source.target)
    # Averaging each 4×4 block brings the 8×8 original back up to the interpolation's smoothing.
    small = digits.images.reshape(-1, 8, 4, 8, 4).mean(axis=(2, 4)).ravel()
    assert np.corrcoef(small, source.images.ravel())[0, 1] > 0.95


def test_to_unit_spans_the_interval() -> None:
    unit = to_unit(np.array([[0, 255, 51]], np.uint8))
    assert unit.dtype == np.float32
    np.testing.assert_allclose(unit, [[-1, 1, -0.6]], atol=1e-6)


def test_resize_keeps_flat_images_flat() -> None:
    flat = np.full((2, 3, 28, 28), 77, np.uint8)
    assert (resize(flat, 64) == 77).all()
    assert (resize(flat, 9) == 77).all()


def test_splits_of_digits_are_disjoint_by_content(digits: Dataset) -> None:
    splits = split_dataset(digits, 3)
    parts = (splits.private, splits.auxiliary, splits.evaluation)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    assert np.bincount(digits.labels[splits.private]).min() >= 55
    hashes = [{hashlib.sha256(digits.images[i].tobytes()).digest() for i in part} for part in parts]
    everything = {hashlib.sha256(image.tobytes()).digest() for image in digits.images}
    assert len(everything) == 1797, "digits holds duplicates: the content test below would say nothing"
    assert len(hashes[0] | hashes[1] | hashes[2]) == sum(map(len, hashes)), "an image is in two parts"


def test_splits_depend_on_the_seed_alone(digits: Dataset) -> None:
    again, other = split_dataset(digits, 3), split_dataset(digits, 4)
    np.testing.assert_array_equal(again.private, split_dataset(digits, 3).private)
    assert set(again.private) != set(other.private)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(3, 60), min_size=2, max_size=5),
    tests=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_splits_cover_any_dataset_once(counts: list[int], tests: int, seed: int) -> None:
    dataset = _synthetic(counts, tests)
    splits = split_dataset(dataset, seed)
    parts = (splits.private, splits.auxiliary, splits.evaluation)
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(dataset.labels)))
    for part in parts:
        assert set(dataset.labels[part]) == set(range(len(counts)))
    if dataset.official_test is not None:
        np.testing.assert_array_equal(splits.private, np.flatnonzero(dataset.official_test))


def test_official_evaluation_part_is_bounded() -> None:
    dataset = _synthetic([20_000, 20_000], tests=10)
    splits = split_dataset(dataset, 0)
    assert 4_900 <= len(splits.evaluation) <= 5_000


def test_split_refuses_tiny_classes() -> None:
    with pytest.raises(DataError, match="class '1' has 2 images"):
        split_dataset(_synthetic([9, 2]), 0)


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(4, 30), min_size=2, max_size=4),
    shots=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_victim_sets_are_disjoint_and_balanced(counts: list[int], shots: int, seed: int) -> None:
    dataset = _synthetic(counts)
    private = np.arange(len(dataset.labels))[::-1].copy()
    sets = victim_sets(dataset.labels, private, shots, None, seed)
    assert sets.shape == (min(counts) // shots, shots * len(counts))
    assert len(np.unique(sets)) == sets.size
    expected = np.repeat(np.arange(len(counts)), shots)
    assert (dataset.labels[sets] == expected).all()
    fewer = victim_sets(dataset.labels, private, shots, 1, seed)
    assert set(fewer[0]) <= set(private)


def test_victim_sets_say_what_is_possible(digits: Dataset) -> None:
    private = split_dataset(digits, 0).private
    possible = int(np.bincount(digits.labels[private]).min()) // 4
    for wrong in (0, -1, possible + 1):
        with pytest.raises(ParameterError, match=rf"victims = {wrong} .* 1 to {possible} are possible"):
            victim_sets(digits.labels, private, 4, wrong, 0)
    assert len(victim_sets(digits.labels, private, 4, possible, 0)) == possible
    with pytest.raises(DataError, match=r"images_per_class = 900 is too many: class \d has only"):
        victim_sets(digits.labels, private, 900, None, 0)
    with pytest.raises(ParameterError, match="images_per_class = 0"):
        victim_sets(digits.labels, private, 0, None, 0)
    with pytest.raises(DataError, match="zero images"):
        victim_sets(digits.labels, private[:0], 1, None, 0)


def test_unknown_and_missing_datasets(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="did you mean 'mnist'"):
        load_dataset("mnits")
    for name in ("mnist", "cifar10"):
        with pytest.raises(DataError) as caught:
            load_dataset(name, tmp_path)
        text = str(caught.value)
        assert str(tmp_path) in text
        assert ROOT_VARIABLE in text
        assert "download=True" in text
        assert "\n" not in text
    with pytest.raises(ParameterError, match="image_size = 4"):
        load_dataset("digits", image_size=4)


def test_nothing_is_downloaded_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    asked: list[bool] = []

    def refuse(root: str, train: bool, download: bool) -> None:
        asked.append(download)
        raise RuntimeError(f"Dataset not found in {root}, {train}")

    monkeypatch.setattr(torchvision.datasets, "MNIST", refuse)
    for wanted in (False, True):
        with pytest.raises(DataError):
            load_dataset("mnist", tmp_path, download=wanted)
    assert asked == [False, True]


def test_default_root_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv(ROOT_VARIABLE)
    assert default_root() == Path.home() / ".cache" / "rhe_parties" / "data"


def test_catalogue_names_load() -> None:
    names = [name for name, _, _ in dataset_catalogue()]
    assert names == ["digits", "mnist", "cifar10", "imagefolder:PATH"]


@pytest.mark.skipif(
    not (Path(os.environ.get(ROOT_VARIABLE, "")) / "MNIST" / "raw").is_dir(),
    reason=f"MNIST is not under ${ROOT_VARIABLE}",
)
def test_real_mnist() -> None:
    mnist = load_dataset("mnist")
    assert mnist.images.shape == (70_000, 1, 32, 32)
    assert mnist.official_test is not None
    assert mnist.official_test.sum() == 10_000
    splits = split_dataset(mnist, 0)
    assert len(victim_sets(mnist.labels, splits.private, 1, None, 0)) == 892


def _folder(root: Path, layout: dict[str, list[tuple[str, int]]]) -> Path:
    for name, files in layout.items():
        (root / name).mkdir(parents=True)
        for file, shade in files:
            mode = "L" if shade < 128 else "RGB"
            Image.new(mode, (40, 20), shade if mode == "L" else (shade, 0, 0)).save(root / name / file)
    return root


def test_imagefolder_reads_classes_in_order(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"b": [("1.png", 10)], "a": [("2.png", 200), ("1.jpg", 20)]})
    (root / "a" / "notes.txt").write_text("not an image")
    data = load_dataset(f"imagefolder:{root}", image_size=16)
    assert data.class_names == ("a", "b")
    assert data.labels.tolist() == [0, 0, 1]
    assert data.images.shape == (3, 3, 16, 16)
    assert data.images[1, 0].mean() == 200
    assert data.images[1, 1].mean() == 0
    assert (data.images[2] == 10).all()


def test_imagefolder_keeps_gray_and_finds_the_test_part(tmp_path: Path) -> None:
    layout = {f"{half}/{name}": [("x.png", 5)] for half in ("train", "test") for name in ("u", "v")}
    data = load_dataset(f"imagefolder:{_folder(tmp_path, layout)}", image_size=8)
    assert data.images.shape == (4, 1, 8, 8)
    assert data.official_test is not None
    assert data.official_test.tolist() == [False, False, True, True]


def test_imagefolder_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        load_dataset(f"imagefolder:{tmp_path / 'absent'}")
    with pytest.raises(DataError, match="0 class folders"):
        load_dataset(f"imagefolder:{tmp_path}")
    root = _folder(tmp_path / "data", {"a": [("1.png", 1)], "b": []})
    with pytest.raises(DataError, match=r"class folder .*b holds no image"):
        load_dataset(f"imagefolder:{root}")
    (root / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing")
    with pytest.raises(DataError, match=r"cannot read image .*broken\.png"):
        load_dataset(f"imagefolder:{root}")


def test_dataset_refuses_wrong_arrays() -> None:
    images = np.zeros((2, 1, 8, 8), np.uint8)
    with pytest.raises(DataError, match="labels must lie in"):
        Dataset("x", images, np.array([0, 5]), ("a", "b"))
    with pytest.raises(DataError, match="n > 0"):
        Dataset("x", images[:0], np.array([], np.int64), ("a", "b"))


def test_render_draws_a_line_of_the_right_width() -> None:
    line = torch.tensor([[[[4.0, 16.0], [12.0, 16.0], [20.0, 16.0], [28.0, 16.0]]]])
    ink = render(line, torch.tensor([2.0]), torch.tensor([1.0]))[0, 0]
    assert ink[16, 8:24].min() == 1.0
    np.testing.assert_allclose(ink[:, 16].sum(), 4.0, atol=1e-5)
    assert ink[:13].max() == 0.0
    assert ink[16, 31] == 0.0


def test_handwriting_is_varied_and_repeatable() -> None:
    def sample(seed: int) -> torch.Tensor:
        generator = torch_stream(seed, "test")
        return draw_samples(draw_characters(30, generator), 4, generator)

    images = sample(1)
    assert images.shape == (120, 1, 32, 32)
    assert images.min() >= -1
    assert images.max() <= 1
    assert torch.equal(images, sample(1))
    assert not torch.equal(images, sample(2))
    ink = (images + 1).mean(dim=(1, 2, 3)) / 2
    assert ink.min() > 0.005, "an image is empty"
    assert ink.max() < 0.7, "an image is a blot"
    grouped = images.view(30, 4, -1)
    within = (grouped[:, :1] - grouped[:, 1:]).square().mean()
    assert within > 0.02, "samples of a character hardly differ"
    far = torch.cdist(images.flatten(1), images.flatten(1)).fill_diagonal_(torch.inf)
    alike = (far.argmin(dim=1) // 4 == torch.arange(120) // 4).float().mean()
    assert 0.2 < alike < 0.99, "the nearest image should often, not always, be of the same character"


def test_joined_strokes_stay_joined() -> None:
    generator = torch_stream(5, "test")
    characters = draw_characters(200, generator)
    joined = (characters[:, 1, 0] == characters[:, 0, 3]).all(dim=1)
    assert 0.3 < joined.float().mean() < 0.8
    assert characters.shape == (200, 3, 4, 2)
    assert 0 < DEFAULT_STYLE.low_resolution < 1
