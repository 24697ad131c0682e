from rhe_parties.proto import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class TrainHead(_message.Message):
    __slots__ = ("head_id", "set_index")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    SET_INDEX_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    set_index: int
    def __init__(self, head_id: _Optional[str] = ..., set_index: _Optional[int] = ...) -> None: ...

class AdaptedBlock(_message.Message):
    __slots__ = ("names", "tensors")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    tensors: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, names: _Optional[_Iterable[str]] = ..., tensors: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class PlainHead(_message.Message):
    __slots__ = ("head_id", "weight", "bias", "backbone_fingerprint", "block")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    weight: _tensor_pb2.Tensor
    bias: _tensor_pb2.Tensor
    backbone_fingerprint: str
    block: AdaptedBlock
    def __init__(self, head_id: _Optional[str] = ..., weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., bias: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., backbone_fingerprint: _Optional[str] = ..., block: _Optional[_Union[AdaptedBlock, _Mapping]] = ...) -> None: ...

class TwoLayerHead(_message.Message):
    __slots__ = ("head_id", "activation", "hidden_weight", "hidden_bias", "weight", "bias", "backbone_fingerprint")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_BIAS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    activation: str
    hidden_weight: _tensor_pb2.Tensor
    hidden_bias: _tensor_pb2.Tensor
    weight: _tensor_pb2.Tensor
    bias: _tensor_pb2.Tensor
    backbone_fingerprint: str
    def __init__(self, head_id: _Optional[str] = ..., activation: _Optional[str] = ..., hidden_weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., hidden_bias: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., weight: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., bias: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., backbone_fingerprint: _Optional[str] = ...) -> None: ...

class EncryptedHead(_message.Message):
    __slots__ = ("head_id", "key_fingerprint", "backbone_fingerprint", "ciphertexts", "block")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    BACKBONE_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    CIPHERTEXTS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    key_fingerprint: str
    backbone_fingerprint: str
    ciphertexts: _containers.RepeatedScalarFieldContainer[bytes]
    block: AdaptedBlock
    def __init__(self, head_id: _Optional[str] = ..., key_fingerprint: _Optional[str] = ..., backbone_fingerprint: _Optional[str] = ..., ciphertexts: _Optional[_Iterable[bytes]] = ..., block: _Optional[_Union[AdaptedBlock, _Mapping]] = ...) -> None: ...

class HeadInstalled(_message.Message):
    __slots__ = ("head_id", "fingerprint")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    fingerprint: str
    def __init__(self, head_id: _Optional[str] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class HeadNotice(_message.Message):
    __slots__ = ("head_id", "fingerprint", "encrypted", "weight_scale", "classes", "key_fingerprint", "tag", "canaries")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    ENCRYPTED_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_SCALE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    KEY_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    CANARIES_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    fingerprint: str
    encrypted: bool
    weight_scale: float
    classes: int
    key_fingerprint: str
    tag: _tensor_pb2.Tensor
    canaries: _tensor_pb2.Tensor
    def __init__(self, head_id: _Optional[str] = ..., fingerprint: _Optional[str] = ..., encrypted: _Optional[bool] = ..., weight_scale: _Optional[float] = ..., classes: _Optional[int] = ..., key_fingerprint: _Optional[str] = ..., tag: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., canaries: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class HeadReady(_message.Message):
    __slots__ = ("head_id",)
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    def __init__(self, head_id: _Optional[str] = ...) -> None: ...

class RevokeHead(_message.Message):
    __slots__ = ("head_id",)
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    def __init__(self, head_id: _Optional[str] = ...) -> None: ...

class HeadRevoked(_message.Message):
    __slots__ = ("head_id", "known")
    HEAD_ID_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    head_id: str
    known: bool
    def __init__(self, head_id: _Optional[str] = ..., known: _Optional[bool] = ...) -> None: ...
