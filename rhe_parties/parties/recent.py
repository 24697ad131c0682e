"""Which request ids were used, in bounded memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

__all__ = ["RecentIds"]


class RecentIds:
    """Remembers the latest `most` texts that were added, by a hash of 16 bytes each; older ones are forgotten."""

    def __init__(self, most: int = 65_536) -> None:
        self._most = most
        self._seen: OrderedDict[bytes, None] = OrderedDict()

    def add(self, text: str) -> None:
        """Remember a text."""
        self._seen[_hash(text)] = None
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)

    def __contains__(self, text: str) -> bool:
        return _hash(text) in self._seen

    def __len__(self) -> int:
        return len(self._seen)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
