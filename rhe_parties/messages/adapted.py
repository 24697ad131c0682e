"""The backbone's last block as a head brings it along; see `rhe_parties.model.last_block`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from rhe_parties.errors import FailureCode, MessageError, NumericError
from rhe_parties.messages.checks import check_layer, check_tensor
from rhe_parties.model.adaptation import FACTORS, WHOLE
from rhe_parties.types import FloatArray

__all__ = ["AdaptedBlock"]


@dataclass(frozen=True)
class AdaptedBlock:
    """The backbone's last block as trained along with a head, always in the clear.

    `names` are `weight`, `bias` with float32 tensors [D, P] and [D], or LoRA's `down`, `up` with [r, P] and [D, r].
    """

    names: tuple[str, ...]
    tensors: tuple[FloatArray, ...]

    def __post_init__(self) -> None:
        if self.names not in (WHOLE, FACTORS) or len(self.tensors) != len(self.names):
            raise MessageError(
                FailureCode.MALFORMED,
                f"an adapted block of {len(self.tensors)} tensors named {', '.join(self.names)[:64]!r} "
                f"(known: {', '.join(WHOLE)}; {', '.join(FACTORS)})",
            )
        first, second = self.tensors
        if self.names == WHOLE:
            check_layer(first, second, "adapted block's")
            return
        for name, tensor in zip(self.names, self.tensors, strict=True):
            check_tensor(tensor, f"adapted block's {name}", np.float32, 2)
        if first.shape[0] != second.shape[1] or 0 in (*first.shape, *second.shape):
            raise NumericError(
                f"adapted block's down {list(first.shape)} and up {list(second.shape)} do not fit together",
                FailureCode.BAD_TENSOR,
            )

    @classmethod
    def of(cls, tensors: Mapping[str, FloatArray]) -> AdaptedBlock:
        """The message of tensors by name."""
        return cls(tuple(tensors), tuple(tensors.values()))

    @property
    def by_name(self) -> dict[str, FloatArray]:
        """The tensors by name."""
        return dict(zip(self.names, self.tensors, strict=True))
