"""Released scores that are moved or swapped: what stays, what changes, and what an inversion network makes of it."""

from __future__ import annotations

import numpy as np
import pytest

from rhe_parties.data.datasets import load_dataset
from rhe_parties.defences.base import PublicData
from rhe_parties.defences.lfp import LabelFlipping
from rhe_parties.defences.lpa import LabelPreserving
from rhe_parties.defences.poisoning import allowed_share, softmax
from rhe_parties.defences.shadows import shadow_scores
from rhe_parties.errors import ParameterError
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.rng import numpy_stream
from rhe_parties.types import AnyArray, FloatArray

RECIPE = Recipe.paper("strokenet", 1)


@pytest.fixture(scope="module")
def public() -> PublicData:
    dataset, backbone = load_dataset("digits"), load_backbone("strokenet")
    rows = np.arange(800)
    return PublicData(dataset.images[rows], backbone.extract, dataset.labels[rows], 10, 1, 3)


@pytest.fixture(scope="module")
def lpa(public: PublicData) -> LabelPreserving:
    return LabelPreserving(fitted=LabelPreserving().fit(public, RECIPE))


@pytest.fixture(scope="module")
def scores(public: PublicData) -> FloatArray:
    """Logits [n, K] of one head about images that it does not know, and of others."""
    return shadow_scores(public, RECIPE).logits[7].astype(np.float64)


def test_lpa_keeps_labels_and_budgets(lpa: LabelPreserving, scores: AnyArray) -> None:
    classes, moved = lpa.release(scores.argmax(axis=1), scores)
    np.testing.assert_array_equal(moved.astype(np.float32).argmax(axis=1), scores.argmax(axis=1))
    np.testing.assert_array_equal(classes, scores.argmax(axis=1))
    change = np.abs(softmax(moved) - softmax(scores)).sum(axis=1)
    assert change.max() <= 0.5 + 1e-6
    assert change.mean() > 0.2, "it uses its budget"
    assert np.abs(moved - scores).max() <= 4.0
    # The answer to an image depends on its scores alone, in whatever company it is asked.
    _, alone = lpa.release(classes[5:6], scores[5:6])
    np.testing.assert_allclose(alone[0], moved[5], atol=1e-12)


def test_lpa_costs_inversion(public: PublicData, lpa: LabelPreserving, scores: AnyArray) -> None:
    """Error of ridge regression from scores to pixels: trained on clean scores, and on scores as they are released."""
    rows = shadow_scores(public, RECIPE).rows
    pixels = public.images[rows].reshape(len(rows), -1).astype(np.float64) / 127.5 - 1
    half = len(rows) // 2

    def error(taught: AnyArray, seen: AnyArray) -> float:
        known, asked = (np.c_[softmax(part), part, np.ones(len(part))] for part in (taught[:half], seen[half:]))
        solved = np.linalg.solve(known.T @ known + np.eye(known.shape[1]), known.T @ pixels[:half])
        return float(np.square(asked @ solved - pixels[half:]).mean())

    _, moved = lpa.release(scores.argmax(axis=1), scores)
    clean, unaware, adaptive = error(scores, scores), error(scores, moved), error(moved, moved)
    assert unaware > 1.3 * clean
    assert clean < adaptive < unaware


def test_a_share_is_the_largest_that_is_allowed() -> None:
    logits = numpy_stream(2, "logits").normal(size=(50, 4)) * 2
    moved = numpy_stream(3, "moved").normal(size=(50, 4)) * 3
    share = allowed_share(logits, moved, 0.4)
    assert ((share >= 0) & (share <= 1)).all()

    def fine(part: AnyArray) -> AnyArray:
        after = logits + part[:, None] * moved
        kept = after.argmax(axis=1) == logits.argmax(axis=1)
        return kept & (np.abs(softmax(after) - softmax(logits)).sum(axis=1) <= 0.4)

    assert fine(share).all()
    more = np.minimum(share * 1.02 + 1e-3, 1)
    assert not fine(more)[share < 0.97].any()
    assert (allowed_share(logits, np.zeros_like(moved), 0.4) == 1).all()
    assert allowed_share(np.zeros((1, 2)), np.array([[-1.0, 1.0]]), 0.4)[0] == 0, "a tie leaves no room"


def test_lfp_flips_about_the_share_that_it_says(public: PublicData, scores: AnyArray) -> None:
    options = LabelFlipping.Options(0.1)
    defence = LabelFlipping(options, LabelFlipping(options).fit(public, RECIPE))
    before = scores.argmax(axis=1)
    classes, released = defence.release(before, scores)
    flipped = classes != before
    assert 0.05 < flipped.mean() < 0.17
    np.testing.assert_array_equal(released.argmax(axis=1), classes)
    np.testing.assert_array_equal(np.sort(released, axis=1), np.sort(scores, axis=1))
    two = np.sort(scores, axis=1)[:, -2:]
    margins = two[:, 1] - two[:, 0]
    assert margins[flipped].max() <= margins[~flipped].min(), "the least certain ones"
    np.testing.assert_array_equal(released[~flipped], scores[~flipped])


def test_what_they_refuse(public: PublicData) -> None:
    for options, words in (({"budget": 0.0}, "budget=0.0"), ({"reach": float("nan")}, "reach=nan")):
        with pytest.raises(ParameterError, match=words):
            LabelPreserving.Options(**options)
    for share in (0.0, 0.6, float("inf")):
        with pytest.raises(ParameterError, match=r"at most 0\.5"):
            LabelFlipping.Options(share)
    with pytest.raises(ParameterError, match="hidden=0"):
        LabelPreserving().fit(public, BatchRecipe(0.01, 0.0, 0.01, 3, 4, "relu", "binary"))
