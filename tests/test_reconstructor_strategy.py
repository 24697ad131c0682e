"""The reconstructor as an adversary on real digits, on two-layer heads, and its benchmark beside span inversion."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rhe_parties.attacks.base import AttackContext, PriorKnowledge
from rhe_parties.attacks.reconstructor.neurons import sort_hidden_units
from rhe_parties.attacks.reconstructor.stream import shadow_stream
from rhe_parties.attacks.reconstructor.training import (
    FlatShadows,
    ReconstructorSettings,
    Training,
    train_reconstructor,
)
from rhe_parties.attacks.reconstructor_strategy import ReconstructorStrategy
from rhe_parties.attacks.shadows.factory import ShadowFactory
from rhe_parties.attacks.shadows.two_layer_factory import TwoLayerFactory
from rhe_parties.attacks.span.decoder import DecoderSize
from rhe_parties.attacks.span.pipeline import SpanSettings
from rhe_parties.attacks.white_box import Heads
from rhe_parties.bench import reconstruct
from rhe_parties.bench.reconstruct import CurvePoint, bench_reconstruct
from rhe_parties.bench.reconstruct_figures import draw_curves
from rhe_parties.data.datasets import load_dataset, to_unit
from rhe_parties.errors import NumericError, ParameterError
from rhe_parties.metrics.truth import Measured
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.registry import parse_options
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with limited_threads(1):
        yield


@pytest.fixture(scope="module")
def prior() -> PriorKnowledge:
    """Two kinds of digits, 16 pixels wide: enough to learn from in seconds."""
    digits = load_dataset("digits", image_size=16)
    rows = np.flatnonzero(digits.labels < 2)
    backbone = load_backbone("strokenet")
    return PriorKnowledge(backbone, Recipe.paper("strokenet", 1), 2, 1, digits.images[rows], digits.labels[rows])


def _part(prior: PriorKnowledge, rows: slice, images_per_class: int = 1) -> PriorKnowledge:
    part = dataclasses.replace(
        prior,
        auxiliary_images=prior.auxiliary_images[rows],
        auxiliary_labels=prior.auxiliary_labels[rows],
        images_per_class=images_per_class,
    )
    part._extracted.append(prior.auxiliary_features[rows])
    return part


def _factory(prior: PriorKnowledge, seed: int = 0) -> ShadowFactory:
    return ShadowFactory(
        prior.auxiliary_features, prior.auxiliary_labels, prior.classes, prior.images_per_class, prior.recipe, seed
    )


def _victims(prior: PriorKnowledge, count: int) -> tuple[Heads, FloatArray]:
    """Heads, and their images [V, N, C, H, W]."""
    block = _factory(prior, 77).block(0)
    ids = tuple(f"head-{index}" for index in range(count))
    images = to_unit(prior.auxiliary_images[block.sets[:count].reshape(-1)])
    return Heads(ids, block.weight[:count], block.bias[:count]), images.reshape(count, -1, *images.shape[1:])


def _errors(
    known: PriorKnowledge, heads: Heads, truth: FloatArray, steps: int, shuffle: bool
) -> tuple[FloatArray, FloatArray]:
    """Pixel errors [V] of a short training's images against their own head's, and against the next head's."""

    def stream() -> Iterator[FlatShadows]:
        for block in shadow_stream(_factory(known)):
            yield block._replace(flat=np.roll(block.flat, 1, axis=0)) if shuffle else block

    settings = ReconstructorSettings(width=4, learning_rate=1e-2, statistics_heads=512)
    training = Training(stream(), known.auxiliary_images, 2, settings, 0)
    training.advance(steps)
    drawn = training.reconstructor().draw(heads.flat())
    own, next_one = (np.square(drawn - other).mean(axis=(1, 2, 3, 4)) for other in (truth, np.roll(truth, 1, axis=0)))
    return own, next_one


def test_it_learns_what_the_weights_say_and_nothing_from_shuffled_heads(prior: PriorKnowledge) -> None:
    known, private = _part(prior, slice(0, 260)), _part(prior, slice(260, None))
    heads, truth = _victims(private, 100)
    own, other = _errors(known, heads, truth, 300, shuffle=False)
    labels = known.auxiliary_labels
    means = np.stack([to_unit(known.auxiliary_images[labels == k]).mean(axis=0) for k in range(2)])
    baseline = np.square(means - truth).mean(axis=(1, 2, 3, 4))
    assert own.mean() < 0.9 * baseline.mean()
    assert own.mean() < 0.7 * other.mean()
    # Heads that belong to other images teach what the classes look like, not what this head's images look like.
    own, other = _errors(known, heads, truth, 120, shuffle=True)
    difference = own - other
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(len(difference))


@pytest.mark.parametrize("arranged", [False, True])
def test_two_layer_heads_go_the_same_way(prior: PriorKnowledge, arranged: bool) -> None:
    known, private = _part(prior, slice(0, 260)), _part(prior, slice(260, None))
    recipe = BatchRecipe(0.1, 1e-4, 2e-3, 8, hidden=3)

    def factory(part: PriorKnowledge, seed: int) -> TwoLayerFactory:
        return TwoLayerFactory(part.auxiliary_features, part.auxiliary_labels, 2, 1, recipe, seed, block=32)

    def sort(flat: FloatArray) -> FloatArray:
        return sort_hidden_units(flat, 256, 3)

    stream = shadow_stream(factory(known, 0), sort if arranged else None)
    settings = ReconstructorSettings(width=2, batch=8, learning_rate=1e-2, statistics_heads=32)
    trained = train_reconstructor(stream, known.auxiliary_images, 2, settings, 0, steps=6)
    block = factory(private, 1).block(0)
    assert block.parameters.shape == (32, 3 * 257 + 4)
    drawn = trained.draw(sort(block.parameters) if arranged else block.parameters)
    assert drawn.shape == (32, 2, 1, 16, 16)
    mixed = block.parameters[:, _swap_first_units(256, 3)]
    again = trained.draw(sort(mixed) if arranged else mixed)
    assert np.array_equal(again, drawn) == arranged


def _swap_first_units(features: int, hidden: int) -> IntArray:
    """Places of a flat two-layer head with one output whose hidden units 0 and 1 have changed places."""
    order = np.array([1, 0, *range(2, hidden)])
    first = (order[:, None] * features + np.arange(features)).ravel()
    start = hidden * features
    return np.concatenate([first, start + order, start + hidden + order, [start + 2 * hidden]])


def test_a_finite_source_ends_the_stream(prior: PriorKnowledge) -> None:
    known = _part(prior, slice(0, 60))
    sets = np.stack([np.flatnonzero(known.auxiliary_labels == k)[:20] for k in range(2)], axis=1)
    factory = ShadowFactory(known.auxiliary_features, known.auxiliary_labels, 2, 1, known.recipe, 0, block=8, sets=sets)
    assert [len(block.flat) for block in shadow_stream(factory)] == [8, 8, 4]


@pytest.mark.parametrize("conditional", [True, False])
def test_claims_have_a_place_for_every_training_image(prior: PriorKnowledge, conditional: bool) -> None:
    known = _part(prior, slice(0, 100), images_per_class=2)
    heads, _ = _victims(known, 5)
    context = AttackContext(3)
    given = {"steps": "3", "width": "2", "batch": "4", "conditional": str(conditional).lower()}
    strategy = ReconstructorStrategy(parse_options("adversary", ReconstructorStrategy, given))
    claim = strategy.attack_heads(heads, known, context)
    assert claim.images is not None
    assert claim.images.shape == (5, 4, 1, 16, 16)
    np.testing.assert_array_equal(claim.images[:, 0], claim.images[:, 1])
    same = np.array_equal(claim.images[:, 0], claim.images[:, 2])
    assert same == (not conditional)
    assert claim.notes["training steps"] == "3 of 4 heads, width 2"
    assert ("one per class" if conditional else "one per head") in claim.notes["images"]
    # Tools are kept for the next world, and made again in the same way where they are not.
    assert len(context.memory) == 1
    again = strategy.attack_heads(heads, known, AttackContext(3))
    assert again.images is not None
    np.testing.assert_array_equal(again.images, claim.images)
    context.memory[next(iter(context.memory))][0].network.last.bias.data.fill_(100)
    cached = strategy.attack_heads(heads, known, context)
    assert cached.images is not None
    assert cached.images.min() == 1


def test_heads_read_without_skill_give_one_and_the_same_claim(prior: PriorKnowledge) -> None:
    known = _part(prior, slice(0, 60))
    heads, _ = _victims(known, 1)
    mean = Heads(tuple("abc"), np.repeat(heads.weight, 3, axis=0), np.repeat(heads.bias, 3, axis=0), 0.1)
    strategy = ReconstructorStrategy(ReconstructorStrategy.Options(steps=2, width=2, batch=4))
    images = strategy.attack_heads(mean, known, AttackContext(0)).images
    assert images is not None
    assert (images == images[:1]).all()
    broken = Heads(("a",), np.full_like(heads.weight, np.nan), heads.bias)
    with pytest.raises(NumericError, match="NaN or infinity"):
        strategy.attack_heads(broken, known, AttackContext(0))


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"widht": "3"}, "did you mean 'width'"),
        ({"width": "0"}, "width = 0"),
        ({"steps": "-1"}, "steps = -1"),
        ({"minutes": "nan"}, "minutes = nan"),
        ({"conditional": "perhaps"}, "must be true or false"),
        ({"alpha": "x"}, "is no float"),
    ],
)
def test_wrong_options_are_named(given: dict[str, str], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        parse_options("adversary", ReconstructorStrategy, given)


def _quick(_count: int, _effort: float = 1.0) -> SpanSettings:
    return SpanSettings(
        copies=0, shadow_heads=30, decoder_steps=40, batch_size=16, size=DecoderSize(16, 0, 8), refine_steps=0,
        held_out=1, iterations=2,
    )  # fmt: skip


def test_benchmark_measures_both_at_equal_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(SpanSettings, "for_images", _quick)
    monkeypatch.setattr(reconstruct, "_SHADOWS", 40)
    said: list[str] = []
    settings = ReconstructorSettings(width=1, batch=8, statistics_heads=16)
    result = bench_reconstruct(None, 0.001, 20, 1, settings, 0, said.append, threads=1)
    span, paper = result.curves["span-inversion"], result.curves["reconstructor"]
    assert (result.dataset, result.victims, result.cores) == ("digits", 20, 1)
    assert [point.effort for point in span] == [500]
    assert paper[-1].minutes >= span[-1].minutes >= 0.001
    assert paper[-1].effort >= 1
    assert paper[-1].shadow_heads >= 8 * paper[-1].effort
    for point in (*span, *paper):
        assert point.tpr is not None
        assert 0 <= point.tpr.low <= point.tpr.value <= point.tpr.high <= 1
        assert point.tpr_random is None  # 200 random negatives cannot resolve 1 %
        assert point.attack_seconds <= 60 * point.minutes
    assert result.class_mean is not None
    assert result.class_mean.low <= 0.01
    assert result.ratio is not None
    assert result.ratio["low"] <= result.ratio["value"] <= result.ratio["high"]
    values = json.loads(json.dumps(result.to_json()))
    assert set(values["curves"]) == {"span-inversion", "reconstructor"}
    draw_curves(result, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert any("heads/s" in text for text in said)


def _after(minutes: float, steps: int) -> CurvePoint:
    return CurvePoint(minutes, minutes, 1.0, steps, 0, None, None, Measured("mse", 0.1, 0.1, 0.1, 1, None, 1))


def test_efforts_grow_until_the_time_is_spent() -> None:
    one = [_after(1.0, 100)]
    assert reconstruct._next_effort(one, 60 * 100.0, 10_000) == 300
    assert reconstruct._next_effort(one, 60 * 2.0, 10_000) == 194
    assert reconstruct._next_effort(one, 60 * 1.2, 10_000) is None
    # 0.5 minutes are fixed, so half a minute for each hundred steps.
    two = [_after(1.0, 100), _after(2.0, 300)]
    assert reconstruct._next_effort(two, 60 * 4.0, 10_000) == 676
    assert reconstruct._next_effort(two, 60 * 2.2, 10_000) is None


def test_random_heads_of_the_paper_separate_where_they_should(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct, "_SHADOWS", 20)
    work = reconstruct.make_work(None, None, 1, 0, lambda _text: None)
    assert len(work.victims.head_ids) == len(work.random.head_ids) == len(work.truth.sets) > 50
    # Every set six times, so that the claims made from random heads resolve 1 %.
    truth = dataclasses.replace(work.truth, sets=np.tile(work.truth.sets, (6, 1)))
    judge = reconstruct._Judge(dataclasses.replace(work, truth=truth), 0)
    right = truth.images[truth.sets]
    point = judge.point(reconstruct._Clock(), 0.0, 1, 1, right, np.zeros_like(right))
    assert point.tpr_random is not None
    assert point.tpr_random.value == 1.0
    assert point.mse.value == pytest.approx(0.0, abs=1e-12)
    nothing = judge.point(reconstruct._Clock(), 0.0, 1, 1, np.zeros_like(right), np.zeros_like(right))
    assert nothing.tpr_random is not None
    assert nothing.tpr_random.value <= 0.01


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--minutes", "0"], "minutes 0.0 is not allowed"),
        (["--minutes", "nan"], "minutes nan is not allowed"),
        (["--threads", "-1"], "threads -1 is not allowed"),
        (["--victims", "100000"], "victims = 100000 is not allowed"),
        (["--victims", "0"], "victims = 0 is not allowed"),
        (["--images-per-class", "0"], "images_per_class = 0"),
        (["--width", "0"], "width = 0"),
        (["--plot", "nowhere/x.png"], "there is no folder 'nowhere'"),
        (["--data-root", "/nonexistent"], "mnist is not there"),
    ],
)
def test_benchmark_names_mistakes(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    import typer

    from rhe_parties.cli.bench_reconstruct import reconstruct_command
    from rhe_parties.cli.main import guarded

    app = typer.Typer()
    app.command()(reconstruct_command)
    assert guarded(lambda: app(args=arguments, standalone_mode=True)) == 2
    assert text in " ".join(capsys.readouterr().err.split())
