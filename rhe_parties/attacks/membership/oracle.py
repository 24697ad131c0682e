"""What a membership attack may ask of the key holder."""

from __future__ import annotations

from collections.abc import Sequence

from rhe_parties.attacks.base import AttackContext, Oracle, PriorKnowledge
from rhe_parties.attacks.span.shadows import balanced_sets
from rhe_parties.attacks.white_box import Heads, random_heads
from rhe_parties.errors import ParameterError
from rhe_parties.model.dual import train_many
from rhe_parties.rng import stream_seed

__all__ = ["random_shadows", "share_of_budget"]

_SHADOWS = 512


def share_of_budget(oracle: Oracle, heads: Sequence[str], wanted: int) -> int:
    """Images per head that may be asked, at most `wanted`, the same for all heads.

    Raises:
        ParameterError: the budget is used up for some head.
    """
    if oracle.budget == 0:
        return wanted
    left = min(oracle.budget - oracle.used(head) for head in heads)
    if left < 1:
        raise ParameterError(f"client budget of {oracle.budget} images per head is used up")
    return min(wanted, left)


def random_shadows(prior: PriorKnowledge, context: AttackContext) -> Heads:
    """One Gaussian head per victim with the mean and covariance of shadow heads: for null controls of asking."""
    seed = stream_seed(context.seed, "membership-null")
    sets = balanced_sets(prior.auxiliary_labels, prior.classes, prior.images_per_class, _SHADOWS, seed)
    weight, bias = train_many(prior.auxiliary_features, prior.auxiliary_labels, sets, prior.classes, prior.recipe, seed)
    shadows = Heads(tuple(map(str, range(len(sets)))), weight, bias)
    return random_heads(shadows, tuple(context.victims), seed)
