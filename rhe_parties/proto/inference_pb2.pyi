from rhe_parties.proto import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AskDecisions(_message.Message):
    __slots__ = ("request_id", "head_id", "images")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    head_id: str
    images: _tensor_pb2.Tensor
    def __init__(self, request_id: _Optional[str] = ..., head_id: _Optional[str] = ..., images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("request_id", "head_id", "images")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    head_id: str
    images: _tensor_pb2.Tensor
    def __init__(self, request_id: _Optional[str] = ..., head_id: _Optional[str] = ..., images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("request_id", "head_id", "head_fingerprint", "batch", "plain_logits", "ciphertexts", "saturated")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    PLAIN_LOGITS_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    head_id: str
    head_fingerprint: str
    batch: int
    plain_logits: _tensor_pb2.Tensor
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    saturated: int
    def __init__(self, request_id: _Optional[str] = ..., head_id: _Optional[str] = ..., head_fingerprint: _Optional[str] = ..., batch: _Optional[int] = ..., plain_logits: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ..., saturated: _Optional[int] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("request_id", "head_id", "classes", "saturated")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    head_id: str
    classes: _tensor_pb2.Tensor
    saturated: int
    def __init__(self, request_id: _Optional[str] = ..., head_id: _Optional[str] = ..., classes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., saturated: _Optional[int] = ...) -> None: ...
