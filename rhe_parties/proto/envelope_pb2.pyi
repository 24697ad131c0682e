from rhe_parties.proto import adversary_pb2 as _adversary_pb2
from rhe_parties.proto import head_pb2 as _head_pb2
from rhe_parties.proto import he_pb2 as _he_pb2
from rhe_parties.proto import inference_pb2 as _inference_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Failure(_message.Message):
    __slots__ = ("party", "code", "text")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    party: str
    code: int
    text: str
    def __init__(self, party: _Optional[str] = ..., code: _Optional[int] = ..., text: _Optional[str] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Elided(_message.Message):
    __slots__ = ("kind", "size", "sha256")
    KIND_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    kind: str
    size: int
    sha256: bytes
    def __init__(self, kind: _Optional[str] = ..., size: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class HealthReport(_message.Message):
    __slots__ = ("party", "handled", "failures")
    PARTY_FIELD_NUMBER: _ClassVar[int]
    HANDLED_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    party: str
    handled: int
    failures: int
    def __init__(self, party: _Optional[str] = ..., handled: _Optional[int] = ..., failures: _Optional[int] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("version", "run_id", "sender", "recipient", "sequence", "reply_to", "failure", "health_request", "health_report", "public_material_request", "public_material", "train_head", "plain_head", "encrypted_head", "head_installed", "head_notice", "head_ready", "ask_decisions", "classify_request", "classify_response", "decision", "attack_request", "claim_report", "rotate_key", "key_rotated", "heads_renewed", "admit_client", "client_admitted", "elided", "two_layer_head", "view_part", "host_order", "revoke_head", "head_revoked")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    SENDER_FIELD_NUMBER: _ClassVar[int]
    RECIPIENT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REPLY_TO_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REQUEST_FIELD_NUMBER: _ClassVar[int]
    HEALTH_REPORT_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_MATERIAL_REQUEST_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_MATERIAL_FIELD_NUMBER: _ClassVar[int]
    TRAIN_HEAD_FIELD_NUMBER: _ClassVar[int]
    PLAIN_HEAD_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_HEAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_INSTALLED_FIELD_NUMBER: _ClassVar[int]
    HEAD_NOTICE_FIELD_NUMBER: _ClassVar[int]
    HEAD_READY_FIELD_NUMBER: _ClassVar[int]
    ASK_DECISIONS_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CLASSIFY_RESPONSE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ATTACK_REQUEST_FIELD_NUMBER: _ClassVar[int]
    CLAIM_REPORT_FIELD_NUMBER: _ClassVar[int]
    ROTATE_KEY_FIELD_NUMBER: _ClassVar[int]
    KEY_ROTATED_FIELD_NUMBER: _ClassVar[int]
    HEADS_RENEWED_FIELD_NUMBER: _ClassVar[int]
    ADMIT_CLIENT_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ADMITTED_FIELD_NUMBER: _ClassVar[int]
    ELIDED_FIELD_NUMBER: _ClassVar[int]
    TWO_LAYER_HEAD_FIELD_NUMBER: _ClassVar[int]
    VIEW_PART_FIELD_NUMBER: _ClassVar[int]
    HOST_ORDER_FIELD_NUMBER: _ClassVar[int]
    REVOKE_HEAD_FIELD_NUMBER: _ClassVar[int]
    HEAD_REVOKED_FIELD_NUMBER: _ClassVar[int]
    version: int
    run_id: str
    sender: str
    recipient: str
    sequence: int
    reply_to: int
    failure: Failure
    health_request: HealthRequest
    health_report: HealthReport
    public_material_request: _he_pb2.PublicMaterialRequest
    public_material: _he_pb2.PublicMaterial
    train_head: _head_pb2.TrainHead
    plain_head: _head_pb2.PlainHead
    encrypted_head: _head_pb2.EncryptedHead
    head_installed: _head_pb2.HeadInstalled
    head_notice: _head_pb2.HeadNotice
    head_ready: _head_pb2.HeadReady
    ask_decisions: _inference_pb2.AskDecisions
    classify_request: _inference_pb2.ClassifyRequest
    classify_response: _inference_pb2.ClassifyResponse
    decision: _inference_pb2.Decision
    attack_request: _adversary_pb2.AttackRequest
    claim_report: _adversary_pb2.ClaimReport
    rotate_key: _he_pb2.RotateKey
    key_rotated: _he_pb2.KeyRotated
    heads_renewed: _he_pb2.HeadsRenewed
    admit_client: _adversary_pb2.AdmitClient
    client_admitted: _adversary_pb2.ClientAdmitted
    elided: Elided
    two_layer_head: _head_pb2.TwoLayerHead
    view_part: _adversary_pb2.ViewPart
    host_order: _inference_pb2.HostOrder
    revoke_head: _head_pb2.RevokeHead
    head_revoked: _head_pb2.HeadRevoked
    def __init__(self, version: _Optional[int] = ..., run_id: _Optional[str] = ..., sender: _Optional[str] = ..., recipient: _Optional[str] = ..., sequence: _Optional[int] = ..., reply_to: _Optional[int] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ..., health_request: _Optional[_Union[HealthRequest, _Mapping]] = ..., health_report: _Optional[_Union[HealthReport, _Mapping]] = ..., public_material_request: _Optional[_Union[_he_pb2.PublicMaterialRequest, _Mapping]] = ..., public_material: _Optional[_Union[_he_pb2.PublicMaterial, _Mapping]] = ..., train_head: _Optional[_Union[_head_pb2.TrainHead, _Mapping]] = ..., plain_head: _Optional[_Union[_head_pb2.PlainHead, _Mapping]] = ..., encrypted_head: _Optional[_Union[_head_pb2.EncryptedHead, _Mapping]] = ..., head_installed: _Optional[_Union[_head_pb2.HeadInstalled, _Mapping]] = ..., head_notice: _Optional[_Union[_head_pb2.HeadNotice, _Mapping]] = ..., head_ready: _Optional[_Union[_head_pb2.HeadReady, _Mapping]] = ..., ask_decisions: _Optional[_Union[_inference_pb2.AskDecisions, _Mapping]] = ..., classify_request: _Optional[_Union[_inference_pb2.ClassifyRequest, _Mapping]] = ..., classify_response: _Optional[_Union[_inference_pb2.ClassifyResponse, _Mapping]] = ..., decision: _Optional[_Union[_inference_pb2.Decision, _Mapping]] = ..., attack_request: _Optional[_Union[_adversary_pb2.AttackRequest, _Mapping]] = ..., claim_report: _Optional[_Union[_adversary_pb2.ClaimReport, _Mapping]] = ..., rotate_key: _Optional[_Union[_he_pb2.RotateKey, _Mapping]] = ..., key_rotated: _Optional[_Union[_he_pb2.KeyRotated, _Mapping]] = ..., heads_renewed: _Optional[_Union[_he_pb2.HeadsRenewed, _Mapping]] = ..., admit_client: _Optional[_Union[_adversary_pb2.AdmitClient, _Mapping]] = ..., client_admitted: _Optional[_Union[_adversary_pb2.ClientAdmitted, _Mapping]] = ..., elided: _Optional[_Union[Elided, _Mapping]] = ..., two_layer_head: _Optional[_Union[_head_pb2.TwoLayerHead, _Mapping]] = ..., view_part: _Optional[_Union[_adversary_pb2.ViewPart, _Mapping]] = ..., host_order: _Optional[_Union[_inference_pb2.HostOrder, _Mapping]] = ..., revoke_head: _Optional[_Union[_head_pb2.RevokeHead, _Mapping]] = ..., head_revoked: _Optional[_Union[_head_pb2.HeadRevoked, _Mapping]] = ...) -> None: ...

class TranscriptFile(_message.Message):
    __slots__ = ("version", "entries")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    version: int
    entries: _containers.RepeatedCompositeFieldContainer[TranscriptEntry]
    def __init__(self, version: _Optional[int] = ..., entries: _Optional[_Iterable[_Union[TranscriptEntry, _Mapping]]] = ...) -> None: ...

class TranscriptEntry(_message.Message):
    __slots__ = ("world", "envelope", "handled_seconds")
    WORLD_FIELD_NUMBER: _ClassVar[int]
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    HANDLED_SECONDS_FIELD_NUMBER: _ClassVar[int]
    world: str
    envelope: bytes
    handled_seconds: float
    def __init__(self, world: _Optional[str] = ..., envelope: _Optional[bytes] = ..., handled_seconds: _Optional[float] = ...) -> None: ...
