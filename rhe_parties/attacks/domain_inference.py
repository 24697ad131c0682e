"""Adaptive domain inference as a prelude: which of many unlabelled images are of the private data's kind?

Source: Gu and Chen 2023 (arXiv 2312.15088). There the target's confidences weigh the concepts of a hierarchy that
people made; here the hierarchy is built from the images, and classes are enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from rhe_parties.attacks.base import AttackContext, Claim, Oracle, PriorKnowledge, Strategy
from rhe_parties.attacks.domain.narrowing import Narrowing, NarrowingSettings, narrow_pool
from rhe_parties.attacks.extraction.claims import granted
from rhe_parties.attacks.hard_label import HardLabel
from rhe_parties.attacks.span.shadows import augment_images
from rhe_parties.errors import ParameterError
from rhe_parties.rng import stream_seed
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import IntArray, UInt8Array

__all__ = ["DomainInference", "head_votes"]

_ANSWERS = 8  # per image where there are fewer heads: the rest are answers to slight variants of it
_SEVERAL_HEADS = 3  # from here on heads' agreement with each other is evidence enough
_CUTS = 2  # the first may go to one outlying domain, such as noise
_HALF_WAY = 0.5  # chance-corrected agreement of several heads that is good enough in any pool


class DomainInference(Strategy):
    """Narrows a mixed pool of auxiliary images by the key holder's answers, then runs `hard-label` with what is left.

    Uses: decisions on images of its own choice, the public backbone and recipe, a pool of images whose labels are not
    looked at. A few victims' heads are asked about a few images of every part of the pool: they were trained for the
    same task on different images, so they agree where they know what they see. Expected with an oracle: most of the
    selected images are of the true kind, and the extraction is as good as with a clean pool. Without one: blocked.
    """

    name = "domain-inference"
    goal = "extraction"
    summary = "finds the private kind of images in a mixed, unlabelled pool by asking; then hard-label extraction"
    source = "adaptive domain inference, Gu and Chen 2023, arXiv 2312.15088"
    needs = frozenset({Observation.ORACLE})

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            probe_heads: victims whose heads are asked about the pool.
            probe_images: images of the pool that each of them is asked about.
            leaves: parts that the pool is cut into, at most.
            narrow: whether to narrow at all; without, all images are used under the names that the answers suggest:
                what the prelude is worth shows in the difference.
            decisions: answers per head for the extraction, at most.
            shadows: heads trained for the extraction's prior.
            reconstruct: whether to go on from heads to training images.
        """

        probe_heads: int = 8
        probe_images: int = 600
        leaves: int = 64
        narrow: bool = True
        decisions: int = 20_000
        shadows: int = 8000
        reconstruct: bool = True

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`."""
        found = self.narrow(prior, context)
        chosen = replace(prior, auxiliary_images=prior.auxiliary_images[found.selected], auxiliary_labels=found.labels)
        options = HardLabel.Options(
            decisions=self.options.decisions, shadows=self.options.shadows, reconstruct=self.options.reconstruct
        )
        # A memory of its own: what depends on these images must not serve a world with others.
        inner = replace(context, memory={}, progress=lambda share, text: context.progress(0.1 + 0.9 * share, text))
        claim = HardLabel(options).attack(view, chosen, inner)
        heads = min(self.options.probe_heads, len(context.victims))
        notes = {
            "images in the pool": str(len(prior.auxiliary_images)),
            "images asked about": f"{len(found.asked)} of {heads} heads each",
            "images selected": str(len(found.selected)),
        }
        return replace(claim, notes=notes | claim.notes)

    def narrow(self, prior: PriorKnowledge, context: AttackContext) -> Narrowing:
        """The prelude alone: which images of the pool are of the target's kind, and their classes.

        Raises:
            ParameterError: no oracle, no victims, options out of range, or a budget that is used up.
            DataError: an empty pool, or a target that tells nothing apart.
        """
        oracle, o = context.require_oracle(), self.options
        if o.probe_heads < 1 or o.probe_images < 1:
            raise ParameterError(
                f"domain-inference: probe_heads = {o.probe_heads} and probe_images = {o.probe_images} are not allowed: "
                "at least 1"
            )
        heads = context.victims[: o.probe_heads]
        variants = 1 if len(heads) >= _SEVERAL_HEADS else -(-_ANSWERS // len(heads))
        left = min(granted(oracle, head, o.probe_images * variants) for head in heads) // variants
        if left < 1:
            raise ParameterError(f"domain-inference: the budget of {oracle.budget} images per head is used up")
        several = len(heads) >= _SEVERAL_HEADS
        settings = NarrowingSettings(
            images=left, leaves=o.leaves, groups=min(8, o.leaves),
            ceiling=_HALF_WAY if several else math.inf, cuts=_CUTS,
        )  # fmt: skip
        seed = stream_seed(context.seed, "domain-inference")
        found = narrow_pool(
            prior.auxiliary_images, prior.auxiliary_features, prior.classes,
            lambda images: head_votes(oracle, heads, images, variants, seed), settings, seed,
            lambda share: context.progress(0.1 * share, "narrowing the pool"),
        )  # fmt: skip
        return found if o.narrow else found.everything(prior.auxiliary_features)


def head_votes(oracle: Oracle, heads: tuple[str, ...], images: UInt8Array, variants: int, seed: int) -> IntArray:
    """Answers int64 [m, heads·variants] of several heads to images uint8 [m, C, H, W] and slight variants of them."""
    votes = []
    for variant in range(variants):
        shown = images if variant == 0 else augment_images(images, 1, stream_seed(seed, "domain-variant", variant))
        votes += [oracle.ask(head, shown).classes for head in heads]
    return np.stack(votes, axis=1)
