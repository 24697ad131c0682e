"""A host that computes honestly, on features of the adversary's choice: neither noise nor a tag can show it.

Whoever holds the encrypted head evaluates it on any vector. The key holder decides on the reply as on any other. Images
reach features of their own kind only; chosen features reach every direction of the head alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import AttackContext, Blocked, Claim, PriorKnowledge, Strategy
from rhe_parties.attacks.extraction.claims import claim_from_heads, extracted_heads, granted_some, trained_shadows
from rhe_parties.attacks.extraction.gauge import Float64Array
from rhe_parties.attacks.extraction.hard import Extracted, HardSettings, QueryPlan, extract_head, plan_from
from rhe_parties.attacks.extraction.prior import FeatureAxes
from rhe_parties.attacks.malicious.opening import KeyAttack, decider
from rhe_parties.attacks.white_box import Heads, known_victims
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.quantise import quantise_features
from rhe_parties.he.scheme import HeadCiphertexts, PublicMaterial, make_evaluator
from rhe_parties.rng import numpy_stream, stream_seed
from rhe_parties.threat.view import AdversaryView
from rhe_parties.types import AnyArray, FloatArray, IntArray

__all__ = ["ChosenFeatures"]


class ChosenFeatures(Strategy):
    """Extracts each victim head from classes of feature vectors that no image has.

    Uses: encrypted heads, the public key, decisions on the adversary's own requests, the host's answers to them.
    Expected wherever a host in the adversary's hands is told classes, with the noise check and the secret tag too: a
    head that decides like the real one everywhere. What is left against it is a budget of decisions.
    Source: chosen inputs, Tramèr et al. 2016, arXiv 1609.02943, with the host's own evaluation in place of images.
    """

    name = "chosen-features"
    goal = "extraction"
    summary = "the head from class decisions on feature vectors of the host's choice, honestly evaluated"
    source = "chosen inputs as in Tramèr et al. 2016, arXiv 1609.02943, at the host"
    needs = KeyAttack.needs

    @dataclass(frozen=True)
    class Options:
        """Effort.

        Attributes:
            decisions: answers used per head at most; the key holder's budget may be less.
            batch: answers per round after the first; each round is one request.
            axes: directions of features asked along, at most: the principal ones of real features.
            shadows: heads trained for the prior.
            reconstruct: whether to go on to images.
        """

        decisions: int = 20_000
        batch: int = 1000
        axes: int = 100
        shadows: int = 8000
        reconstruct: bool = True

    def attack(self, view: AdversaryView, prior: PriorKnowledge, context: AttackContext) -> Claim | Blocked:
        """See `Strategy.attack`."""
        material = view.public_material()
        if material is None or material.plan.scheme == "plain":
            return Blocked(("an encrypted head",))
        o, oracle = self.options, context.require_oracle()
        settings = HardSettings(o.decisions, o.batch, noise=0.0)
        context.progress(0.0, "shadow heads and first questions")
        shadows = trained_shadows(prior, context, o.shadows)
        plan = _query_plan(
            material.plan, prior, shadows, o.axes, settings, stream_seed(context.seed, "chosen-features")
        )
        seen = view.encrypted_heads()
        ids = known_victims(context.victims, seen)
        found: list[Extracted] = []
        for number, name in enumerate(ids):
            context.progress(0.05 + 0.55 * number / len(ids), f"asking about head {number + 1}")
            limit = granted_some(oracle, name, o.decisions)
            head = HeadCiphertexts(seen[name].ciphertexts, seen[name].key_fingerprint)
            ask = _asker(material, head, context, name)
            seed = stream_seed(context.seed, "chosen-features-head", number)
            found.append(extract_head(_as_given, plan, ask, settings, seed, limit))
        heads = extracted_heads(ids, found)
        notes = {"decisions used per head": f"{np.mean([head.answers for head in found]):.0f}"}
        return claim_from_heads(heads, shadows, o.reconstruct, prior, context, notes)


def _query_plan(
    plan: HeadPlan, prior: PriorKnowledge, shadows: Heads, axes: int, settings: HardSettings, seed: int
) -> QueryPlan:
    """First questions: half of them features of images, half directions that no image prefers, as long as may be."""
    rng = numpy_stream(seed, "chosen-features-first")
    features = prior.auxiliary_features
    along = FeatureAxes.fit(features, axes)
    real = features[rng.permutation(len(features))[: settings.pool // 2]]
    free = rng.standard_normal((settings.pool - len(real), along.rank)) @ along.basis.T
    free *= plan.feature_norm / np.linalg.norm(free, axis=1, keepdims=True)
    first = _on_grid(plan, np.concatenate([real, free.astype(np.float32)]))

    def between(one: AnyArray, other: AnyArray, place: Float64Array) -> AnyArray:
        return _on_grid(plan, one + place[:, None] * (other - one))

    return plan_from(first, first, along, (shadows.weight, shadows.bias), settings, between)


def _on_grid(plan: HeadPlan, features: AnyArray) -> FloatArray:
    """Features as they really enter the encrypted evaluation, rounded and cut to the norm's bound."""
    whole, _ = quantise_features(plan, features)
    grid: FloatArray = (whole * (plan.feature_norm / 2.0**plan.feature_bits)).astype(np.float32)
    return grid


def _as_given(features: AnyArray) -> FloatArray:
    return features


def _asker(
    material: PublicMaterial, head: HeadCiphertexts, context: AttackContext, name: str
) -> Callable[[AnyArray], IntArray]:
    evaluator, decide = make_evaluator(material, head), decider(context, name)

    def ask(features: AnyArray) -> IntArray:
        logits, _ = evaluator.evaluate(features)
        return decide(logits.ciphertexts, len(features))

    return ask
