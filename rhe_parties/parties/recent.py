"""Which request ids were used."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Protocol

__all__ = ["RecentIds", "UsedIds", "id_hash"]


class UsedIds(Protocol):
    """Remembers texts that were added: of late, or for good. One that keeps them on disk may refuse to add."""

    def add(self, text: str) -> None:
        """Remember a text.

        Raises:
            ProtocolError: REFUSED where it cannot be kept.
        """

    def __contains__(self, text: str) -> bool: ...

    def __len__(self) -> int: ...


class RecentIds:
    """Remembers the latest `most` texts that were added, by a hash of 16 bytes each; older ones are forgotten."""

    def __init__(self, most: int = 65_536) -> None:
        self._most = most
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def add(self, text: str) -> None:
        """Remember a text."""
        self._seen[id_hash(text)] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def __contains__(self, text: str) -> bool:
        return id_hash(text) in self._seen

    def __len__(self) -> int:
        return len(self._seen)


def id_hash(text: str) -> bytes:
    """What stands for a text where it is remembered: 16 bytes."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
