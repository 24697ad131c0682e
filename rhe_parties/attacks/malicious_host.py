"""A host that does not keep to the protocol, and a key holder that tells it classes: two ways to everything.

The adversary controls the host's answers to its own requests as a client of the key holder. Both strategies submit
ciphertexts of their own making; every decision is counted by the key holder, and every message is in the transcript.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Blocked, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.extraction.claims import claim_from_heads, trained_shadows
from rhe_parties.attacks.extraction.scale import real_heads
from rhe_parties.attacks.key_recovery import guessed_heads
from rhe_parties.attacks.malicious.opening import KeyAttack, decider
from rhe_parties.attacks.malicious.secret import key_decisions, read_key, readable
from rhe_parties.attacks.malicious.weights import Compared, compare_weights, levels
from rhe_parties.attacks.white_box import Heads, known_victims
from rhe_parties.he.malleable import Forge
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import IntArray

__all__ = ["KeyReading", "MaliciousHost"]


class MaliciousHost(Strategy):
    """Compares every weight with constants, by decisions on ciphertexts that the host makes of the encrypted head.

    Uses: the encrypted head, the public key, decisions on the adversary's own requests, the host's answers to them.
    Expected where the layout gives a reply several polynomials (throughput layouts, such as batch=256): all weights,
    in about four or five decisions each. Where all classes share one polynomial: blocked; see `key-reading`.
    Source: methods of this project, after the malleability of bfv; A2, weight comparison.
    """

    name = "malicious-host"
    summary = "every weight by comparison: the host submits ciphertexts of its own, the key holder decides"
    source = "weight comparison by a malicious host; malleability of Fan, Vercauteren 2012"
    needs = KeyAttack.needs

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            bits: weights are found to within 2^-bits of their range.
            shadows: heads trained to tell the heads' scale, and for the reconstruction.
            reconstruct: whether to go on to images.
        """

        bits: int = 8
        shadows: int = 2000
        reconstruct: bool = True

        def __post_init__(self) -> None:
            if not 1 <= self.bits <= 20:
                raise ValueError(f"bits={self.bits} is not allowed: 1 to 20")

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim | Blocked:
        """See `Strategy.attack`."""
        material = view.public_material()
        if material is None or material.plan.scheme != "bfv":
            return Blocked(("ciphertexts of scheme bfv",))
        forge = Forge(material)
        if levels(forge, prior.classes) < 2:
            return Blocked(("a reply of several polynomials (all classes share one; batch=256 plans five)",))
        seen = view.encrypted_heads()
        ids = known_victims(context.victims, seen)
        found = []
        for number, name in enumerate(ids):
            context.progress(0.6 * number / len(ids), f"comparing weights of head {number + 1}")
            head = HeadCiphertexts(seen[name].ciphertexts, seen[name].key_fingerprint)
            found.append(compare_weights(forge, head, prior.classes, self.options.bits, decider(context, name)))
        shadows = trained_shadows(prior, context, self.options.shadows)
        heads = _heads(ids, found, material, shadows, prior)
        return claim_from_heads(heads, shadows, self.options.reconstruct, prior, context, _notes(found))


class KeyReading(KeyAttack):
    """Reads the secret key's coefficients off decisions, then opens every head.

    Uses: the public key, encrypted heads, decisions on the adversary's own requests, the host's answers to them.
    Expected in every layout: the whole key in one to three decisions per coefficient, whatever the number of heads.
    The noise check does not see it: such replies are as good as fresh ciphertexts.
    Source: chosen-ciphertext attack on bfv; Loftus, May, Smart, Vercauteren 2011 (ePrint 2010/560) on such schemes.
    """

    name = "key-reading"
    summary = "the secret key, coefficient by coefficient, by decisions on ciphertexts of the host's own making"
    source = "chosen-ciphertext attack as in Loftus, May, Smart, Vercauteren 2011, ePrint 2010/560"

    def missing(self, forge: Forge) -> str:
        """See `KeyAttack.missing`."""
        return "" if readable(forge) else "three polynomials in a reply, or two classes in one"

    def read(self, forge: Forge, head: str, context: AttackContext, notes: dict[str, str]) -> IntArray | None:
        """See `KeyAttack.read`."""
        notes["decisions that the whole key takes"] = str(key_decisions(forge))
        return read_key(forge, decider(context, head))


def _heads(
    ids: tuple[str, ...], found: list[Compared], material: PublicMaterial, shadows: Heads, prior: PriorKnowledge
) -> Heads:
    """Heads in real numbers; those of which nothing is known are guessed."""
    plan = material.plan
    heads = guessed_heads(ids, shadows)
    known = [place for place, item in enumerate(found) if item.decisions]
    if not known:
        return heads
    weights = np.stack([found[place].weights for place in known]) * (2.0**plan.feature_bits / plan.feature_norm)
    biases = np.stack([found[place].biases for place in known])
    weight, bias = real_heads(weights, biases, shadows.weight, prior.auxiliary_features)
    all_weights, all_biases = heads.weight.copy(), heads.bias.copy()
    all_weights[known], all_biases[known] = weight, bias
    spans = np.ptp(weight, axis=(1, 2)) / np.maximum(np.ptp(weights, axis=(1, 2)), 1e-30)
    steps = np.array([found[place].error for place in known]) * 2.0**plan.feature_bits / plan.feature_norm
    variance = float(np.mean(np.square(spans * steps) / 3)) if len(known) == len(ids) else heads.error_variance
    return Heads(ids, all_weights, all_biases, variance)


def _notes(found: list[Compared]) -> dict[str, str]:
    notes = {"decisions per head": f"{np.mean([item.decisions for item in found]):.0f}"}
    refused = [item.refused for item in found if item.refused]
    if refused:
        notes["heads where the key holder would not go on"] = f"{len(refused)} of {len(found)}: {refused[0]}"
    return notes
