"""Checks that several messages share."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rhe_parties.errors import FailureCode, MessageError, NumericError
from rhe_parties.types import AnyArray, FloatArray, UInt8Array

__all__ = ["MAX_NAME_LENGTH", "check_images", "check_inputs", "check_layer", "check_name", "check_tensor", "empty"]

MAX_NAME_LENGTH = 256


def empty(dtype: npt.DTypeLike) -> AnyArray:
    """The array that stands for "not there" in an optional tensor field."""
    return np.empty((0,), dtype=dtype)


def check_tensor(array: AnyArray, what: str, dtype: npt.DTypeLike, dimensions: int, finite: bool = True) -> None:
    """Refuse a tensor of another type or rank, or one with NaN or infinite values.

    Raises:
        NumericError: with code BAD_TENSOR (type, rank) or BAD_VALUE (not finite).
    """
    if array.dtype != np.dtype(dtype) or array.ndim != dimensions:
        raise NumericError(
            f"{what} is {array.dtype} with {array.ndim} dimensions; expected {np.dtype(dtype)} with {dimensions}",
            FailureCode.BAD_TENSOR,
        )
    if finite and array.dtype.kind == "f" and not np.isfinite(array).all():
        raise NumericError(f"{what} holds NaN or infinite values")


def check_layer(weight: AnyArray, bias: AnyArray, what: str) -> None:
    """Refuse anything but a float32 weight [out, in] and bias [out] that fit together and are not empty.

    Raises:
        NumericError: with code BAD_TENSOR (type, rank, shapes) or BAD_VALUE (not finite).
    """
    check_tensor(weight, f"{what} weight", np.float32, 2)
    check_tensor(bias, f"{what} bias", np.float32, 1)
    if weight.shape[0] != bias.shape[0] or 0 in weight.shape:
        raise NumericError(
            f"{what} weight {list(weight.shape)} and bias {list(bias.shape)} do not fit together",
            FailureCode.BAD_TENSOR,
        )


def check_name(value: str, what: str) -> None:
    """Refuse a name that is empty, too long or not printable (MALFORMED)."""
    if not value or len(value) > MAX_NAME_LENGTH or not value.isprintable():
        raise MessageError(
            FailureCode.MALFORMED,
            f"{what} must be 1 to {MAX_NAME_LENGTH} printable characters, not {value[:32]!r}",
        )


def check_images(images: UInt8Array) -> None:
    """Refuse anything but at least one image, uint8 [B, C, H, W] (BAD_TENSOR)."""
    check_tensor(images, "images", np.uint8, 4)
    if images.shape[0] == 0:
        raise NumericError("zero images given; at least one is needed", FailureCode.BAD_TENSOR)


def check_inputs(images: UInt8Array, features: FloatArray) -> None:
    """Refuse anything but either images or features float32 [B, D], at least one of them (BAD_TENSOR, BAD_VALUE)."""
    if not features.size:
        check_images(images)
        return
    if images.size:
        raise NumericError("a request holds either images or features, this one both", FailureCode.BAD_TENSOR)
    check_tensor(features, "features", np.float32, 2)
