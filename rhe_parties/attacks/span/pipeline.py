"""The whole attack in two calls: prepare on public and auxiliary knowledge, then run on heads.

`prepare` needs no head and is done once; `SpanAttack.run` is then a pure function of the heads, and what it gives for
one head does not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from rhe_parties.attacks.pools import Pool
from rhe_parties.attacks.span.decoder import Decoder, DecoderSize, train_decoder
from rhe_parties.attacks.span.inversion import Inversion, invert_heads
from rhe_parties.attacks.span.kernel import KernelDecoder, fit_kernel_decoder
from rhe_parties.attacks.span.prior import FeaturePrior
from rhe_parties.attacks.span.refine import ImageBasis, Refinement, choose_refinement, refine_images
from rhe_parties.attacks.span.shadows import augment_images, balanced_sets, shadow_inversions
from rhe_parties.data.datasets import to_unit
from rhe_parties.errors import ParameterError
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import Recipe, train_heads
from rhe_parties.rng import stream_seed
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["SpanAttack", "SpanSettings", "prepare"]

Progress = Callable[[float, str], None]
_NONE: FloatArray = np.empty(0, np.float32)


def _silent(_share: float, _text: str) -> None:
    return None


@dataclass(frozen=True)
class SpanSettings:
    """Effort of the attack.

    Attributes:
        limit: auxiliary images used at most (the first ones of each class in a random order).
        copies: random affine variants of each auxiliary image, besides the image itself.
        variation: size of these variations.
        shadow_heads: heads trained and inverted for the decoders' training; of S images per class, an S-th of them.
        kernel_points: pairs per class that the kernel decoder rests on at most; time grows with their third power.
        decoder_steps, batch_size, size: the network's training and widths; 0 steps: the kernel decoder alone.
        refine_steps: steps through the backbone; 0: no refinement.
        held_out: auxiliary heads kept from all training, on which decoders are blended and the refinement chosen.
        iterations: rounds of the inversion.
    """

    limit: int = 60_000
    copies: int = 10
    variation: float = 1.0
    shadow_heads: int = 1000
    kernel_points: int = 6000
    decoder_steps: int = 150
    batch_size: int = 64
    size: DecoderSize = field(default_factory=lambda: DecoderSize(512, 0, 64))
    refine_steps: int = 40
    held_out: int = 6
    iterations: int = 4

    @classmethod
    def for_images(cls, count: int, effort: float = 1.0) -> SpanSettings:
        """Defaults for a number of auxiliary images.

        Args:
            count: auxiliary images.
            effort: 1: half a minute on two cores for hundreds of images, a few minutes for thousands; time grows
                about in proportion, spent on the network's training and on steps through the backbone.

        Raises:
            ParameterError: an effort that is not above 0.
        """
        if not (math.isfinite(effort) and effort > 0):
            raise ParameterError(f"effort = {effort} is not allowed: above 0")
        if count < 5000:
            return cls(decoder_steps=max(1, round(150 * effort)), refine_steps=max(1, round(40 * effort)))
        generous = effort >= 2
        copies = 1 if generous or count < 40_000 else 0
        return cls(
            copies=copies,
            variation=0.5,
            shadow_heads=min(12_000, count * (copies + 1) // 10),
            kernel_points=12_000 if generous else 6000,
            decoder_steps=max(1, round(600 * effort)),
            batch_size=256,
            size=DecoderSize(1024, 0, 400),
            refine_steps=max(1, round(30 * effort)),
            held_out=12,
        )


@dataclass(frozen=True, eq=False)
class SpanAttack:
    """A prepared attack.

    Attributes:
        prior: what is believed of features.
        kernel: the kernel decoder.
        decoder: the network; None where it was not trained.
        share: of the network in the blend of both, in [0, 1].
        basis, refinement: the refinement through the backbone.
        errors: held-out mean squared pixel errors of the blend, and of each refinement that was tried.
        decoder_errors: the same of the kernel decoder, and of the network where there is one.
        recipe, images_per_class, iterations: of the inversion.
    """

    prior: FeaturePrior
    kernel: KernelDecoder
    decoder: Decoder | None
    share: float
    basis: ImageBasis
    refinement: Refinement
    errors: FloatArray
    decoder_errors: FloatArray
    recipe: Recipe
    images_per_class: int
    iterations: int

    def invert(self, weight: FloatArray, bias: FloatArray, noise_variance: float = 0.0) -> Inversion:
        """Features of heads [V, K, D], [V, K]; see `invert_heads`."""
        return invert_heads(
            weight, bias, self.recipe, self.prior, self.images_per_class, self.iterations, noise_variance
        )

    def decode(self, inversion: Inversion) -> FloatArray:
        """Decoded images [V, N, C, H, W] in [-1, 1] of inverted heads, without refinement."""
        labels = np.tile(_labels(self.prior.classes, self.images_per_class), len(inversion.features))
        return self.decode_features(inversion.features, labels)

    def decode_features(self, features: FloatArray, labels: IntArray) -> FloatArray:
        """Decoded images [V, N, C, H, W] in [-1, 1] of features [V, N, D] of classes [V·N]."""
        flat = features.reshape(-1, features.shape[-1])
        images = self.kernel.decode(flat, labels)
        if self.decoder is not None and self.share > 0:
            images = images + np.float32(self.share) * (self.decoder.decode(flat) - images)
        return images.reshape(*features.shape[:2], *self.kernel.shape)

    def picture(
        self,
        backbone: Backbone,
        weight: FloatArray,
        inversion: Inversion,
        progress: Callable[[float], None] | None = None,
    ) -> FloatArray:
        """Decoded and refined images [V, N, C, H, W] in [-1, 1] of inverted heads."""
        decoded = self.decode(inversion)
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
    pool: Pool | None = None,
) -> SpanAttack:
    """Fit the prior, train both decoders on inverted shadow heads, choose the refinement; all on auxiliary images.

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
        pool: for the parts that fall into independent pieces; None: here, one after the other.

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
    basis = ImageBasis.fit(to_unit(images_kept), labels_kept)
    if settings.copies:
        more = augment_images(images_kept, settings.copies, seed, settings.variation)
        features = np.concatenate([features, backbone.extract(more)])
        images_kept = np.concatenate([images_kept, more])
        labels_kept = np.tile(labels_kept, settings.copies + 1)
    heads = -(-settings.shadow_heads // images_per_class)
    sets = balanced_sets(labels_kept, classes, images_per_class, heads, seed + 1)
    shadows = shadow_inversions(
        features, sets, prior, recipe, images_per_class, seed, settings.iterations,
        lambda share: progress(0.1 + 0.2 * share, "shadow heads"), pool,
    )  # fmt: skip
    pictures = to_unit(images_kept)
    inverted, seen = shadows.features.reshape(-1, prior.width), pictures[sets.ravel()]
    kernel = fit_kernel_decoder(
        inverted, seen, labels_kept[sets.ravel()], classes, seed, settings.kernel_points,
        lambda share: progress(0.3 + 0.2 * share, "kernel decoder"), pool,
    )  # fmt: skip
    decoder = None
    if settings.decoder_steps:
        decoder = train_decoder(
            features, pictures, steps=settings.decoder_steps, seed=seed, batch_size=settings.batch_size,
            noisy_features=inverted, noisy_images=seen, size=settings.size,
            progress=lambda share: progress(0.5 + 0.4 * share, "decoder network"),
        )  # fmt: skip
    progress(0.9, "weighing the decoders")
    attack = SpanAttack(
        prior, kernel, decoder, 0.0 if decoder is None else 0.5, basis, Refinement(0), _NONE, _NONE, recipe,
        images_per_class, settings.iterations,
    )  # fmt: skip
    if held == 0:
        return attack
    return _with_choice(attack, backbone, images, spared, seed, settings.refine_steps, pool)


def _with_choice(
    attack: SpanAttack,
    backbone: Backbone,
    images: UInt8Array,
    spared: IntArray,
    seed: int,
    steps: int,
    pool: Pool | None,
) -> SpanAttack:
    """Choose blend and refinement on H heads of spared images [H·S, K]."""
    classes, per_class = attack.prior.classes, attack.images_per_class
    held = len(spared) // per_class
    sets = spared.reshape(held, per_class, classes).transpose(0, 2, 1).reshape(held, -1)
    features = backbone.extract(images[sets.ravel()]).reshape(*sets.shape, -1)
    seeds = [stream_seed(seed, "span-held-out", index) for index in range(held)]
    labels = np.tile(_labels(classes, per_class), (held, 1))
    weight, bias = train_heads(features, labels, classes, attack.recipe, seeds)
    inversion = attack.invert(weight, bias)
    truth = to_unit(images[sets.ravel()]).reshape(*sets.shape, *images.shape[1:])
    attack = _blended(attack, inversion, truth)
    refinement, errors = choose_refinement(
        backbone, attack.decode(inversion), truth, inversion, attack.basis, steps,
        weight if per_class > 1 else None, pool=pool,
    )  # fmt: skip
    return replace(attack, refinement=refinement, errors=errors)


def _blended(attack: SpanAttack, inversion: Inversion, truth: FloatArray) -> SpanAttack:
    """The network's share of least squared error on held-out heads."""
    first = replace(attack, share=0.0).decode(inversion) - truth
    if attack.decoder is None:
        return replace(attack, decoder_errors=np.asarray([np.square(first).mean()], np.float32))
    second = replace(attack, share=1.0).decode(inversion) - truth
    apart = first - second
    share = float(np.clip((first * apart).sum() / max(float(np.square(apart).sum()), 1e-12), 0, 1))
    errors = np.asarray([np.square(first).mean(), np.square(second).mean()], np.float32)
    return replace(attack, share=share, decoder_errors=errors)


def _labels(classes: int, per_class: int) -> IntArray:
    return np.repeat(np.arange(classes), per_class).astype(np.int64)


def _per_class(labels: IntArray, classes: int, limit: int) -> int:
    """Images of each class that are used: all of the scarcest class, within the limit."""
    smallest = int(np.bincount(labels, minlength=classes).min())
    return max(1, min(smallest, limit // classes))
