"""From coefficients that may be the secret key to a claim: the key is proven, then every head is opened with it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Blocked, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.extraction.claims import claim_from_heads, trained_shadows
from rhe_parties.attacks.key_recovery import open_heads
from rhe_parties.attacks.malicious.places import Decide
from rhe_parties.attacks.white_box import known_victims
from rhe_parties.errors import ProtocolError
from rhe_parties.he.found_key import FoundKey
from rhe_parties.he.malleable import Forge
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import IntArray

__all__ = ["KeyAttack", "decider"]


def decider(context: AttackContext, head: str) -> Decide:
    """Decisions on ciphertexts that the host replies with; the images of such a request are never looked at."""

    def decide(ciphertexts: tuple[bytes, ...], inputs: int) -> IntArray:
        images = np.zeros((inputs, 1, 1, 1), dtype=np.uint8)
        return context.require_host().ask_through_host(head, images, ciphertexts).classes

    return decide


class KeyAttack(Strategy):
    """A strategy that is after the secret key, by what comes back on ciphertexts of the host's own making."""

    needs = frozenset(
        {Observation.ENCRYPTED_HEAD, Observation.PUBLIC_KEY, Observation.ORACLE, Observation.HOST_CONTROL}
    )

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            shadows: heads trained to tell the heads' scale, and for the reconstruction.
            reconstruct: whether to go on to images.
        """

        shadows: int = 2000
        reconstruct: bool = True

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim | Blocked:
        """See `Strategy.attack`; everything is asked of the first victim's head, and opens the others' too."""
        material = view.public_material()
        if material is None or material.plan.scheme != "bfv":
            return Blocked(("ciphertexts of scheme bfv",))
        forge = Forge(material)
        missing = self.missing(forge)
        if missing:
            return Blocked((missing,))
        head = known_victims(context.victims, view.encrypted_heads())[0]
        notes: dict[str, str] = {}
        context.progress(0.0, "reading the key")
        found: FoundKey | None = None
        try:
            key = self.read(forge, head, context, notes)
            found = None if key is None else FoundKey(material.plan, key)
            found = found if found is not None and found.opens_fresh(material) else None
        except ProtocolError as error:
            notes["refused"] = str(error)
        notes["fresh ciphertext decrypted"] = "no" if found is None else "yes"
        shadows = trained_shadows(prior, context, self.options.shadows)
        heads = open_heads(found, material, view, shadows, prior, context)
        return claim_from_heads(heads, shadows, self.options.reconstruct, prior, context, notes)

    def missing(self, forge: Forge) -> str:
        """What the layout lacks for this attack; empty where it can start."""
        del forge
        return ""

    @abstractmethod
    def read(self, forge: Forge, head: str, context: AttackContext, notes: dict[str, str]) -> IntArray | None:
        """Coefficients int64 [N] of what may be the key, or None.

        Args:
            forge: makes replies.
            head: that the key holder is asked about.
            notes: for the claim; to be added to.

        Raises:
            ProtocolError: the key holder will not go on.
        """
