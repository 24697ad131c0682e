"""The whole attack in two calls: prepare on public and auxiliary knowledge, then run on heads.

`prepare` needs no head and is done once; `SpanAttack.run` is then a pure function of the heads, and what it gives for
one head does not depend on the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from rhe_parties.attacks.span.decoder import Decoder, DecoderSize, train_decoder
from rhe_parties.attacks.span.inversion import Inversion, invert_heads
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.span.refine import ImageBasis, Refinement, choose_refinement, refine_images
from rhe_parties.attacks.span.shadows import augment_images, balanced_sets, shadow_inversions
from rhe_parties.data.datasets import to_unit
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.rng import stream_seed
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["SpanAttack", "SpanSettings", "prepare"]

Progress = Callable[[float, str], None]


def _silent(_share: float, _text: str) -> None:
    return None


@dataclass(frozen=True)
class SpanSettings:
    """Effort of the attack.

    Attributes:
        limit: auxiliary images used at most (the first ones of each class in a random order).
        copies: random affine variants of each auxiliary image, besides the image itself.
        shadow_heads: heads trained and inverted for the decoder's training.
        decoder_steps, batch_size, size: the decoder's training and widths.
        refine_steps: steps through the backbone; 0: no refinement.
        held_out: auxiliary heads kept from all training, on which the refinement is chosen.
        iterations: rounds of the inversion.
    """

    limit: int = 20_000
    copies: int = 10
    shadow_heads: int = 1000
    decoder_steps: int = 700
    batch_size: int = 64
    size: DecoderSize = field(default_factory=lambda: DecoderSize(512, 8, 64))
    refine_steps: int = 40
    held_out: int = 6
    iterations: int = 4

    @classmethod
    def for_images(cls, count: int) -> SpanSettings:
        """Defaults for a number of auxiliary images: half a minute on two cores for hundreds, minutes for thousands."""
        if count < 5000:
            return cls()
        return cls(
            copies=0,
            shadow_heads=4000,
            decoder_steps=1500,
            batch_size=128,
            size=DecoderSize(512, 16, 128),
        )


@dataclass(frozen=True, eq=False)
class SpanAttack:
    """A prepared attack; `errors` are the held-out pixel errors without refinement and for each tried trust."""

    prior: FeaturePrior
    decoder: Decoder
    basis: ImageBasis
    refinement: Refinement
    errors: FloatArray
    recipe: Recipe
    images_per_class: int
    iterations: int

    def invert(self, weight: FloatArray, bias: FloatArray, noise_variance: float = 0.0) -> Inversion:
        """Features of heads [V, K, D], [V, K]; see `invert_heads`."""
        return invert_heads(
            weight, bias, self.recipe, self.prior, self.images_per_class, self.iterations, noise_variance
        )

    def picture(
        self,
        backbone: Backbone,
        weight: FloatArray,
        inversion: Inversion,
        progress: Callable[[float], None] | None = None,
    ) -> FloatArray:
        """Decoded and refined images [V, N, C, H, W] in [-1, 1] of inverted heads."""
        decoded = _decode(self.decoder, inversion)
        together = weight if self.images_per_class > 1 else None
        return refine_images(backbone, decoded, inversion, self.basis, self.refinement, together, progress)

    def run(
        self, backbone: Backbone, weight: FloatArray, bias: FloatArray, progress: Callable[[float], None] | None = None
    ) -> tuple[Inversion, FloatArray]:
        """`invert`, then `picture`."""
        inversion = self.invert(weight, bias)
        return inversion, self.picture(backbone, weight, inversion, progress)


def prepare(
    backbone: Backbone,
    images: UInt8Array,
    labels: IntArray,
    classes: int,
    recipe: Recipe,
    images_per_class: int,
    seed: int,
    settings: SpanSettings | None = None,
    progress: Progress = _silent,
) -> SpanAttack:
    """Fit the prior, train the decoder on inverted shadow heads, choose the refinement; all on auxiliary images.

    Args:
        backbone: the public network.
        images: auxiliary images uint8 [n, C, H, W].
        labels: int64 [n].
        classes: number of classes K.
        recipe: the victims' training recipe.
        images_per_class: S.
        seed: root seed.
        settings: effort; None: `SpanSettings.for_images`.
        progress: called with (done share in [0, 1], what is being done).

    Raises:
        DataError: a class with fewer than S + 1 auxiliary images.
        NumericError: features without variation, or not finite.
    """
    settings = settings or SpanSettings.for_images(len(images))
    progress(0.0, "features of auxiliary images")
    order = balanced_sets(labels, classes, 1, _per_class(labels, classes, settings.limit), seed)
    held = min(settings.held_out, len(order) // (10 * images_per_class))
    kept, spared = order[held * images_per_class :], order[: held * images_per_class]
    images_kept, labels_kept = images[kept.ravel()], labels[kept.ravel()]
    features = backbone.extract(images_kept)
    prior = FeaturePrior.fit(features, labels_kept, classes)
    if settings.copies:
        more = augment_images(images_kept, settings.copies, seed)
        features = np.concatenate([features, backbone.extract(more)])
        images_kept = np.concatenate([images_kept, more])
        labels_kept = np.tile(labels_kept, settings.copies + 1)
    basis = ImageBasis.fit(to_unit(images[kept.ravel()]), labels[kept.ravel()])
    progress(0.2, "shadow heads")
    sets = balanced_sets(labels_kept, classes, images_per_class, settings.shadow_heads, seed + 1)
    shadows = shadow_inversions(features, sets, prior, recipe, images_per_class, seed, settings.iterations)
    pictures = to_unit(images_kept)
    decoder = train_decoder(
        features, pictures, steps=settings.decoder_steps, seed=seed, batch_size=settings.batch_size,
        noisy_features=shadows.features.reshape(-1, prior.width), noisy_images=pictures[sets.ravel()],
        size=settings.size, progress=lambda share: progress(0.25 + 0.6 * share, "decoder"),
    )  # fmt: skip
    progress(0.85, "choosing the refinement")
    attack = SpanAttack(
        prior, decoder, basis, Refinement(settings.refine_steps), np.empty(0, np.float32), recipe, images_per_class,
        settings.iterations,
    )  # fmt: skip
    if held == 0:
        return attack
    return _with_choice(attack, backbone, images, spared, held, seed, settings.refine_steps)


def _with_choice(
    attack: SpanAttack, backbone: Backbone, images: UInt8Array, spared: IntArray, held: int, seed: int, steps: int
) -> SpanAttack:
    """Choose the refinement on `held` heads of spared images [held·S, K]."""
    classes, per_class = attack.prior.classes, attack.images_per_class
    sets = spared.reshape(held, per_class, classes).transpose(0, 2, 1).reshape(held, -1)
    features = backbone.extract(images[sets.ravel()]).reshape(*sets.shape, -1)
    labels = np.tile(np.repeat(np.arange(classes), per_class), (held, 1)).astype(np.int64)
    seeds = [stream_seed(seed, "span-held-out", index) for index in range(held)]
    weight, bias = train_heads(features, labels, classes, attack.recipe, seeds)
    inversion = attack.invert(weight, bias)
    truth = to_unit(images[sets.ravel()]).reshape(*sets.shape, *images.shape[1:])
    refinement, errors = choose_refinement(
        backbone, _decode(attack.decoder, inversion), truth, inversion, attack.basis, steps,
        weight if per_class > 1 else None,
    )  # fmt: skip
    return replace(attack, refinement=refinement, errors=errors)


def _decode(decoder: Decoder, inversion: Inversion) -> FloatArray:
    heads, count, width = inversion.features.shape
    return decoder.decode(inversion.features.reshape(-1, width)).reshape(heads, count, *decoder.shape)


def _per_class(labels: IntArray, classes: int, limit: int) -> int:
    """Images of each class that are used: all of the scarcest class, within the limit."""
    smallest = int(np.bincount(labels, minlength=classes).min())
    return max(1, min(smallest, limit // classes))
