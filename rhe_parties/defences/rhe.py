"""Reverse homomorphic encryption: inputs and backbone in the clear, the head's weights encrypted."""

from __future__ import annotations

from rhe_parties.defences.base import Defence

__all__ = ["ReverseHomomorphicEncryption"]


class ReverseHomomorphicEncryption(Defence):
    """The head is trained as ever and leaves the owner encrypted; only the key holder reads logits."""

    name = "rhe"
    summary = "the head's weights are encrypted under the key holder's key; the host computes encrypted logits"
    source = "arXiv 2505.14323"
    encrypts = True
