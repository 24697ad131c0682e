"""A linear head from class decisions alone: on images, or on features where the host is the adversary's.

Active learning in the version space: a pool of varied images is asked about first, then, in a few large rounds, points
on segments between pool images where the posterior puts the decision boundary but is in doubt where exactly. Whatever
the posterior is sure of is not asked: a segment is narrowed at home, with features computed locally, until its next
point is doubtful. The answers enter as inequalities (see `posterior`), so nothing rests on a bracket being tight, and a
segment on which a third class takes over is as good as any.

Compared with bisecting each segment and solving the homogeneous equations for the smallest singular vector (Tramèr et
al. 2016, arXiv 1609.02943, for the idea of line search), an answer that could be foreseen is never paid for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from rhe_parties.attacks.extraction.gauge import Float64Array
from rhe_parties.attacks.extraction.posterior import DecisionPosterior
from rhe_parties.attacks.extraction.prior import FeatureAxes, HeadPrior
from rhe_parties.attacks.extraction.queries import Segments, between, varied_images
from rhe_parties.errors import BudgetError, NumericError, ParameterError
from rhe_parties.rng import numpy_stream
from rhe_parties.threads import limited_threads
from rhe_parties.types import AnyArray, FloatArray, IntArray, UInt8Array

__all__ = ["Ask", "Extract", "Extracted", "HardSettings", "QueryPlan", "extract_head", "plan_from", "plan_queries"]

Ask = Callable[[AnyArray], AnyArray]
"""Inputs [B, ...] to classes [B]: as a rule images uint8 [B, C, H, W]."""
Extract = Callable[[AnyArray], FloatArray]
"""Inputs [B, ...] to the numbers [B, D] that the head is linear in: a backbone's features, as a rule."""
Between = Callable[[AnyArray, AnyArray, Float64Array], AnyArray]
"""Inputs [n, ...] at places [n] in [0, 1] on the way from the first to the second, as they can be asked about."""

_LARGEST = 2400  # unknowns of a dense posterior: seconds per head on one core, 50 MB
_AXES_FROM = 5000  # auxiliary images are enough for the axes
_SURE = 2.0  # deviations; a point that is sure narrows its segment, and where that was wrong no answer suffers
_LOOKS = 8  # points computed at home on one segment in one round, at most
_SPREAD = 0.3  # of the logarithm of the doubt: keeps one round from asking for one direction only


@dataclass(frozen=True)
class HardSettings:
    """Effort of an extraction.

    Attributes:
        decisions: answers used per head at most.
        batch: answers per round after the first.
        sweeps: rounds of expectation propagation after each batch.
        noise: deviation of a logit difference at the key holder (rounding under encryption), in logits.
        informed: whether the prior of heads comes from shadow heads; False: only their scale does.
    """

    decisions: int = 20_000
    batch: int = 2000
    sweeps: int = 3
    noise: float = 1e-3
    informed: bool = True

    def __post_init__(self) -> None:
        for name, value in (("decisions", self.decisions), ("batch", self.batch), ("sweeps", self.sweeps)):
            if value < 1:
                raise ParameterError(f"extraction: {name} = {value} is not allowed: at least 1")
        if not (np.isfinite(self.noise) and self.noise >= 0):
            raise ParameterError(f"extraction: noise = {self.noise} is not allowed: finite and at least 0")

    @property
    def pool(self) -> int:
        """Images of the first round."""
        return min(self.decisions, max(100, min(1000, self.decisions // 10)))

    @property
    def segments(self) -> int:
        """Segments to choose from."""
        return max(500, self.decisions // 5)


@dataclass(frozen=True, eq=False)
class QueryPlan:
    """What every extraction starts from, made once: prior of heads, first inputs [n, ...], their coordinates
    [n, r+1] and the squared lengths [n] of their features outside the axes, and what lies between two inputs."""

    prior: HeadPrior
    images: AnyArray
    rows: Float64Array
    rest: Float64Array
    between: Between = between


@dataclass(frozen=True, eq=False)
class Extracted:
    """A head as far as answers tell.

    Attributes:
        weight, bias: [K, D] and [K], centred over the classes, at the scale that heads of this shape have.
        error_variance: expected squared error of one weight by the posterior, averaged over the axes of the features.
        answers: decisions used.
        rounds: calls of the oracle.
        classes: how many different classes the first answers held; with one there is no boundary to search.
        refused: whether the key holder's budget ended the extraction.
    """

    weight: FloatArray
    bias: FloatArray
    error_variance: float
    answers: int
    rounds: int
    classes: int
    refused: bool


def plan_queries(
    extract: Extract,
    images: UInt8Array,
    features: FloatArray,
    shadows: tuple[FloatArray, FloatArray],
    settings: HardSettings,
    seed: int,
    pool: int = 0,
) -> QueryPlan:
    """Fit the prior and make the first images.

    Args:
        extract: the public network.
        images: auxiliary images uint8 [n, C, H, W].
        features: theirs, [n, D].
        shadows: weights [m, K, D] and biases [m, K] of heads of the same recipe, trained by the adversary.
        settings: effort.
        seed: root seed.
        pool: how many first images; 0: as many as `settings` wants.

    Raises:
        DataError: fewer than four images or eight shadow heads.
        NumericError: features without variation, or not finite.
    """
    first = varied_images(images, pool or settings.pool, seed)
    seen = extract(first)
    order = numpy_stream(seed, "extraction-axes").permutation(len(features))[:_AXES_FROM]
    limit = max(1, _LARGEST // max(1, shadows[0].shape[1] - 1) - 1)
    with limited_threads(1):
        axes = FeatureAxes.fit(np.concatenate([features[order], seen]), limit)
    return plan_from(first, seen, axes, shadows, settings)


def plan_from(
    first: AnyArray,
    seen: FloatArray,
    axes: FeatureAxes,
    shadows: tuple[FloatArray, FloatArray],
    settings: HardSettings,
    between: Between = between,
) -> QueryPlan:
    """Fit the prior along given axes, for first inputs [n, ...] with features `seen` [n, D]; see `plan_queries`."""
    with limited_threads(1):
        prior = HeadPrior.fit(axes, *shadows, informed=settings.informed)
    rows, rest = axes.reduce(seen)
    return QueryPlan(prior, first, rows, rest, between)


def extract_head(
    extract: Extract, plan: QueryPlan, ask: Ask, settings: HardSettings, seed: int, limit: int | None = None
) -> Extracted:
    """Extract one head.

    Args:
        extract: the public network.
        plan: from `plan_queries`.
        ask: the key holder; a `BudgetError` ends the search, and what was answered so far is used.
        settings: effort.
        seed: of the choice of segments.
        limit: answers that the key holder is going to give, where that is known to be less than `settings.decisions`.

    Raises:
        NumericError: answers of the wrong number, type or range.
    """
    allowed = settings.decisions if limit is None else min(settings.decisions, limit)
    search = _Search(extract, plan, settings, seed)
    refused = False
    with limited_threads(1):
        try:
            while search.answers < allowed and (query := search.next(allowed - search.answers)) is not None:
                search.take(query, _checked(ask(query.images), len(query.images), plan.prior.classes))
        except BudgetError:
            refused = True
        return search.result(refused)


class _Query(NamedTuple):
    """Inputs to ask about [n, ...], coordinates [n, r+1], squared rest [n]; and the segments [n] and places [n]
    that they lie on (empty in the first round)."""

    images: AnyArray
    rows: Float64Array
    rest: Float64Array
    chosen: IntArray
    place: Float64Array


@dataclass(eq=False)
class _Search:
    extract: Extract
    plan: QueryPlan
    settings: HardSettings
    seed: int
    posterior: DecisionPosterior = field(init=False)
    segments: Segments | None = field(init=False, default=None)
    rounds: int = field(init=False, default=0)
    classes: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.posterior = DecisionPosterior(self.plan.prior, self.settings.noise)
        self._rng = numpy_stream(self.seed, "extraction-segments")

    @property
    def answers(self) -> int:
        return self.posterior.answers

    def next(self, allowed: int) -> _Query | None:
        """What to ask next, at most `allowed` images; None: there is nothing in doubt any more."""
        if self.rounds == 0:
            count, none = min(allowed, len(self.plan.images)), np.empty(0)
            return _Query(
                self.plan.images[:count], self.plan.rows[:count], self.plan.rest[:count], none.astype(np.int64), none
            )
        want = min(allowed, self.settings.batch)
        parts: list[_Query] = []
        asked: list[IntArray] = []
        for _ in range(_LOOKS):
            missing = want - sum(len(part.images) for part in parts)
            if self.segments is None or missing < 1:
                break
            free = self.segments.open.copy()
            free[np.concatenate([*asked, np.empty(0, np.int64)])] = False
            part = self._look(np.flatnonzero(free), missing)
            if part is None:
                break
            parts.append(part)
            asked.append(part.chosen)
        if sum(len(part.images) for part in parts) == 0:
            return None
        return _Query(*(np.concatenate(columns)[:want] for columns in zip(*parts, strict=True)))

    def take(self, query: _Query, labels: IntArray) -> None:
        """Learn from the answers."""
        self.posterior.add(query.rows, query.rest, labels)
        self.rounds += 1
        if self.rounds > 1 and self.segments is not None:
            self.segments.narrow(query.chosen, query.place, query.rows, labels)
            self.posterior.update(self.settings.sweeps)
            return
        self.classes = len(np.unique(labels))
        ends = _different(labels, self.settings.segments, self._rng)
        if len(ends):
            self.segments = Segments(ends, query.rows[ends], labels[ends])
        self.posterior.update(8)

    def result(self, refused: bool) -> Extracted:
        """The head by all answers, its length by its shape."""
        prior, posterior = self.plan.prior, self.posterior
        for _ in range(2):
            posterior.length = prior.lengths.predict(posterior.mean.numpy())
            posterior.update(10, 1e-3)
        weight, bias = prior.head(posterior.mean.numpy())
        error = float(posterior.weight_variance().mean())
        return Extracted(weight, bias, error, self.answers, self.rounds, self.classes, refused)

    def _look(self, free: IntArray, missing: int) -> _Query | None:
        """Compute one point on each of the most doubtful free segments: the doubtful points, or None without segments.

        Points that are nearly beyond doubt narrow their segments at once.
        """
        segments, posterior = self.segments, self.posterior
        if segments is None or len(free) == 0:
            return None
        share, deviation = self._crossings(segments, free)
        rank = np.log(np.maximum(deviation, 1e-300)) + _SPREAD * self._rng.standard_normal(len(free))
        order = np.argsort(-rank, kind="stable")[: missing + missing // 5 + 8]
        chosen = free[order]
        bounds = segments.place[chosen]
        place = bounds[:, 0] + share[order] * (bounds[:, 1] - bounds[:, 0])
        first, second = self.plan.images[segments.ends[chosen, 0]], self.plan.images[segments.ends[chosen, 1]]
        images = self.plan.between(first, second, place)
        # Where rounding to grey levels leaves an end of the bracket as it was, the segment is exhausted.
        new = np.ones(len(chosen), np.bool_)
        for side in (0, 1):
            new &= (images != self.plan.between(first, second, bounds[:, side])).reshape(len(new), -1).any(axis=1)
        segments.close(chosen[~new])
        chosen, place, images = chosen[new], place[new], images[new]
        rows, rest = self.plan.prior.axes.reduce(self.extract(images))
        logits = posterior.logits(rows)
        best = np.argsort(-logits, axis=1, kind="stable")[:, :2]
        index = np.arange(len(best))
        margin = logits[index, best[:, 0]] - logits[index, best[:, 1]]
        spread = posterior.deviation(rows, best[:, 0], best[:, 1])
        sure = margin > _SURE * spread
        segments.narrow(chosen[sure], place[sure], rows[sure], best[sure, 0])
        ask = ~sure
        return _Query(images[ask], rows[ask], rest[ask], chosen[ask], place[ask])

    def _crossings(self, segments: Segments, free: IntArray) -> tuple[Float64Array, Float64Array]:
        """Where in its bracket each free segment should change class, and the deviation of the margin there."""
        classes, index = segments.classes[free], np.arange(len(free))
        margins = np.empty((len(free), 2))
        for side in (0, 1):
            logits = self.posterior.logits(segments.rows[free, side])
            margins[:, side] = logits[index, classes[:, 0]] - logits[index, classes[:, 1]]
        share = segments.crossing(margins, free)
        rows = segments.rows[free, 0] * (1 - share[:, None]) + segments.rows[free, 1] * share[:, None]
        return share, self.posterior.deviation(rows, classes[:, 0], classes[:, 1])


def _different(labels: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """Random pairs [m, 2] of answers that differ, m at most `count`; empty where all answers are alike."""
    pairs = rng.integers(0, len(labels), (8 * count, 2))
    found: IntArray = pairs[labels[pairs[:, 0]] != labels[pairs[:, 1]]][:count].astype(np.int64)
    return found


def _checked(answers: AnyArray, count: int, classes: int) -> IntArray:
    found = np.asarray(answers)
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise NumericError(f"extraction: {count} images were answered by {found.dtype} {found.shape}, not by classes")
    if count and not (int(found.min()) >= 0 and int(found.max()) < classes):
        raise NumericError(f"extraction: answers must be classes 0..{classes - 1}, got {found.min()}..{found.max()}")
    return found.astype(np.int64)
