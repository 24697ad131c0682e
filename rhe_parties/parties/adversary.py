"""The Adversary's seat: gets a view, runs a strategy on it, reports the claim. It has no other source.

A strategy whose party is a client of the key holder may ask for decisions while it works. Its questions leave the
seat as envelopes like everybody else's, so the key holder counts and refuses them as it does with any client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from rhe_parties.attacks.base import (
    ADVERSARIES,
    AS_IS,
    CIPHERTEXT,
    AttackContext,
    Blocked,
    Claim,
    PriorKnowledge,
    Strategy,
    challenge_holds,
)
from rhe_parties.attacks.pools import Pool, SerialPool
from rhe_parties.errors import FailureCode, ProtocolError, RheError
from rhe_parties.messages import Envelope
from rhe_parties.messages.adversarial import CLAIM_ARRAYS, NULL_PREFIX
from rhe_parties.messages.checks import empty
from rhe_parties.messages.payloads import (
    AttackRequest,
    ClaimReport,
    ClassifyResponse,
    ClientAdmitted,
    Decision,
    Failure,
    ViewPart,
)
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.parties.base import Asker, Party
from rhe_parties.parties.interview import Heard, Interview, Questions, SeatOracle
from rhe_parties.registry import parse_options
from rhe_parties.threat.model import ADVERSARY, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.threat.view import AdversaryView, Observation
from rhe_parties.types import FloatArray, IntArray

__all__ = ["AdversarySeat"]

# What a strategy lacks that was written for linear heads alone, where the recipe says that heads have a hidden layer.
_LINEAR_HEADS = "a head of one layer"


@dataclass(frozen=True)
class Progress:
    """How far the strategy at the seat is: fraction in [0, 1] and what it is doing."""

    fraction: float = 0.0
    text: str = ""


@dataclass
class _Work:
    """A strategy that waits for answers: who ordered it, and what has come in so far.

    `asked` are the numbers of its questions; `told` maps the number of an order to the host to that of its question;
    `waiting` are the numbers of both whose answers have not come.
    """

    order: AttackRequest
    asker: Asker
    interview: Interview
    asked: list[int] = field(default_factory=list)
    told: dict[int, int] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)
    got: dict[int, Decision | Failure | ClassifyResponse] = field(default_factory=dict)

    def take(self, number: int, answer: Decision | Failure | ClassifyResponse) -> bool:
        """Note an answer; whether it was waited for. The host's refusal of an order is one of its question."""
        if isinstance(answer, Failure):
            number = self.told.get(number, number)
            self.waiting -= {order for order, question in self.told.items() if question == number}
        if number not in self.waiting:
            return False
        self.waiting.discard(number)
        self.got[number] = answer
        return True

    def heard(self) -> Heard:
        """What the strategy waited for."""
        answers = [self.got[number] for number in self.asked]
        copies = {question: self.got.get(order) for order, question in self.told.items()}
        return Heard(
            [answer for answer in answers if not isinstance(answer, ClassifyResponse)],
            [copy if isinstance(copy := copies.get(n), ClassifyResponse) else None for n in self.asked],
        )


class AdversarySeat(Party):
    """A seat at a corrupted party, not an omniscient actor: strategies see the request's view and prior knowledge."""

    def __init__(self, run_id: str, prior: PriorKnowledge, pool: Pool | None = None) -> None:
        super().__init__(ADVERSARY, run_id)
        self._prior = prior
        self._pool: Pool = pool if pool is not None else SerialPool()
        # What strategies keep between worlds whose heads are trained alike.
        self._memory: dict[RecipeSpec | None, dict[str, object]] = {}
        self._work: _Work | None = None
        self._parts: list[bytes] = []
        self._part_count = 0
        self._orders = 0
        self.progress = Progress()
        #: Called with every step of progress, where somebody in this process listens.
        self.listener: Callable[[float, str], None] | None = None
        self._handlers |= {
            ViewPart: self._on_part,
            AttackRequest: self._on_attack,
            ClientAdmitted: self._on_admitted,
            Decision: self._on_decision,
            ClassifyResponse: self._on_copy,
        }

    def _on_admitted(self, envelope: Envelope, _payload: ClientAdmitted) -> list[Envelope]:
        """The grant reaches strategies through their view; the seat itself has nothing to do."""
        self.require_sender(envelope, KEY_HOLDER)
        return []

    def _on_part(self, envelope: Envelope, payload: ViewPart) -> list[Envelope]:
        self.require_sender(envelope, LABORATORY)
        if payload.index == 0:
            self._parts, self._part_count = [], 0
        if payload.index != self._part_count:
            raise ProtocolError(
                FailureCode.BAD_VALUE, f"part {payload.index} of a view came where part {self._part_count} was due"
            )
        self._parts += payload.view
        self._part_count += 1
        return []

    def _whole_view(self, payload: AttackRequest) -> AdversaryView:
        """What came ahead and the rest; an order takes the parts with it."""
        ahead, count = self._parts, self._part_count
        self._parts, self._part_count = [], 0
        if payload.parts == 0:
            return AdversaryView(payload.view)
        if payload.parts != count:
            raise ProtocolError(FailureCode.BAD_VALUE, f"{count} of the {payload.parts} parts of a view have come")
        return AdversaryView((*ahead, *payload.view))

    def _on_attack(self, envelope: Envelope, payload: AttackRequest) -> list[Envelope]:
        self.require_sender(envelope, LABORATORY)
        if payload.variant not in (AS_IS, CIPHERTEXT):
            raise ProtocolError(
                FailureCode.BAD_VALUE, f"unknown variant {payload.variant!r} (known: {AS_IS}, {CIPHERTEXT})"
            )
        if self._work is not None:  # its order was given up, or this one would not have come
            self._work.interview.abandon()
            self._work = None
        self.progress = Progress()
        self._orders += 1
        view = self._whole_view(payload)
        grants = view.of_kind(ClientAdmitted)
        oracle = SeatOracle(grants[-1], f"{ADVERSARY}-{payload.world}-{self._orders:03d}") if grants else None
        interview = Interview(lambda: self._run(payload, view, oracle), self.computing)
        if oracle is not None:
            oracle.interview = interview
        interview.start()
        return self._go_on(_Work(payload, Asker.of(envelope), interview))

    def _go_on(self, work: _Work) -> list[Envelope]:
        """Let the strategy work until it asks or ends; whatever it does, its cell says so and the run goes on."""
        self._work = None
        try:
            item = work.interview.next()
        except Exception as error:
            reason = str(error) if isinstance(error, RheError) else f"{type(error).__name__}: {error}"
            item = _report(work.order, "error", error=reason)
        if not isinstance(item, Questions):
            return [self.answer(work.asker, item)]
        orders = [self.send(MODEL_HOST, order) for order in item.orders]
        sent = [self.send(KEY_HOLDER, request) for request in item.requests]
        work.asked = [envelope.sequence for envelope in sent]
        work.told = dict(zip([envelope.sequence for envelope in orders], work.asked, strict=False))
        copied = [e.sequence for e, order in zip(orders, item.orders, strict=True) if not order.ciphertexts]
        work.waiting, work.got = {*work.asked, *copied}, {}
        self._work = work
        return [*orders, *sent]

    def _on_decision(self, envelope: Envelope, payload: Decision) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        return self._take(envelope, payload)

    def _on_copy(self, envelope: Envelope, payload: ClassifyResponse) -> list[Envelope]:
        """What the host that the adversary holds replied to a question."""
        self.require_sender(envelope, MODEL_HOST)
        return self._take(envelope, payload)

    def _on_failure(self, envelope: Envelope, payload: Failure) -> list[Envelope]:
        """A refusal of a question is for the strategy to deal with."""
        if self._work is None or envelope.reply_to not in {*self._work.waiting, *self._work.told}:
            return super()._on_failure(envelope, payload)
        return self._take(envelope, payload)

    def _take(self, envelope: Envelope, answer: Decision | Failure | ClassifyResponse) -> list[Envelope]:
        work = self._work
        if work is None or not work.take(envelope.reply_to, answer) or work.waiting:
            return []
        work.interview.answer(work.heard())
        return self._go_on(work)

    def _run(self, payload: AttackRequest, view: AdversaryView, oracle: SeatOracle | None) -> ClaimReport:
        cls = ADVERSARIES.load(payload.adversary, payload.source)
        strategy = cls(
            parse_options("adversary", cls, dict(zip(payload.option_names, payload.option_values, strict=True)))
        )
        needs = cls.needs if payload.variant == AS_IS else cls.ciphertext_needs
        held = view.holds() | challenge_holds(payload.challenge)
        if payload.active and Observation.REPLIES in held:
            held |= {Observation.HOST_CONTROL}
        if payload.variant == CIPHERTEXT and (not needs or Observation.ENCRYPTED_HEAD not in held):
            return _report(payload, "not-applicable")
        if self._prior.two_layer is not None:
            if cls.two_layer_needs is None:
                return _report(payload, "blocked", missing=(_LINEAR_HEADS,))
            needs = cls.two_layer_needs if payload.variant == AS_IS else needs
        missing = sorted(str(need) for need in needs - held)
        if missing:
            return _report(payload, "blocked", missing=tuple(missing))
        claim = self._attack(strategy, view, payload, oracle)
        if isinstance(claim, Blocked):
            return _report(payload, "blocked", missing=claim.missing)
        if not isinstance(claim, Claim):
            raise TypeError(f"{payload.adversary} returned {type(claim).__name__}, expected Claim")
        used = [0 if oracle is None else oracle.used(head) for head in claim.head_ids]
        return _report(payload, "claim", claim=claim, queries=np.asarray(used, np.int64) if any(used) else None)

    def _attack(
        self, strategy: Strategy, view: AdversaryView, payload: AttackRequest, oracle: SeatOracle | None
    ) -> Claim | Blocked:
        prior = self._prior if payload.recipe is None else self._prior.with_recipe(payload.recipe)
        context = AttackContext(
            seed=payload.seed,
            victims=payload.head_ids,
            pool=self._pool,
            progress=self._note,
            memory=self._memory.setdefault(payload.recipe, {}),
            oracle=oracle,
            host=oracle,
            challenge=payload.challenge,
            defences=payload.defences,
        )
        if payload.variant == CIPHERTEXT:
            run: Callable[..., Claim | Blocked] = strategy.attack_ciphertexts
        else:
            run = strategy.attack if self._prior.two_layer is None else strategy.attack_two_layer
        return run(view, prior, context)

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
    queries: IntArray | None = None,
) -> ClaimReport:
    held = claim if claim is not None else Claim(head_ids=())
    arrays = dict(_arrays(held, ""))
    if held.null is not None:
        arrays |= dict(_arrays(held.null, NULL_PREFIX))
    return ClaimReport(
        adversary=payload.adversary,
        variant=payload.variant,
        outcome=outcome,
        missing=missing,
        error=error[:2000],
        head_ids=held.head_ids,
        array_names=tuple(arrays),
        arrays=tuple(arrays.values()),
        queries=queries if queries is not None else empty(np.int64),
        note_names=tuple(held.notes),
        note_values=tuple(held.notes.values()),
        activation=held.activation,
    )


def _arrays(claim: Claim, prefix: str) -> Iterator[tuple[str, FloatArray]]:
    for name in CLAIM_ARRAYS:
        value: FloatArray | None = getattr(claim, name)
        if value is not None:
            yield prefix + name, np.ascontiguousarray(value, dtype=np.float32)
