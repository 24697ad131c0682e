"""Arrays to and from `Tensor` messages: raw little-endian bytes, sizes checked before anything is allocated."""

from __future__ import annotations

import math

import numpy as np

from rhe_parties.errors import FailureCode, MessageError
from rhe_parties.proto import tensor_pb2
from rhe_parties.types import AnyArray

__all__ = ["DTYPES", "MAX_DIMENSIONS", "tensor_from_proto", "tensor_to_proto"]

DTYPES: dict[str, np.dtype[np.generic]] = {
    "uint8": np.dtype("u1"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
    "float64": np.dtype("<f8"),
}
MAX_DIMENSIONS = 8


def tensor_to_proto(array: AnyArray) -> tensor_pb2.Tensor:
    """Serialise an array of one of `DTYPES`.

    Raises:
        MessageError: another dtype or too many dimensions.
    """
    name = array.dtype.name
    if name not in DTYPES or array.ndim > MAX_DIMENSIONS:
        raise MessageError(
            FailureCode.BAD_TENSOR,
            f"cannot send {name} with {array.ndim} dimensions (allowed: {', '.join(DTYPES)}; {MAX_DIMENSIONS})",
        )
    return tensor_pb2.Tensor(
        dtype=name, shape=array.shape, data=np.ascontiguousarray(array, dtype=DTYPES[name]).tobytes()
    )


def tensor_from_proto(message: tensor_pb2.Tensor, what: str) -> AnyArray:
    """Read an array; the result is read-only and shares the message's bytes.

    An absent tensor (no dtype) is an empty float32 array.

    Raises:
        MessageError: unknown dtype, too many dimensions, or a shape that does not match the number of bytes.
    """
    if not message.dtype and not message.data and not message.shape:
        return np.empty((0,), dtype=np.float32)
    dtype = DTYPES.get(message.dtype)
    if dtype is None:
        raise MessageError(
            FailureCode.BAD_TENSOR,
            f"{what}: unknown dtype {message.dtype[:32]!r} (known: {', '.join(DTYPES)})",
        )
    if len(message.shape) > MAX_DIMENSIONS:
        raise MessageError(
            FailureCode.BAD_TENSOR,
            f"{what}: {len(message.shape)} dimensions, at most {MAX_DIMENSIONS} allowed",
        )
    shape = tuple(int(n) for n in message.shape)
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != len(message.data):
        raise MessageError(
            FailureCode.BAD_TENSOR,
            f"{what}: shape {list(shape)} needs {wanted} bytes, {len(message.data)} given",
        )
    return np.frombuffer(message.data, dtype=dtype).reshape(shape)
