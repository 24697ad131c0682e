"""One frozen dataclass per message of `protos/`, in the order of the data's way.

Field names equal those of the protobuf messages; `serde` converts by the field's annotation. What can be checked on
one message alone is checked here, so that no party ever sees an ill-shaped tensor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from rhe_parties.errors import FailureCode, MessageError, NumericError
from rhe_parties.he.scheme import PublicMaterial
from rhe_parties.messages.adapted import AdaptedBlock
from rhe_parties.messages.adversarial import (
    AdmitClient,
    AttackRequest,
    Challenge,
    ClaimReport,
    ClientAdmitted,
    ViewPart,
)
from rhe_parties.messages.checks import check_inputs, check_name, check_tensor, empty
from rhe_parties.messages.heads import (
    EncryptedHead,
    HeadInstalled,
    HeadNotice,
    HeadReady,
    HeadRevoked,
    PlainHead,
    RevokeHead,
    TrainHead,
    TwoLayerHead,
)
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = [
    "PAYLOADS",
    "AdaptedBlock",
    "AdmitClient",
    "AskDecisions",
    "AttackRequest",
    "Challenge",
    "ClaimReport",
    "ClassifyRequest",
    "ClassifyResponse",
    "ClientAdmitted",
    "Decision",
    "Elided",
    "EncryptedHead",
    "Failure",
    "HeadInstalled",
    "HeadNotice",
    "HeadReady",
    "HeadRevoked",
    "HeadsRenewed",
    "HealthReport",
    "HealthRequest",
    "HostOrder",
    "KeyRotated",
    "Payload",
    "PlainHead",
    "PublicMaterial",
    "PublicMaterialRequest",
    "ResponsePart",
    "RevokeHead",
    "RotateKey",
    "TrainHead",
    "TwoLayerHead",
    "ViewPart",
    "payload_kind",
]


@dataclass(frozen=True)
class Failure:
    """The sender could not do what was asked, and goes on serving."""

    party: str
    code: int
    text: str

    def __post_init__(self) -> None:
        if self.code not in list(FailureCode):
            raise MessageError(FailureCode.MALFORMED, f"failure code {self.code} is unknown")


@dataclass(frozen=True)
class HealthRequest:
    """Are you there?"""


@dataclass(frozen=True)
class HealthReport:
    """Yes: envelopes handled so far, and how many of them were answered with a `Failure`."""

    party: str
    handled: int
    failures: int


@dataclass(frozen=True)
class PublicMaterialRequest:
    """DataOwner or ModelHost asks the KeyHolder for what anybody may hold."""


@dataclass(frozen=True)
class RotateKey:
    """Make new keys for the same plan and have every encrypted head replaced."""


@dataclass(frozen=True)
class HeadsRenewed:
    """The owner encrypted these heads anew and sent them to the host; it has no others."""

    head_ids: tuple[str, ...]


@dataclass(frozen=True)
class KeyRotated:
    """The key holder serves under `new_fingerprint` alone; `heads` were encrypted and installed anew."""

    old_fingerprint: str
    new_fingerprint: str
    heads: int


@dataclass(frozen=True)
class AskDecisions:
    """Decide with `head_id` on `images` uint8 [B, C, H, W], or on `features` float32 [B, D] of the asker's backbone."""

    request_id: str
    head_id: str
    images: UInt8Array = field(default_factory=lambda: empty(np.float32))
    features: FloatArray = field(default_factory=lambda: empty(np.float32))

    def __post_init__(self) -> None:
        check_name(self.request_id, "request_id")
        check_inputs(self.images, self.features)

    @property
    def batch(self) -> int:
        """Inputs."""
        return len(self.images) or len(self.features)


@dataclass(frozen=True)
class ClassifyRequest:
    """KeyHolder -> ModelHost: run backbone and head on plain `images` uint8 [B, C, H, W], or the head alone on
    `features` float32 [B, D]."""

    request_id: str
    head_id: str
    images: UInt8Array = field(default_factory=lambda: empty(np.float32))
    features: FloatArray = field(default_factory=lambda: empty(np.float32))

    def __post_init__(self) -> None:
        check_name(self.request_id, "request_id")
        check_inputs(self.images, self.features)

    @property
    def batch(self) -> int:
        """Inputs."""
        return len(self.images) or len(self.features)

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs."""
        return int(self.images.nbytes + self.features.nbytes)


@dataclass(frozen=True)
class ResponsePart:
    """One request's share of a reply: its inputs, and how many of them were scaled down to the public norm."""

    request_id: str
    batch: int
    saturated: int


@dataclass(frozen=True)
class ClassifyResponse:
    """Logits of one or more requests for one head, rows in the order of `parts`.

    `plain_logits` float32 [B, K] without RHE, `ciphertexts` under RHE, never both. `digest` is that of
    `fingerprints.response_digest`; the reader checks it, so that damaged and mixed up replies show.
    """

    head_id: str
    head_fingerprint: str
    key_fingerprint: str
    parts: tuple[ResponsePart, ...]
    plain_logits: FloatArray
    ciphertexts: tuple[bytes, ...]
    digest: bytes = b""

    def __post_init__(self) -> None:
        if self.plain_logits.size:
            check_tensor(self.plain_logits, "logits", np.float32, 2)
        if bool(self.plain_logits.size) == bool(self.ciphertexts):
            raise MessageError(FailureCode.MALFORMED, "a response carries either plain logits or ciphertexts")
        if not self.parts:
            raise MessageError(FailureCode.MALFORMED, "a response answers at least one request, this one none")

    @property
    def batch(self) -> int:
        """Inputs of all parts together."""
        return sum(part.batch for part in self.parts)


@dataclass(frozen=True)
class Decision:
    """Classes int64 [B]; `saturated` counts inputs whose features were scaled down to the public norm.

    `logits` float32 [B, K] is empty unless the key holder's release policy lets them out. `used` counts the images
    that were decided for this asker and head so far. `raw` float64 [B, K, slots], empty unless the policy is `raw`:
    every decoded slot of every reply ciphertext.
    """

    request_id: str
    head_id: str
    classes: IntArray
    saturated: int
    logits: FloatArray = field(default_factory=lambda: empty(np.float32))
    used: int = 0
    raw: FloatArray = field(default_factory=lambda: empty(np.float32))

    def __post_init__(self) -> None:
        check_tensor(self.classes, "classes", np.int64, 1)
        for what, array, dtype, dimensions in (
            ("logits", self.logits, np.float32, 2),
            ("raw", self.raw, np.float64, 3),
        ):
            if not array.size:
                continue
            check_tensor(array, f"released {what}", dtype, dimensions)
            if len(array) != len(self.classes):
                raise NumericError(
                    f"released {what} of {len(array)} inputs beside {len(self.classes)} classes",
                    FailureCode.BAD_TENSOR,
                )


@dataclass(frozen=True)
class HostOrder:
    """Adversary -> a host that it controls: what to do when request `request_id` comes.

    Without `ciphertexts` the host answers as ever and sends the adversary a copy; with them it sends these instead.
    """

    request_id: str
    ciphertexts: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.request_id, "request_id")


@dataclass(frozen=True)
class Elided:
    """Stands in a transcript for an envelope whose body was not kept: its kind, its size in bytes and its SHA-256.

    What an adversary asks as a client is images of its own choice, tens of thousands for one head.
    """

    kind: str
    size: int
    sha256: bytes


Payload: TypeAlias = (
    Failure
    | HealthRequest
    | HealthReport
    | PublicMaterialRequest
    | PublicMaterial
    | TrainHead
    | PlainHead
    | TwoLayerHead
    | EncryptedHead
    | HeadInstalled
    | HeadNotice
    | HeadReady
    | AskDecisions
    | ClassifyRequest
    | ClassifyResponse
    | Decision
    | AttackRequest
    | ClaimReport
    | RotateKey
    | KeyRotated
    | HeadsRenewed
    | AdmitClient
    | ClientAdmitted
    | Elided
    | ViewPart
    | HostOrder
    | RevokeHead
    | HeadRevoked
)

# Field of `Envelope.payload` in protos/ -> class; the inverse is `payload_kind`.
PAYLOADS: dict[str, type[Payload]] = {
    "failure": Failure,
    "health_request": HealthRequest,
    "health_report": HealthReport,
    "public_material_request": PublicMaterialRequest,
    "public_material": PublicMaterial,
    "train_head": TrainHead,
    "plain_head": PlainHead,
    "two_layer_head": TwoLayerHead,
    "encrypted_head": EncryptedHead,
    "head_installed": HeadInstalled,
    "head_notice": HeadNotice,
    "head_ready": HeadReady,
    "ask_decisions": AskDecisions,
    "classify_request": ClassifyRequest,
    "classify_response": ClassifyResponse,
    "decision": Decision,
    "attack_request": AttackRequest,
    "claim_report": ClaimReport,
    "rotate_key": RotateKey,
    "key_rotated": KeyRotated,
    "heads_renewed": HeadsRenewed,
    "admit_client": AdmitClient,
    "client_admitted": ClientAdmitted,
    "elided": Elided,
    "view_part": ViewPart,
    "host_order": HostOrder,
    "revoke_head": RevokeHead,
    "head_revoked": HeadRevoked,
}
_KINDS = {cls: kind for kind, cls in PAYLOADS.items()}


def payload_kind(payload: Payload) -> str:
    """The payload's name in `Envelope.payload`, as transcripts and reports print it."""
    return _KINDS[type(payload)]
