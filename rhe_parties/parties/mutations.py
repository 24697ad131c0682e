"""Ways to spoil a serialised envelope, from single bits to valid messages that say something impossible.

Three levels: the bytes, the fields of the wire format, and the typed payload (written back past its own checks).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rhe_parties.errors import ProtocolError
from rhe_parties.he.plan import HeadPlan
from rhe_parties.he.sealio import CHECKSUM_BYTES, with_checksum
from rhe_parties.he.varint import varint
from rhe_parties.messages import Envelope, decode, encode
from rhe_parties.messages.fingerprints import sealed
from rhe_parties.messages.payloads import ClassifyResponse
from rhe_parties.messages.tensors import DTYPES
from rhe_parties.threat.model import LABORATORY, PARTIES
from rhe_parties.types import AnyArray

__all__ = ["RESEALED", "RESPONSE_MUTATIONS", "Mutant", "Mutator", "readable"]

_EXTREMES = (0, 1, 2, 127, 255, 2**31 - 1, 2**32 - 1, 2**63 - 1)
_VARINTS = (0, 1, 2**14, 2**31, 2**32 - 1, 2**63, 2**64 - 1)
_NAMES = ("", "x", "ü" * 40, "\n\0", "n" * 300, "victim-0000")

#: The one mutation that its sender hides on purpose; no checksum without a key can show it.
RESEALED = "ciphertext bytes, checksums made anew"


@dataclass(frozen=True)
class Mutant:
    """A spoilt message: its bytes, by what, and whether checksums and digest were computed anew to fit."""

    data: bytes
    name: str
    resealed: bool = False


class Mutator:
    """Draws mutations; the same generator and the same messages give the same mutants."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._ways: dict[str, Callable[[bytes, bytes], bytes]] = {
            "bit flips": self._flip,
            "truncation": self._truncate,
            "extension": self._extend,
            "splice of two messages": self._splice,
            "bytes moved": self._move,
            "field dropped or repeated": self._drop_or_repeat,
            "field of another message": self._transplant,
            "extreme number in a field": self._extreme,
            "header changed": self._header,
            "payload of another message": self._swap_payload,
            "tensor shape": self._shape,
            "tensor type": self._dtype,
            "tensor values": self._values,
            "name changed": self._name,
            "number changed": self._number,
            "bytes inside a field": self._blob,
            "order or number of items": self._items,
            "replay": lambda data, _other: data,
        }
        self.names = tuple(self._ways)

    def draw(self, data: bytes, other: bytes, names: Sequence[str] | None = None) -> Mutant:
        """A mutant of `data`, with pieces of `other` where the mutation wants some."""
        known = names or self.names
        name = known[self._below(len(known))]
        if name == RESEALED:
            return Mutant(self._reseal(data, other), name, True)
        return Mutant(self._ways[name](data, other), name)

    def _below(self, limit: int) -> int:
        return int(self._rng.integers(max(limit, 1)))

    def _bytes(self, count: int) -> bytes:
        return self._rng.bytes(count)

    # ---- bytes -------------------------------------------------------------------------------------------------

    def _flip(self, data: bytes, _other: bytes) -> bytes:
        raw = bytearray(data)
        # Half of the flips near the front, where the structure is: most of a message is one long ciphertext.
        reach = len(raw) if self._below(2) else min(len(raw), 200)
        for _ in range(1 + self._below(4)):
            raw[self._below(reach)] ^= 1 << self._below(8)
        return bytes(raw)

    def _truncate(self, data: bytes, _other: bytes) -> bytes:
        return data[: self._below(len(data))]

    def _extend(self, data: bytes, _other: bytes) -> bytes:
        return data + self._bytes(1 + self._below(64))

    def _splice(self, data: bytes, other: bytes) -> bytes:
        return data[: self._below(len(data))] + other[self._below(len(other)) :]

    def _move(self, data: bytes, _other: bytes) -> bytes:
        a, b = sorted((self._below(len(data)), self._below(len(data))))
        cut = data[a:b][: 1 + self._below(64)]
        rest = data[:a] + data[a + len(cut) :]
        place = self._below(len(rest))
        return rest[:place] + cut + rest[place:]

    # ---- fields of the wire format -----------------------------------------------------------------------------

    def _drop_or_repeat(self, data: bytes, _other: bytes) -> bytes:
        def edit(fields: list[_Field]) -> list[_Field]:
            at = self._below(len(fields))
            return fields[:at] + fields[at + 1 :] if self._below(2) else [*fields[: at + 1], *fields[at:]]

        return self._edited(data, edit)

    def _transplant(self, data: bytes, other: bytes) -> bytes:
        donors = _fields(other) or []
        donors += [inner for field in donors for inner in (_fields(field.value) or [])]

        def edit(fields: list[_Field]) -> list[_Field]:
            at = self._below(len(fields))
            fitting = [d for d in donors if (d.number, d.kind) == (fields[at].number, fields[at].kind)] or donors
            if fitting:
                fields[at] = fitting[self._below(len(fitting))]
            return fields

        return self._edited(data, edit)

    def _extreme(self, data: bytes, _other: bytes) -> bytes:
        def edit(fields: list[_Field]) -> list[_Field]:
            numbers = [i for i, field in enumerate(fields) if field.kind != 2] or [self._below(len(fields))]
            at = numbers[self._below(len(numbers))]
            field = fields[at]
            number = varint(_VARINTS[self._below(len(_VARINTS))])
            fields[at] = dataclasses.replace(field, value=self._bytes(len(field.value)) if field.kind else number)
            return fields

        return self._edited(data, edit)

    def _edited(self, data: bytes, edit: Callable[[list[_Field]], list[_Field]]) -> bytes:
        """Edit the fields of the envelope, or of a message inside it, as deep as the draw goes."""
        fields = _fields(data)
        if not fields:
            return self._flip(data, data)
        nested = [i for i, field in enumerate(fields) if field.kind == 2 and field.value and _fields(field.value)]
        if nested and self._below(4):
            at = nested[-1] if self._below(2) else nested[self._below(len(nested))]
            fields[at] = dataclasses.replace(fields[at], value=self._edited(fields[at].value, edit))
            return _joined(fields)
        return _joined(edit(fields))

    # ---- typed payloads ----------------------------------------------------------------------------------------

    def _header(self, data: bytes, _other: bytes) -> bytes:
        envelope = decode(data)
        parties = (*PARTIES, LABORATORY, "", "nobody")
        changes: list[dict[str, Any]] = [
            {"sender": parties[self._below(len(parties))]},
            {"recipient": parties[self._below(len(parties))]},
            {"run_id": _NAMES[self._below(len(_NAMES))]},
            {"sequence": _EXTREMES[self._below(len(_EXTREMES))]},
            {"reply_to": _EXTREMES[self._below(len(_EXTREMES))]},
        ]
        return encode(dataclasses.replace(envelope, **changes[self._below(len(changes))]))

    def _swap_payload(self, data: bytes, other: bytes) -> bytes:
        return encode(dataclasses.replace(decode(data), payload=decode(other).payload))

    def _shape(self, data: bytes, _other: bytes) -> bytes:
        return self._typed(data, np.ndarray, self._reshaped)

    def _reshaped(self, array: AnyArray) -> AnyArray:
        shapes = [(array.size,), (1, array.size), (*array.shape, 1), array.shape[::-1]]
        shape = shapes[self._below(len(shapes))]
        if self._below(4) and array.ndim:  # the same rank, but one axis is longer, shorter or gone
            axis = self._below(array.ndim)
            length = (0, 1, 2, array.shape[axis] + 1)[self._below(4)]
            shape = (*array.shape[:axis], length, *array.shape[axis + 1 :])
        return np.resize(array, shape) if array.size else np.zeros(shape, dtype=array.dtype)

    def _dtype(self, data: bytes, _other: bytes) -> bytes:
        kinds = list(DTYPES)
        with np.errstate(all="ignore"):
            return self._typed(data, np.ndarray, lambda array: array.astype(kinds[self._below(len(kinds))]))

    def _values(self, data: bytes, _other: bytes) -> bytes:
        def change(array: AnyArray) -> AnyArray:
            changed = array.copy()
            if not changed.size:
                return changed
            odd = (np.nan, np.inf, -np.inf, 1e38, -0.0) if changed.dtype.kind == "f" else (0, 1, 127)
            changed.reshape(-1)[self._below(changed.size)] = odd[self._below(len(odd))]
            return changed

        return self._typed(data, np.ndarray, change)

    def _name(self, data: bytes, _other: bytes) -> bytes:
        return self._typed(data, str, lambda _text: _NAMES[self._below(len(_NAMES))])

    def _number(self, data: bytes, _other: bytes) -> bytes:
        return self._typed(data, (int, float), lambda _number: _EXTREMES[self._below(len(_EXTREMES))])

    def _blob(self, data: bytes, other: bytes) -> bytes:
        return self._typed(data, bytes, lambda blob: self._spoilt(blob, other))

    def _items(self, data: bytes, other: bytes) -> bytes:
        return self._typed(data, tuple, lambda items: self._rearranged(items, other))

    def _spoilt(self, blob: bytes, other: bytes) -> bytes:
        if not blob:
            return self._bytes(16)
        ways = (self._flip, self._truncate, self._extend, self._splice, self._move)
        return ways[self._below(len(ways))](blob, other)

    def _rearranged(self, items: tuple[Any, ...], other: bytes) -> tuple[Any, ...]:
        if not items:
            return (self._bytes(16),)
        at, way = self._below(len(items)), self._below(4)
        if way == 0:
            return items[:at] + items[at + 1 :]
        if way == 1:
            return (*items, items[at])
        if way == 2:
            return items[at:] + items[:at]
        foreign = getattr(decode(other).payload, "ciphertexts", ()) or items
        return (*items[:at], foreign[self._below(len(foreign))], *items[at + 1 :])

    def _typed(self, data: bytes, kind: Any, change: Callable[[Any], Any]) -> bytes:
        """Change one value of a type somewhere in the payload, past the payload's own checks."""
        envelope = decode(data)
        places = _places(envelope.payload, kind)
        if not places:
            return self._flip(data, data)
        path = places[self._below(len(places))]
        try:
            return encode(dataclasses.replace(envelope, payload=_changed(envelope.payload, path, change)))
        except (ProtocolError, TypeError, ValueError, AttributeError):
            return self._flip(data, data)  # what no message can carry

    # ---- with checksums that fit -------------------------------------------------------------------------------

    def _reseal(self, data: bytes, other: bytes) -> bytes:
        """Damage inside a ciphertext of a reply, or ciphertexts rearranged; checksums and digest fit again."""
        envelope = decode(data)
        reply = envelope.payload
        if not isinstance(reply, ClassifyResponse) or not reply.ciphertexts:
            return self._flip(data, data)
        at = self._below(len(reply.ciphertexts))
        items = list(reply.ciphertexts)
        if self._below(4):
            items[at] = with_checksum(self._flip_all_over(items[at][:-CHECKSUM_BYTES]))
        else:
            items = list(self._rearranged(reply.ciphertexts, other))
        if not items:
            return self._flip(data, data)
        changed = sealed(dataclasses.replace(reply, ciphertexts=tuple(items)))
        return encode(dataclasses.replace(envelope, payload=changed))

    def _flip_all_over(self, data: bytes) -> bytes:
        raw = bytearray(data)
        for _ in range(1 + self._below(3)):
            raw[self._below(len(raw))] ^= 1 << self._below(8)
        return bytes(raw)


#: What is done to replies of the host: everything that does not need a second kind of message, and resealing.
RESPONSE_MUTATIONS = (
    "bit flips", "truncation", "extension", "splice of two messages", "bytes moved", "field dropped or repeated",
    "field of another message", "extreme number in a field", "header changed", "tensor shape", "name changed",
    "number changed", "bytes inside a field", "bytes inside a field", "order or number of items", "replay", RESEALED,
)  # fmt: skip


@dataclass(frozen=True)
class _Field:
    """One field of the protobuf wire format; `value` without tag and length."""

    number: int
    kind: int
    value: bytes


def _fields(data: bytes) -> list[_Field] | None:
    """The fields of a message, or None where the bytes are none."""
    fields, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind, number = tag & 7, tag >> 3
        start = at
        if kind == 0:
            _, at = _read_varint(data, at)
        elif kind == 2:
            size, start = _read_varint(data, at)
            at = start + size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        if kind not in (0, 1, 2, 5) or not number or at > len(data) or start < 0 or at < 0:
            return None
        fields.append(_Field(number, kind, data[start:at]))
    return fields


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """The number at a place and the place behind it; a place of -2^40 where there is none."""
    value = 0
    for shift in range(0, 70, 7):
        if not 0 <= at < len(data):
            break
        value |= (data[at] & 127) << shift
        at += 1
        if data[at - 1] < 128:
            return value, at
    return 0, -(1 << 40)


def _joined(fields: list[_Field]) -> bytes:
    pieces = []
    for field in fields:
        pieces.append(varint(field.number << 3 | field.kind))
        pieces.append(varint(len(field.value)) + field.value if field.kind == 2 else field.value)
    return b"".join(pieces)


def _places(value: Any, kind: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where values of a type are in a payload: attribute names and indices from the outside in."""
    if isinstance(value, HeadPlan):
        return []  # its numbers are changed at the level of the wire
    found = [path] if path and isinstance(value, kind) and not isinstance(value, bool) else []
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            found += _places(getattr(value, field.name), kind, (*path, field.name))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            found += _places(item, kind, (*path, index))
    return found


def _changed(value: Any, path: tuple[Any, ...], change: Callable[[Any], Any]) -> Any:
    """A copy with the value at `path` changed; checks of the dataclasses on the way are not run."""
    if not path:
        return change(value)
    if isinstance(value, tuple):
        items = list(value)
        items[path[0]] = _changed(items[path[0]], path[1:], change)
        return tuple(items)
    clone = copy.copy(value)
    object.__setattr__(clone, path[0], _changed(getattr(value, path[0]), path[1:], change))
    return clone


def readable(data: bytes) -> Envelope | None:
    """The envelope in `data`, or None."""
    try:
        return decode(data)
    except ProtocolError:
        return None
