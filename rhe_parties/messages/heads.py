"""Messages about heads: trained, installed in the clear or encrypted, and made known to the key holder."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rhe_parties.errors import FailureCode, MessageError, NumericError
from rhe_parties.messages.adapted import AdaptedBlock
from rhe_parties.messages.checks import check_layer, check_name, check_tensor, empty
from rhe_parties.model.activations import ACTIVATIONS
from rhe_parties.types import FloatArray, IntArray

__all__ = [
    "EncryptedHead",
    "HeadInstalled",
    "HeadNotice",
    "HeadReady",
    "HeadRevoked",
    "PlainHead",
    "RevokeHead",
    "TrainHead",
    "TwoLayerHead",
]


@dataclass(frozen=True)
class TrainHead:
    """Train a head on the owner's private set number `set_index` and have it installed as `head_id`."""

    head_id: str
    set_index: int

    def __post_init__(self) -> None:
        check_name(self.head_id, "head_id")


@dataclass(frozen=True)
class PlainHead:
    """Weights in the clear: `weight` float32 [K, D], `bias` float32 [K].

    `block`: what the backbone's last block became in this head's training; None: the backbone is as it was.
    """

    head_id: str
    weight: FloatArray
    bias: FloatArray
    backbone_fingerprint: str
    block: AdaptedBlock | None = None

    def __post_init__(self) -> None:
        check_name(self.head_id, "head_id")
        check_layer(self.weight, self.bias, "head")


@dataclass(frozen=True)
class TwoLayerHead:
    """A binary head with a hidden layer, in the clear: class 1 where the output is above 0.

    `hidden_weight` float32 [H, D], `hidden_bias` [H], `activation` `relu` or `square`, `weight` [1, H], `bias` [1].
    """

    head_id: str
    activation: str
    hidden_weight: FloatArray
    hidden_bias: FloatArray
    weight: FloatArray
    bias: FloatArray
    backbone_fingerprint: str

    def __post_init__(self) -> None:
        check_name(self.head_id, "head_id")
        if self.activation not in ACTIVATIONS:
            raise MessageError(
                FailureCode.MALFORMED,
                f"activation {self.activation[:32]!r} is unknown (known: {', '.join(ACTIVATIONS)})",
            )
        check_layer(self.hidden_weight, self.hidden_bias, "hidden")
        check_layer(self.weight, self.bias, "output")
        if self.weight.shape != (1, len(self.hidden_bias)):
            raise NumericError(
                f"output weight {list(self.weight.shape)} of a binary head with {len(self.hidden_bias)} hidden units; "
                f"expected {[1, len(self.hidden_bias)]}",
                FailureCode.BAD_TENSOR,
            )


@dataclass(frozen=True)
class EncryptedHead:
    """Ciphertexts of one head, bound to a key and a backbone by their fingerprints.

    `block` is in the clear: what the backbone's last block became in this head's training; None: it is as it was.
    """

    head_id: str
    key_fingerprint: str
    backbone_fingerprint: str
    ciphertexts: tuple[bytes, ...]
    block: AdaptedBlock | None = None

    def __post_init__(self) -> None:
        check_name(self.head_id, "head_id")
        if not self.ciphertexts:
            raise MessageError(FailureCode.BAD_CIPHERTEXT, f"encrypted head {self.head_id!r} holds no ciphertext")


@dataclass(frozen=True)
class HeadInstalled:
    """The host serves `head_id`; `fingerprint` is SHA-256 over what it installed."""

    head_id: str
    fingerprint: str


@dataclass(frozen=True)
class HeadNotice:
    """What the KeyHolder must know of a head: fingerprint, classes, weight scale (0 if plain), key ("" if plain).

    `tag` int64 [K] is the secret combination of the K rows that the head's last row is (`rhe_parties.he.tag`);
    `canaries` int64 [C] are the classes of inputs that only owner and key holder know, -1 where it is unclear.
    """

    head_id: str
    fingerprint: str
    encrypted: bool
    weight_scale: float
    classes: int
    key_fingerprint: str = ""
    tag: IntArray = field(default_factory=lambda: empty(np.float32))
    canaries: IntArray = field(default_factory=lambda: empty(np.float32))

    def __post_init__(self) -> None:
        check_name(self.head_id, "head_id")
        if self.tag.size:
            check_tensor(self.tag, "tag", np.int64, 1)
            if self.tag.shape != (self.classes,) or not self.encrypted:
                raise NumericError(f"a tag of {self.tag.size} numbers for {self.classes} classes of a head")
        if self.canaries.size:
            check_tensor(self.canaries, "canaries", np.int64, 1)
            if not -1 <= int(self.canaries.min()) <= int(self.canaries.max()) < self.classes:
                raise NumericError(f"classes of canaries must be -1 to {self.classes - 1}")
        if self.classes < 1:
            raise NumericError(f"a head needs at least one class, got {self.classes}")
        if not np.isfinite(self.weight_scale) or self.weight_scale < 0:
            raise NumericError(f"weight scale must be finite and not negative, got {self.weight_scale}")
        if self.encrypted != bool(self.key_fingerprint):
            raise MessageError(FailureCode.MALFORMED, "an encrypted head names its key, a plain one none")


@dataclass(frozen=True)
class HeadReady:
    """Decisions of `head_id` can be asked for."""

    head_id: str


@dataclass(frozen=True)
class RevokeHead:
    """The owner wants `head_id` served no more."""

    head_id: str

    def __post_init__(self) -> None:
        check_name(self.head_id, "head_id")


@dataclass(frozen=True)
class HeadRevoked:
    """`head_id` is not served any more; `known`: whether it was."""

    head_id: str
    known: bool
