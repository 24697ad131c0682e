"""Boundary correction: decisions come from a small Bayesian network behind the head. An ablation, no protection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Defence, Fact, Fitted, PublicData
from rhe_parties.defences.correction import adversarial_logits, correct, sample_corrections
from rhe_parties.defences.shadows import ShadowScores, shadow_scores
from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["BoundaryCorrection"]

_HELD_OUT = 4  # one in so many heads and images is kept from the fit


class BoundaryCorrection(Defence):
    """Moves the decision boundary: what goes out is the average posterior of sampled networks behind the head's logits.

    Made against adversarial examples, and NOT a defence of training data: the head is trained as ever. It stands here
    for one question, whether a boundary that is no longer linear in the features makes a head harder to extract. It
    changes decisions; how many, and what that does to accuracy, is measured on public images that neither the networks
    nor the heads in question saw. The networks are fitted to scores of heads that are trained on public images, clean
    and adversarial, so that the victims' heads are as new to them as their images. Released scores are logarithms of
    probabilities.

    Extraction by `hard-label` and `soft-label` takes answers for those of a linear head even where it knows of this
    one, and no longer finds the weights that images are read from. `hard-label` still finds a linear head that answers
    nearly as the key holder does. Nor is the rest secure: anyone with public images can fit networks like these, and a
    head that is fitted through them to released scores has most of the weights again.
    """

    name = "boundary-correction"
    summary = "decisions come from a Bayesian network behind the head (an ablation: no defence of training data)"
    source = "after Wang, Diao 2023, arXiv 2306.16979"
    two_layers = False

    @dataclass(frozen=True)
    class Options:
        """What the networks are fitted to.

        Attributes:
            radius: by how much adversarial versions are moved, as a share of the mean length of features.
            energy: weight of the energy of clean scores in the potential; 0: a classifier alone.
        """

        radius: float = 0.1
        energy: float = 0.1

        def __post_init__(self) -> None:
            for name, allowed, words in (
                ("radius", 0 < self.radius <= 1, "above 0, at most 1"),
                ("energy", 0 <= self.energy <= 1, "0 to 1"),
            ):
                value = getattr(self, name)
                if not (np.isfinite(value) and allowed):
                    raise ParameterError(f"boundary-correction: {name}={value} is not allowed (allowed: {words})")

    def fit(self, public: PublicData, recipe: AnyRecipe) -> Fitted:
        """See `Defence.fit`; `held_out` are shares: decisions changed, accuracy before, and after."""
        shadows = shadow_scores(public, recipe)
        heads, images = (len(part) - max(1, len(part) // _HELD_OUT) for part in (shadows.logits, shadows.rows))
        clean, weight = shadows.logits[:heads, :images], shadows.weight[:heads]
        labels = public.labels[shadows.rows]
        radius = self.options.radius * float(np.linalg.norm(public.features[shadows.rows], axis=1).mean())
        moved = adversarial_logits(clean, weight, labels[:images], radius)
        found = sample_corrections(clean, moved, labels[:images], self.options.energy, public.seed)
        return found | {"held_out": _measured(shadows, labels, heads, images, found)}

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """See `Defence.facts`."""
        del recipe, images
        changed, before, after = 100 * self.fitted["held_out"]
        return [
            ("decisions changed on held-out public images", f"{changed:.1f} %"),
            ("accuracy there", f"{before:.1f} % before, {after:.1f} % after"),
        ]

    def release(self, classes: IntArray, logits: AnyArray) -> tuple[IntArray, AnyArray]:
        """See `Defence.release`."""
        del classes
        corrected = correct(np.asarray(logits, np.float64), self.fitted)
        return corrected.argmax(axis=1).astype(np.int64), corrected


def _measured(shadows: ShadowScores, labels: IntArray, heads: int, images: int, found: Fitted) -> FloatArray:
    """Shares [3] on heads and images from these on: decisions changed, accuracy before, and after."""
    logits = shadows.logits[heads:, images:]
    fresh = shadows.fresh[heads:, images:]
    before = logits.argmax(axis=2)[fresh]
    after = np.stack([correct(part.astype(np.float64), found).argmax(axis=1) for part in logits])[fresh]
    true = np.broadcast_to(labels[images:], fresh.shape)[fresh]
    return np.asarray([(before != after).mean(), (before == true).mean(), (after == true).mean()], np.float32)
