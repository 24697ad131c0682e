from rhe_parties.proto import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ViewPart(_message.Message):
    __slots__ = ("index", "view")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    index: int
    view: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, index: _Optional[int] = ..., view: _Optional[_Iterable[bytes]] = ...) -> None: ...

class RecipeSpec(_message.Message):
    __slots__ = ("learning_rate", "weight_decay", "init_std", "epochs", "hidden", "activation", "clip", "noise_multiplier", "sampling_rate", "steps", "relax", "centre", "block_rate", "block_rank")
    LEARNING_RATE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_DECAY_FIELD_NUMBER: _ClassVar[int]
    INIT_STD_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_FIELD_NUMBER: _ClassVar[int]
    HIDDEN_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    CLIP_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_RATE_FIELD_NUMBER: _ClassVar[int]
    STEPS_FIELD_NUMBER: _ClassVar[int]
    RELAX_FIELD_NUMBER: _ClassVar[int]
    CENTRE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_RATE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_RANK_FIELD_NUMBER: _ClassVar[int]
    learning_rate: float
    weight_decay: float
    init_std: float
    epochs: int
    hidden: int
    activation: str
    clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    relax: float
    centre: _containers.RepeatedScalarFieldContainer[float]
    block_rate: float
    block_rank: int
    def __init__(self, learning_rate: _Optional[float] = ..., weight_decay: _Optional[float] = ..., init_std: _Optional[float] = ..., epochs: _Optional[int] = ..., hidden: _Optional[int] = ..., activation: _Optional[str] = ..., clip: _Optional[float] = ..., noise_multiplier: _Optional[float] = ..., sampling_rate: _Optional[float] = ..., steps: _Optional[int] = ..., relax: _Optional[float] = ..., centre: _Optional[_Iterable[float]] = ..., block_rate: _Optional[float] = ..., block_rank: _Optional[int] = ...) -> None: ...

class AttackRequest(_message.Message):
    __slots__ = ("world", "adversary", "source", "variant", "option_names", "option_values", "seed", "view", "head_ids", "challenge", "parts", "recipe", "defences", "active")
    WORLD_FIELD_NUMBER: _ClassVar[int]
    ADVERSARY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    OPTION_NAMES_FIELD_NUMBER: _ClassVar[int]
    OPTION_VALUES_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    VIEW_FIELD_NUMBER: _ClassVar[int]
    HEAD_IDS_FIELD_NUMBER: _ClassVar[int]
    CHALLENGE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    DEFENCES_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_FIELD_NUMBER: _ClassVar[int]
    world: str
    adversary: str
    source: str
    variant: str
    option_names: _containers.RepeatedScalarFieldContainer[str]
    option_values: _containers.RepeatedScalarFieldContainer[str]
    seed: int
    view: _containers.RepeatedScalarFieldContainer[bytes]
    head_ids: _containers.RepeatedScalarFieldContainer[str]
    challenge: Challenge
    parts: int
    recipe: RecipeSpec
    defences: _containers.RepeatedScalarFieldContainer[str]
    active: bool
    def __init__(self, world: _Optional[str] = ..., adversary: _Optional[str] = ..., source: _Optional[str] = ..., variant: _Optional[str] = ..., option_names: _Optional[_Iterable[str]] = ..., option_values: _Optional[_Iterable[str]] = ..., seed: _Optional[int] = ..., view: _Optional[_Iterable[bytes]] = ..., head_ids: _Optional[_Iterable[str]] = ..., challenge: _Optional[_Union[Challenge, _Mapping]] = ..., parts: _Optional[int] = ..., recipe: _Optional[_Union[RecipeSpec, _Mapping]] = ..., defences: _Optional[_Iterable[str]] = ..., active: _Optional[bool] = ...) -> None: ...

class Challenge(_message.Message):
    __slots__ = ("candidates", "candidate_labels", "known_images", "known_labels", "target_labels", "initial_weights", "property_values", "property_name")
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_LABELS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_IMAGES_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LABELS_FIELD_NUMBER: _ClassVar[int]
    TARGET_LABELS_FIELD_NUMBER: _ClassVar[int]
    INITIAL_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    PROPERTY_VALUES_FIELD_NUMBER: _ClassVar[int]
    PROPERTY_NAME_FIELD_NUMBER: _ClassVar[int]
    candidates: _tensor_pb2.Tensor
    candidate_labels: _tensor_pb2.Tensor
    known_images: _tensor_pb2.Tensor
    known_labels: _tensor_pb2.Tensor
    target_labels: _tensor_pb2.Tensor
    initial_weights: _tensor_pb2.Tensor
    property_values: _tensor_pb2.Tensor
    property_name: str
    def __init__(self, candidates: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., candidate_labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., known_images: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., known_labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., target_labels: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., initial_weights: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., property_values: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., property_name: _Optional[str] = ...) -> None: ...

class AdmitClient(_message.Message):
    __slots__ = ("client", "budget")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    client: str
    budget: int
    def __init__(self, client: _Optional[str] = ..., budget: _Optional[int] = ...) -> None: ...

class ClientAdmitted(_message.Message):
    __slots__ = ("client", "budget", "release")
    CLIENT_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    client: str
    budget: int
    release: str
    def __init__(self, client: _Optional[str] = ..., budget: _Optional[int] = ..., release: _Optional[str] = ...) -> None: ...

class ClaimReport(_message.Message):
    __slots__ = ("adversary", "variant", "outcome", "missing", "error", "head_ids", "array_names", "arrays", "queries", "note_names", "note_values", "activation")
    ADVERSARY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    HEAD_IDS_FIELD_NUMBER: _ClassVar[int]
    ARRAY_NAMES_FIELD_NUMBER: _ClassVar[int]
    ARRAYS_FIELD_NUMBER: _ClassVar[int]
    QUERIES_FIELD_NUMBER: _ClassVar[int]
    NOTE_NAMES_FIELD_NUMBER: _ClassVar[int]
    NOTE_VALUES_FIELD_NUMBER: _ClassVar[int]
    ACTIVATION_FIELD_NUMBER: _ClassVar[int]
    adversary: str
    variant: str
    outcome: str
    missing: _containers.RepeatedScalarFieldContainer[str]
    error: str
    head_ids: _containers.RepeatedScalarFieldContainer[str]
    array_names: _containers.RepeatedScalarFieldContainer[str]
    arrays: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    queries: _tensor_pb2.Tensor
    note_names: _containers.RepeatedScalarFieldContainer[str]
    note_values: _containers.RepeatedScalarFieldContainer[str]
    activation: str
    def __init__(self, adversary: _Optional[str] = ..., variant: _Optional[str] = ..., outcome: _Optional[str] = ..., missing: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ..., head_ids: _Optional[_Iterable[str]] = ..., array_names: _Optional[_Iterable[str]] = ..., arrays: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., queries: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., note_names: _Optional[_Iterable[str]] = ..., note_values: _Optional[_Iterable[str]] = ..., activation: _Optional[str] = ...) -> None: ...
