"""Sets with a property: the counts are right, the draws are functions of seed and index, mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest

from rhe_parties.data.properties import parse_property, property_sets
from rhe_parties.errors import DataError, ParameterError

LABELS = np.repeat(np.arange(4), 30).astype(np.int64)
IMAGES = np.random.Generator(np.random.Philox(1)).integers(0, 256, (120, 1, 6, 6)).astype(np.uint8)


def sets(name: str, value: float, count: int = 50, size: int = 10, seed: int = 3) -> np.ndarray:
    return property_sets(IMAGES, LABELS, 4, size, name, value, count, seed)


def test_share_of_a_class() -> None:
    for value, wanted in ((0.0, 0), (0.3, 3), (1.0, 10)):
        drawn = LABELS[sets("class-share:2", value)]
        assert ((drawn == 2).sum(axis=1) == wanted).all()
    others = np.array([np.bincount(row, minlength=4)[[0, 1, 3]] for row in LABELS[sets("class-share:2", 0.3)]])
    assert set(np.unique(others)) == {2, 3}
    # The odd image goes to every one of the other classes in turn.
    assert ((others == 3).mean(axis=0) > 0.15).all()


def test_presence_of_a_class() -> None:
    assert not (LABELS[sets("presence:1", 0)] == 1).any()
    assert ((LABELS[sets("presence:1", 1)] == 1).sum(axis=1) == 2).all()


def test_thickness_takes_the_upper_half_of_each_class() -> None:
    ink = IMAGES.reshape(120, -1).mean(axis=1)
    thick = sets("thickness", 1)
    medians = np.array([np.median(ink[k == LABELS]) for k in range(4)])
    assert (ink[thick] > medians[LABELS[thick]]).all()
    assert (ink[sets("thickness", 0)] < medians[LABELS[sets("thickness", 0)]]).any()


def test_sets_hold_no_image_twice_and_depend_on_seed_and_index_alone() -> None:
    many, few = sets("class-share:0", 0.5, count=20), sets("class-share:0", 0.5, count=5)
    np.testing.assert_array_equal(many[:5], few)
    assert all(len(set(row)) == len(row) for row in many)
    assert (sets("class-share:0", 0.5, seed=4) != sets("class-share:0", 0.5)).any()


@pytest.mark.parametrize("name", ["thick", "class-share", "class-share:9", "presence:x", "thickness:1"])
def test_unknown_property(name: str) -> None:
    with pytest.raises(ParameterError, match="property"):
        parse_property(name, 4)


@pytest.mark.parametrize(("name", "value"), [("class-share:1", 1.5), ("presence:1", 0.5), ("thickness", 2.0)])
def test_impossible_value(name: str, value: float) -> None:
    with pytest.raises(ParameterError, match="not allowed"):
        sets(name, value)


def test_too_few_images_of_a_class() -> None:
    with pytest.raises(DataError, match=r"class 2 has 30 images.* 60 are needed"):
        sets("class-share:2", 1.0, size=60)
