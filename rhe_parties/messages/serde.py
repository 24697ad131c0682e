"""The pair of converters between payload dataclasses and protobuf messages, driven by the dataclass's annotations.

Field names are equal on both sides, so one rule per type of field covers every message and nothing can be forgotten
in one direction only; the round trip is tested for each payload.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any, TypeVar, cast

import numpy as np

from rhe_parties.errors import FailureCode, MessageError, ProtocolError, RheError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.messages.tensors import tensor_from_proto, tensor_to_proto

__all__ = ["value_from_proto", "value_to_proto"]

T = TypeVar("T")


@functools.cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _is_array(hint: Any) -> bool:
    return typing.get_origin(hint) is np.ndarray


def value_to_proto(value: Any, message: Any) -> None:
    """Write a dataclass instance into a protobuf message of the same field names."""
    if isinstance(value, HeadPlan):
        given = value.choices()
        for field in message.DESCRIPTOR.fields:
            _set(message, field.name, given[field.name])
        return
    for field in dataclasses.fields(value):
        item = getattr(value, field.name)
        if isinstance(item, np.ndarray):
            if item.size or item.ndim > 1:
                getattr(message, field.name).CopyFrom(tensor_to_proto(item))
        elif dataclasses.is_dataclass(item):
            value_to_proto(item, getattr(message, field.name))
            getattr(message, field.name).SetInParent()
        elif isinstance(item, tuple) and item and isinstance(item[0], np.ndarray):
            getattr(message, field.name).extend(tensor_to_proto(part) for part in item)
        elif isinstance(item, tuple) and item and dataclasses.is_dataclass(item[0]):
            for part in item:
                value_to_proto(part, getattr(message, field.name).add())
        elif item is not None:
            _set(message, field.name, item)


def _set(message: Any, name: str, item: Any) -> None:
    try:
        if isinstance(item, tuple | list):
            getattr(message, name).extend(item)
        else:
            setattr(message, name, item)
    except (TypeError, ValueError) as error:
        raise MessageError(
            FailureCode.MALFORMED, f"{message.DESCRIPTOR.name}.{name} cannot hold {item!r}: {error}"
        ) from error


def value_from_proto(message: Any, cls: type[T]) -> T:
    """Read a dataclass instance from a protobuf message.

    Raises:
        ProtocolError: a tensor, name or number that the payload's own checks refuse.
    """
    if cls is HeadPlan:
        return cast(T, _plan_from_proto(message))
    arguments = {name: _field(message, name, hint) for name, hint in _hints(cast(Any, cls)).items()}
    try:
        return cls(**arguments)
    except ProtocolError:
        raise
    except (RheError, TypeError, ValueError) as error:
        raise MessageError(FailureCode.MALFORMED, f"{message.DESCRIPTOR.name}: {error}") from error


def _field(message: Any, name: str, hint: Any) -> Any:
    if type(None) in typing.get_args(hint):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
        if not message.HasField(name):
            return None
    if _is_array(hint):
        return tensor_from_proto(getattr(message, name), f"{message.DESCRIPTOR.name}.{name}")
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)[0]
        if _is_array(inner):
            what = f"{message.DESCRIPTOR.name}.{name}"
            return tuple(tensor_from_proto(part, what) for part in getattr(message, name))
        if dataclasses.is_dataclass(inner):
            return tuple(value_from_proto(part, cast(type[Any], inner)) for part in getattr(message, name))
        return tuple(getattr(message, name))
    if dataclasses.is_dataclass(hint):
        return value_from_proto(getattr(message, name), cast(type[Any], hint))
    return getattr(message, name)


def _plan_from_proto(message: Any) -> HeadPlan:
    given: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        item = getattr(message, field.name)
        given[field.name] = item if isinstance(item, str | int | float) else tuple(item)
    return HeadPlan.from_dict(given)
