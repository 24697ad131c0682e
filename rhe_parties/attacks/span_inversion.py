"""Span inversion as a strategy: plain heads as they are, encrypted heads through a regressor on their bytes.

Source: the span identity of linear softmax heads under full-batch gradient descent, turned into a Bayes estimate (see
`rhe_parties.attacks.span`). The reconstructor of arXiv 2505.14323 learns the same map from millions of shadow heads.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.span.ciphertext import HeadRegressor, fit_head_regressor
from rhe_parties.attacks.span.inversion import Inversion
from rhe_parties.attacks.span.pipeline import SpanAttack, SpanSettings, prepare
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.he.inspect import numeric_view
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial, make_encryptor
from rhe_parties.messages.payloads import EncryptedHead
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import train_heads
from rhe_parties.rng import stream_seed
from rhe_parties.threads import limited_threads
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import AnyArray, FloatArray

__all__ = ["SpanInversion"]

# Heads per piece of work: fixed, so that pieces are the same for any number of workers.
_PIECE = 8


@dataclass(frozen=True)
class _Piece:
    weight: FloatArray
    inversion: Inversion


class SpanInversion(Strategy):
    """Recovers the training features of each head, decodes them to pixels, refines the pixels through the backbone.

    Uses: the head's weights, the public backbone and recipe, auxiliary images. Expected without RHE at one image per
    class: nearly every training image identified among all private ones of its class. With RHE: blocked as it is;
    on the ciphertexts the regressor has no skill, its estimate is the mean head, and identification is at chance.
    """

    name = "span-inversion"
    summary = "training features from the weights in closed form, then pixels by decoder and backbone"
    source = "span identity; against arXiv 2505.14323, section on reconstruction"
    needs = frozenset({Observation.PLAIN_HEAD})
    ciphertext_needs = frozenset({Observation.ENCRYPTED_HEAD, Observation.PUBLIC_KEY})

    @dataclass(frozen=True)
    class Options:
        """Effort; 0 leaves the default for the number of auxiliary images.

        Attributes:
            decoder_steps: training steps of the decoder.
            shadow_heads: auxiliary heads inverted for the decoder's training.
            refine_steps: steps through the backbone; -1 leaves the default, 0 turns refinement off.
            ciphertext_shadows: auxiliary heads encrypted under the same key for the ciphertext variant.
        """

        decoder_steps: int = 0
        shadow_heads: int = 0
        refine_steps: int = -1
        ciphertext_shadows: int = 512

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        heads = view.plain_heads()
        weight = np.stack([head.weight for head in heads.values()])
        bias = np.stack([head.bias for head in heads.values()])
        tools = self._tools(prior, context, 0.7)
        return self._claim(tuple(heads), weight, bias, tools, prior, context, {})

    def attack_ciphertexts(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """Learn heads from the numbers in ciphertexts of shadow heads under the same public key, then go on as ever."""
        material = view.public_material()
        if material is None:  # the seat has checked `ciphertext_needs`
            raise LookupError("no public key in the view")
        heads = view.encrypted_heads()
        tools = self._tools(prior, context, 0.5)
        regressor = self._regressor(material, prior, context)
        numbers = np.stack([_numbers(material, head) for head in heads.values()])
        weight, bias = _split(regressor.predict(numbers), prior)
        notes = {
            "shadow heads encrypted under the same key": str(self.options.ciphertext_shadows),
            "share of held-out heads' variance explained": f"{max(regressor.skill, 0.0):.3f}",
        }
        return self._claim(tuple(heads), weight, bias, tools, prior, context, notes, regressor.error_variance)

    def _tools(self, prior: PriorKnowledge, context: AttackContext, share: float) -> SpanAttack:
        """Prior, decoder and refinement: functions of prior knowledge, made once for all worlds."""
        key = f"span-inversion {self.options}"
        if key not in context.memory:
            settings = SpanSettings.for_images(len(prior.auxiliary_labels))
            settings = replace(
                settings,
                decoder_steps=self.options.decoder_steps or settings.decoder_steps,
                shadow_heads=self.options.shadow_heads or settings.shadow_heads,
                refine_steps=settings.refine_steps if self.options.refine_steps < 0 else self.options.refine_steps,
            )
            context.memory[key] = prepare(
                prior.backbone,
                prior.auxiliary_images,
                prior.auxiliary_labels,
                prior.classes,
                prior.recipe,
                prior.images_per_class,
                stream_seed(context.seed, "span-tools"),
                settings,
                lambda done, text: context.progress(share * done, text),
            )
        tools: SpanAttack = context.memory[key]
        return tools

    def _claim(
        self,
        head_ids: tuple[str, ...],
        weight: FloatArray,
        bias: FloatArray,
        tools: SpanAttack,
        prior: PriorKnowledge,
        context: AttackContext,
        notes: dict[str, str],
        noise_variance: float = 0.0,
    ) -> Claim:
        context.progress(0.75, "inverting heads")
        inversion = tools.invert(weight, bias, noise_variance)
        context.progress(0.8, "decoding and refining")
        # Equal heads give equal pictures: an estimate without skill is the same mean head for every victim.
        _, first, place = np.unique(weight.reshape(len(weight), -1), axis=0, return_index=True, return_inverse=True)
        chunks = [first[i : i + _PIECE] for i in range(0, len(first), _PIECE)]
        draw = functools.partial(_picture, tools, prior.backbone)
        pieces = [_Piece(weight[rows], _rows(inversion, rows)) for rows in chunks]
        images = np.concatenate(context.pool.map(draw, pieces))[place.reshape(-1)]
        return Claim(
            head_ids=head_ids,
            images=images,
            features=inversion.points,
            whitener=inversion.whitener,
            weights=weight,
            biases=bias,
            notes=notes,
        )

    def _regressor(self, material: PublicMaterial, prior: PriorKnowledge, context: AttackContext) -> HeadRegressor:
        """Train heads on auxiliary images, encrypt them as the owner does, and learn to read the ciphertexts."""
        count = self.options.ciphertext_shadows
        seed = stream_seed(context.seed, "span-ciphertext")
        context.progress(0.5, f"{count} shadow heads")
        features = prior.auxiliary_features
        sets = balanced_sets(prior.auxiliary_labels, prior.classes, prior.images_per_class, count, seed)
        seeds = [stream_seed(seed, "shadow", index) for index in range(count)]
        with limited_threads(1):
            weight, bias = train_heads(features[sets], prior.auxiliary_labels[sets], prior.classes, prior.recipe, seeds)
        encryptor = make_encryptor(material)
        numbers = []
        for index in range(count):
            context.progress(0.5 + 0.2 * index / count, "encrypting shadow heads")
            ciphertexts, _ = encryptor.encrypt(weight[index], bias[index])
            numbers.append(numeric_view(material, ciphertexts))
        context.progress(0.7, "learning to read ciphertexts")
        flat = np.concatenate([weight.reshape(count, -1), bias], axis=1)
        return fit_head_regressor(np.stack(numbers), flat, seed)


def _numbers(material: PublicMaterial, head: EncryptedHead) -> AnyArray:
    return numeric_view(material, HeadCiphertexts(head.ciphertexts, head.key_fingerprint))


def _split(flat: FloatArray, prior: PriorKnowledge) -> tuple[FloatArray, FloatArray]:
    """Weights [V, K, D] and biases [V, K] of flat heads [V, K·(D+1)]."""
    classes, width = prior.classes, prior.backbone.features
    weight, bias = flat[:, : classes * width], flat[:, classes * width :]
    return weight.reshape(-1, classes, width).astype(np.float32), bias.astype(np.float32)


def _rows(inversion: Inversion, rows: AnyArray) -> Inversion:
    """The inversion of some of the heads."""
    return replace(
        inversion,
        features=inversion.features[rows],
        points=inversion.points[rows],
        coefficients=inversion.coefficients[rows],
    )


def _picture(tools: SpanAttack, backbone: Backbone, piece: _Piece) -> FloatArray:
    return tools.picture(backbone, piece.weight, piece.inversion)
