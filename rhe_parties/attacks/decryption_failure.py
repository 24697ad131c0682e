"""The key from noise: what a host learns where its replies decrypt wrongly, or where it is told that they were refused.

bfv is exact as long as noise stays small, and who can push it over the edge at will learns the secret key from where
it falls. Nothing is written into plaintexts, so a tag over plaintexts does not see it.
"""

from __future__ import annotations

import numpy as np

from rhe_parties.attacks.base import AttackContext
from rhe_parties.attacks.malicious.noise import key_by_refusals, key_by_rounding
from rhe_parties.attacks.malicious.opening import KeyAttack, decider
from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.he.malleable import Forge
from rhe_parties.types import IntArray

__all__ = ["DecryptionFailure", "Reaction"]


class DecryptionFailure(KeyAttack):
    """Reads the secret key off wrongly rounded logits, then opens every head.

    Uses: the public key, encrypted heads, decisions on the adversary's own requests, the host's answers to them.
    Expected where the key holder decrypts whatever the noise (`+noise-check=off`): the whole key in about two decisions
    per coefficient. With the noise check: the first such reply is refused; what refusals tell, see `reaction`.
    Source: decryption failures as an oracle; Cheon et al. 2024, ePrint 2024/127, Checri et al. 2024, ePrint 2024/116.
    """

    name = "decryption-failure"
    summary = "the secret key by decisions on replies whose noise is pushed to where rounding fails"
    source = "Cheon et al. 2024, ePrint 2024/127; Checri et al. 2024, ePrint 2024/116"

    def read(self, forge: Forge, head: str, context: AttackContext, notes: dict[str, str]) -> IntArray:
        """See `KeyAttack.read`."""
        ask = decider(context, head)
        decisions = 0

        def decide(ciphertexts: tuple[bytes, ...], inputs: int) -> IntArray:
            nonlocal decisions
            classes = ask(ciphertexts, inputs)
            decisions += inputs
            return classes

        try:
            return key_by_rounding(forge, decide)
        finally:
            notes["decisions"] = f"{decisions:,}"


class Reaction(KeyAttack):
    """Reads the secret key off which replies are refused, then opens every head; no decision is ever looked at.

    Uses: the public key, encrypted heads, whether the key holder refused a reply, the host's answers to the adversary's
    own requests. A host alone is told the same of everybody's requests. Expected where refusals go on without end
    (`+noise-check=refuse`): the whole key in about 1.7 replies per coefficient. Where the key holder closes the key on
    the first: nothing but a bit. Without a noise check: nothing, as nothing is refused.
    Source: reaction attacks, Hall, Goldberg, Schneier 1999, on this project's noise check.
    """

    name = "reaction"
    summary = "the secret key by which replies the key holder refuses, without a single decision"
    source = "reaction attacks, Hall, Goldberg, Schneier 1999"

    def read(self, forge: Forge, head: str, context: AttackContext, notes: dict[str, str]) -> IntArray | None:
        """See `KeyAttack.read`."""
        image = np.zeros((1, 1, 1, 1), dtype=np.uint8)
        host, asked, refusals = context.require_host(), 0, 0

        def refused(ciphertexts: tuple[bytes, ...]) -> bool:
            nonlocal asked, refusals
            if asked % 64 == 0:
                context.progress(min(0.6, 0.3 * asked / forge.plan.degree), f"reply {asked:,}: is it refused?")
            try:
                host.ask_through_host(head, image, ciphertexts)
                found = False
            except ProtocolError as error:
                if error.code != FailureCode.WRONG_KEY:
                    raise
                found = True
            asked, refusals = asked + 1, refusals + found
            return found

        try:
            return key_by_refusals(forge, refused)
        finally:
            notes["replies refused"] = f"{refusals:,} of {asked:,}"
