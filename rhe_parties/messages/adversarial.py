"""Messages to and from the adversary: its order and challenge, its claim, and its admission as a client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from rhe_parties.errors import FailureCode, MessageError, NumericError
from rhe_parties.messages.checks import check_name, check_tensor, empty
from rhe_parties.messages.recipes import RecipeSpec
from rhe_parties.model.activations import ACTIVATIONS
from rhe_parties.types import FloatArray, IntArray, UInt8Array

__all__ = [
    "CLAIM_ARRAYS",
    "NULL_PREFIX",
    "AdmitClient",
    "AttackRequest",
    "Challenge",
    "ClaimReport",
    "ClientAdmitted",
    "ViewPart",
]

#: Arrays that a claim may hold, and their number of dimensions; all but the whitener have one row per head.
CLAIM_ARRAYS = {
    "images": 5,
    "features": 3,
    "whitener": 2,
    "weights": 3,
    "biases": 2,
    "hidden_weights": 3,
    "hidden_biases": 2,
    "scores": 2,
    "property_scores": 2,
    "inputs": 5,
}
#: Before the names of the arrays that the same strategy made of an input without information.
NULL_PREFIX = "null."


@dataclass(frozen=True)
class AdmitClient:
    """Let `client` ask for decisions on images of its own: `budget` images per head, 0 for no limit."""

    client: str
    budget: int

    def __post_init__(self) -> None:
        check_name(self.client, "client")


@dataclass(frozen=True)
class ClientAdmitted:
    """`client` may ask; `release` says what it gets, a release policy by name."""

    client: str
    budget: int
    release: str


@dataclass(frozen=True)
class Challenge:
    """What the laboratory hands to the adversary beside its view, as a task demands it; everything is optional.

    Attributes:
        candidates: uint8 [V, M, C, H, W], images to judge: was each in its head's training set?
        candidate_labels: int64 [V, M].
        known_images: uint8 [V, N-1, C, H, W], the training images of each head but one.
        known_labels: int64 [V, N-1].
        target_labels: int64 [V], class of the unknown image.
        initial_weights: float32 [V, K, D], the weights before training (biases start at 0).
        property_values: float32 [P], what the private property of a training set may be.
        property_name: see `rhe_parties.data.properties`.
    """

    candidates: UInt8Array | None = None
    candidate_labels: IntArray | None = None
    known_images: UInt8Array | None = None
    known_labels: IntArray | None = None
    target_labels: IntArray | None = None
    initial_weights: FloatArray | None = None
    property_values: FloatArray | None = None
    property_name: str = ""

    def __post_init__(self) -> None:
        for name, dtype, dimensions in (
            ("candidates", np.uint8, 5),
            ("candidate_labels", np.int64, 2),
            ("known_images", np.uint8, 5),
            ("known_labels", np.int64, 2),
            ("target_labels", np.int64, 1),
            ("initial_weights", np.float32, 3),
            ("property_values", np.float32, 1),
        ):
            array = getattr(self, name)
            if array is not None:
                check_tensor(array, f"challenge {name}", dtype, dimensions)


@dataclass(frozen=True)
class ViewPart:
    """A piece of the next order's view: `index` counts from 0, which drops whatever was sent before."""

    index: int
    view: tuple[bytes, ...]


@dataclass(frozen=True)
class AttackRequest:
    """Run `adversary` on `view`: envelopes exactly as they crossed a border that the threat model exposes.

    `head_ids` are the victim heads to make a claim about; that they exist is no secret. The first envelopes of a large
    view come before, in `parts` messages of their own; see `in_parts`. `defences` are those of the world with their
    options, and `recipe` how they have heads trained (None: as the set-up says): no secrets either. `active`: the
    adversary may have the host that it controls send what it likes.
    """

    world: str
    adversary: str
    source: str
    variant: str
    option_names: tuple[str, ...]
    option_values: tuple[str, ...]
    seed: int
    view: tuple[bytes, ...]
    head_ids: tuple[str, ...]
    challenge: Challenge = field(default_factory=Challenge)
    parts: int = 0
    recipe: RecipeSpec | None = None
    defences: tuple[str, ...] = ()
    active: bool = False

    def in_parts(self, most_bytes: int) -> tuple[list[ViewPart], AttackRequest]:
        """The same order with as much of its view sent ahead as does not fit into `most_bytes` of envelopes.

        No part holds more than that either, unless a single envelope does.
        """
        groups: list[list[bytes]] = [[]]
        room = most_bytes
        for item in self.view:
            if groups[-1] and len(item) > room:
                groups.append([])
                room = most_bytes
            groups[-1].append(item)
            room -= len(item)
        ahead = [ViewPart(index, tuple(group)) for index, group in enumerate(groups[:-1])]
        return ahead, replace(self, view=tuple(groups[-1]), parts=len(ahead))


@dataclass(frozen=True)
class ClaimReport:
    """What a strategy made of its view.

    `array_names` name the `arrays`, float32, after `CLAIM_ARRAYS`; a leading `null.` marks what the strategy made of
    an input that holds nothing. `activation` is that of claimed hidden layers, empty without. `queries` int64 [V], or
    empty: decisions used per head, as the key holder counted.
    """

    adversary: str
    variant: str
    outcome: str
    missing: tuple[str, ...] = ()
    error: str = ""
    head_ids: tuple[str, ...] = ()
    array_names: tuple[str, ...] = ()
    arrays: tuple[FloatArray, ...] = ()
    queries: IntArray = field(default_factory=lambda: empty(np.int64))
    note_names: tuple[str, ...] = ()
    note_values: tuple[str, ...] = ()
    activation: str = ""

    def __post_init__(self) -> None:
        if self.activation and self.activation not in ACTIVATIONS:
            raise MessageError(FailureCode.BAD_VALUE, f"activation {self.activation[:64]!r} is unknown")
        if bool(self.activation) != ("hidden_weights" in self.array_names):
            raise MessageError(FailureCode.MALFORMED, "a claimed hidden layer and its activation belong together")
        if len(self.array_names) != len(self.arrays) or len(set(self.array_names)) != len(self.arrays):
            raise MessageError(FailureCode.MALFORMED, f"{len(self.array_names)} names for {len(self.arrays)} arrays")
        if not self.queries.size:  # an absent tensor has no type of its own
            object.__setattr__(self, "queries", empty(np.int64))
        for full_name, array in zip(self.array_names, self.arrays, strict=True):
            name = full_name.removeprefix(NULL_PREFIX)
            if name not in CLAIM_ARRAYS:
                raise MessageError(FailureCode.MALFORMED, f"a claim holds no array {full_name[:64]!r}")
            check_tensor(array, f"claimed {full_name}", np.float32, CLAIM_ARRAYS[name])
            if name != "whitener" and array.shape[0] != len(self.head_ids):
                raise NumericError(
                    f"claimed {full_name} are for {array.shape[0]} heads, {len(self.head_ids)} are named",
                    FailureCode.BAD_TENSOR,
                )

    @property
    def named(self) -> Mapping[str, FloatArray]:
        """The arrays by their names."""
        return dict(zip(self.array_names, self.arrays, strict=True))
