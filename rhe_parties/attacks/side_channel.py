"""Attacks on an encrypted head that estimate it from something other than its numbers, then go on as span inversion.

A subclass estimates heads from the host's view, and says what the same way of estimating makes of an input that holds
nothing. What such an estimate is worth is measured in pictures like that of any other attack.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, fields, replace

from rhe_parties.attacks.base import AttackContext, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.span_inversion import SpanInversion
from rhe_parties.attacks.white_box import Heads, known_victims
from rhe_parties.errors import ParameterError
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial
from rhe_parties.threat.view import AdversaryView, Observation

__all__ = ["Estimate", "Evidence", "SideChannelStrategy"]

_SHARE = 0.4


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an estimate may rest on: the view, the victims' ciphertexts in their order, heads of the adversary's own."""

    view: AdversaryView
    material: PublicMaterial
    head_ids: tuple[str, ...]
    ciphertexts: tuple[HeadCiphertexts, ...]
    shadows: Heads


@dataclass(frozen=True, eq=False)
class Estimate:
    """Heads as estimated, heads estimated in the same way from an input without information, and facts to report."""

    heads: Heads
    null: Heads
    notes: dict[str, str] = field(default_factory=dict)


class SideChannelStrategy(Strategy):
    """See the module. Blocked where heads are in the clear: there is nothing to get round."""

    needs = frozenset({Observation.ENCRYPTED_HEAD, Observation.PUBLIC_KEY})

    @dataclass(frozen=True)
    class Options(SpanInversion.Options):
        """Those of span inversion, and `shadows`: heads that the adversary trains itself, at least 12."""

        shadows: int = 512

    @abstractmethod
    def estimate(self, evidence: Evidence, prior: PriorKnowledge, context: AttackContext) -> Estimate:
        """Estimate the victims' heads; without skill, one and the same mean head for all of them."""

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim:
        """See `Strategy.attack`.

        Raises:
            ParameterError: fewer than 12 shadows, or a head with hidden layers.
        """
        if self.options.shadows < 12:
            raise ParameterError(f"{self.name}.shadows={self.options.shadows} is not allowed (allowed: 12 or more)")
        own = {each.name: getattr(self.options, each.name) for each in fields(SpanInversion.Options)}
        onward = SpanInversion(SpanInversion.Options(**own))
        context.progress(0.0, "shadow heads")
        shadows = onward.shadow_heads(prior, context, self.options.shadows)
        evidence = self._evidence(view, context, shadows)
        early = replace(context, progress=lambda done, text: context.progress(_SHARE * done, text))
        found = self.estimate(evidence, prior, early)
        late = replace(context, progress=lambda done, text: context.progress(_SHARE + (1 - _SHARE) * done, text))
        claim = onward.attack_heads(found.heads, prior, late)
        quiet = replace(context, progress=lambda _done, _text: context.progress(1.0, "null control"))
        null = onward.attack_heads(found.null, prior, quiet)
        return replace(claim, null=null, notes=claim.notes | found.notes)

    def _evidence(self, view: AdversaryView, context: AttackContext, shadows: Heads) -> Evidence:
        material = view.public_material()
        if material is None:  # the seat has checked `needs`
            raise LookupError("no public key in the view")
        if material.plan.hidden:
            raise ParameterError(
                f"{self.name} works on linear heads; this one has {len(material.plan.hidden)} more layers"
            )
        seen = view.encrypted_heads()
        ids = known_victims(context.victims, seen)
        held = tuple(HeadCiphertexts(seen[name].ciphertexts, seen[name].key_fingerprint) for name in ids)
        return Evidence(view, material, ids, held, shadows)
