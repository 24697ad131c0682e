"""A network behind the head: what it is fitted to, what it says, what it changes, and that no torch goes with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rhe_parties.defences.boundary_correction import BoundaryCorrection
from rhe_parties.defences.correction import adversarial_logits, correct
from rhe_parties.defences.poisoning import softmax
from rhe_parties.errors import ParameterError
from rhe_parties.messages.setups import DataOwnerSetup, KeyHolderSetup, decode_setup
from rhe_parties.model.dual import train_many
from rhe_parties.parties.release import Release
from rhe_parties.rng import numpy_stream
from rhe_parties.runner.parameters import resolve_parameters
from rhe_parties.runner.plan import Laboratory, prepare
from rhe_parties.runner.seats import party_setups
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER
from rhe_parties.types import AnyArray
from tests.laboratory import small_laboratory


@pytest.fixture(scope="module")
def lab() -> Laboratory:
    return small_laboratory("none,rhe+boundary-correction")


@pytest.fixture(scope="module")
def defence(lab: Laboratory) -> BoundaryCorrection:
    found = lab.worlds[1].defences[1].build()
    assert isinstance(found, BoundaryCorrection)
    return found


@pytest.fixture(scope="module")
def scores(lab: Laboratory) -> tuple[AnyArray, AnyArray]:
    """Logits [40·n, 10] of 40 heads on private images, about images that no party trains on, and their labels."""
    features, labels = lab.truth.features, lab.truth.labels
    rows = np.stack([numpy_stream(8, "class", k).permutation(np.flatnonzero(labels == k))[:40] for k in range(10)], 1)
    weight, bias = train_many(features, labels, rows, 10, lab.worlds[1].recipe, 4)  # type: ignore[arg-type]
    fresh, held = lab.truth.agreement_features, lab.dataset.labels[lab.splits.evaluation]
    assert fresh is not None
    assert len(fresh) == len(held)
    logits = np.einsum("nd,hkd->hnk", fresh.astype(np.float64), weight) + bias[:, None]
    return logits.reshape(-1, 10), np.tile(held, len(rows))


def test_what_it_says_of_itself_holds_for_private_heads_too(
    lab: Laboratory, defence: BoundaryCorrection, scores: tuple[AnyArray, AnyArray]
) -> None:
    logits, labels = scores
    before = logits.argmax(axis=1)
    after, released = defence.release(before, logits)
    changed, first, second = defence.fitted["held_out"]
    assert 0.05 < changed < 0.3
    assert (after != before).mean() == pytest.approx(changed, abs=0.05)
    assert (before == labels).mean() == pytest.approx(first, abs=0.06)
    assert (after == labels).mean() == pytest.approx(second, abs=0.06)
    np.testing.assert_array_equal(after, released.argmax(axis=1))
    facts = dict(lab.worlds[1].facts)
    assert facts["decisions changed on held-out public images"] == f"{100 * changed:.1f} %"
    assert facts["accuracy there"] == f"{100 * first:.1f} % before, {100 * second:.1f} % after"


def test_predictions_are_averages_of_the_samples_posteriors(
    defence: BoundaryCorrection, scores: tuple[AnyArray, AnyArray]
) -> None:
    logits, f = scores[0][:50], defence.fitted
    each = []
    for w0, b0, w1, b1 in zip(f["weight0"], f["bias0"], f["weight1"], f["bias1"], strict=True):
        hidden = np.maximum((logits - f["mean"]) / f["deviation"] @ w0.T + b0, 0)
        each.append(softmax(logits + hidden @ w1.T + b1))
    assert len(each) == 25
    np.testing.assert_allclose(np.exp(correct(logits, f)), np.mean(each, axis=0), atol=1e-9)
    # Samples of a posterior differ; and an answer depends on its own scores alone, in whatever company it is asked.
    assert np.std(each, axis=0).max() > 0.01
    _, alone = defence.release(logits[5:6].argmax(axis=1), logits[5:6])
    np.testing.assert_allclose(alone[0], correct(logits, f)[5], atol=1e-12)


def test_both_policies_release_what_is_corrected(
    defence: BoundaryCorrection, scores: tuple[AnyArray, AnyArray]
) -> None:
    logits = scores[0][:200]
    corrected = correct(logits, defence.fitted)
    for kind in ("classes", "logits"):
        classes, real = Release(kind, defences=[defence]).answer(logits / 0.5, 0.5)
        np.testing.assert_array_equal(classes, corrected.argmax(axis=1))
        np.testing.assert_allclose(real, corrected if kind == "logits" else [], rtol=1e-5, atol=1e-5)
    assert (corrected.argmax(axis=1) != logits.argmax(axis=1)).any()


def test_adversarial_versions_are_the_worst_in_the_ball() -> None:
    """Of two classes the worst direction is known: from the true class's weights to the other's."""
    rng = numpy_stream(5, "adversarial")
    weight, features = rng.normal(size=(3, 2, 7)).astype(np.float32), rng.normal(size=(20, 7)).astype(np.float32)
    logits = np.einsum("nd,hkd->hnk", features, weight)
    labels = rng.integers(0, 2, 20)
    moved = adversarial_logits(logits, weight, labels, 0.3)
    rows = np.arange(20)
    margin = (moved - logits)[:, rows, labels] - (moved - logits)[:, rows, 1 - labels]
    worst = -0.3 * np.linalg.norm(weight[:, 0] - weight[:, 1], axis=1)
    np.testing.assert_allclose(margin, np.broadcast_to(worst[:, None], margin.shape), rtol=1e-4)


def test_what_it_learnt_travels_to_the_key_holder_alone(lab: Laboratory) -> None:
    setups = party_setups(lab, lab.worlds[1])
    _, owner = decode_setup(setups[DATA_OWNER])
    _, holder = decode_setup(setups[KEY_HOLDER])
    assert isinstance(owner, DataOwnerSetup)
    assert isinstance(holder, KeyHolderSetup)
    assert [spec.fitted_names for spec in owner.defences] == [(), ()]
    assert [len(spec.fitted_names) for spec in holder.defences] == [7]


def test_the_key_holder_needs_no_torch_for_it(lab: Laboratory, tmp_path: Path) -> None:
    (tmp_path / "setup").write_bytes(party_setups(lab, lab.worlds[1])[KEY_HOLDER])
    code = (
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from rhe_parties.parties.build import build_party\n"
        f"party = build_party(Path({str(tmp_path / 'setup')!r}).read_bytes())\n"
        "classes, _ = party._release.answer(np.zeros((3, 10)), 1.0)\n"
        "print(len(classes), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3 False"


@pytest.mark.parametrize(
    ("world", "given", "words"),
    [
        ("rhe+boundary-correction@radius=0", {}, "radius=0.0 .*above 0, at most 1"),
        ("rhe+boundary-correction@radius=nan", {}, "radius=nan"),
        ("rhe+boundary-correction@energy=1.5", {}, r"energy=1\.5 .*0 to 1"),
        ("rhe+boundary-correction@energie=1", {}, "energy"),
        ("rhe+boundary-correction", {"hidden": 4, "labels": "parity", "activation": "square"}, "linear heads alone"),
    ],
)
def test_what_it_refuses_is_one_clear_line(world: str, given: dict[str, object], words: str) -> None:
    with pytest.raises(ParameterError, match=words) as caught:
        prepare(resolve_parameters({"worlds": ("none", world), "victims": 1, "transport": "local"} | given))
    assert "\n" not in str(caught.value)
