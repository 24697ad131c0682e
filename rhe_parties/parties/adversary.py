"""The Adversary's seat: gets a view, runs a strategy on it, reports the claim. It has no other source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rhe_parties.attacks.base import (
    ADVERSARIES,
    AS_IS,
    CIPHERTEXT,
    AttackContext,
    Claim,
    Pool,
    PriorKnowledge,
    SerialPool,
    Strategy,
    parse_options,
)
from rhe_parties.errors import FailureCode, ProtocolError, RheError
from rhe_parties.messages import Envelope
from rhe_parties.messages.payloads import AttackRequest, ClaimReport, empty
from rhe_parties.parties.base import Party
from rhe_parties.threat.model import ADVERSARY, LABORATORY
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray

__all__ = ["AdversarySeat"]


@dataclass(frozen=True)
class Progress:
    """How far the strategy at the seat is: fraction in [0, 1] and what it is doing."""

    fraction: float = 0.0
    text: str = ""


class AdversarySeat(Party):
    """A seat at a corrupted party, not an omniscient actor: strategies see the request's view and prior knowledge."""

    def __init__(self, run_id: str, prior: PriorKnowledge, pool: Pool | None = None) -> None:
        super().__init__(ADVERSARY, run_id)
        self._prior = prior
        self._pool: Pool = pool if pool is not None else SerialPool()
        self._memory: dict[str, object] = {}
        self.progress = Progress()
        #: Called with every step of progress, where somebody in this process listens.
        self.listener: Callable[[float, str], None] | None = None
        self._handlers |= {AttackRequest: self._on_attack}

    def _on_attack(self, envelope: Envelope, payload: AttackRequest) -> list[Envelope]:
        self.require_sender(envelope, LABORATORY)
        if payload.variant not in (AS_IS, CIPHERTEXT):
            raise ProtocolError(
                FailureCode.BAD_VALUE, f"unknown variant {payload.variant!r} (known: {AS_IS}, {CIPHERTEXT})"
            )
        self.progress = Progress()
        try:
            report = self._run(payload)
        except Exception as error:
            # Whatever a strategy does, its cell says so and the run goes on.
            reason = str(error) if isinstance(error, RheError) else f"{type(error).__name__}: {error}"
            report = _report(payload, "error", error=reason)
        return [self.answer(envelope, report)]

    def _run(self, payload: AttackRequest) -> ClaimReport:
        cls = ADVERSARIES.load(payload.adversary, payload.source)
        strategy = cls(parse_options(cls, dict(zip(payload.option_names, payload.option_values, strict=True))))
        view = AdversaryView(payload.view)
        needs = cls.needs if payload.variant == AS_IS else cls.ciphertext_needs
        held = view.holds()
        if payload.variant == CIPHERTEXT and (not needs or Observation.ENCRYPTED_HEAD not in held):
            return _report(payload, "not-applicable")
        missing = sorted(str(need) for need in needs - held)
        if missing:
            return _report(payload, "blocked", missing=tuple(missing))
        claim = self._attack(strategy, view, payload)
        if not isinstance(claim, Claim):
            raise TypeError(f"{payload.adversary} returned {type(claim).__name__}, expected Claim")
        return _report(payload, "claim", claim=claim)

    def _attack(self, strategy: Strategy, view: AdversaryView, payload: AttackRequest) -> Claim:
        context = AttackContext(
            seed=payload.seed, victims=payload.head_ids, pool=self._pool, progress=self._note, memory=self._memory
        )
        run = strategy.attack if payload.variant == AS_IS else strategy.attack_ciphertexts
        return run(view, self._prior, context)

    def _note(self, fraction: float, text: str) -> None:
        self.progress = Progress(min(max(fraction, 0.0), 1.0), text)
        if self.listener is not None:
            self.listener(self.progress.fraction, self.progress.text)


def _report(
    payload: AttackRequest,
    outcome: str,
    *,
    missing: tuple[str, ...] = (),
    error: str = "",
    claim: Claim | None = None,
) -> ClaimReport:
    def array(value: FloatArray | None) -> FloatArray:
        return empty(np.float32) if value is None else np.ascontiguousarray(value, dtype=np.float32)

    held = claim if claim is not None else Claim(head_ids=())
    return ClaimReport(
        adversary=payload.adversary,
        variant=payload.variant,
        outcome=outcome,
        missing=missing,
        error=error[:2000],
        head_ids=held.head_ids,
        images=array(held.images),
        features=array(held.features),
        whitener=array(held.whitener),
        weights=array(held.weights),
        biases=array(held.biases),
        note_names=tuple(held.notes),
        note_values=tuple(held.notes.values()),
    )
