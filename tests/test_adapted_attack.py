"""Attacks on adapted blocks: what a fine-tuned layer and LoRA factors give away, and what they cannot."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch

from rhe_parties.attacks.adapted.blocks import Blocks, Workshop
from rhe_parties.attacks.adapted.estimate import ErrorModel, estimate_features
from rhe_parties.attacks.adapted.rays import find_rays, outside_share, row_space
from rhe_parties.attacks.adapted_block import AdaptedBlockMembership, AdaptedBlockReconstruction
from rhe_parties.attacks.base import AttackContext, Challenge, Claim, PriorKnowledge
from rhe_parties.attacks.pools import SerialPool
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.messages.payloads import AdaptedBlock, EncryptedHead, PlainHead
from rhe_parties.model.adaptation import FACTORS
from rhe_parties.model.last_block import trunk_of
from rhe_parties.threat.view import AdversaryView, build_view
from tests.laboratory import small_laboratory
from tests.trio import seat_trio

FINE_TUNED, LORA = 1, 2


@functools.cache
def _lab() -> Any:
    return small_laboratory("rhe,rhe+fine-tuned,rhe+lora=8", victims=4, evaluation_images=1)


@functools.cache
def _view(index: int) -> AdversaryView:
    lab = _lab()
    return build_view(seat_trio(lab, index)[2], lab.threat_model)


@functools.cache
def _prior(index: int) -> PriorKnowledge:
    lab = _lab()
    rows = lab.auxiliary
    return PriorKnowledge(
        lab.backbone, lab.worlds[index].recipe, 10, 1, lab.dataset.images[rows], lab.dataset.labels[rows]
    )


@functools.cache
def _workshop(index: int) -> Workshop:
    return Workshop.build(_prior(index))


def _seen(index: int) -> Blocks:
    blocks = _view(index).adapted_blocks()
    return Blocks.of([blocks[name] for name in _lab().head_ids])


def _true() -> np.ndarray:
    truth = _lab().truth
    return truth.features[truth.sets]


def _identified(features: np.ndarray) -> float:
    """Share of training images that are the nearest of their class among all private ones."""
    truth = _lab().truth
    right = []
    for own, rows in zip(features, truth.sets, strict=True):
        for claimed, row in zip(own, rows, strict=True):
            pool = np.flatnonzero(truth.labels == truth.labels[row])
            right.append(pool[np.square(truth.features[pool] - claimed).sum(axis=1).argmin()] == row)
    return float(np.mean(right))


def test_what_the_host_holds_of_the_heads_is_encrypted() -> None:
    for index in (FINE_TUNED, LORA):
        assert not _view(index).of_kind(PlainHead)
        assert all(head.block is not None for head in _view(index).of_kind(EncryptedHead))


def test_a_fine_tuned_layer_gives_every_training_image_away_exactly() -> None:
    found = estimate_features(_seen(FINE_TUNED), _workshop(FINE_TUNED), 1, SerialPool())
    assert found.exact == len(_lab().head_ids)
    # Exact up to which image is of which class.
    assert np.abs(np.sort(found.features.sum(axis=2)) - np.sort(_true().sum(axis=2))).max() < 1e-2
    assert _identified(found.features) > 0.9


def test_factors_give_most_of_them_away() -> None:
    found = estimate_features(_seen(LORA), _workshop(LORA), 60, SerialPool())
    assert found.exact == 0
    assert _identified(found.features) > 0.7


def test_blocks_of_others_say_nothing() -> None:
    workshop = _workshop(FINE_TUNED)
    others, _ = workshop.shadows(4, 3)
    assert _identified(estimate_features(others, workshop, 1, SerialPool()).features) < 0.3


def test_the_span_holds_members_and_nobody_else() -> None:
    lab, workshop = _lab(), _workshop(FINE_TUNED)
    space = row_space(_seen(FINE_TUNED), workshop)
    inputs = trunk_of(lab.backbone).extract(lab.private_images[lab.truth.sets.ravel()]).reshape(4, 10, -1)
    assert outside_share(space, inputs, workshop).max() < 1e-5
    assert outside_share(space, inputs[::-1], workshop).min() > 1e-2


def test_a_layer_that_says_nothing_is_not_solved() -> None:
    workshop = _workshop(FINE_TUNED)
    noise = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 256, 257)))
    space = torch.linalg.svd(noise, full_matrices=False).Vh[:, :10].mT.contiguous()
    assert not find_rays(space, workshop).found.any()


def test_errors_of_estimates_make_the_distance() -> None:
    errors = np.random.default_rng(0).normal(size=(4000, 256)) * np.linspace(0.1, 2, 256)
    model = ErrorModel.fit(errors, _workshop(LORA).feature_belief)
    spread = np.square(errors @ model.whitener.T).mean(axis=0)
    assert spread.max() < 1.2  # directions of small error are trusted less than they could be, never more
    assert (
        spread.max() / spread.min() < 20 < np.square(errors).mean(axis=0).max() / np.square(errors).mean(axis=0).min()
    )


@functools.cache
def _claim() -> Claim:
    strategy = AdaptedBlockReconstruction(AdaptedBlockReconstruction.Options(refine_steps=2))
    return strategy.attack(_view(FINE_TUNED), _prior(FINE_TUNED), AttackContext(1, _lab().head_ids))


def test_the_strategy_claims_features_and_pictures() -> None:
    claim, truth = _claim(), _lab().truth
    assert claim.features is not None and claim.images is not None and claim.null is not None  # noqa: PT018
    assert _identified(claim.features) > 0.9
    own = np.square(claim.images - truth.images[truth.sets]).mean()
    assert own < 0.5 * np.square(claim.images - truth.images[truth.sets[::-1]]).mean()
    assert claim.null.features is not None
    assert _identified(claim.null.features) < 0.3
    assert claim.notes["heads whose training features were solved for exactly"] == "4 of 4"


@pytest.mark.parametrize("index", [FINE_TUNED, LORA])
def test_members_are_recognised(index: int) -> None:
    lab, truth = _lab(), _lab().truth
    # Every head's own images, and those of the next head.
    rows = np.concatenate([truth.sets, np.roll(truth.sets, 1, axis=0)], axis=1)
    members = np.broadcast_to(np.arange(rows.shape[1]) < truth.sets.shape[1], rows.shape)
    challenge = Challenge(candidates=lab.private_images[rows], candidate_labels=truth.labels[rows])
    strategy = AdaptedBlockMembership(AdaptedBlockMembership.Options(search_steps=40))
    claim = strategy.attack(_view(index), _prior(index), AttackContext(1, lab.head_ids, challenge=challenge))
    assert claim.scores is not None and claim.null is not None  # noqa: PT018
    inside, outside = claim.scores[members], claim.scores[~members]
    better = (inside[:, None] > outside[None]).mean()
    assert better == 1 if index == FINE_TUNED else better > 0.9
    blind = claim.null.scores
    assert blind is not None
    assert 0.2 < (blind[members][:, None] > blind[~members][None]).mean() < 0.8


def test_blocks_that_are_not_the_recipes_are_refused() -> None:
    with pytest.raises(NumericError, match=r"the recipe makes .*down.*up"):
        estimate_features(_seen(FINE_TUNED), _workshop(LORA), 1, SerialPool())
    some = [AdaptedBlock(FACTORS, (np.ones((rank, 4), np.float32), np.ones((4, rank), np.float32))) for rank in (1, 2)]
    with pytest.raises(NumericError, match="2 forms, expected 1"):
        Blocks.of(some)
    frozen = dataclasses.replace(_prior(LORA), recipe=dataclasses.replace(_prior(LORA).recipe, adaptation=None))
    with pytest.raises(DataError, match="trains the head alone"):
        Workshop.build(frozen)


def test_effort_is_checked() -> None:
    for kind in (AdaptedBlockReconstruction, AdaptedBlockMembership):
        with pytest.raises(ParameterError, match="search_steps = 0 is not allowed"):
            kind.Options(search_steps=0)
    with pytest.raises(ParameterError, match="refine_steps = -1"):
        AdaptedBlockReconstruction.Options(refine_steps=-1)
