from rhe_parties.proto import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AttackRequest(_message.Message):
    __slots__ = ("world", "adversary", "source", "variant", "option_names", "option_values", "seed", "view", "head_ids")
    WORLD_FIELD_NUMBER: _ClassVar[int]
    ADVERSARY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    OPTION_NAMES_FIELD_NUMBER: _ClassVar[int]
    OPTION_VALUES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    HEAD_IDS_FIELD_NUMBER: _ClassVar[int]
    world: str
    adversary: str
    source: str
    variant: str
    option_names: _containers.RepeatedScalarFieldContainer[str]
    option_values: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    view: _containers.RepeatedScalarFieldContainer[bytes]
    head_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, world: _Optional[str] = ..., adversary: _Optional[str] = ..., source: _Optional[str] = ..., variant: _Optional[str] = ..., option_names: _Optional[_Iterable[str]] = ..., option_values: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., view: _Optional[_Iterable[bytes]] = ..., head_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class ClaimReport(_message.Message):
    __slots__ = ("adversary", "variant", "outcome", "missing", "error", "head_ids", "images", "features", "whitener", "weights", "biases", "note_names", "note_values")
    ADVERSARY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HEAD_IDS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    WHITENER_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    BIASES_FIELD_NUMBER: _ClassVar[int]
    NOTE_NAMES_FIELD_NUMBER: _ClassVar[int]
    NOTE_VALUES_FIELD_NUMBER: _ClassVar[int]
    adversary: str
    variant: str
    outcome: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    error: str
    head_ids: _containers.RepeatedScalarFieldContainer[str]
    images: _tensor_pb2.Tensor
    features: _tensor_pb2.Tensor
    whitener: _tensor_pb2.Tensor
    weights: _tensor_pb2.Tensor
    biases: _tensor_pb2.Tensor
    note_names: _containers.RepeatedScalarFieldContainer[str]
    note_values: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, adversary: _Optional[str] = ..., variant: _Optional[str] = ..., outcome: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., head_ids: _Optional[_Iterable[str]] = ..., images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., features: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., whitener: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., weights: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., biases: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., note_names: _Optional[_Iterable[str]] = ..., note_values: _Optional[_Iterable[str]] = ...) -> None: ...
