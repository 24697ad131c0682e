"""Heads trained on decoys: the same head from other features, and what a looser match leaves of it."""

from __future__ import annotations

import numpy as np
import pytest

from rhe_parties.attacks.span.inversion import invert_heads
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.defences.base import PublicData
from rhe_parties.defences.spoofing import Spoofing, make_decoys
from rhe_parties.errors import DataError, NumericError, ParameterError
from rhe_parties.messages.setups import DataOwnerSetup, KeyHolderSetup, decode_setup
from rhe_parties.model.head import LinearHead, Recipe, train_head
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.rng import stream_seed
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import Laboratory, prepare
from rhe_parties.runner.seats import party_setups
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER
from rhe_parties.types import AnyArray, FloatArray
from tests.laboratory import small_laboratory

RECIPE = Recipe.paper("strokenet", 1)


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    return small_laboratory("none,spoofing@decoys=2", victims=3)


@pytest.fixture(scope="module")
def defence(lab: Laboratory) -> Spoofing:
    found = lab.worlds[1].defences[0].build()
    assert isinstance(found, Spoofing)
    return found


def whole(head: LinearHead) -> AnyArray:
    return np.concatenate([head.weight, head.bias[:, None]], axis=1).astype(np.float64)


def victim(lab: Laboratory, index: int = 0) -> tuple[FloatArray, AnyArray, int]:
    rows = lab.truth.sets[index]
    seed = stream_seed(lab.parameters.seed, "victim-head", index)
    return lab.truth.features[rows], lab.truth.labels[rows], seed


def test_decoys_of_an_exact_match_give_the_same_head(lab: Laboratory, defence: Spoofing) -> None:
    for plain, spoofed in zip(lab.heads(lab.worlds[0]), lab.heads(lab.worlds[1]), strict=True):
        assert isinstance(plain, LinearHead)
        assert isinstance(spoofed, LinearHead)
        assert 0 < np.linalg.norm(whole(spoofed) - whole(plain)) < 2e-3 * np.linalg.norm(whole(plain))
    gap, moved = defence.fitted["measured"]
    assert 0 < gap < 2e-3
    facts = dict(lab.worlds[1].facts)
    assert facts["largest gap to the wanted update, on public images"].startswith(f"{gap:.1e}")
    assert facts["decoys of a head"] == "20"
    assert facts["largest mean correction of foreign features"].startswith(f"{100 * moved:.0f} %")


def test_decoys_are_other_features_than_the_private_ones(lab: Laboratory, defence: Spoofing) -> None:
    features, labels, seed = victim(lab)
    head = train_head(features, labels, 10, RECIPE, seed)
    foreign = defence.fitted["foreign"]
    made = make_decoys(head, foreign, np.full(10, 2), RECIPE, seed, 1.0)
    np.testing.assert_array_equal(made.labels, np.repeat(np.arange(10), 2))
    nearest = np.linalg.norm(made.features[:, None] - features, axis=2).min(axis=1)
    assert (nearest > 0.3 * np.linalg.norm(features, axis=1).mean()).all()
    # As they are, the foreign images that were chosen are images, none twice, and make another head.
    plain = make_decoys(head, foreign, np.full(10, 2), RECIPE, seed, 0.0)
    assert (plain.features[:, None] == foreign).all(axis=2).any(axis=1).all()
    assert len(np.unique(plain.features, axis=0)) == 20
    assert (plain.gap, plain.moved) == (0.0, 0.0)
    assert 0 < made.moved < 1.5
    other = train_head(plain.features, plain.labels, 10, RECIPE, seed)
    assert np.linalg.norm(whole(other) - whole(head)) > 0.3 * np.linalg.norm(whole(head))


def test_a_looser_match_is_a_mixture_of_both_updates(lab: Laboratory, defence: Spoofing) -> None:
    features, labels, seed = victim(lab)
    head = train_head(features, labels, 10, RECIPE, seed)
    made = [make_decoys(head, defence.fitted["foreign"], np.full(10, 2), RECIPE, seed, m) for m in (0.0, 0.3)]
    foreign, mixed = (whole(train_head(each.features, each.labels, 10, RECIPE, seed)) for each in made)
    wanted = 0.7 * foreign + 0.3 * whole(head)
    assert np.linalg.norm(mixed - wanted) < 2e-3 * np.linalg.norm(wanted)


def test_it_hides_nothing_from_an_inversion(lab: Laboratory) -> None:
    """What span inversion reads of heads that were trained on decoys is what it reads of the plain ones."""
    pool, labels = lab.backbone.extract(lab.dataset.images[lab.auxiliary]), lab.dataset.labels[lab.auxiliary]
    prior = FeaturePrior.fit(pool, labels, 10)
    read = []
    for world in lab.worlds:
        heads = [head for head in lab.heads(world) if isinstance(head, LinearHead)]
        weight, bias = np.stack([head.weight for head in heads]), np.stack([head.bias for head in heads])
        read.append(invert_heads(weight, bias, RECIPE, prior, 1, iterations=4))
    true = lab.truth.features[lab.truth.sets]
    error = [np.square(each.features - true).mean() for each in read]
    assert error[1] == pytest.approx(error[0], rel=0.02)
    assert error[1] < 0.3 * np.square(prior.means - true).mean()
    candidates, kinds = lab.truth.features, lab.truth.labels
    hits = 0
    for points, rows in zip(read[1].points, lab.truth.sets, strict=True):
        for label, row in enumerate(rows):
            own = np.flatnonzero(kinds == label)
            away = np.linalg.norm((candidates[own] - points[label]) @ read[1].whitener.T, axis=1)
            hits += int(own[away.argmin()] == row)
    assert hits >= 27, "of 30 images, among 43 or so of each class"


def test_foreign_features_travel_to_the_owner_alone(lab: Laboratory) -> None:
    setups = party_setups(lab, lab.worlds[1])
    _, owner = decode_setup(setups[DATA_OWNER])
    _, holder = decode_setup(setups[KEY_HOLDER])
    assert isinstance(owner, DataOwnerSetup)
    assert isinstance(holder, KeyHolderSetup)
    assert [spec.fitted_names for spec in owner.defences] == [("foreign", "measured")]
    assert holder.defences == ()


def test_bad_training_sets_are_refused(lab: Laboratory, defence: Spoofing) -> None:
    features, labels, seed = victim(lab)
    broken = features.copy()
    broken[3, 7] = np.nan
    with pytest.raises(NumericError, match="NaN or infinity"):
        defence.train(broken, labels, 10, RECIPE, seed)
    with pytest.raises(DataError, match="of class 0"):
        defence.train(features, np.zeros_like(labels), 10, RECIPE, seed)
    with pytest.raises(ParameterError, match=r"made by Spoofing\.fit"):
        Spoofing().train(features, labels, 10, RECIPE, seed)
    # A class without an image gets no decoy, and the head is matched all the same.
    some = labels != 4
    spoofed = defence.train(features[some], labels[some], 10, RECIPE, seed)
    plain = train_head(features[some], labels[some], 10, RECIPE, seed)
    assert np.linalg.norm(whole(spoofed) - whole(plain)) < 3e-3 * np.linalg.norm(whole(plain))


@pytest.mark.parametrize(
    ("world", "given", "words"),
    [
        ("spoofing@match=1.5", {}, r"match=1\.5 .*0 to 1"),
        ("spoofing@match=nan", {}, "match=nan"),
        ("spoofing@decoys=0", {}, "decoys=0 .*1 to 64"),
        ("spoofing@decoys=64", {"images_per_class": 2}, "decoys=64 .*suffice for 50"),
        ("spoofing+relaxloss", {}, "cannot train the same head"),
        ("spoofing", {"hidden": 4, "labels": "parity"}, "linear heads alone"),
    ],
)
def test_what_it_refuses_is_one_clear_line(world: str, given: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        prepare(resolve_parameters({"worlds": ("none", world), "victims": 1, "transport": "local"} | given))
    assert "\n" not in str(caught.value)


def test_only_linear_heads_have_decoys(lab: Laboratory) -> None:
    public = PublicData(lab.private_images[:10], lab.backbone.extract, lab.private_labels[:10], 10, 1, 0)
    with pytest.raises(ParameterError, match="hidden=0"):
        Spoofing().fit(public, BatchRecipe(0.01, 0.0, 0.01, 3, 4, "relu", "binary"))
