"""How the laboratory seats a party: typed set-ups, serialised like every other message, never part of a transcript."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.messages.serde import value_from_proto, value_to_proto
from rhe_parties.proto import setup_pb2
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = [
    "MAX_GATHERED",
    "MAX_HEADS",
    "MAX_IMAGES",
    "NOISE_CHECKS",
    "NOISE_CLOSES",
    "NOISE_IGNORED",
    "AdversarySetup",
    "BackboneSpec",
    "DataOwnerSetup",
    "DefenceSpec",
    "KeyHolderSetup",
    "ModelHostSetup",
    "PartySetup",
    "decode_setup",
    "encode_setup",
]


# Bounds that a run may set otherwise, so that no party can be made to hold much memory: images in one request, inputs
# that the host holds while it gathers, heads that owner and host keep.
MAX_IMAGES = 4096
MAX_GATHERED = 4096
MAX_HEADS = 1024
#: What a key holder does about a reply noisier than an honest one.
NOISE_CHECKS = NOISE_CLOSES, _NOISE_REFUSED, NOISE_IGNORED = "close", "refuse", "off"


@dataclass(frozen=True)
class BackboneSpec:
    """Which frozen backbone to load, from where ("" for the default weights) and what it must hash to."""

    name: str
    weights: str
    fingerprint: str
    device: str


@dataclass(frozen=True)
class DefenceSpec:
    """One defence of a world: reference and plug-in text, options as text, and what it learnt from public data."""

    reference: str
    source: str = ""
    option_names: tuple[str, ...] = ()
    option_values: tuple[str, ...] = ()
    fitted_names: tuple[str, ...] = ()
    fitted: tuple[FloatArray, ...] = ()

    @property
    def options(self) -> dict[str, str]:
        """Options by name."""
        return dict(zip(self.option_names, self.option_values, strict=True))


@dataclass(frozen=True)
class DataOwnerSetup:
    """Private `images` uint8 [n, C, H, W], `labels` int64 [n] and the training `sets` int64 [V, N] into them.

    `tag`: encrypted heads get a secret last row (`rhe_parties.he.tag`). `canaries` uint8 [C, ch, H, W]: public inputs
    whose classes the key holder is told.
    """

    backbone: BackboneSpec
    recipe: RecipeSpec
    defences: tuple[DefenceSpec, ...]
    classes: int
    seed: int
    images: UInt8Array
    labels: IntArray
    sets: IntArray
    threads: int
    max_heads: int = MAX_HEADS
    tag: bool = False
    canaries: UInt8Array | None = None


@dataclass(frozen=True)
class ModelHostSetup:
    """The host owns the public backbone and nothing else.

    `gather_delay_ms`: how long a request may wait for others of the same head (0: not at all); `gather_inputs`: most
    inputs held at a time; `max_images`: most images in one request; `max_heads`: most heads installed at a time;
    `evaluator`: who multiplies the encrypted head (`rhe_parties.he.evaluators`). `corrupted`: the adversary's seat
    may have copies of replies; `active`: and have others sent in their place. `takes_features`: callers may send
    features in place of images.
    """

    backbone: BackboneSpec
    threads: int
    gather_delay_ms: float = 0.0
    gather_inputs: int = MAX_GATHERED
    max_images: int = MAX_IMAGES
    max_heads: int = MAX_HEADS
    evaluator: str = "auto"
    corrupted: bool = False
    active: bool = False
    takes_features: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.gather_delay_ms) or self.gather_delay_ms < 0:
            raise MessageError(
                FailureCode.BAD_VALUE, f"gather_delay_ms must be finite and not negative, got {self.gather_delay_ms}"
            )


@dataclass(frozen=True)
class KeyHolderSetup:
    """`plan` of the encrypted head (None in a world without encryption); `query_budget` in images, 0 for no limit.

    `release` is a release policy (`rhe_parties.parties.release`), `max_images` the most in one request; `defences` are
    those that act on what is released, in order; `noise_check` is one of `NOISE_CHECKS`. `canaries` are
    the owner's, `canary_share` how many of them go along with each image asked about.
    """

    plan: HeadPlan | None
    query_budget: int
    release: str = "classes"
    max_images: int = MAX_IMAGES
    defences: tuple[DefenceSpec, ...] = ()
    noise_check: str = NOISE_CLOSES
    canaries: UInt8Array | None = None
    canary_share: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.canary_share <= 1:
            raise MessageError(FailureCode.BAD_VALUE, f"canary_share must be 0 to 1, got {self.canary_share}")
        if self.noise_check not in NOISE_CHECKS:
            raise MessageError(
                FailureCode.BAD_VALUE, f"noise_check {self.noise_check!r} is not one of {', '.join(NOISE_CHECKS)}"
            )


@dataclass(frozen=True)
class AdversarySetup:
    """The adversary's prior knowledge: backbone, recipe, and auxiliary images disjoint from the private ones.

    `kinds` and `auxiliary_kinds` int64 [n] where training sets are balanced over something finer than the classes.
    """

    backbone: BackboneSpec
    recipe: RecipeSpec
    classes: int
    images_per_class: int
    auxiliary_images: UInt8Array
    auxiliary_labels: IntArray
    threads: int
    workers: int
    kinds: int = 0
    auxiliary_kinds: IntArray | None = None


PartySetup: TypeAlias = DataOwnerSetup | ModelHostSetup | KeyHolderSetup | AdversarySetup

_ROLES: dict[str, type[PartySetup]] = {
    "data_owner": DataOwnerSetup,
    "model_host": ModelHostSetup,
    "key_holder": KeyHolderSetup,
    "adversary": AdversarySetup,
}
_FIELDS = {cls: field for field, cls in _ROLES.items()}


def encode_setup(run_id: str, setup: PartySetup) -> bytes:
    """Serialise a set-up for the transport that will seat the party."""
    message = setup_pb2.PartySetup(run_id=run_id)
    slot = getattr(message, _FIELDS[type(setup)])
    slot.SetInParent()
    value_to_proto(setup, slot)
    return message.SerializeToString(deterministic=True)


def decode_setup(data: bytes) -> tuple[str, PartySetup]:
    """Read a set-up back as (run id, set-up).

    Raises:
        MessageError: damaged bytes or no role in them.
    """
    message = setup_pb2.PartySetup()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise MessageError(FailureCode.MALFORMED, f"{len(data)} bytes are no party set-up: {error}") from error
    role = message.WhichOneof("role")
    if role is None:
        raise MessageError(FailureCode.UNKNOWN_PAYLOAD, f"party set-up without a role (known: {', '.join(_ROLES)})")
    return message.run_id, value_from_proto(getattr(message, role), _ROLES[role])
