"""What claims are measured against, and what a measurement gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from rhe_parties.errors import DataError, NumericError
from rhe_parties.metrics.intervals import Interval
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["DELTA", "NULL_PREFIX", "Curve", "GroundTruth", "Histogram", "Measured", "MeasuredClaim", "measured"]

NULL_PREFIX = "null."
#: δ of the empirical bound on ε where the truth names no other.
DELTA = 1e-5
#: Private images that the nearest-neighbour threshold is averaged over; more change its third digit.
_THRESHOLD_IMAGES = 2000


@dataclass(frozen=True)
class Measured:
    """A statistic: value, 95 % interval, trials, victim heads, and its value under chance (None: there is none).

    `strict_low` is the lower end of the interval at the level of `intervals.STRICT_LEVEL`, for statistics that are
    not the primary one of their task; None where the statistic decides nothing.
    """

    statistic: str
    value: float
    low: float
    high: float
    n: int
    chance: float | None
    heads: int
    strict_low: float | None = None


def measured(
    statistic: str, value: float, interval: Interval, n: int, heads: int, chance: float | None = None
) -> Measured:
    """A statistic with the interval that belongs to it."""
    return Measured(statistic, value, interval.low, interval.high, n, chance, heads, interval.strict_low)


@dataclass(frozen=True)
class Curve:
    """Rates over rates: `y` [P] with its 95 % band `low`, `high` at the places `x` [P], ascending."""

    name: str
    x: AnyArray
    y: AnyArray
    low: AnyArray
    high: AnyArray


@dataclass(frozen=True)
class Histogram:
    """Shares of two groups per bin: `edges` [P + 1] ascending, `positives` and `negatives` [P] each add up to 1."""

    name: str
    edges: AnyArray
    positives: AnyArray
    negatives: AnyArray


@dataclass(frozen=True)
class MeasuredClaim:
    """A claim's float32 arrays by name (`images`, `null.images`, …; absent or empty: not claimed).

    `queries` int64 [V] are the decisions used per head as the key holder counted them; empty where none were asked.
    Keys: images [V, T, C, H, W], features [V, T, D], whitener [D, D], weights [V, K, D], biases [V, K], scores [V, M],
    property_scores [V, P], hidden_weights [V, H, D] and hidden_biases [V, H] with weights [V, K, H] behind the
    `activation`, inputs [V, B, C, H, W].
    """

    arrays: Mapping[str, FloatArray]
    queries: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    activation: str = ""

    def get(self, name: str) -> FloatArray | None:
        """The array, or None where the claim holds none."""
        array = self.arrays.get(name)
        return array if array is not None and array.size else None

    @property
    def null(self) -> MeasuredClaim:
        """What the same strategy made of an input that holds nothing."""
        inner = {k.removeprefix(NULL_PREFIX): v for k, v in self.arrays.items() if k.startswith(NULL_PREFIX)}
        if inner and "whitener" not in inner and "whitener" in self.arrays:
            inner["whitener"] = self.arrays["whitener"]
        return MeasuredClaim(inner, activation=self.activation)


@dataclass(frozen=True)
class GroundTruth:
    """What the laboratory alone knows.

    Attributes:
        images: [n, C, H, W] in [-1, 1]: the private pool, which is also the set of candidates.
        features: [n, D] of the pool.
        labels: [n].
        sets: [V, N] indices into the pool, ordered by class, S per class.
        classes: K.
        targets: [V, T] rows of the pool that claims are about, of any class; None: `sets`.
        members: [V, M], whether each of the challenge's candidates was a training image of the head.
        property_index: [V], which of `property_values` [P] each head's training set has.
        inputs: [V, B, C, H, W] in [-1, 1], the images that each head decided on, with their classes `input_labels`
            [V, B] and whether they were training images of the head, `input_members` [V, B].
        agreement_features: [F, D], fresh real images on which an extracted head is compared with the true one;
            `random_features` the same for random mixes of features.
        public_images, public_labels: images [n', C, H, W] in [-1, 1] that everybody has, none of them private.
        delta: δ at which ε is bounded from below.

    Raises:
        DataError: arrays that do not fit together.
    """

    images: FloatArray
    features: FloatArray
    labels: IntArray
    sets: IntArray
    classes: int
    targets: IntArray | None = None
    members: AnyArray | None = None
    property_index: IntArray | None = None
    property_values: AnyArray | None = None
    inputs: FloatArray | None = None
    input_labels: IntArray | None = None
    input_members: AnyArray | None = None
    agreement_features: FloatArray | None = None
    random_features: FloatArray | None = None
    public_images: FloatArray | None = None
    public_labels: IntArray | None = None
    delta: float = DELTA

    def __post_init__(self) -> None:
        heads = len(self.sets)
        for name, dimensions in (("targets", 2), ("members", 2), ("property_index", 1), ("inputs", 5)):
            array: AnyArray | None = getattr(self, name)
            if array is not None and (array.ndim != dimensions or len(array) != heads or array.size == 0):
                raise DataError(
                    f"truth: {name} of shape {array.shape} for {heads} heads; needs {dimensions} dimensions"
                )
        for name in ("input_labels", "input_members"):
            array = getattr(self, name)
            if array is not None and (self.inputs is None or array.shape != self.inputs.shape[:2]):
                raise DataError(f"truth: {name} of shape {array.shape} does not fit the inputs")
        if (self.property_index is None) != (self.property_values is None):
            raise DataError("truth: property_index and property_values belong together")
        if self.property_index is not None and self.property_values is not None:
            values = len(self.property_values)
            if self.property_index.min() < 0 or self.property_index.max() >= values:
                raise DataError(f"truth: property_index must lie in 0..{values - 1}")
        if (self.public_images is None) != (self.public_labels is None):
            raise DataError("truth: public_images and public_labels belong together")
        if not 0 <= self.delta < 1:
            raise DataError(f"truth: delta = {self.delta} is not allowed (0 <= delta < 1)")

    @property
    def images_per_class(self) -> int:
        """S, training images per class and head."""
        return int(self.sets.shape[1]) // self.classes

    @property
    def aims(self) -> IntArray:
        """[V, T]: the rows of the pool that claims about training images are compared with."""
        return self.sets if self.targets is None else self.targets

    def about_aims(self, arrays: Mapping[str, FloatArray]) -> dict[str, FloatArray]:
        """Claims about whole training sets, cut to those of the images that this task aims at; others as they are.

        So a strategy that knows nothing of the task is measured beside one that does: what it claims at the place of
        an image that is aimed at. With S > 1 that is one of its S claims of the class.
        """
        kept = dict(arrays)
        if self.targets is None or self.targets.shape[1] == self.sets.shape[1]:
            return kept
        found = self.sets[:, None] == self.targets[..., None]
        if not found.any(axis=2).all():  # aims outside the training sets: nothing of these claims is about them
            return kept
        place = found.argmax(axis=2)
        for name in ("images", "features"):
            for full_name in (name, NULL_PREFIX + name):
                array = kept.get(full_name)
                if array is not None and array.shape[:2] == self.sets.shape:
                    where = place.reshape(*place.shape, *[1] * (array.ndim - 2))
                    kept[full_name] = np.take_along_axis(array, where, axis=1)
        return kept

    @cached_property
    def nearest_neighbour_threshold(self) -> float | None:
        """τ_NN: mean over private images of the pixel error to the nearest public image of the class, or None.

        The rule behind the paper's published thresholds, recomputed on the images at hand (methods: section 2).
        """
        if self.public_images is None or self.public_labels is None:
            return None
        step = max(1, len(self.images) // _THRESHOLD_IMAGES)
        images, labels = self.images[::step], self.labels[::step]
        found = []
        for k in np.unique(labels):
            public = self.public_images[self.public_labels == k]
            if len(public):
                flat = images[labels == k].reshape((labels == k).sum(), -1)
                pixels = flat.shape[1]
                found.append(squared_distances(flat, public.reshape(len(public), -1)).min(axis=1) / pixels)
        return float(np.concatenate(found).mean()) if found else None

    @cached_property
    def class_means(self) -> dict[int, FloatArray]:
        """The mean public image [C, H, W] of each class that has any; empty without public images."""
        if self.public_images is None or self.public_labels is None:
            return {}
        return {int(k): self.public_images[self.public_labels == k].mean(axis=0) for k in np.unique(self.public_labels)}


def squared_distances(claimed: AnyArray, candidates: AnyArray) -> AnyArray:
    """Squared Euclidean distances [a, b] between rows, in float64."""
    a, b = claimed.astype(np.float64), candidates.astype(np.float64)
    table: AnyArray = (a * a).sum(1)[:, None] - 2 * a @ b.T + (b * b).sum(1)[None, :]
    return np.maximum(table, 0.0, out=table)


def check_shape(what: str, array: AnyArray, expected: tuple[int, ...]) -> None:
    """Refuse a claim that cannot be compared with the truth.

    Raises:
        NumericError: another shape than expected, or numbers that are not finite.
    """
    if array.shape != expected:
        raise NumericError(f"claimed {what} have shape {list(array.shape)}, expected {list(expected)}")
    if not np.isfinite(array).all():
        raise NumericError(f"claimed {what} hold NaN or infinite values")
