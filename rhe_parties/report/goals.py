"""What an adversary is after: as its strategy declares, or by the statistics that its claims give."""

from __future__ import annotations

from collections.abc import Iterable

from rhe_parties.report.record import AttackRecord, Record
from rhe_parties.report.wording import printable

__all__ = ["acting", "goal_of", "goal_rank", "goal_title", "headline_statistics"]

# In the order of the matrix. Any other goal that a strategy declares stands behind these under its own name.
_TITLES = {
    "reconstruction": "Rebuild training images",
    "membership": "Recognise training images",
    "property": "Guess a property of the training set",
    "extraction": "Copy the classifier",
    "inversion": "Rebuild the classified images",
    "keys": "Recover the secret key",
    "active": "Cheat as a party",
}
_OTHER = "Other aims"
# How a statistic names what its attack is after: the first that fits. A head read in clear is compared with the
# true one as an extracted head is, and an extracted one is inverted to images: who asked questions is after the head.
_SIGNS = (
    ("keys", ("key_",)),
    ("property", ("property_",)),
    ("inversion", ("input_",)),
    ("extraction", ("extraction_", "head_cosine")),
    ("reconstruction", ("identification_rate", "mse", "ssim")),
    ("membership", ("auc", "membership_", "advantage")),
    ("reconstruction", ("tpr_at_fpr",)),
)
_HEADLINES = {
    "extraction": ("extraction_agreement", "head_cosine", "extraction_agreement_mixes"),
    "membership": ("auc",),
}


def goal_of(attacks: Iterable[AttackRecord]) -> str:
    """What one adversary is after, from all that is recorded of it; "" where nothing tells."""
    every = list(attacks)
    declared = next((attack.goal for attack in every if attack.goal), "")
    if declared:
        return declared
    names = {result.statistic for attack in every for result in attack.results}
    if "identification_rate" in names and "queries" not in names:
        return "reconstruction"
    return next((goal for goal, signs in _SIGNS if any(name.startswith(signs) for name in names)), "")


def goal_rank(goal: str) -> int:
    """Where the goal's columns stand; unknown goals after the known ones, none at the end."""
    known = list(_TITLES)
    return known.index(goal) if goal in known else len(known) + (not goal)


def goal_title(goal: str) -> str:
    """The goal as an adversary would say it."""
    return _TITLES.get(goal) or printable(goal.replace("-", " ")).capitalize() or _OTHER


def headline_statistics(goal: str) -> tuple[str, ...]:
    """Statistics that say best how far such an adversary came, before those that decide in general."""
    return _HEADLINES.get(goal, ())


def acting(record: Record) -> bool:
    """Whether some adversary of the run did more than listen and ask: it broke the protocol, or went for the key."""
    return any(attack.goal in ("active", "keys") for world in record.worlds for attack in world.attacks)
