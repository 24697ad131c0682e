from rhe_parties.proto import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AskDecisions(_message.Message):
    __slots__ = ("request_id", "head_id", "images", "features")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    head_id: str
    images: _tensor_pb2.Tensor
    features: _tensor_pb2.Tensor
    def __init__(self, request_id: _Optional[str] = ..., head_id: _Optional[str] = ..., images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., features: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ClassifyRequest(_message.Message):
    __slots__ = ("request_id", "head_id", "images", "features")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    head_id: str
    images: _tensor_pb2.Tensor
    features: _tensor_pb2.Tensor
    def __init__(self, request_id: _Optional[str] = ..., head_id: _Optional[str] = ..., images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., features: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ResponsePart(_message.Message):
    __slots__ = ("request_id", "batch", "saturated")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    batch: int
    saturated: int
    def __init__(self, request_id: _Optional[str] = ..., batch: _Optional[int] = ..., saturated: _Optional[int] = ...) -> None: ...

class ClassifyResponse(_message.Message):
    __slots__ = ("head_id", "head_fingerprint", "key_fingerprint", "parts", "plain_logits", "ciphertexts", "digest")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    KEY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    PLAIN_LOGITS_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    head_fingerprint: str
    key_fingerprint: str
    parts: _containers.RepeatedCompositeFieldContainer[ResponsePart]
    plain_logits: _tensor_pb2.Tensor
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    digest: bytes
    def __init__(self, head_id: _Optional[str] = ..., head_fingerprint: _Optional[str] = ..., key_fingerprint: _Optional[str] = ..., parts: _Optional[_Iterable[_Union[ResponsePart, _Mapping]]] = ..., plain_logits: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ..., digest: _Optional[bytes] = ...) -> None: ...

class Decision(_message.Message):
    __slots__ = ("request_id", "head_id", "classes", "saturated", "logits", "used", "raw")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SATURATED_FIELD_NUMBER: _ClassVar[int]
    LOGITS_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    head_id: str
    classes: _tensor_pb2.Tensor
    saturated: int
    logits: _tensor_pb2.Tensor
    used: int
    raw: _tensor_pb2.Tensor
    def __init__(self, request_id: _Optional[str] = ..., head_id: _Optional[str] = ..., classes: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., saturated: _Optional[int] = ..., logits: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., used: _Optional[int] = ..., raw: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class HostOrder(_message.Message):
    __slots__ = ("request_id", "ciphertexts")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, request_id: _Optional[str] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ...) -> None: ...
