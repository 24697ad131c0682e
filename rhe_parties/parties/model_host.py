"""ModelHost: runs backbone and head on plain inputs. It never holds a secret key."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from rhe_parties.errors import FailureCode, NumericError, ProtocolError, SchemeError
from rhe_parties.he.scheme import HeadCiphertexts, HeadEvaluator, PublicMaterial, make_evaluator
from rhe_parties.messages import Envelope
from rhe_parties.messages.payloads import (
    ClassifyRequest,
    ClassifyResponse,
    EncryptedHead,
    HeadInstalled,
    PlainHead,
    PublicMaterialRequest,
    empty,
)
from rhe_parties.model.backbone import Backbone
from rhe_parties.model.head import LinearHead
from rhe_parties.parties.base import Party
from rhe_parties.threat.model import DATA_OWNER, KEY_HOLDER, MODEL_HOST
from rhe_parties.types import UInt8Array

__all__ = ["ModelHost", "head_fingerprint"]


def head_fingerprint(payload: PlainHead | EncryptedHead) -> str:
    """SHA-256, hexadecimal, over everything of a head that the host installs."""
    digest = hashlib.sha256()
    if isinstance(payload, PlainHead):
        parts = [payload.backbone_fingerprint.encode(), payload.weight.tobytes(), payload.bias.tobytes()]
    else:
        parts = [
            payload.backbone_fingerprint.encode(),
            payload.key_fingerprint.encode(),
            *payload.ciphertexts,
        ]
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


@dataclass(frozen=True)
class _Installed:
    head: LinearHead | HeadEvaluator
    fingerprint: str


class ModelHost(Party):
    """Untrusted: sees images, features, and heads as they are sent; the backbone is frozen and public."""

    def __init__(self, run_id: str, backbone: Backbone) -> None:
        super().__init__(MODEL_HOST, run_id)
        self._backbone = backbone
        self._material: PublicMaterial | None = None
        self._heads: dict[str, _Installed] = {}
        self._waiting: list[Envelope] = []
        self._handlers |= {
            PlainHead: self._on_plain_head,
            EncryptedHead: self._on_encrypted_head,
            PublicMaterial: self._on_public_material,
            ClassifyRequest: self._on_classify,
        }

    def _check_backbone(self, head_id: str, fingerprint: str) -> None:
        if fingerprint != self._backbone.fingerprint:
            raise ProtocolError(
                FailureCode.BAD_VALUE,
                f"head {head_id!r} was trained on backbone {fingerprint[:12]!r}; this host runs "
                f"{self._backbone.name} {self._backbone.fingerprint[:12]!r}",
            )

    def _on_plain_head(self, envelope: Envelope, payload: PlainHead) -> list[Envelope]:
        self.require_sender(envelope, DATA_OWNER)
        self._check_backbone(payload.head_id, payload.backbone_fingerprint)
        if payload.weight.shape[1] != self._backbone.features:
            raise NumericError(
                f"head {payload.head_id!r} takes {payload.weight.shape[1]} features, "
                f"{self._backbone.name} gives {self._backbone.features}",
                FailureCode.BAD_TENSOR,
            )
        return [self._install(envelope, payload.head_id, LinearHead(payload.weight, payload.bias))]

    def _on_encrypted_head(self, envelope: Envelope, payload: EncryptedHead) -> list[Envelope]:
        self.require_sender(envelope, DATA_OWNER)
        self._check_backbone(payload.head_id, payload.backbone_fingerprint)
        if self._material is None:
            self._waiting.append(envelope)
            return [self.send(KEY_HOLDER, PublicMaterialRequest(), cause=envelope)]
        return [self._install_encrypted(envelope, payload, self._material)]

    def _on_public_material(self, envelope: Envelope, payload: PublicMaterial) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        if payload.plan.features != self._backbone.features:
            raise SchemeError(
                FailureCode.BAD_VALUE,
                f"the plan is for {payload.plan.features} features, {self._backbone.name} gives "
                f"{self._backbone.features}",
            )
        self._material = payload
        waiting, self._waiting = self._waiting, []
        replies = []
        for request in waiting:
            try:
                if isinstance(request.payload, EncryptedHead):
                    replies.append(self._install_encrypted(request, request.payload, payload))
            except ProtocolError as error:
                # The fault lies with the head that waited, not with the key material that has just come.
                replies.append(self._failure(request.sender, request.sequence, error.code, error.text))
        return replies

    def _install_encrypted(self, request: Envelope, payload: EncryptedHead, material: PublicMaterial) -> Envelope:
        ciphertexts = HeadCiphertexts(payload.ciphertexts, payload.key_fingerprint)
        return self._install(request, payload.head_id, make_evaluator(material, ciphertexts))

    def _install(self, request: Envelope, head_id: str, head: LinearHead | HeadEvaluator) -> Envelope:
        if not isinstance(request.payload, PlainHead | EncryptedHead):
            raise ProtocolError(FailureCode.UNEXPECTED, f"{request.kind} installs no head")
        fingerprint = head_fingerprint(request.payload)
        self._heads[head_id] = _Installed(head, fingerprint)
        return self.answer(request, HeadInstalled(head_id, fingerprint))

    def _on_classify(self, envelope: Envelope, payload: ClassifyRequest) -> list[Envelope]:
        self.require_sender(envelope, KEY_HOLDER)
        installed = self._heads.get(payload.head_id)
        if installed is None:
            raise ProtocolError(
                FailureCode.NOT_INSTALLED,
                f"head {payload.head_id[:64]!r} is not installed ({len(self._heads)} heads are)",
            )
        return [self.answer(envelope, self._classify(payload, installed))]

    def _classify(self, payload: ClassifyRequest, installed: _Installed) -> ClassifyResponse:
        features = self._backbone.extract(self._checked(payload.images))
        plain = empty(np.float32)
        ciphertexts: tuple[bytes, ...] = ()
        saturated = 0
        if isinstance(installed.head, LinearHead):
            plain = installed.head.logits(features)
        else:
            encrypted, saturated = installed.head.evaluate(features)
            ciphertexts = encrypted.ciphertexts
        return ClassifyResponse(
            payload.request_id,
            payload.head_id,
            installed.fingerprint,
            len(features),
            plain,
            ciphertexts,
            saturated,
        )

    def _checked(self, images: UInt8Array) -> UInt8Array:
        if images.shape[1] not in (1, 3) or min(images.shape[2:]) < 1:
            raise NumericError(
                f"images have shape {list(images.shape[1:])}; expected 1 or 3 channels and at least one pixel",
                FailureCode.BAD_TENSOR,
            )
        return images
