"""DataOwner: trains heads on private images, applies the defence, encrypts, and has them installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rhe_parties.defences.base import Defence
from rhe_parties.defences.chain import trainer_of
from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.he.scheme import HeadEncryptor, PublicMaterial, make_encryptor
from rhe_parties.messages import Envelope
from rhe_parties.messages.checks import empty
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.messages.payloads import (
    AdaptedBlock,
    EncryptedHead,
    HeadInstalled,
    HeadNotice,
    HeadReady,
    HeadsRenewed,
    PlainHead,
    PublicMaterialRequest,
    TrainHead,
    TwoLayerHead,
)
from rhe_parties.messages.setups import MAX_HEADS
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.binary_head import BinaryHead
from rhe_parties.model.head import LinearHead, Recipe
from rhe_parties.model.last_block import adapted_backbone, last_layer, train_adapted, trunk_of
from rhe_parties.model.two_layer import BatchRecipe
from rhe_parties.parties.base import Asker, Party
from rhe_parties.parties.canaries import clear_classes
from rhe_parties.parties.encrypting import encrypted_head
from rhe_parties.rng import stream_seed
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["DataOwner"]


@dataclass(frozen=True)
class _Trained:
    """A head, and the backbone's last block where that was trained along with it."""

    head: LinearHead | BinaryHead
    block: AdaptedBlock | None = None


@dataclass(frozen=True)
class _Pending:
    """A head that was sent to the host: on whose errand, and what must come back."""

    asker: Asker
    trained: _Trained
    fingerprint: str
    scale: float
    tag: IntArray


class DataOwner(Party):
    """Holds the private images; nothing but heads, the blocks trained along with them where the recipe says so, public
    requests and fingerprints ever leaves it.

    Args:
        recipe: of linear heads, or of binary heads with a hidden layer, as the defences have it.
        defences: of the world, in order.
        images: uint8 [n, C, H, W], the private pool.
        labels: int64 [n].
        sets: int64 [V, N], the training images of each head.
        max_heads: most heads that are kept, to encrypt them again when the key is replaced.
        tag: whether encrypted heads get a secret last row by which the key holder knows honest replies.
        canaries: public images uint8 [C, ch, H, W] whose classes the key holder is told.
    """

    def __init__(
        self,
        run_id: str,
        backbone: Backbone,
        recipe: Recipe | BatchRecipe,
        defences: Sequence[Defence],
        classes: int,
        images: UInt8Array,
        labels: IntArray,
        sets: IntArray,
        seed: int,
        max_heads: int = MAX_HEADS,
        tag: bool = False,
        canaries: UInt8Array | None = None,
    ) -> None:
        super().__init__(DATA_OWNER, run_id)
        self._backbone = backbone
        self._recipe = recipe
        self._encrypts = any(defence.encrypts for defence in defences)
        self._trainer = trainer_of(defences)
        self._classes = classes
        self._images = images
        self._labels = labels
        self._sets = sets
        self._seed = seed
        self._features: FloatArray | None = None
        self._max_heads = max_heads
        self._tagged = tag
        self._canaries = canaries
        self._canary_features: FloatArray | None = None
        self._encryptor: HeadEncryptor | None = None
        self._key = ""
        # Heads on their way: waiting for a key, sent to the host, and confirmed by the key holder.
        self._waiting: list[tuple[Asker, str, _Trained]] = []
        self._pending: dict[str, _Pending] = {}
        self._installed: dict[str, _Trained] = {}
        self._handlers |= {
            TrainHead: self._on_train_head,
            PublicMaterial: self._on_public_material,
            HeadInstalled: self._on_head_installed,
            HeadReady: self._on_head_ready,
        }

    def _on_train_head(self, envelope: Envelope, payload: TrainHead) -> list[Envelope]:
        self.require_sender(envelope, LABORATORY)
        if payload.set_index >= len(self._sets):
            raise ProtocolError(
                FailureCode.BAD_VALUE,
                f"private set {payload.set_index} does not exist (0 to {len(self._sets) - 1})",
            )
        kept = {*self._installed, *self._pending, *(head_id for _, head_id, _ in self._waiting)}
        if payload.head_id not in kept and len(kept) >= self._max_heads:
            raise ProtocolError(FailureCode.REFUSED, f"{len(kept)} heads are kept, at most {self._max_heads} may be")
        trained, asker = self._train(payload.set_index), Asker.of(envelope)
        if not self._encrypts or self._encryptor is not None:
            return [self._sent(asker, payload.head_id, trained)]
        self._waiting.append((asker, payload.head_id, trained))
        return [self.send(KEY_HOLDER, PublicMaterialRequest(), cause=envelope)]

    def _train(self, index: int) -> _Trained:
        adapts = isinstance(self._recipe, Recipe) and self._recipe.adaptation is not None
        if self._features is None:
            self._features = (trunk_of(self._backbone) if adapts else self._backbone).extract(self._images)
        rows = self._sets[index]
        seed = stream_seed(self._seed, "victim-head", index)
        features, labels = self._features[rows], self._labels[rows]
        if isinstance(self._recipe, BatchRecipe):
            return _Trained(self._trainer.train_two_layer(features, labels, self._recipe, seed))
        if not adapts:
            return _Trained(self._trainer.train(features, labels, self._classes, self._recipe, seed))
        layer = last_layer(self._backbone)
        (adapted,) = train_adapted(layer, features[None], labels[None], self._classes, self._recipe, [seed])
        return _Trained(adapted.head, AdaptedBlock.of(adapted.block))

    def _sent(self, asker: Asker, head_id: str, trained: _Trained) -> Envelope:
        """The head on its way to the host, encrypted where the defence says so; an adapted block never is."""
        payload, scale, tag = self._payload(head_id, trained)
        self._pending[head_id] = _Pending(asker, trained, head_fingerprint(payload), scale, tag)
        return self.send(MODEL_HOST, payload, cause=asker)

    def _payload(
        self, head_id: str, trained: _Trained
    ) -> tuple[PlainHead | TwoLayerHead | EncryptedHead, float, IntArray]:
        head, block = trained.head, trained.block
        backbone, tag = self._backbone.fingerprint, empty(np.float32)
        if self._encrypts:
            if self._encryptor is None:
                raise ProtocolError(FailureCode.UNEXPECTED, "no public key material has arrived yet")
            return encrypted_head(self._encryptor, head_id, head, backbone, self._tagged, block)
        if isinstance(head, LinearHead):
            return PlainHead(head_id, head.weight, head.bias, backbone, block), 0.0, tag
        weight, bias = head.deep.layers[1]
        return TwoLayerHead(head_id, head.deep.activation, *head.hidden_layer, weight, bias, backbone), 0.0, tag

    def _on_public_material(self, envelope: Envelope, payload: PublicMaterial) -> list[Envelope]:
        """Encrypt what waits; under a new key also everything that was encrypted under the one before."""
        self.require_sender(envelope, KEY_HOLDER)
        if not self._encrypts:
            raise ProtocolError(FailureCode.UNEXPECTED, "no defence of this world encrypts anything")
        self.settle(envelope.reply_to)
        replies = []
        if payload.fingerprint != self._key:
            self._encryptor, self._key = make_encryptor(payload), payload.fingerprint
            kept = self._installed | {head_id: pending.trained for head_id, pending in self._pending.items()}
            for head_id, trained in kept.items():
                pending = self._pending.get(head_id)
                replies.append(self._sent(pending.asker if pending else Asker.of(envelope), head_id, trained))
            if not envelope.reply_to:  # nobody asked for it: the key holder waits to hear what is renewed
                replies.append(self.send(KEY_HOLDER, HeadsRenewed(tuple(kept)), cause=envelope))
        waiting, self._waiting = self._waiting, []
        return replies + [self._sent(asker, head_id, trained) for asker, head_id, trained in waiting]

    def _on_head_installed(self, envelope: Envelope, payload: HeadInstalled) -> list[Envelope]:
        self.require_sender(envelope, MODEL_HOST)
        pending = self._head_under_way(payload.head_id)
        if payload.fingerprint != pending.fingerprint:
            raise ProtocolError(
                FailureCode.BAD_VALUE,
                f"the host installed {payload.fingerprint[:12]!r} as {payload.head_id[:64]!r}, "
                f"{pending.fingerprint[:12]!r} was sent",
            )
        self.settle(envelope.reply_to)
        key = self._key if self._encrypts else ""
        known = self._canary_classes(pending.trained)
        notice = HeadNotice(
            payload.head_id, payload.fingerprint, self._encrypts, pending.scale, self._classes, key, pending.tag, known
        )
        return [self.send(KEY_HOLDER, notice, cause=pending.asker)]

    def _canary_classes(self, trained: _Trained) -> IntArray:
        if self._canaries is None:
            return empty(np.float32)
        if trained.block is not None:
            features = adapted_backbone(self._backbone, trained.block.by_name).extract(self._canaries)
        else:
            if self._canary_features is None:
                self._canary_features = self._backbone.extract(self._canaries)
            features = self._canary_features
        return clear_classes(trained.head.logits(features))

    def _on_head_ready(self, envelope: Envelope, payload: HeadReady) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        pending = self._head_under_way(payload.head_id)
        del self._pending[payload.head_id]
        self._installed[payload.head_id] = pending.trained
        self.settle(envelope.reply_to)
        # A head that was sent again because of a new key is nobody's request: the key holder itself counts it.
        return [] if pending.asker.name == KEY_HOLDER else [self.answer(pending.asker, payload)]

    def _on_errand_failed(self, sequence: int, asker: Asker) -> None:
        del sequence
        self._waiting = [item for item in self._waiting if item[0] != asker]
        if asker.name != KEY_HOLDER:  # one failure in a rotation says nothing of the other heads
            self._pending = {head_id: held for head_id, held in self._pending.items() if held.asker != asker}

    def _head_under_way(self, head_id: str) -> _Pending:
        pending = self._pending.get(head_id)
        if pending is None:
            raise ProtocolError(FailureCode.UNEXPECTED, f"head {head_id[:64]!r} is not being installed")
        return pending
