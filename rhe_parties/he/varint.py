"""Protobuf's variable-length integers, for messages that are written or taken apart without generated code."""

from __future__ import annotations

__all__ = ["varint"]


def varint(value: int) -> bytes:
    """An unsigned integer, seven bits per byte, lowest first."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
