from rhe_parties.proto import adversary_pb2 as _adversary_pb2
from rhe_parties.proto import he_pb2 as _he_pb2
from rhe_parties.proto import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class BackboneSpec(_message.Message):
    __slots__ = ("name", "weights", "fingerprint", "device")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    name: str
    weights: str
    fingerprint: str
    device: str
    def __init__(self, name: _Optional[str] = ..., weights: _Optional[str] = ..., fingerprint: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class DefenceSpec(_message.Message):
    __slots__ = ("reference", "source", "option_names", "option_values", "fitted_names", "fitted")
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    OPTION_NAMES_FIELD_NUMBER: _ClassVar[int]
    OPTION_VALUES_FIELD_NUMBER: _ClassVar[int]
    FITTED_NAMES_FIELD_NUMBER: _ClassVar[int]
    FITTED_FIELD_NUMBER: _ClassVar[int]
    reference: str
    source: str
    option_names: _containers.RepeatedScalarFieldContainer[str]
    option_values: _containers.RepeatedScalarFieldContainer[str]
    fitted_names: _containers.RepeatedScalarFieldContainer[str]
    fitted: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, reference: _Optional[str] = ..., source: _Optional[str] = ..., option_names: _Optional[_Iterable[str]] = ..., option_values: _Optional[_Iterable[str]] = ..., fitted_names: _Optional[_Iterable[str]] = ..., fitted: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class DataOwnerSetup(_message.Message):
    __slots__ = ("backbone", "recipe", "defences", "classes", "seed", "images", "labels", "sets", "threads", "max_heads", "tag", "canaries")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    DEFENCES_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SETS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    MAX_HEADS_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    CANARIES_FIELD_NUMBER: _ClassVar[int]
    backbone: BackboneSpec
    recipe: _adversary_pb2.RecipeSpec
    defences: _containers.RepeatedCompositeFieldContainer[DefenceSpec]
    classes: int
    seed: int
    images: _tensor_pb2.Tensor
    labels: _tensor_pb2.Tensor
    sets: _tensor_pb2.Tensor
    threads: int
    max_heads: int
    tag: bool
    canaries: _tensor_pb2.Tensor
    def __init__(self, backbone: _Optional[_Union[BackboneSpec, _Mapping]] = ..., recipe: _Optional[_Union[_adversary_pb2.RecipeSpec, _Mapping]] = ..., defences: _Optional[_Iterable[_Union[DefenceSpec, _Mapping]]] = ..., classes: _Optional[int] = ..., seed: _Optional[int] = ..., images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., sets: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., threads: _Optional[int] = ..., max_heads: _Optional[int] = ..., tag: _Optional[bool] = ..., canaries: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class ModelHostSetup(_message.Message):
    __slots__ = ("backbone", "threads", "gather_delay_ms", "gather_inputs", "max_images", "max_heads", "evaluator", "corrupted", "active", "takes_features")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    GATHER_DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    GATHER_INPUTS_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    MAX_HEADS_FIELD_NUMBER: _ClassVar[int]
    EVALUATOR_FIELD_NUMBER: _ClassVar[int]
    CORRUPTED_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    TAKES_FEATURES_FIELD_NUMBER: _ClassVar[int]
    backbone: BackboneSpec
    threads: int
    gather_delay_ms: float
    gather_inputs: int
    max_images: int
    max_heads: int
    evaluator: str
    corrupted: bool
    active: bool
    takes_features: bool
    def __init__(self, backbone: _Optional[_Union[BackboneSpec, _Mapping]] = ..., threads: _Optional[int] = ..., gather_delay_ms: _Optional[float] = ..., gather_inputs: _Optional[int] = ..., max_images: _Optional[int] = ..., max_heads: _Optional[int] = ..., evaluator: _Optional[str] = ..., corrupted: _Optional[bool] = ..., active: _Optional[bool] = ..., takes_features: _Optional[bool] = ...) -> None: ...

class KeyHolderSetup(_message.Message):
    __slots__ = ("plan", "query_budget", "release", "max_images", "noise_check", "canaries", "canary_share", "defences")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    QUERY_BUDGET_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGES_FIELD_NUMBER: _ClassVar[int]
    NOISE_CHECK_FIELD_NUMBER: _ClassVar[int]
    CANARIES_FIELD_NUMBER: _ClassVar[int]
    CANARY_SHARE_FIELD_NUMBER: _ClassVar[int]
    DEFENCES_FIELD_NUMBER: _ClassVar[int]
    plan: _he_pb2.HeadPlan
    query_budget: int
    release: str
    max_images: int
    noise_check: str
    canaries: _tensor_pb2.Tensor
    canary_share: float
    defences: _containers.RepeatedCompositeFieldContainer[DefenceSpec]
    def __init__(self, plan: _Optional[_Union[_he_pb2.HeadPlan, _Mapping]] = ..., query_budget: _Optional[int] = ..., release: _Optional[str] = ..., max_images: _Optional[int] = ..., noise_check: _Optional[str] = ..., canaries: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., canary_share: _Optional[float] = ..., defences: _Optional[_Iterable[_Union[DefenceSpec, _Mapping]]] = ...) -> None: ...

class AdversarySetup(_message.Message):
    __slots__ = ("backbone", "recipe", "classes", "images_per_class", "auxiliary_images", "auxiliary_labels", "threads", "workers", "kinds", "auxiliary_kinds")
    BACKBONE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    IMAGES_PER_CLASS_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_IMAGES_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_LABELS_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    AUXILIARY_KINDS_FIELD_NUMBER: _ClassVar[int]
    backbone: BackboneSpec
    recipe: _adversary_pb2.RecipeSpec
    classes: int
    images_per_class: int
    auxiliary_images: _tensor_pb2.Tensor
    auxiliary_labels: _tensor_pb2.Tensor
    threads: int
    workers: int
    kinds: int
    auxiliary_kinds: _tensor_pb2.Tensor
    def __init__(self, backbone: _Optional[_Union[BackboneSpec, _Mapping]] = ..., recipe: _Optional[_Union[_adversary_pb2.RecipeSpec, _Mapping]] = ..., classes: _Optional[int] = ..., images_per_class: _Optional[int] = ..., auxiliary_images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., auxiliary_labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., threads: _Optional[int] = ..., workers: _Optional[int] = ..., kinds: _Optional[int] = ..., auxiliary_kinds: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ...) -> None: ...

class PartySetup(_message.Message):
    __slots__ = ("run_id", "data_owner", "model_host", "key_holder", "adversary")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_OWNER_FIELD_NUMBER: _ClassVar[int]
    MODEL_HOST_FIELD_NUMBER: _ClassVar[int]
    KEY_HOLDER_FIELD_NUMBER: _ClassVar[int]
    ADVERSARY_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    data_owner: DataOwnerSetup
    model_host: ModelHostSetup
    key_holder: KeyHolderSetup
    adversary: AdversarySetup
    def __init__(self, run_id: _Optional[str] = ..., data_owner: _Optional[_Union[DataOwnerSetup, _Mapping]] = ..., model_host: _Optional[_Union[ModelHostSetup, _Mapping]] = ..., key_holder: _Optional[_Union[KeyHolderSetup, _Mapping]] = ..., adversary: _Optional[_Union[AdversarySetup, _Mapping]] = ...) -> None: ...
