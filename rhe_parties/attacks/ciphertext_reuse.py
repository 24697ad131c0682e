"""Ciphertext reuse: is any randomness used twice in the host's bytes, or anything not encrypted at all?

Encryption is only as good as its randomness. A generator that is seeded twice, a forked process, a cached encryption of
zero: each makes two ciphertexts share their mask, and their difference is the difference of two heads in the clear.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rhe_parties.attacks.base import AttackContext, PriorKnowledge
from rhe_parties.attacks.reuse.findings import UInt64Array, examine
from rhe_parties.attacks.reuse.recover import read_pile, recover_heads
from rhe_parties.attacks.side_channel import Estimate, Evidence, SideChannelStrategy
from rhe_parties.rng import numpy_stream

__all__ = ["CiphertextReuse"]


class CiphertextReuse(SideChannelStrategy):
    """Compares all ciphertexts of all heads; where masks are shared it reads what they no longer hide.

    Uses: the host's ciphertexts, public key material, heads of its own for their mean and their size. Looks for equal
    bytes, equal c1 (also but for errors of encryption), c1 equal up to sign and negacyclic shift, equal coefficients
    beyond chance, residues that are not uniform, and c1 = 0. Expected under RHE with sound randomness: nothing found,
    the claim is that of the mean head. Its positive controls are heads on one shared mask, of which everything but one
    common head is read, and the twin without encryption (`rhe:plain`), which is read whole. Heads on one mask under
    scheme `ckks` are found and reported, but not read.
    """

    name = "ciphertext-reuse"
    goal = "reconstruction"
    summary = "looks for shared masks, structure and missing encryption in the host's bytes, and reads what they reveal"
    source = "two-time pad on ring-LWE masks; Fan and Vercauteren 2012, section 3"

    def estimate(self, evidence: Evidence, prior: PriorKnowledge, context: AttackContext) -> Estimate:
        """See `SideChannelStrategy.estimate`; the null control reads uniform residues."""
        del prior
        context.progress(0.1, "comparing ciphertexts")
        pile = read_pile(evidence.material, evidence.ciphertexts)
        findings = examine(pile.data, pile.residues.reshape(-1, *pile.residues.shape[2:]), pile.prime)
        context.progress(0.6, "reading what is shared")
        read = recover_heads(pile, evidence.head_ids, evidence.shadows)
        noise: UInt64Array = numpy_stream(context.seed, "reuse-null").integers(
            0, pile.prime, size=pile.residues.shape, dtype=np.uint64
        )
        null = recover_heads(replace(pile, residues=noise), evidence.head_ids, evidence.shadows)
        notes = findings.notes() | {"share of weights read from ciphertexts": f"{read.share:.3f}"}
        return Estimate(read.heads, null.heads, notes)
