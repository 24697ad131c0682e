"""The secret key from released approximate values: Li and Micciancio's attack on CKKS at real parameters.

The host has the reply ciphertexts; a client, the host itself or one that colludes with it, has what decryption made of
them. Decryption is linear in the key, and CKKS gives the result *with* its noise, so two replies determine the key.
Whether a key was found is proven: SEAL decrypts a fresh ciphertext with it, or it is no key. With it every encrypted
head that the host holds, or ever held under that key, is open.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from rhe_parties.attacks.base import AttackContext, Blocked, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.extraction.claims import claim_from_heads, trained_shadows
from rhe_parties.attacks.extraction.scale import real_heads
from rhe_parties.attacks.white_box import Heads, known_victims
from rhe_parties.errors import ProtocolError
from rhe_parties.he.found_key import FoundKey
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial
from rhe_parties.he.trial_keys import bfv_candidate, ckks_candidate
from rhe_parties.messages.payloads import ClassifyResponse, Decision
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import AnyArray, IntArray

__all__ = ["KeyRecovery", "guessed_heads", "open_heads"]


@dataclass(frozen=True)
class _Reply:
    """Ciphertexts of one request, and the values that came of them: logits [B, K] or slots [B, K, S]."""

    ciphertexts: tuple[bytes, ...]
    values: AnyArray


class KeyRecovery(Strategy):
    """Solves for the secret key from replies and released values, and opens every head of the host with it.

    Uses: ciphertexts that the host holds and sends, and values that the key holder released for them, to others or to
    the adversary as a client. Expected under scheme ckks with all decoded values released: the key from two
    ciphertexts, and then the heads. With values rounded, under noise or of single slots, and under the exact bfv: it
    runs and finds nothing. Without any values: blocked.
    Source: Li, Micciancio 2021, ePrint 2020/1533.
    """

    name = "key-recovery"
    summary = "the secret key from released approximate values, then every encrypted head"
    source = "Li, Micciancio 2021, ePrint 2020/1533"
    needs = frozenset({Observation.ENCRYPTED_HEAD, Observation.PUBLIC_KEY, Observation.REPLIES, Observation.VALUES})

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            attempts: pairs of ciphertexts tried.
            shadows: heads trained to tell the heads' scale, and for the reconstruction.
            reconstruct: whether to go on from opened heads to images.
        """

        attempts: int = 4
        shadows: int = 2000
        reconstruct: bool = True

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim | Blocked:
        """See `Strategy.attack`."""
        materials = view.public_materials()
        if not materials or materials[-1].plan.scheme == "plain":
            return Blocked(("a secret key: nothing is encrypted",))
        # A key that was replaced opens what was recorded under it as well as ever.
        recorded = ((material, _seen(view, material)) for material in reversed(materials))
        material, replies = next((pair for pair in recorded if pair[1]), (materials[-1], []))
        replies = replies or _asked(prior, context)
        if not replies:
            return Blocked(("a reply beside the values that came of it",))
        context.progress(0.1, "solving for the key")
        started, tried, found = time.perf_counter(), 0, None
        for candidate in _candidates(material.plan, replies, self.options.attempts):
            tried += 1
            if candidate is not None:
                found = FoundKey(material.plan, candidate)
                found = found if found.opens_fresh(material) else None
            if found is not None:
                break
        notes = {
            "fresh ciphertext decrypted": "no" if found is None else "yes",
            "attempts": str(tried),
            "ciphertexts used": str(tried + 1 if material.plan.scheme == "ckks" else tried),
            "seconds": f"{time.perf_counter() - started:.1f}",
            "key": "the present one" if material is materials[-1] else "one that was replaced; heads recorded under it",
        }
        shadows = trained_shadows(prior, context, self.options.shadows)
        heads = open_heads(found, material, view, shadows, prior, context)
        return claim_from_heads(heads, shadows, self.options.reconstruct, prior, context, notes)


def open_heads(
    key: FoundKey | None,
    material: PublicMaterial,
    view: AdversaryView,
    shadows: Heads,
    prior: PriorKnowledge,
    context: AttackContext,
) -> Heads:
    """The victims' heads as recorded under a key that was found, decrypted with it; guesses where none was."""
    if key is None:
        return guessed_heads(context.victims, shadows)
    seen = view.encrypted_heads(material.fingerprint)
    ids = known_victims(context.victims, seen)
    held = [HeadCiphertexts(seen[name].ciphertexts, seen[name].key_fingerprint) for name in ids]
    pairs = [key.read_head(material, head) for head in held]
    weights, biases = (np.stack(part)[:, : prior.classes] for part in zip(*pairs, strict=True))
    return Heads(ids, *real_heads(weights, biases, shadows.weight, prior.auxiliary_features))


def guessed_heads(victims: tuple[str, ...], shadows: Heads) -> Heads:
    """What can be said of heads that stayed closed: the mean of heads that the adversary trained itself."""
    flat = shadows.flat()
    rows = np.broadcast_to(flat.mean(axis=0), (len(victims), flat.shape[1]))
    return shadows.of(rows, victims, float(flat.var(axis=0).mean()))


def _seen(view: AdversaryView, material: PublicMaterial) -> list[_Reply]:
    """Replies under this key whose values were seen too."""
    values = {}
    for decision in view.of_kind(Decision):
        if decision.raw.size or decision.logits.size:
            values[decision.request_id] = decision.raw if decision.raw.size else decision.logits
    found = []
    for response in view.of_kind(ClassifyResponse):
        named = [values.get(part.request_id) for part in response.parts]
        known = [item for item in named if item is not None]
        if known and len(known) == len(named) and response.key_fingerprint == material.fingerprint:
            found.append(_Reply(response.ciphertexts, np.concatenate(known)))
    return found


def _asked(prior: PriorKnowledge, context: AttackContext) -> list[_Reply]:
    """One question of the adversary's own, whose reply the host hands over; a refusal gives nothing."""
    if context.host is None or not context.victims:
        return []
    try:
        answer = context.host.ask_through_host(context.victims[0], prior.auxiliary_images[:1])
    except ProtocolError:
        return []
    values = answer.raw if answer.raw.size else answer.logits
    return [_Reply(answer.ciphertexts, values)] if values.size else []


def _candidates(plan: HeadPlan, replies: list[_Reply], most: int) -> Iterator[IntArray | None]:
    """A candidate key, or None, for each attempt."""
    for reply in replies:
        if plan.scheme == "ckks":
            slots = reply.values.reshape(-1, reply.values.shape[2] if reply.values.ndim == 3 else 1)
            pairs = pairwise(zip(reply.ciphertexts, slots, strict=True))
            found = (ckks_candidate(plan, first, second) for first, second in pairs)
        else:
            found = (bfv_candidate(plan, reply.ciphertexts, reply.values) for _ in range(1))
        for candidate in found:
            yield candidate
            most -= 1
            if most <= 0:
                return
