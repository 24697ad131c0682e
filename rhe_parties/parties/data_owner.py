"""DataOwner: trains heads on private images, applies the defence, encrypts, and has them installed."""

from __future__ import annotations

from rhe_parties.defences.base import Defence
from rhe_parties.errors import FailureCode, ProtocolError
from rhe_parties.he.scheme import HeadEncryptor, PublicMaterial, make_encryptor
from rhe_parties.messages import Envelope
from rhe_parties.messages.payloads import (
    EncryptedHead,
    HeadInstalled,
    HeadNotice,
    HeadReady,
    PlainHead,
    PublicMaterialRequest,
    TrainHead,
)
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import LinearHead, Recipe
from rhe_parties.parties.base import Party
from rhe_parties.rng import stream_seed
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, LABORATORY, MODEL_HOST
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = ["DataOwner"]


class DataOwner(Party):
    """Holds the private images; nothing but heads, public requests and fingerprints ever leaves it.

    Args:
        images: uint8 [n, C, H, W], the private pool.
        labels: int64 [n].
        sets: int64 [V, N], the training images of each head.
    """

    def __init__(
        self,
        run_id: str,
        backbone: Backbone,
        recipe: Recipe,
        defence: Defence,
        classes: int,
        images: UInt8Array,
        labels: IntArray,
        sets: IntArray,
        seed: int,
    ) -> None:
        super().__init__(DATA_OWNER, run_id)
        self._backbone = backbone
        self._recipe = recipe
        self._defence = defence
        self._classes = classes
        self._images = images
        self._labels = labels
        self._sets = sets
        self._seed = seed
        self._features: FloatArray | None = None
        self._encryptor: HeadEncryptor | None = None
        self._waiting: list[tuple[Envelope, LinearHead]] = []
        self._scales: dict[str, float] = {}
        self._requests: dict[str, Envelope] = {}
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
        head = self._train(payload.set_index)
        self._requests[payload.head_id] = envelope
        if not self._defence.encrypts:
            return [self.send(MODEL_HOST, self._plain(payload.head_id, head), cause=envelope)]
        if self._encryptor is not None:
            return [self._encrypted(envelope, head)]
        self._waiting.append((envelope, head))
        return [self.send(KEY_HOLDER, PublicMaterialRequest(), cause=envelope)]

    def _train(self, index: int) -> LinearHead:
        if self._features is None:
            self._features = self._backbone.extract(self._images)
        rows = self._sets[index]
        seed = stream_seed(self._seed, "victim-head", index)
        return self._defence.train(self._features[rows], self._labels[rows], self._classes, self._recipe, seed)

    def _plain(self, head_id: str, head: LinearHead) -> PlainHead:
        return PlainHead(head_id, head.weight, head.bias, self._backbone.fingerprint)

    def _encrypted(self, request: Envelope, head: LinearHead) -> Envelope:
        if self._encryptor is None or not isinstance(request.payload, TrainHead):
            raise ProtocolError(FailureCode.UNEXPECTED, "no public key material has arrived yet")
        head_id = request.payload.head_id
        ciphertexts, self._scales[head_id] = self._encryptor.encrypt(head.weight, head.bias)
        payload = EncryptedHead(
            head_id, ciphertexts.key_fingerprint, self._backbone.fingerprint, ciphertexts.ciphertexts
        )
        return self.send(MODEL_HOST, payload, cause=request)

    def _on_public_material(self, envelope: Envelope, payload: PublicMaterial) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        self._encryptor = make_encryptor(payload)
        waiting, self._waiting = self._waiting, []
        return [self._encrypted(request, head) for request, head in waiting]

    def _on_head_installed(self, envelope: Envelope, payload: HeadInstalled) -> list[Envelope]:
        self.require_sender(envelope, MODEL_HOST)
        request = self._request(payload.head_id)
        notice = HeadNotice(
            payload.head_id,
            payload.fingerprint,
            self._defence.encrypts,
            self._scales.get(payload.head_id, 0.0),
            self._classes,
        )
        return [self.send(KEY_HOLDER, notice, cause=request)]

    def _on_head_ready(self, envelope: Envelope, payload: HeadReady) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        request = self._request(payload.head_id)
        del self._requests[payload.head_id]
        return [self.answer(request, payload)]

    def _request(self, head_id: str) -> Envelope:
        request = self._requests.get(head_id)
        if request is None:
            raise ProtocolError(FailureCode.UNEXPECTED, f"head {head_id[:64]!r} is not being installed")
        return request
