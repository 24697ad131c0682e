"""Traffic analysis: what do sizes, counts and times say about an encrypted head?

Ciphertexts are compressed, so their sizes vary; the host answers with them, so replies have sizes; it computes with
them, so it can take the time. None of this should depend on what is encrypted. Whether it does is measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from rhe_parties.attacks.base import AttackContext, PriorKnowledge
from rhe_parties.attacks.side_channel import Estimate, Evidence, SideChannelStrategy
from rhe_parties.attacks.span.ciphertext import fit_head_regressor
from rhe_parties.attacks.white_box import Heads, random_heads
from rhe_parties.he.scheme import HeadCiphertexts, HeadEncryptor, HeadEvaluator, PublicMaterial
from rhe_parties.he.scheme import make_encryptor as _make_encryptor
from rhe_parties.he.scheme import make_evaluator as _make_evaluator
from rhe_parties.he.tag import encrypt_as_planned
from rhe_parties.messages import Envelope, encode
from rhe_parties.messages.payloads import ClassifyRequest, ClassifyResponse, EncryptedHead, HeadInstalled
from rhe_parties.rng import stream_seed
from rhe_parties.threads import limited_threads
from rhe_parties.types import FloatArray

__all__ = ["Channel", "Effort", "Meter", "TrafficAnalysis"]

P = TypeVar("P")
Float64Array = npt.NDArray[np.float64]

#: What a host exchanges over one head.
_KINDS = (EncryptedHead, HeadInstalled, ClassifyRequest, ClassifyResponse)


@dataclass(frozen=True)
class Channel:
    """How heads are encrypted and evaluated, and by which clock: the channel whose leaks are measured."""

    encryptor: Callable[[PublicMaterial], HeadEncryptor] = _make_encryptor
    evaluator: Callable[[PublicMaterial, HeadCiphertexts], HeadEvaluator] = _make_evaluator
    clock: Callable[[], float] = time.perf_counter


@dataclass(frozen=True)
class Effort:
    """Auxiliary inputs evaluated by each head, how often they are, and how many own heads are measured at most."""

    probes: int
    repeats: int
    most_shadows: int


# One evaluation takes well below a millisecond under bfv, and tens of them under ckks.
_EFFORT = {"ckks": Effort(1, 1, 64)}
_FULL = Effort(8, 5, 2**31)
# Victims whose requests are answered again with each shadow head, in turn.
_REPLAYED = 8


class TrafficAnalysis(SideChannelStrategy):
    """Regresses heads on what the host sees of them without reading a number: sizes, counts, and its own clock.

    Of each head: bytes of every ciphertext; number and bytes of the envelopes that concern it, by kind; bytes of the
    host's own replies and inputs beyond the public norm, to the key holder's requests and to a fixed set of auxiliary
    inputs; time to install the head, and median time to evaluate it on those inputs. The same is measured of shadow
    heads that the adversary trains and encrypts under the same public key, each taking the place of a victim in the
    victim's own traffic, and the regressor's skill is measured on shadows kept apart. Expected under RHE: no skill,
    the estimate is the mean head. Its positive control is an encoding whose sizes depend on the weights.
    """

    name = "traffic-analysis"
    goal = "reconstruction"
    summary = "regresses heads on sizes, counts and timing of encrypted traffic, no number in it being read"
    source = "length and timing side channels; Kocher 1996, Kelsey 2002"
    channel = Channel()

    def estimate(self, evidence: Evidence, prior: PriorKnowledge, context: AttackContext) -> Estimate:
        """See `SideChannelStrategy.estimate`; the null control is the traffic of random heads."""
        effort = _EFFORT.get(evidence.material.plan.scheme, _FULL)
        meter = Meter(self.channel, evidence, prior, effort)
        shadows = _first(evidence.shadows, effort.most_shadows)
        random = random_heads(evidence.shadows, evidence.head_ids, context.seed)
        own = meter.own(shadows, lambda done: context.progress(0.5 * done, "traffic of own heads"))
        context.progress(0.5, "traffic of the host")
        seen = np.array([meter.seen(index) for index in range(len(evidence.head_ids))])
        nothing = meter.own(random, lambda done: context.progress(0.6 + 0.3 * done, "traffic of random heads"))
        context.progress(0.9, "learning from sizes and times")
        regressor = fit_head_regressor(own, shadows.flat(), stream_seed(context.seed, "traffic"))
        error = regressor.error_variance
        return Estimate(
            heads=shadows.of(regressor.predict(seen), evidence.head_ids, error),
            null=shadows.of(regressor.predict(nothing), evidence.head_ids, error),
            notes=meter.notes(own, seen)
            | {"share of held-out heads' variance explained": f"{max(regressor.skill, 0):.3f}"},
        )


def _first(heads: Heads, count: int) -> Heads:
    return Heads(heads.head_ids[:count], heads.weight[:count], heads.bias[:count])


class Meter:
    """Measures a head without reading it; every head goes through the same steps."""

    def __init__(self, channel: Channel, evidence: Evidence, prior: PriorKnowledge, effort: Effort) -> None:
        self._channel, self._evidence, self._effort = channel, evidence, effort
        self._probes = prior.auxiliary_features[: effort.probes]
        self._traffic = [_concerning(evidence.view.envelopes, head_id) for head_id in evidence.head_ids]
        self._features: dict[str, FloatArray] = {}
        for traffic in self._traffic[:_REPLAYED]:
            for request in _payloads(traffic, ClassifyRequest):
                self._features[request.request_id] = prior.backbone.extract(request.images)
        self._tiles = len(evidence.ciphertexts[0].ciphertexts)

    def seen(self, index: int) -> list[float]:
        """Features of a victim's head, from its own traffic and own evaluations by the host."""
        return self._measured(self._evidence.ciphertexts[index], self._traffic[index])

    def own(self, heads: Heads, progress: Callable[[float], None]) -> Float64Array:
        """Features [S, p] of heads in the clear, each encrypted and put in the place of a victim's head."""
        encryptor = self._channel.encryptor(self._evidence.material)
        rows = []
        for index, (weight, bias) in enumerate(zip(heads.weight, heads.bias, strict=True)):
            progress(index / len(heads.weight))
            head = encrypt_as_planned(encryptor, self._evidence.material.plan, weight, bias)
            rows.append(self._measured(head, self._in_place_of(index, head)))
        return np.array(rows)

    def notes(self, own: Float64Array, seen: Float64Array) -> dict[str, str]:
        """Ranges of sizes and times, of own heads [S, p] and of the host's [V, p]."""
        sizes, evaluate = seen[:, : self._tiles], np.exp(seen[:, -1])
        return {
            "own heads encrypted under the same key": str(len(own)),
            "bytes of a ciphertext": f"{sizes.min():.0f} to {sizes.max():.0f}",
            "bytes of replies to the same inputs": f"{seen[:, -4].min():.0f} to {seen[:, -4].max():.0f}",
            "median time of an evaluation": f"{1e3 * evaluate.min():.3g} to {1e3 * evaluate.max():.3g} ms",
        }

    def _in_place_of(self, index: int, head: HeadCiphertexts) -> list[Envelope]:
        """A victim's traffic, had this head been sent in place of the victim's."""
        traffic = self._traffic[index % min(_REPLAYED, len(self._traffic))]
        evaluator = self._channel.evaluator(self._evidence.material, head)
        return [self._replaced(envelope, head, evaluator) for envelope in traffic]

    def _replaced(self, envelope: Envelope, head: HeadCiphertexts, evaluator: HeadEvaluator) -> Envelope:
        payload = envelope.payload
        if isinstance(payload, EncryptedHead):
            payload = replace(payload, ciphertexts=head.ciphertexts)
        elif isinstance(payload, ClassifyResponse):
            known = [self._features[part.request_id] for part in payload.parts if part.request_id in self._features]
            if len(known) == len(payload.parts):
                reply, _ = evaluator.evaluate(np.concatenate(known))
                payload = replace(payload, ciphertexts=reply.ciphertexts)
        return replace(envelope, payload=payload)

    def _measured(self, head: HeadCiphertexts, traffic: Sequence[Envelope]) -> list[float]:
        values: list[float] = [len(item) for item in head.ciphertexts]
        for kind in _KINDS:
            sizes = [len(encode(envelope)) for envelope in traffic if isinstance(envelope.payload, kind)]
            values += [len(sizes), sum(sizes)]
        replies = _payloads(traffic, ClassifyResponse)
        values.append(sum(part.saturated for reply in replies for part in reply.parts))
        return values + self._timed(head)

    def _timed(self, head: HeadCiphertexts) -> list[float]:
        """Reply bytes and saturated inputs of the probes, log seconds to install and log median seconds to evaluate."""
        clock, times = self._channel.clock, []
        with limited_threads(1):
            start = clock()
            evaluator = self._channel.evaluator(self._evidence.material, head)
            install = clock() - start
            for _ in range(self._effort.repeats):
                start = clock()
                reply, saturated = evaluator.evaluate(self._probes)
                times.append(clock() - start)
        return [sum(map(len, reply.ciphertexts)), saturated, _log(install), _log(float(np.median(times)))]


def _concerning(envelopes: Sequence[Envelope], head_id: str) -> list[Envelope]:
    """What the host exchanged over one head, in order."""
    return [e for e in envelopes if isinstance(e.payload, _KINDS) and e.payload.head_id == head_id]


def _payloads(traffic: Sequence[Envelope], kind: type[P]) -> list[P]:
    return [envelope.payload for envelope in traffic if isinstance(envelope.payload, kind)]


def _log(seconds: float) -> float:
    return math.log(max(seconds, 1e-9))
