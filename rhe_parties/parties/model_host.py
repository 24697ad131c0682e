"""ModelHost: runs backbone and head on plain inputs. It never holds a secret key."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rhe_parties.errors import FailureCode, MessageError, NumericError, ProtocolError, SchemeError
from rhe_parties.he.scheme import HeadCiphertexts, HeadEvaluator, PublicMaterial, check_public, make_evaluator
from rhe_parties.messages import MAX_ENVELOPE_BYTES, Envelope
from rhe_parties.messages.checks import empty
from rhe_parties.messages.fingerprints import head_fingerprint, sealed
from rhe_parties.messages.payloads import (
    ClassifyRequest,
    ClassifyResponse,
    EncryptedHead,
    Failure,
    HeadInstalled,
    HeadRevoked,
    HostOrder,
    PlainHead,
    PublicMaterialRequest,
    ResponsePart,
    RevokeHead,
    TwoLayerHead,
)
from rhe_parties.messages.setups import MAX_GATHERED, MAX_HEADS, MAX_IMAGES
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.head import LinearHead
from rhe_parties.model.last_block import adapted_backbone
from rhe_parties.model.mlp import DeepHead
from rhe_parties.parties.base import Asker, Party
from rhe_parties.parties.gather import Gatherer
from rhe_parties.parties.host_features import joint_features, saturated_shares
from rhe_parties.parties.recent import RecentIds, UsedIds
from rhe_parties.threat.model import ADVERSARY, DATA_OWNER, KEY_HOLDER, MODEL_HOST
from rhe_parties.types import FloatArray

__all__ = ["Corruption", "HostLimits", "ModelHost"]

# Inputs of a full batch where no encryption says what fits into one ciphertext.
PLAIN_BATCH = 256
# Bytes of images held while gathering, and heads that wait for key material.
MAX_GATHERED_BYTES = 256 * 2**20
MAX_WAITING = 64
# Gathered replies whose requests are kept until newer ones follow.
MAX_SENT_BATCHES = 4
# Orders of the adversary that wait for their request.
MAX_ORDERS = 64
# Room for an envelope's other fields beside the logits.
_MARGIN_BYTES = 2**20


@dataclass(frozen=True)
class HostLimits:
    """What the host takes at most, and how long it gathers; see `ModelHostSetup`.

    `takes_features`: whether who asks may run the backbone itself and send features in place of images.
    """

    gather_delay: float = 0.0
    gather_inputs: int = MAX_GATHERED
    max_images: int = MAX_IMAGES
    max_heads: int = MAX_HEADS
    takes_features: bool = False


@dataclass(frozen=True)
class Corruption:
    """What the adversary's seat may have of this host: copies of replies and, where `active`, other ones sent."""

    active: bool = False


@dataclass(frozen=True)
class _Installed:
    head: LinearHead | BinaryHead | HeadEvaluator
    backbone: Backbone
    fingerprint: str
    key_fingerprint: str


@dataclass(frozen=True, slots=True)
class _Held:
    asker: Asker
    request: ClassifyRequest


class ModelHost(Party):
    """Untrusted: sees images, features, and heads as they are sent; the backbone is frozen and public, but for the
    last block where a head comes with its own.

    Requests for the same head are gathered up to a delay and answered together, in one message. A request that
    cannot be answered is refused alone.

    Args:
        limits: bounds, and the delay; without one every request is answered at once.
        clock: seconds on a clock that never goes back.
        evaluator: who multiplies the encrypted head; see `rhe_parties.he.evaluators`.
        corruption: where the adversary controls this host; None: it takes no orders.
        used: remembers the ids of requests; None: the latest in memory.
    """

    def __init__(
        self,
        run_id: str,
        backbone: Backbone,
        limits: HostLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        evaluator: str = "auto",
        corruption: Corruption | None = None,
        used: UsedIds | None = None,
    ) -> None:
        super().__init__(MODEL_HOST, run_id)
        self._backbone = backbone
        self._limits = limits if limits is not None else HostLimits()
        self._clock, self._evaluator = clock, evaluator
        self._corruption = corruption
        # What the adversary ordered for requests to come: request id -> its envelope.
        self._orders: OrderedDict[str, Envelope] = OrderedDict()
        self._gatherer: Gatherer[_Held] = Gatherer(
            self._limits.gather_delay, self._limits.gather_inputs, MAX_GATHERED_BYTES
        )
        self._material: PublicMaterial | None = None
        self._heads: dict[str, _Installed] = {}
        # Heads dropped because their key was replaced: id -> that key's fingerprint.
        self._retired: dict[str, str] = {}
        self._waiting: list[Envelope] = []
        self._taken: UsedIds = used if used is not None else RecentIds()
        # Latest gathered replies by their number: should the key holder refuse one, its requests are answered singly.
        self._sent: OrderedDict[int, list[_Held]] = OrderedDict()
        self._handlers |= {
            PlainHead: self._on_plain_head,
            TwoLayerHead: self._on_two_layer_head,
            EncryptedHead: self._on_encrypted_head,
            RevokeHead: self._on_revoke,
            PublicMaterial: self._on_public_material,
            ClassifyRequest: self._on_classify,
            HostOrder: self._on_order,
        }

    # ---- installing --------------------------------------------------------------------------------------------

    def _check_head(self, head_id: str, backbone_fingerprint: str) -> None:
        if backbone_fingerprint != self._backbone.fingerprint:
            raise ProtocolError(
                FailureCode.BAD_VALUE,
                f"head {head_id[:64]!r} was trained on backbone {backbone_fingerprint[:12]!r}; this host runs "
                f"{self._backbone.name} {self._backbone.fingerprint[:12]!r}",
            )
        if head_id not in self._heads and len(self._heads) >= self._limits.max_heads:
            raise ProtocolError(
                FailureCode.REFUSED, f"{len(self._heads)} heads are installed, at most {self._limits.max_heads} may be"
            )

    def _on_plain_head(self, envelope: Envelope, payload: PlainHead) -> list[Envelope]:
        self.require_sender(envelope, DATA_OWNER)
        self._check_head(payload.head_id, payload.backbone_fingerprint)
        self._check_width(payload.head_id, payload.weight)
        return self._install(envelope, payload, LinearHead(payload.weight, payload.bias))

    def _on_two_layer_head(self, envelope: Envelope, payload: TwoLayerHead) -> list[Envelope]:
        self.require_sender(envelope, DATA_OWNER)
        self._check_head(payload.head_id, payload.backbone_fingerprint)
        self._check_width(payload.head_id, payload.hidden_weight)
        layers = (payload.hidden_weight, payload.hidden_bias), (payload.weight, payload.bias)
        return self._install(envelope, payload, BinaryHead(DeepHead(layers, payload.activation)))

    def _check_width(self, head_id: str, weight: FloatArray) -> None:
        if weight.shape[1] != self._backbone.features:
            raise NumericError(
                f"head {head_id[:64]!r} takes {weight.shape[1]} features, "
                f"{self._backbone.name} gives {self._backbone.features}",
                FailureCode.BAD_TENSOR,
            )

    def _on_encrypted_head(self, envelope: Envelope, payload: EncryptedHead) -> list[Envelope]:
        self.require_sender(envelope, DATA_OWNER)
        self._check_head(payload.head_id, payload.backbone_fingerprint)
        if self._material is not None:
            return self._install_encrypted(envelope, payload, self._material)
        if len(self._waiting) >= MAX_WAITING:
            raise ProtocolError(
                FailureCode.REFUSED, f"{len(self._waiting)} heads wait for key material, at most {MAX_WAITING} may"
            )
        self._waiting.append(envelope)
        return [self.send(KEY_HOLDER, PublicMaterialRequest(), cause=envelope)]

    def _on_revoke(self, envelope: Envelope, payload: RevokeHead) -> list[Envelope]:
        """What was asked of the head before is answered by it."""
        self.require_sender(envelope, DATA_OWNER)
        replies = self._answers([self._gatherer.take(payload.head_id)])
        known = self._heads.pop(payload.head_id, None) is not None
        return [*replies, self.answer(envelope, HeadRevoked(payload.head_id, known))]

    def _on_failure(self, envelope: Envelope, payload: Failure) -> list[Envelope]:
        """A gathered reply that was refused whole, because of one request in it, must not cost the others theirs."""
        batch = self._sent.pop(envelope.reply_to, []) if envelope.sender == KEY_HOLDER else []
        if batch:
            return self._answers([[held] for held in batch])
        return super()._on_failure(envelope, payload)

    def _on_errand_failed(self, sequence: int, asker: Asker) -> None:
        del sequence
        self._waiting = [envelope for envelope in self._waiting if Asker.of(envelope) != asker]

    def _on_public_material(self, envelope: Envelope, payload: PublicMaterial) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        check_public(payload)
        if payload.plan.features != self._backbone.features:
            raise SchemeError(
                FailureCode.BAD_VALUE,
                f"the plan is for {payload.plan.features} features, {self._backbone.name} gives "
                f"{self._backbone.features}",
            )
        self.settle(envelope.reply_to)
        replies = self._retire(payload.fingerprint)
        self._material = payload
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            try:
                if isinstance(request.payload, EncryptedHead):
                    replies += self._install_encrypted(request, request.payload, payload)
            except ProtocolError as error:
                # The fault lies with the head that waited, not with the key material that has just come.
                replies.append(self.refuse(Asker.of(request), error))
        return replies

    def _retire(self, fingerprint: str) -> list[Envelope]:
        """Drop every head under another key than this; requests held for them are refused."""
        refusals = []
        for head_id, installed in list(self._heads.items()):
            if installed.key_fingerprint in ("", fingerprint):
                continue
            del self._heads[head_id]
            self._retired[head_id] = installed.key_fingerprint
            error = self._missing(head_id)
            refusals += [self.refuse(held.asker, error) for held in self._gatherer.take(head_id)]
        return refusals

    def _missing(self, head_id: str) -> ProtocolError:
        old = self._retired.get(head_id)
        if old is None:
            return ProtocolError(
                FailureCode.NOT_INSTALLED, f"head {head_id[:64]!r} is not installed ({len(self._heads)} heads are)"
            )
        return ProtocolError(
            FailureCode.WRONG_KEY,
            f"head {head_id[:64]!r} was encrypted for key {old[:12]!r}, which was replaced; it is not installed anew",
        )

    def _install_encrypted(self, request: Envelope, payload: EncryptedHead, material: PublicMaterial) -> list[Envelope]:
        ciphertexts = HeadCiphertexts(payload.ciphertexts, payload.key_fingerprint)
        head = make_evaluator(material, ciphertexts, self._evaluator, str(self._backbone.device))
        return self._install(request, payload, head)

    def _install(
        self,
        request: Envelope,
        payload: PlainHead | TwoLayerHead | EncryptedHead,
        head: LinearHead | BinaryHead | HeadEvaluator,
    ) -> list[Envelope]:
        block = None if isinstance(payload, TwoLayerHead) else payload.block
        backbone = self._backbone if block is None else adapted_backbone(self._backbone, block.by_name)
        # What was asked of the head that was there before is answered by it.
        replies = self._answers([self._gatherer.take(payload.head_id)])
        key = payload.key_fingerprint if isinstance(payload, EncryptedHead) else ""
        fingerprint = head_fingerprint(payload)
        self._heads[payload.head_id] = _Installed(head, backbone, fingerprint, key)
        self._retired.pop(payload.head_id, None)
        return [*replies, self.answer(request, HeadInstalled(payload.head_id, fingerprint))]

    # ---- classifying -------------------------------------------------------------------------------------------

    def _on_classify(self, envelope: Envelope, payload: ClassifyRequest) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        installed = self._heads.get(payload.head_id)
        if installed is None:
            raise self._missing(payload.head_id)
        self._check_inputs(payload, installed)
        if payload.request_id in self._taken:
            raise ProtocolError(FailureCode.REPLAY, f"request id {payload.request_id[:64]!r} was used before")
        self._taken.add(payload.request_id)
        order = self._orders.pop(payload.request_id, None)
        if order is not None and isinstance(order.payload, HostOrder):
            return self._obey(order, order.payload, envelope, payload)
        material = self._material
        full = material.plan.batch if installed.key_fingerprint and material is not None else PLAIN_BATCH
        held = _Held(Asker.of(envelope), payload)
        batches = self._gatherer.add(payload.head_id, held, payload.batch, payload.nbytes, full, self._clock())
        return self._answers(batches)

    def _on_order(self, envelope: Envelope, payload: HostOrder) -> list[Envelope]:
        """A host is as honest as its set-up says: orders come from the seat of the adversary that corrupted it."""
        self.require_sender(envelope, ADVERSARY)
        if self._corruption is None or (payload.ciphertexts and not self._corruption.active):
            reason = "only reads here" if self._corruption is not None else "does not control this host"
            raise ProtocolError(FailureCode.REFUSED, f"the adversary {reason}")
        self._orders[payload.request_id] = envelope
        while len(self._orders) > MAX_ORDERS:
            self._orders.popitem(last=False)
        return []

    def _obey(self, order: Envelope, told: HostOrder, request: Envelope, asked: ClassifyRequest) -> list[Envelope]:
        """Answer as ordered: what the adversary gave, or what is computed with a copy for the adversary."""
        if not told.ciphertexts:
            response = self._classify([asked])
            return [self.answer(request, response), self.answer(order, response)]
        installed = self._heads[asked.head_id]
        part = ResponsePart(asked.request_id, asked.batch, 0)
        response = sealed(
            ClassifyResponse(
                asked.head_id, installed.fingerprint, installed.key_fingerprint, (part,), empty(np.float32),
                told.ciphertexts,
            )
        )  # fmt: skip
        reply = self.send(request.sender, response, reply_to=request.sequence, cause=order)
        return [reply]

    def _check_inputs(self, request: ClassifyRequest, installed: _Installed) -> None:
        images, features = request.images, request.features
        if request.batch > self._limits.max_images:
            raise NumericError(
                f"{request.batch} inputs in one request; at most {self._limits.max_images} are allowed",
                FailureCode.OVERSIZED,
            )
        if features.size and not self._limits.takes_features:
            raise ProtocolError(FailureCode.REFUSED, "this host takes images, not features")
        if features.size and features.shape[1] != installed.backbone.features:
            raise NumericError(
                f"{features.shape[1]} features an input, {installed.backbone.name} gives {installed.backbone.features}",
                FailureCode.BAD_TENSOR,
            )
        if not features.size and (images.shape[1] not in (1, 3) or min(images.shape[2:]) < 1):
            raise NumericError(
                f"images have shape {list(images.shape[1:])}; expected 1 or 3 channels and at least one pixel",
                FailureCode.BAD_TENSOR,
            )

    def due(self) -> float | None:
        """See `Party.due`: when the oldest gathered request has waited for the delay."""
        return self._gatherer.seconds(self._clock())

    def _due_now(self) -> list[Envelope]:
        return self._answers(self._gatherer.due(self._clock()))

    def _answers(self, batches: Sequence[list[_Held]]) -> list[Envelope]:
        """Replies to batches; never raises."""
        return [envelope for batch in batches if batch for envelope in self._answer_batch(batch)]

    def _answer_batch(self, batch: list[_Held]) -> list[Envelope]:
        try:
            reply = self.answer(batch[0].asker, self._classify([held.request for held in batch]))
            self._remember(reply.sequence, batch)
            return [reply]
        except Exception as error:
            if len(batch) == 1:
                return [self.refuse(batch[0].asker, error)]
        # One request spoils the batch: each for itself, so that only that one is refused.
        return [envelope for held in batch for envelope in self._answer_batch([held])]

    def _remember(self, sequence: int, batch: list[_Held]) -> None:
        if len(batch) > 1:
            self._sent[sequence] = batch
        while len(self._sent) > MAX_SENT_BATCHES:
            self._sent.popitem(last=False)

    def _classify(self, requests: list[ClassifyRequest]) -> ClassifyResponse:
        installed = self._heads.get(requests[0].head_id)
        if installed is None:
            raise self._missing(requests[0].head_id)
        on_device = bool(getattr(installed.head, "on_device", False))
        features = joint_features(installed.backbone, requests, on_device)
        sizes = [request.batch for request in requests]
        plain, saturated = empty(np.float32), 0
        ciphertexts: tuple[bytes, ...] = ()
        if isinstance(installed.head, LinearHead | BinaryHead):
            with np.errstate(over="ignore"):  # a response refuses infinite logits
                plain = installed.head.logits(features)
        else:
            encrypted, saturated = installed.head.evaluate(features)
            ciphertexts = encrypted.ciphertexts
        size = plain.nbytes + sum(map(len, ciphertexts))
        if size > MAX_ENVELOPE_BYTES - _MARGIN_BYTES:
            raise MessageError(
                FailureCode.OVERSIZED, f"a reply of {size} bytes to {sum(sizes)} images is too large: ask for fewer"
            )
        shares = saturated_shares(saturated, features, sizes)
        parts = tuple(
            ResponsePart(request.request_id, count, share)
            for request, count, share in zip(requests, sizes, shares, strict=True)
        )
        head_id, key = requests[0].head_id, installed.key_fingerprint
        return sealed(ClassifyResponse(head_id, installed.fingerprint, key, parts, plain, ciphertexts))
