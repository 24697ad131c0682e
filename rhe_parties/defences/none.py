"""No defence: the control that every other world is compared with."""

from __future__ import annotations

from rhe_parties.defences.base import Defence

__all__ = ["NoDefence"]


class NoDefence(Defence):
    """The head's weights travel to the host in the clear."""

    name = "none"
    summary = "the head's weights are handed to the host in the clear"
    source = "control"
