from rhe_parties.proto import head_pb2 as _head_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StoppedHead(_message.Message):
    __slots__ = ("head_id", "reason")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    reason: str
    def __init__(self, head_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class OpenRotation(_message.Message):
    __slots__ = ("asker", "asked", "old_fingerprint", "missing", "heads")
    ASKER_FIELD_NUMBER: _ClassVar[int]
    ASKED_FIELD_NUMBER: _ClassVar[int]
    OLD_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    asker: str
    asked: int
    old_fingerprint: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    heads: int
    def __init__(self, asker: _Optional[str] = ..., asked: _Optional[int] = ..., old_fingerprint: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ..., heads: _Optional[int] = ...) -> None: ...

class KeyHolderState(_message.Message):
    __slots__ = ("run_id", "key_fingerprint", "heads", "stopped", "closed", "rotation")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_FIELD_NUMBER: _ClassVar[int]
    CLOSED_FIELD_NUMBER: _ClassVar[int]
    ROTATION_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    key_fingerprint: str
    heads: _containers.RepeatedCompositeFieldContainer[_head_pb2.HeadNotice]
    stopped: _containers.RepeatedCompositeFieldContainer[StoppedHead]
    closed: str
    rotation: OpenRotation
    def __init__(self, run_id: _Optional[str] = ..., key_fingerprint: _Optional[str] = ..., heads: _Optional[_Iterable[_Union[_head_pb2.HeadNotice, _Mapping]]] = ..., stopped: _Optional[_Iterable[_Union[StoppedHead, _Mapping]]] = ..., closed: _Optional[str] = ..., rotation: _Optional[_Union[OpenRotation, _Mapping]] = ...) -> None: ...
