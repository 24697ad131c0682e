from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HeadPlan(_message.Message):
    __slots__ = ("scheme", "features", "classes", "hidden", "feature_norm", "security", "degree", "coeff_modulus", "plain_modulus", "feature_bits", "tile_width", "tile_classes", "batch", "word_bytes")
    SCHEME_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NORM_FIELD_NUMBER: _ClassVar[int]
    SECURITY_FIELD_NUMBER: _ClassVar[int]
    DEGREE_FIELD_NUMBER: _ClassVar[int]
    COEFF_MODULUS_FIELD_NUMBER: _ClassVar[int]
    PLAIN_MODULUS_FIELD_NUMBER: _ClassVar[int]
    FEATURE_BITS_FIELD_NUMBER: _ClassVar[int]
    TILE_WIDTH_FIELD_NUMBER: _ClassVar[int]
    TILE_CLASSES_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    WORD_BYTES_FIELD_NUMBER: _ClassVar[int]
    scheme: str
    features: int
    classes: int
    hidden: _containers.RepeatedScalarFieldContainer[int]
    feature_norm: float
    security: int
    degree: int
    coeff_modulus: _containers.RepeatedScalarFieldContainer[int]
    plain_modulus: int
    feature_bits: int
    tile_width: int
    tile_classes: int
    batch: int
    word_bytes: int
    def __init__(self, scheme: _Optional[str] = ..., features: _Optional[int] = ..., classes: _Optional[int] = ..., hidden: _Optional[_Iterable[int]] = ..., feature_norm: _Optional[float] = ..., security: _Optional[int] = ..., degree: _Optional[int] = ..., coeff_modulus: _Optional[_Iterable[int]] = ..., plain_modulus: _Optional[int] = ..., feature_bits: _Optional[int] = ..., tile_width: _Optional[int] = ..., tile_classes: _Optional[int] = ..., batch: _Optional[int] = ..., word_bytes: _Optional[int] = ...) -> None: ...

class PublicMaterial(_message.Message):
    __slots__ = ("plan", "public_key", "evaluation_keys", "fingerprint")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    PUBLIC_KEY_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_KEYS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    plan: HeadPlan
    public_key: bytes
    evaluation_keys: bytes
    fingerprint: str
    def __init__(self, plan: _Optional[_Union[HeadPlan, _Mapping]] = ..., public_key: _Optional[bytes] = ..., evaluation_keys: _Optional[bytes] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class PublicMaterialRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RotateKey(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HeadsRenewed(_message.Message):
    __slots__ = ("head_ids",)
    HEAD_IDS_FIELD_NUMBER: _ClassVar[int]
    head_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, head_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class KeyRotated(_message.Message):
    __slots__ = ("old_fingerprint", "new_fingerprint", "heads")
    OLD_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    NEW_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    old_fingerprint: str
    new_fingerprint: str
    heads: int
    def __init__(self, old_fingerprint: _Optional[str] = ..., new_fingerprint: _Optional[str] = ..., heads: _Optional[int] = ...) -> None: ...
