"""Training images of two-layer heads: a linear Bayes estimate of their features, then pixels.

No closed form says what a hidden layer kept of its training images, but a first layer is a combination of their
features, and what `invariants` leaves of it is nearly linear in them. Ridge regression on shadow heads finds that map
in seconds, where a network (arXiv 2505.14323) takes millions of shadow heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.pools import Pool
from rhe_parties.attacks.shadows.sets import BalancedSets
from rhe_parties.attacks.shadows.two_layer_factory import TwoLayerFactory
from rhe_parties.attacks.span.cross_fit import LinearEstimate, Sighting, cross_fit
from rhe_parties.attacks.span.kernel import KernelDecoder, fit_kernel_decoder
from rhe_parties.attacks.span.shadows import augment_images
from rhe_parties.data.datasets import to_unit
from rhe_parties.errors import DataError
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["Material", "Shadows", "TwoLayerSpan", "prepare_two_layer", "train_shadows"]

Progress = Callable[[float, str], None]

_GROUPS = 5
_BLOCK = 256
_POINTS, _FEWEST_POINTS = 12_000, 200  # pairs of the decoder in all, and of one class at least
_MOST_POINTS = 1200
_KEPT = 1024


@dataclass(frozen=True, eq=False)
class Material:
    """Auxiliary knowledge: images uint8 [n, C, H, W], features [n, D], labels that heads learn [n], and what training
    sets are balanced over (`balance` int64 [n] in 0..classes-1, S images `per_class`)."""

    backbone: Backbone
    recipe: BatchRecipe
    images: UInt8Array
    features: FloatArray
    labels: IntArray
    balance: IntArray
    classes: int
    per_class: int


@dataclass(frozen=True, eq=False)
class Shadows:
    """n shadow heads: flat parameters [n, P], sets [n, N] of rows of `material`, and their groups [n]."""

    material: Material
    flat: FloatArray
    sets: IntArray
    groups: IntArray


def train_shadows(material: Material, count: int, copies: int, seed: int, pool: Pool, progress: Progress) -> Shadows:
    """Train `count` shadow heads in groups that share no image.

    Args:
        material: what is known.
        count: heads in all.
        copies: random affine variants of each image that heads are trained on besides the image itself.
        seed: root seed.
        pool: where blocks of heads are trained.
        progress: called with (share done, what is being done).

    Raises:
        DataError: a class with too few auxiliary images for two groups.
    """
    scarce = int(np.bincount(material.balance, minlength=material.classes).min())
    number = min(_GROUPS, scarce // material.per_class)
    if number < 2:
        raise DataError(
            f"shadow heads of {material.per_class} images of a class need twice as many auxiliary ones, got {scarce}"
        )
    group = _groups(material.balance, material.classes, number, seed)
    if copies:
        material = _varied(material, copies, seed)
        group = np.tile(group, copies + 1)
    each = -(-count // number)
    found = []
    for index in range(number):
        progress(index / number, "shadow heads")
        purpose = f"two-layer span {index}"
        own = np.where(group == index, material.balance, -1)
        rule = BalancedSets(own, material.classes, material.per_class, seed, purpose, _BLOCK)
        factory = TwoLayerFactory(
            material.features, material.labels, 2, 1, material.recipe, seed, purpose, _BLOCK, rule
        )
        found.append(factory.take(each, pool))
    return Shadows(
        material,
        np.concatenate([block.parameters for block in found]),
        np.concatenate([block.sets for block in found]),
        np.repeat(np.arange(number), each),
    )


def _groups(balance: IntArray, classes: int, number: int, seed: int) -> IntArray:
    """Group [n] of each image, as equal as possible in every class."""
    groups = np.zeros(len(balance), np.int64)
    for label in range(classes):
        rows = np.flatnonzero(balance == label)
        groups[numpy_stream(seed, "two-layer-groups", label).permutation(rows)] = np.arange(len(rows)) % number
    return groups


def _varied(m: Material, copies: int, seed: int) -> Material:
    more = augment_images(np.array(m.images), copies, seed)
    features = np.concatenate([m.features, m.backbone.extract(more)])
    labels, balance = np.tile(m.labels, copies + 1), np.tile(m.balance, copies + 1)
    images = np.concatenate([m.images, more])
    return Material(m.backbone, m.recipe, images, features, labels, balance, m.classes, m.per_class)


@dataclass(frozen=True, eq=False)
class TwoLayerSpan:
    """A prepared attack on heads of which certain numbers are known.

    Attributes:
        estimate: from the numbers to the average features [classes·D] of each class' S images.
        sighting: what such an estimate says of an image, by shadow heads of unseen images.
        decoder: from estimated features to images.
        classes, per_class: of training sets.
        flat, numbers: parameters [n, P] and numbers [n, p] of some shadows.
        skill: R² on shadow heads of unseen images.
        shadows: how many heads were trained.
    """

    estimate: LinearEstimate
    sighting: Sighting
    decoder: KernelDecoder
    classes: int
    per_class: int
    flat: FloatArray
    numbers: FloatArray
    skill: float
    shadows: int

    def features(self, numbers: FloatArray) -> FloatArray:
        """Estimated features [V, classes, D] of heads with these numbers [V, p]."""
        return self.estimate.predict(numbers).reshape(len(numbers), self.classes, -1)

    def points(self, features: FloatArray) -> FloatArray:
        """Likeliest features [V, N, D] by estimates [V, classes, D]; S times the same for the images of a class."""
        return np.repeat(self.sighting.points(features), self.per_class, axis=1)

    def pictures(self, features: FloatArray) -> FloatArray:
        """Images [V, N, C, H, W] in [-1, 1] of estimates [V, classes, D]; equal ones have equal images."""
        labels = np.tile(np.arange(self.classes), len(features))
        once = self.decoder.decode(features.reshape(len(labels), -1), labels)
        return np.repeat(once.reshape(*features.shape[:2], *once.shape[1:]), self.per_class, axis=1)


def prepare_two_layer(shadows: Shadows, numbers: FloatArray, seed: int, pool: Pool, progress: Progress) -> TwoLayerSpan:
    """Fit estimate, sighting and decoder; the latter two to estimates of heads whose images did not fit them.

    Args:
        shadows: from `train_shadows`.
        numbers: of these heads, [n, p], as they will be known of victims.
        seed: root seed.
        pool: for the decoder.
        progress: called with (share done, what is being done).

    Raises:
        NumericError, DataError: as `cross_fit`.
    """
    m = shadows.material
    places = shadows.sets.reshape(len(numbers), m.classes, m.per_class)
    truth = m.features[places].mean(axis=2)
    progress(0.0, "estimate of features")
    fit = cross_fit(numbers, truth.reshape(len(truth), -1), shadows.groups)
    unseen = fit.unseen.reshape(truth.shape)
    sighting = Sighting.fit(unseen, m.features[places])
    points = min(_MOST_POINTS, max(_FEWEST_POINTS, _POINTS // m.classes), len(numbers))
    some = numpy_stream(seed, "two-layer-decoder").permutation(len(numbers))[:points]
    pictures = to_unit(m.images[places[some]].reshape(-1, *m.images.shape[1:]))
    pictures = pictures.reshape(points * m.classes, m.per_class, *m.images.shape[1:]).mean(axis=1)
    decoder = fit_kernel_decoder(
        unseen[some].reshape(points * m.classes, -1), pictures, np.tile(np.arange(m.classes), points), m.classes,
        stream_seed(seed, "two-layer-decoder"), points, lambda share: progress(0.2 + 0.8 * share, "decoder"), pool,
    )  # fmt: skip
    kept = numpy_stream(seed, "two-layer-kept").permutation(len(numbers))[:_KEPT]
    return TwoLayerSpan(
        fit.estimate,
        sighting,
        decoder,
        m.classes,
        m.per_class,
        shadows.flat[kept],
        numbers[kept],
        fit.skill,
        len(numbers),
    )
