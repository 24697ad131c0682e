"""Spoofing: heads are trained on decoys that give the private images' update. An experiment with a negative result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rhe_parties.defences.base import AnyRecipe, Defence, Fact, Fitted, PublicData
from rhe_parties.errors import ParameterError
from rhe_parties.types import AnyArray, FloatArray, IntArray

if TYPE_CHECKING:
    from torch import Tensor

    from rhe_parties.model.head import LinearHead, Recipe

__all__ = ["Decoys", "Spoofing", "make_decoys"]

_FOREIGN = 1000  # images of the domain that decoys are drawn from
_PROBES = 4  # public training sets on which the match is measured
_CORRECTIONS = 3
_STEPS, _ROUNDS, _ENOUGH = 5, 16, 1e-3  # of L-BFGS, and the relative gap of two updates that counts as none
_NOTHING = 1e-6  # singular values of the coefficients below this share of the largest are rounding


@dataclass(frozen=True, eq=False)
class Decoys:
    """What a head is trained on in place of private images.

    Attributes:
        features: float32 [M, D].
        labels: int64 [M].
        gap: length of what is left between the update that was wanted and the decoys', as a share of the former.
        moved: mean length of the correction of a foreign feature vector, as a share of the vector's.
    """

    features: FloatArray
    labels: IntArray
    gap: float
    moved: float


class Spoofing(Defence):
    """Trains the released head on decoys: features of foreign images, corrected until they give the wanted update.

    In SpooFL clients of federated learning share updates of synthetic images from another domain that follow those of
    their private ones, and attackers rebuild the synthetic images. A head is its update: trained from W_0 on features
    φ_n it is s·W_0 + Σ_n c_n φ_nᵀ, and that sum is all that an inversion reads. Decoys that give the same update
    (`match=1`) give the same head, which leaks the same images: what it was computed from protects nothing. A looser
    match mixes in the update of foreign images as they are, which the private head itself chose and labelled, and pays
    for what it hides with accuracy. It hides little: even with none of the private update left, the choice of foreign
    images tells of the private ones.

    Foreign are the invented characters of `rhe_parties.data.strokes`, in no dataset's classes. The correction leaves
    the range of features that images can have. No adversary here knows what foreign images were used, nor trains shadow
    heads under this defence, as each of them takes a second: at looser matches it takes heads for ones of the plain
    recipe, and what it finds is a lower bound.
    """

    name = "spoofing"
    summary = "heads are trained on decoys with the private images' update (an experiment: protects no images)"
    source = "after SpooFL, arXiv 2601.15055"

    @dataclass(frozen=True)
    class Options:
        """`match`: how much of the private update is in the decoys', 1: all; `decoys`: for each private image."""

        match: float = 1.0
        decoys: int = 4

        def __post_init__(self) -> None:
            if not (np.isfinite(self.match) and 0 <= self.match <= 1):
                raise ParameterError(f"spoofing: match={self.match} is not allowed (allowed: 0 to 1)")
            if not 1 <= self.decoys <= 64:
                raise ParameterError(f"spoofing: decoys={self.decoys} is not allowed (allowed: 1 to 64)")

    def fit(self, public: PublicData, recipe: AnyRecipe) -> Fitted:
        """See `Defence.fit`: features of foreign images, and how well public images are matched with them.

        Raises:
            ParameterError: a recipe of heads with a hidden layer, or more decoys than there are foreign images.
        """
        from rhe_parties.data.domains import mixture_images
        from rhe_parties.data.splits import random_sets
        from rhe_parties.model.head import Recipe
        from rhe_parties.rng import numpy_stream, stream_seed

        if not isinstance(recipe, Recipe):
            raise ParameterError("spoofing makes decoys for linear heads (allowed: hidden=0)")
        if public.set_size * self.options.decoys > _FOREIGN:
            raise ParameterError(
                f"spoofing: decoys={self.options.decoys} is not allowed for {public.set_size} images "
                f"(allowed: {_FOREIGN} foreign images suffice for {_FOREIGN // public.set_size})"
            )
        channels, height, width = public.images.shape[1:]
        foreign = public.extract(mixture_images(("strokes",), _FOREIGN, (channels, height, width), public.seed))
        stream = numpy_stream(public.seed, "spoofing-probes")
        sets = random_sets(public.labels, public.classes, public.images_per_class, _PROBES, stream)
        found = []
        for index, rows in enumerate(sets):
            seed = stream_seed(public.seed, "spoofing-probe", index)
            made = self._decoys(public.features[rows], public.labels[rows], public.classes, recipe, seed, foreign)
            found.append((made.gap, made.moved))
        return {"foreign": foreign, "measured": np.max(found, axis=0).astype(np.float32)}

    def facts(self, recipe: AnyRecipe, images: int) -> list[Fact]:
        """See `Defence.facts`."""
        del recipe
        gap, moved = self.fitted["measured"]
        return [
            ("share of the private update in the decoys'", f"{self.options.match:g}"),
            ("decoys of a head", f"{self.options.decoys * images}"),
            ("largest gap to the wanted update, on public images", f"{gap:.1e} of its length"),
            ("largest mean correction of foreign features", f"{100 * moved:.0f} % of their length"),
        ]

    def train(self, features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seed: int) -> LinearHead:
        """See `Defence.train`."""
        from rhe_parties.model.head import train_head

        if "foreign" not in self.fitted:
            raise ParameterError("spoofing: there are no foreign features; they are made by Spoofing.fit")
        made = self._decoys(features, labels, classes, recipe, seed, self.fitted["foreign"])
        return train_head(made.features, made.labels, classes, recipe, seed)

    def _decoys(
        self, features: FloatArray, labels: IntArray, classes: int, recipe: Recipe, seed: int, foreign: FloatArray
    ) -> Decoys:
        from rhe_parties.model.head import train_head

        head = train_head(features, labels, classes, recipe, seed)
        wanted = self.options.decoys * np.bincount(labels, minlength=classes)
        return make_decoys(head, foreign, wanted, recipe, seed, self.options.match)


def make_decoys(
    head: LinearHead, foreign: FloatArray, wanted: IntArray, recipe: Recipe, seed: int, match: float
) -> Decoys:
    """Decoys whose head, from the same start, is the given one.

    Foreign features are chosen that the head is most certain of. First they get the least correction that would do if
    training gave every decoy the coefficients that it gave before; as these change with the decoys, L-BFGS on the gap,
    through all steps of the training, takes it from there.

    Args:
        head: trained on private features.
        foreign: features [m, D] of foreign images.
        wanted: decoys [K] of each class, m in all at most.
        recipe: how the head was trained, and the decoys' will be.
        seed: of its start.
        match: share of the head's update in the wanted one, the rest being that of the foreign features as they are.
    """
    import torch
    import torch.nn.functional as F

    from rhe_parties.model.head import descend_coefficients, initial_weights
    from rhe_parties.threads import limited_threads

    rows, labels = _most_certain(head.logits(foreign), wanted)
    start = torch.from_numpy(initial_weights([seed], head.classes, head.features, recipe.init_std)).double()
    onehot = F.one_hot(torch.from_numpy(labels), head.classes).double()[None]

    def trained(decoys: Tensor) -> tuple[Tensor, Tensor]:
        """Coefficients [1, M, K], and the update [1, K, D+1] of weights and biases."""
        factors, bias, _ = descend_coefficients(decoys @ decoys.mT, decoys @ start.mT, onehot, recipe)
        return factors, torch.cat([factors.mT @ decoys, bias[..., None]], dim=2)

    plain = torch.from_numpy(foreign[rows])[None].double()
    with limited_threads(1):
        whole = torch.from_numpy(head.weight)[None].double() - recipe.shrink * start
        whole = torch.cat([whole, torch.from_numpy(head.bias)[None, :, None].double()], dim=2)
        target = match * whole + (1 - match) * trained(plain)[1]
        decoys = plain
        for _ in range(_CORRECTIONS):
            factors, update = trained(decoys)
            missing = (target - update)[..., :-1]
            decoys = decoys + torch.linalg.pinv(factors.mT, rtol=_NOTHING) @ missing
        decoys, gap = _descended(decoys, lambda now: (trained(now)[1] - target).norm() / target.norm())
    moved = float(((decoys - plain).norm(dim=2) / plain.norm(dim=2).clamp_min(1e-12)).mean())
    return Decoys(decoys[0].float().numpy(), labels, gap, moved)


def _descended(decoys: Tensor, gap: Callable[[Tensor], Tensor]) -> tuple[Tensor, float]:
    """Decoys from there on at which the gap is small, and the gap; as small as some rounds make it."""
    import torch

    decoys = decoys.clone().requires_grad_()
    optimiser = torch.optim.LBFGS(
        [decoys], max_iter=_STEPS, history_size=20, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = gap(decoys).square()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    left = float(gap(decoys).detach())
    for _ in range(_ROUNDS):
        if left <= _ENOUGH:
            break
        optimiser.step(closure)  # type: ignore[no-untyped-call]
        left = float(gap(decoys).detach())
    return decoys.detach(), left


def _most_certain(logits: AnyArray, wanted: IntArray) -> tuple[IntArray, IntArray]:
    """Rows [M] and labels [M] of the images with the largest confidence in each class, none of them twice."""
    margins = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    free = np.ones(len(logits), np.bool_)
    rows: list[IntArray] = []
    for label, count in enumerate(wanted):
        order = np.flatnonzero(free)[np.argsort(-margins[free, label], kind="stable")][:count]
        free[order] = False
        rows.append(order.astype(np.int64))
    return np.concatenate(rows), np.repeat(np.arange(len(wanted)), [len(part) for part in rows]).astype(np.int64)
