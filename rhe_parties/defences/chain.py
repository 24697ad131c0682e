"""Several defences of one world, each at its own stage."""

from __future__ import annotations

from collections.abc import Sequence

from rhe_parties.defences.base import Defence
from rhe_parties.defences.none import NoDefence
from rhe_parties.errors import ParameterError

__all__ = ["trainer_of"]


def trainer_of(defences: Sequence[Defence]) -> Defence:
    """The one that trains heads: at most one of a world's defences does so in a way of its own.

    Raises:
        ParameterError: two of them do.
    """
    found = [defence for defence in defences if defence.trains()]
    if len(found) > 1:
        names = " and ".join(repr(defence.name) for defence in found)
        raise ParameterError(f"defences {names} cannot train the same head (allowed in one world: one of them)")
    return found[0] if found else NoDefence()
