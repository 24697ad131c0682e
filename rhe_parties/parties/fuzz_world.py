"""The three parties as the fuzz test keeps them: small, in one process, with a clock that it moves itself."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from rhe_parties.data.datasets import load_dataset
from rhe_parties.defences.rhe import ReverseHomomorphicEncryption
from rhe_parties.errors import FailureCode, RheError
from rhe_parties.he.planner import plan_head
from rhe_parties.messages import Envelope, Payload, encode
from rhe_parties.messages.payloads import (
    AdaptedBlock,
    AdmitClient,
    AskDecisions,
    ClaimReport,
    Decision,
    Elided,
    Failure,
    HeadReady,
    HeadRevoked,
    HealthRequest,
    KeyRotated,
    PlainHead,
    RevokeHead,
    RotateKey,
    TrainHead,
    TwoLayerHead,
    ViewPart,
    payload_kind,
)
from rhe_parties.model.adaptation import FACTORS
from rhe_parties.model.backbone import Backbone, load_backbone
from rhe_parties.model.head import Recipe
from rhe_parties.parties.base import Party
from rhe_parties.parties.canaries import clear_classes
from rhe_parties.parties.data_owner import DataOwner
from rhe_parties.parties.key_holder import KeyHolder
from rhe_parties.parties.model_host import HostLimits, ModelHost
from rhe_parties.parties.mutations import readable
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST

__all__ = ["FuzzWorld", "Sent"]

P = TypeVar("P", bound=Payload)

RUN_ID = "fuzz"
HEADS = ("victim-0000", "victim-0001")
#: Inputs per request polynomial, and seconds that the host gathers for.
BATCH, DELAY = 3, 1.0
#: Heads that the owner keeps; mutants order some under new names, and all are encrypted again with every new key.
MAX_HEADS = 8
_QUESTIONS, _NORM_ROOM = 32, 1.25


@dataclass(frozen=True)
class Sent:
    """One envelope that really crossed a border: to whom, what, and its bytes."""

    recipient: str
    kind: str
    data: bytes


class FuzzWorld:
    """Parties, two heads trained on real digits, and questions whose right answers are known.

    Args:
        watch: called with (party, bytes) instead of delivering directly; it must return the replies.
    """

    def __init__(self, seed: int, watch: Callable[[Party, bytes], list[bytes]]) -> None:
        self._watch = watch
        self.now = 0.0
        self._sequence = itertools.count(1)
        self._requests = itertools.count(1)
        dataset = load_dataset("digits")
        backbone = load_backbone("strokenet")
        sets = [
            [int(np.flatnonzero(dataset.labels == k)[i]) for k in range(dataset.classes)] for i in range(len(HEADS))
        ]
        used = np.array(sets, dtype=np.int64)
        self.images = dataset.images[used.max() + 1 : used.max() + 1 + 8 * _QUESTIONS]
        self._features = backbone.extract(self.images)
        norm = _NORM_ROOM * float(np.linalg.norm(self._features, axis=1).max())
        plan = plan_head(backbone.features, dataset.classes, batch=BATCH, scheme="bfv", feature_norm=norm)
        limits = HostLimits(gather_delay=DELAY)
        owner = DataOwner(
            RUN_ID, backbone, Recipe.paper("strokenet", 1), [ReverseHomomorphicEncryption()], dataset.classes,
            dataset.images[used.ravel()], dataset.labels[used.ravel()], np.arange(used.size).reshape(used.shape),
            seed, MAX_HEADS,
        )  # fmt: skip
        host = ModelHost(RUN_ID, backbone, limits, lambda: self.now)
        self.parties: dict[str, Party] = {p.name: p for p in (owner, host, KeyHolder(RUN_ID, plan))}
        self._backbone_fingerprint = backbone.fingerprint
        self._corpus: list[Sent] = []
        #: The messages of the latest `restore`, by kind.
        self.by_kind: dict[str, list[Sent]] = {}
        #: (place among the images, right class) by head.
        self.questions: dict[str, list[tuple[int, int]]] = {}
        heads = [owner._train(index).head for index in range(len(HEADS))]
        for head_id, head in zip(HEADS, heads, strict=True):
            right = clear_classes(head.logits(self._features))
            self.questions[head_id] = [(int(i), int(right[i])) for i in np.flatnonzero(right >= 0)[:_QUESTIONS]]
        self._heads_in_clear = _heads_in_clear(dataset.classes, backbone)

    def envelope(self, recipient: str, payload: Payload, sender: str = LABORATORY) -> tuple[bytes, int]:
        """A new envelope, serialised, and its number."""
        sequence = next(self._sequence)
        return encode(Envelope(RUN_ID, sender, recipient, sequence, 0, payload)), sequence

    def ask(self, head_id: str, place: int) -> AskDecisions:
        """A new question about one image."""
        # Not a plain number: a flipped bit in one request's id must not make the id of a later one.
        name = hashlib.sha256(b"%d" % next(self._requests)).hexdigest()[:24]
        return AskDecisions(name, head_id, self.images[place : place + 1])

    def route(
        self, first: list[bytes], through: Callable[[Sent], list[bytes]] | None = None, record: bool = False
    ) -> list[Envelope]:
        """Deliver until nothing is under way and nothing is held back; returns what reached the laboratory.

        Args:
            through: sees every envelope on its way to a party and says which bytes arrive there.
            record: keep every envelope for the corpus.
        """
        arrived: list[Envelope] = []
        under_way = deque(first)
        for _ in range(1000):
            if not under_way:
                self.now += DELAY
                under_way.extend(self.collect())
                if not under_way:
                    return arrived
            data = under_way.popleft()
            envelope = readable(data)
            if envelope is None or envelope.recipient not in self.parties:
                arrived += [envelope] if envelope is not None and envelope.recipient == LABORATORY else []
                continue
            sent = Sent(envelope.recipient, envelope.kind, data)
            if record:
                self._corpus.append(sent)
            for item in [data] if through is None else through(sent):
                under_way.extend(self._watch(self.parties[sent.recipient], item))
        raise RheError("the parties write to each other without end")

    def collect(self) -> list[bytes]:
        """What the parties hold back and is due at the world's time."""
        return [data for party in self.parties.values() for data in party.collect()]

    def restore(self) -> None:
        """Bring everything into a known state by ordinary commands, and record them as the new corpus.

        Raises:
            RheError: the parties no longer do what is asked of them.
        """
        self._corpus = []
        self._command(KEY_HOLDER, RotateKey(), KeyRotated)
        for index, head_id in enumerate(HEADS):
            self._command(DATA_OWNER, TrainHead(head_id, index), HeadReady)
        for head_id in HEADS:
            (place, right) = self.questions[head_id][0]
            decision = self._command(KEY_HOLDER, self.ask(head_id, place), Decision)
            if list(decision.classes) != [right]:
                raise RheError(f"head {head_id} decides {list(decision.classes)} where {right} is right")
        for party in self.parties:
            self._corpus.append(Sent(party, "health_request", self.envelope(party, HealthRequest())[0]))
        for recipient, kind, payload, sender in self._strangers():
            self._corpus.append(Sent(recipient, kind, self.envelope(recipient, payload, sender)[0]))
        self.by_kind = {}
        for sent in self._corpus:
            self.by_kind.setdefault(sent.kind, []).append(sent)

    def _command(self, recipient: str, payload: Payload, answer: type[P]) -> P:
        arrived = self.route([self.envelope(recipient, payload)[0]], record=True)
        for envelope in arrived:
            if isinstance(envelope.payload, answer):
                return envelope.payload
        texts = Counter(e.payload.text for e in arrived if isinstance(e.payload, Failure))
        raise RheError(f"{recipient} gave no {answer.__name__}: {'; '.join(texts) or 'no answer at all'}")

    def _strangers(self) -> list[tuple[str, str, Payload, str]]:
        """Payloads that an encrypted run never carries between these parties."""
        report = ClaimReport("x", "as-is", "claim", note_names=("n",), note_values=("v",))
        return [
            *((MODEL_HOST, payload_kind(head), head, DATA_OWNER) for head in self._heads_in_clear),
            (KEY_HOLDER, "failure", Failure(MODEL_HOST, int(FailureCode.BAD_VALUE), "spoilt"), MODEL_HOST),
            (MODEL_HOST, "claim_report", report, ADVERSARY),
            (KEY_HOLDER, "admit_client", AdmitClient(ADVERSARY, 1), ADVERSARY),
            (MODEL_HOST, "view_part", ViewPart(0, (b"envelope",)), LABORATORY),
            (KEY_HOLDER, "elided", Elided("decision", 100, bytes(32)), MODEL_HOST),
            (MODEL_HOST, "revoke_head", RevokeHead(HEADS[0]), DATA_OWNER),
            (KEY_HOLDER, "revoke_head", RevokeHead(HEADS[0]), MODEL_HOST),
            (DATA_OWNER, "head_revoked", HeadRevoked(HEADS[0], True), MODEL_HOST),
        ]


def _heads_in_clear(classes: int, backbone: Backbone) -> tuple[PlainHead, PlainHead, TwoLayerHead]:
    """Heads that a host without encryption would install, both as the first of `HEADS`."""
    width, hidden = backbone.features, 3
    linear = np.ones((classes, width), np.float32), np.zeros(classes, np.float32)
    factors = np.ones((1, width), np.float32), np.ones((width, 1), np.float32)
    layers = np.ones((hidden, width), np.float32), np.zeros(hidden, np.float32)
    outputs = np.ones((1, hidden), np.float32), np.zeros(1, np.float32)
    return (
        PlainHead(HEADS[0], *linear, backbone.fingerprint),
        PlainHead(HEADS[0], *linear, backbone.fingerprint, AdaptedBlock(FACTORS, factors)),
        TwoLayerHead(HEADS[0], "relu", *layers, *outputs, backbone.fingerprint),
    )
