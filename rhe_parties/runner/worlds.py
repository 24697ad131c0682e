"""One world from key to decision, and what it was worth."""

from __future__ import annotations

import time

import numpy as np

from rhe_parties.errors import FailureCode, SchemeError, TransportError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.scheme import PublicMaterial, make_custody, make_encryptor, make_evaluator
from rhe_parties.messages.payloads import (
    AdmitClient,
    AskDecisions,
    ClientAdmitted,
    Decision,
    HeadReady,
    KeyRotated,
    RotateKey,
    TrainHead,
)
from rhe_parties.metrics.cost import message_costs
from rhe_parties.metrics.reconstruction import Measured
from rhe_parties.metrics.utility import accuracy, agreement
from rhe_parties.report.record import MessageRecord, ResultRecord, WorldRecord
from rhe_parties.rng import numpy_stream
from rhe_parties.runner.plan import Laboratory
from rhe_parties.runner.progress import Reporter
from rhe_parties.runner.seats import party_setups
from rhe_parties.runner.world import World
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER
from rhe_parties.threat.transcript import Transcript
from rhe_parties.transport import PartyFailure, Switchboard, Transport
from rhe_parties.types import IntArray

__all__ = ["EXACT_SCHEMES", "result_record", "run_world"]

# Schemes whose decisions must equal those of the integer twin.
EXACT_SCHEMES = ("plain", "bfv")


def run_world(
    lab: Laboratory,
    world: World,
    transport: Transport,
    transcript: Transcript,
    reporter: Reporter,
    record: WorldRecord,
) -> None:
    """Seat the parties, train and install every victim head, let each decide on the evaluation images.

    Fills `record` as it goes, so that what is done survives a failure.

    Raises:
        PartyFailure, TransportError: a party refused, died or was too slow.
    """
    p = lab.parameters
    heads = len(lab.truth.sets)
    board = Switchboard(transport, transcript, lab.run_id, world.name, p.party_timeout)
    setups = party_setups(lab, world)
    with reporter.stage(f"world {world.name}: seating the parties", len(setups)) as update:
        ready: list[str] = []

        def seated(party: str) -> None:
            ready.append(party)
            update(len(ready), party)

        transport.seat_all(setups, p.party_timeout, seated)
    # Processes start in the first world only, so the seconds of worlds compare from here on.
    started = time.perf_counter()
    try:
        with reporter.stage(f"world {world.name}: training and installing", heads) as update:
            for index in range(heads):
                board.ask(DATA_OWNER, TrainHead(lab.head_id(index), index), HeadReady)
                update(index + 1)
        if world.client:
            board.ask(KEY_HOLDER, AdmitClient(ADVERSARY, p.client_budget), ClientAdmitted)
        decisions = np.empty(lab.evaluation.shape, dtype=np.int64)
        with reporter.stage(f"world {world.name}: deciding", heads) as update:
            for index in range(heads):
                decisions[index], saturated = _decide(lab, board, index)
                record.saturated_inputs += saturated
                update(index + 1)
        if world.rotated:
            board.ask(KEY_HOLDER, RotateKey(), KeyRotated)
        _measure_utility(lab, world, decisions, record)
    finally:
        record.seconds = time.perf_counter() - started
        record.messages = _messages(lab, world, transcript)


def _decide(lab: Laboratory, board: Switchboard, index: int) -> tuple[IntArray, int]:
    """Classes [B] that head `index` decides on, and how many inputs were scaled down.

    Where the host gathers, every image is a request of its own, all of them under way together.
    """
    images = lab.dataset.images[lab.evaluation[index]]
    name, head_id = f"evaluation-{index:04d}", lab.head_id(index)
    asks = [AskDecisions(name, head_id, images)]
    if lab.parameters.gather_delay_ms > 0:
        asks = [AskDecisions(f"{name}-{i:04d}", head_id, images[i : i + 1]) for i in range(len(images))]
    answers = []
    for ask, answer in zip(asks, board.ask_many(KEY_HOLDER, asks, Decision), strict=True):
        if isinstance(answer, PartyFailure):
            raise answer
        if answer.classes.shape != (len(ask.images),):
            raise TransportError(KEY_HOLDER, f"{len(answer.classes)} decisions for {len(ask.images)} images")
        answers.append(answer)
    return np.concatenate([answer.classes for answer in answers]), sum(answer.saturated for answer in answers)


def _measure_utility(lab: Laboratory, world: World, decisions: IntArray, record: WorldRecord) -> None:
    labels = lab.dataset.labels[lab.evaluation]
    stream = numpy_stream(lab.parameters.seed, "bootstrap-utility")
    # A head's own training images tell nothing about its accuracy; every head has as many of them.
    fresh, heads = ~lab.evaluation_members, len(labels)
    right = accuracy(decisions[fresh].reshape(heads, -1), labels[fresh].reshape(heads, -1), lab.truth.classes, stream)
    pairs = zip(lab.heads(world), lab.evaluation_features_in(world), strict=True)
    float_decisions = np.stack([head.logits(features).argmax(axis=1) for head, features in pairs])
    record.accuracy = right.value
    record.utility = [
        result_record(right),
        result_record(agreement("float_agreement", decisions, float_decisions, stream)),
    ]
    if world.scheme in EXACT_SCHEMES:
        twin = agreement("twin_agreement", decisions, _twin_decisions(lab, world), stream)
        record.utility.append(result_record(twin))


def _twin_decisions(lab: Laboratory, world: World) -> IntArray:
    """What the integer twin, the same plan without encryption, decides on the same heads."""
    if world.plan is None:
        raise SchemeError(FailureCode.UNEXPECTED, f"world {world.name!r} has no encryption plan")
    plan = world.plan.twin()
    if world.tag:  # the twin decides without one
        plan = HeadPlan.from_dict(
            plan.choices() | {"classes": plan.classes - 1, "tile_classes": min(plan.tile_classes, plan.classes - 1)}
        )
    custody = make_custody(plan)
    public: PublicMaterial = custody.public
    encryptor = make_encryptor(public)
    decisions = []
    for head, features in zip(lab.heads(world), lab.evaluation_features_in(world), strict=True):
        ciphertexts, _ = encryptor.encrypt(*head.encryptable)
        logits, _ = make_evaluator(public, ciphertexts).evaluate(features)
        decisions.append(custody.decrypt(logits).argmax(axis=1))
    return np.stack(decisions).astype(np.int64)


def _messages(lab: Laboratory, world: World, transcript: Transcript) -> list[MessageRecord]:
    return [
        MessageRecord(
            kind=cost.kind,
            sender=cost.sender,
            recipient=cost.recipient,
            count=cost.count,
            total_bytes=cost.total_bytes,
            handled_seconds=cost.handled_seconds,
            seen_by_adversary=world.threat_model(lab.threat_model).exposes(cost.sender, cost.recipient),
        )
        for cost in message_costs(transcript.world(world.name))
    ]


def result_record(measured: Measured) -> ResultRecord:
    """A statistic as the record stores it."""
    return ResultRecord(
        statistic=measured.statistic,
        value=measured.value,
        low=measured.low,
        high=measured.high,
        n=measured.n,
        heads=measured.heads,
        chance=measured.chance,
    )
