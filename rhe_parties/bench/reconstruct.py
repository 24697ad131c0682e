"""`rhe bench reconstruct`: span inversion and the paper's reconstructor at equal time, in one run, on the same heads.

What counts as compute is everything from the auxiliary images to the claims about all victims: features, shadow heads,
training, and the attack itself. Measuring the claims is not counted. Span inversion runs first, at growing effort; the
reconstructor is then trained once and looked at whenever it has had as long as one of those runs took.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rhe_parties.attacks.base import AttackContext, PriorKnowledge
from rhe_parties.attacks.pools import Pool, ThreadPool
from rhe_parties.attacks.reconstructor.stream import shadow_stream
from rhe_parties.attacks.reconstructor.training import ReconstructorSettings, Training
from rhe_parties.attacks.shadows.factory import ShadowFactory
from rhe_parties.attacks.span.pipeline import SpanSettings
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.attacks.span_inversion import SpanInversion, span_tools
from rhe_parties.attacks.white_box import Heads, random_heads
from rhe_parties.data.datasets import load_dataset, to_unit
from rhe_parties.data.splits import split_dataset, victim_sets
from rhe_parties.errors import ParameterError
from rhe_parties.metrics.intervals import cluster_draws, percentiles
from rhe_parties.metrics.reconstruction import Errors, mean_error, pixel_errors, tpr_at_fpr
from rhe_parties.metrics.separation import Separation, rate_at_fpr
from rhe_parties.metrics.truth import GroundTruth, Measured
from rhe_parties.model.backbone import load_backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray, IntArray

__all__ = ["CurvePoint", "ReconstructBench", "Work", "bench_reconstruct", "make_work"]

Progress = Callable[[str], None]

FPR = 0.01
_VICTIMS = 500
_SHADOWS = 2048  # whose mean and covariance the random heads have
_FIRST_SHARE = 1 / 27  # of the auxiliary images
_FEWEST_IMAGES = 500
_GROWTH = 3.0
_PIECE = 10.0  # seconds of training between two looks at the progress


@dataclass(frozen=True)
class Work:
    """What both methods are given, and what they are measured against.

    `random` are Gaussian heads with mean and covariance of shadow heads, one for each victim.
    """

    name: str
    prior: PriorKnowledge
    victims: Heads
    random: Heads
    truth: GroundTruth


@dataclass(frozen=True)
class CurvePoint:
    """One method after some time.

    Attributes:
        minutes: preparation and attack on all victims, wall time; `cpu_minutes` the processor time of the same.
        attack_seconds: the attack's share.
        effort: auxiliary images used by span inversion, whose strength grows with them; training steps of the
            reconstructor, which has them all from the start.
        shadow_heads: heads trained on auxiliary images so far; 0 where the method does not say.
        tpr: true-positive rate at 1 % false positives, negatives are the same claims against other real heads.
        tpr_random: the same, negatives are claims made from random heads (the paper's).
        mse: pixel error in [-1, 1], its chance the error against other heads.
    """

    minutes: float
    cpu_minutes: float
    attack_seconds: float
    effort: int
    shadow_heads: int
    tpr: Measured | None
    tpr_random: Measured | None
    mse: Measured


@dataclass
class ReconstructBench:
    """Both curves; `ratio` is span inversion's TPR over the reconstructor's after the longest common time."""

    dataset: str
    victims: int
    images_per_class: int
    cores: int
    minutes: float
    settings: dict[str, Any]
    curves: dict[str, list[CurvePoint]] = field(default_factory=dict)
    class_mean: Measured | None = None
    ratio: dict[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return asdict(self)


class _Clock:
    """Wall and processor seconds of what runs inside its `with` blocks."""

    def __init__(self) -> None:
        self.wall = self.cpu = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.wall += time.perf_counter() - wall
            self.cpu += time.process_time() - cpu


def make_work(
    data_root: Path | None, victims: int | None, images_per_class: int, seed: int, progress: Progress
) -> Work:
    """MNIST with its official test part as the private one, or without a root scikit-learn's digits, a third private.

    Args:
        victims: how many heads; None: 500, or as many as there are images for.

    Raises:
        ParameterError: more victims than there are disjoint training sets.
        DataError: no MNIST at the data root.
    """
    dataset = load_dataset("digits") if data_root is None else load_dataset("mnist", data_root)
    splits = split_dataset(dataset, seed)
    sets = victim_sets(dataset.labels, splits.private, images_per_class, victims, seed)
    if victims is None:
        sets = sets[:_VICTIMS]
    progress(f"{len(sets)} victim heads")
    backbone = load_backbone("strokenet")
    recipe = Recipe.paper("strokenet", images_per_class)
    images = dataset.images
    auxiliary = splits.auxiliary
    prior = PriorKnowledge(
        backbone, recipe, dataset.classes, images_per_class, images[auxiliary], dataset.labels[auxiliary]
    )
    private = splits.private
    features, labels = backbone.extract(images[private]), dataset.labels[private]
    rows = np.searchsorted(private, sets)
    truth = GroundTruth(to_unit(images[private]), features, labels, rows, dataset.classes)
    ids = tuple(f"head-{index}" for index in range(len(sets)))
    seeds = [stream_seed(seed, "bench-victim", index) for index in range(len(sets))]
    heads = Heads(ids, *train_heads(features[rows], labels[rows], dataset.classes, recipe, seeds))
    return Work(dataset.name, prior, heads, _random_heads(prior, heads, seed), truth)


def _random_heads(prior: PriorKnowledge, victims: Heads, seed: int) -> Heads:
    """See `Work.random`; trained on features of as many auxiliary images as that takes, and no more."""
    count = _SHADOWS
    sets = balanced_sets(prior.auxiliary_labels, prior.classes, prior.images_per_class, count, seed)
    used, place = np.unique(sets, return_inverse=True)
    features = prior.backbone.extract(prior.auxiliary_images[used])[place.reshape(sets.shape)]
    labels = prior.auxiliary_labels[sets]
    seeds = [stream_seed(seed, "bench-random", index) for index in range(count)]
    weight, bias = train_heads(features, labels, prior.classes, prior.recipe, seeds)
    return random_heads(Heads(tuple(map(str, range(count))), weight, bias), victims.head_ids, seed)


def bench_reconstruct(
    data_root: Path | None,
    minutes: float,
    victims: int | None,
    images_per_class: int,
    settings: ReconstructorSettings,
    seed: int,
    progress: Progress,
    threads: int = 0,
) -> ReconstructBench:
    """Measure both methods.

    Args:
        data_root: where MNIST lies; None: digits.
        minutes: time of each method. Span inversion at its least effort may take longer; then both have that long.
        victims: see `make_work`.
        images_per_class: S.
        settings: the reconstructor's.
        seed: root seed.
        progress: is told what is being done.
        threads: of both methods; 0: one for each core.

    Raises:
        ParameterError: no time, or what `make_work` refuses.
    """
    if not 0 < minutes < math.inf:
        raise ParameterError(f"minutes {minutes} is not allowed (allowed: above 0)")
    if threads < 0:
        raise ParameterError(f"threads {threads} is not allowed (allowed: 1 or more, or 0 for all cores)")
    cores = threads or os.cpu_count() or 1
    with limited_threads(cores):
        work = make_work(data_root, victims, images_per_class, seed, progress)
        heads = len(work.victims.head_ids)
        result = ReconstructBench(work.name, heads, images_per_class, cores, minutes, asdict(settings))
        result.class_mean = _class_mean(work, seed)
        judge = _Judge(work, seed)
        result.curves["span-inversion"] = _span_curve(work, judge, 60 * minutes, seed, ThreadPool(cores), progress)
        ours = judge.last
        marks = [60 * point.minutes for point in result.curves["span-inversion"]]
        marks = sorted({*marks, max(60 * minutes, marks[-1])})
        result.curves["reconstructor"] = _reconstructor_curve(work, judge, marks, settings, seed, progress)
        result.ratio = judge.ratio(ours, judge.last)
    return result


class _Judge:
    """Measures claims, always in the same way; `last` are the errors of the latest claim."""

    def __init__(self, work: Work, seed: int) -> None:
        self._work, self._seed = work, seed
        self.last: Errors | None = None

    def _generator(self) -> np.random.Generator:
        return numpy_stream(self._seed, "bench-bootstrap")

    def point(
        self, clock: _Clock, attack_seconds: float, steps: int, shadows: int, claimed: FloatArray, null: FloatArray
    ) -> CurvePoint:
        """Claims about the victims, and claims that were made from the random heads."""
        truth = self._work.truth
        self.last = errors = pixel_errors(truth, claimed)
        other = pixel_errors(truth, null)
        owners = errors.owners.ravel()
        against_random = Separation(errors.own.ravel(), owners, other.own.ravel(), owners, errors.heads)
        return CurvePoint(
            clock.wall / 60,
            clock.cpu / 60,
            attack_seconds,
            steps,
            shadows,
            tpr_at_fpr(truth, claimed, FPR, self._generator(), errors=errors),
            rate_at_fpr("tpr_at_fpr_1pct_random_heads", [against_random], FPR, self._generator()),
            mean_error("mse", errors, self._generator()),
        )

    def ratio(self, ours: Errors | None, theirs: Errors | None) -> dict[str, float] | None:
        """TPR of one over that of the other, with a bootstrap over heads of both together; None: not resolved.

        A rate of zero is taken for one hit, so that the ratio stays finite and is rather too small.
        """
        if ours is None or theirs is None or not ours.separation().resolves(FPR):
            return None
        draws = np.vstack([np.ones(ours.heads), cluster_draws(ours.heads, self._generator(), 1000)])
        counts = []
        for data in (ours.separation(), theirs.separation()):
            totals = data.totals(draws)
            counts.append([data.hits(row, FPR, total)[0] for row, total in zip(draws, totals, strict=True)])
        quotients = np.array(counts[0]) / np.maximum(counts[1], 1.0)
        interval = percentiles(quotients[1:])
        return {"value": float(quotients[0]), "low": interval.low, "high": interval.high}


def _span_curve(
    work: Work, judge: _Judge, budget: float, seed: int, pool: Pool, progress: Progress
) -> list[CurvePoint]:
    """Span inversion, each time anew, on more and more auxiliary images until the next run would not fit."""
    total = len(work.prior.auxiliary_labels)
    images = min(total, max(_FEWEST_IMAGES, round(_FIRST_SHARE * total)))
    points: list[CurvePoint] = []
    while True:
        points.append(_span_point(work, judge, images, seed, pool, progress))
        following = _next_effort(points, budget, total)
        if following is None:
            return points
        images = following


def _next_effort(points: list[CurvePoint], budget: float, most: int) -> int | None:
    """More by the usual factor, or as much as fits if that is clearly more than before; None: nothing fits."""
    last = points[-1]
    per_step, fixed = 60 * last.minutes / last.effort, 0.0  # an upper bound as long as only one run is known
    if len(points) > 1:
        before = points[-2]
        slope = 60 * (last.minutes - before.minutes) / (last.effort - before.effort)
        if slope > 0:
            per_step, fixed = slope, max(0.0, 60 * last.minutes - slope * last.effort)
    fitting = (0.97 * budget - fixed) / per_step
    wanted = min(fitting, _GROWTH * last.effort, most)
    return int(wanted) if wanted > 1.3 * last.effort else None


def _span_point(work: Work, judge: _Judge, images: int, seed: int, pool: Pool, progress: Progress) -> CurvePoint:
    strategy = SpanInversion()

    def told(share: float, text: str) -> None:
        progress(f"span-inversion, {images:,} images: {text} ({100 * share:.0f} %)")

    # What an earlier run has learnt must not help a later one.
    order = numpy_stream(seed, "bench-images").permutation(len(work.prior.auxiliary_labels))
    prior = _fresh(work.prior, np.sort(order[:images]))
    context = AttackContext(stream_seed(seed, "bench-span"), work.victims.head_ids, pool, told)
    clock = _Clock()
    with clock.counting():
        span_tools(strategy.options, prior, context)
    before = clock.wall
    with clock.counting():
        claimed = strategy.attack_heads(work.victims, prior, context).images
    progress(f"span-inversion, {images:,} images: random heads")
    null = strategy.attack_heads(work.random, prior, context).images
    if claimed is None or null is None:
        raise AssertionError("span inversion claims images")
    shadows = SpanSettings.for_images(images).shadow_heads
    return judge.point(clock, clock.wall - before, images, shadows, claimed, null)


def _fresh(prior: PriorKnowledge, rows: IntArray | None = None) -> PriorKnowledge:
    """The same knowledge with nothing cached, or that of some of the auxiliary images."""
    kept = slice(None) if rows is None else rows
    return PriorKnowledge(
        prior.backbone,
        prior.recipe,
        prior.classes,
        prior.images_per_class,
        prior.auxiliary_images[kept],
        prior.auxiliary_labels[kept],
    )


def _reconstructor_curve(
    work: Work, judge: _Judge, marks: list[float], settings: ReconstructorSettings, seed: int, progress: Progress
) -> list[CurvePoint]:
    """One training, looked at when it has had each of the marks' seconds; drawing the victims comes on top."""
    prior, clock = _fresh(work.prior), _Clock()
    progress("reconstructor: features of auxiliary images")
    with clock.counting():
        features, labels = prior.auxiliary_features, prior.auxiliary_labels
        root = stream_seed(seed, "bench-reconstructor")
        factory = ShadowFactory(
            features, labels, prior.classes, prior.images_per_class, prior.recipe, root, purpose="reconstructor"
        )
        training = Training(shadow_stream(factory), prior.auxiliary_images, prior.classes, settings, root)
    points = []
    for mark in marks:
        while clock.wall < mark or training.steps == 0:
            with clock.counting():
                training.advance(seconds=training.seconds + min(_PIECE, max(mark - clock.wall, 1e-3)))
            rate = training.steps * settings.batch / clock.wall
            progress(
                f"reconstructor: step {training.steps:,}, {rate:,.0f} heads/s, {max(mark - clock.wall, 0):,.0f} s left "
                f"to the mark at {mark:,.0f} of {marks[-1]:,.0f} s"
            )
        attack = _Clock()
        with attack.counting():
            claimed = _draw(training, work.victims, prior)
        total = _Clock()
        total.wall, total.cpu = clock.wall + attack.wall, clock.cpu + attack.cpu
        null = _draw(training, work.random, prior)
        points.append(judge.point(total, attack.wall, training.steps, training.heads, claimed, null))
    return points


def _draw(training: Training, heads: Heads, prior: PriorKnowledge) -> FloatArray:
    """Claims [V, N, C, H, W]; one drawn image stands for all of its class, or of its head."""
    drawn = training.reconstructor().draw(heads.flat())
    return np.repeat(drawn, prior.classes * prior.images_per_class // drawn.shape[1], axis=1)


def _class_mean(work: Work, seed: int) -> Measured | None:
    """TPR of the mean auxiliary image of each class, claimed for every head: what knowing the classes alone gives."""
    labels = work.prior.auxiliary_labels
    means = [to_unit(work.prior.auxiliary_images[labels == k]).mean(axis=0) for k in range(work.prior.classes)]
    per_head = np.repeat(np.stack(means), work.prior.images_per_class, axis=0)
    claimed = np.broadcast_to(per_head, (len(work.victims.head_ids), *per_head.shape))
    return tpr_at_fpr(work.truth, claimed, FPR, numpy_stream(seed, "bench-bootstrap"))
