"""The heads that a key holder decides on, those that it decides on no more, and a rotation that waits for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rhe_parties.errors import FailureCode, ProtocolError, SchemeError
from rhe_parties.messages.key_state import KeyHolderState, OpenRotation, StoppedHead
from rhe_parties.messages.payloads import HeadNotice
from rhe_parties.parties.base import Asker

__all__ = ["KnownHeads", "Rotation"]

MAX_KNOWN_HEADS = 65_536


@dataclass
class Rotation:
    """New keys that not all heads are installed under yet.

    `asker` is None where nobody waits for its end: the key was replaced while nothing was served.
    """

    asker: Asker | None
    old: str
    missing: set[str]
    heads: int


class KnownHeads:
    """Heads by id; every change counts up `revision`, so that whoever keeps the state sees that it is another."""

    def __init__(self) -> None:
        self.revision = 0
        self._heads: dict[str, HeadNotice] = {}
        # Heads that nothing more is decided on, and why.
        self._stopped: dict[str, str] = {}
        # Why nothing is decided under this key any more; empty while it serves.
        self._closed = ""
        self._rotation: Rotation | None = None

    def __len__(self) -> int:
        """How many are known."""
        return len(self._heads)

    def add(self, head: HeadNotice) -> None:
        """One more, or a known one that changed.

        Raises:
            ProtocolError: REFUSED where too many are known.
        """
        if head.head_id not in self._heads and len(self._heads) >= MAX_KNOWN_HEADS:
            raise ProtocolError(FailureCode.REFUSED, f"{MAX_KNOWN_HEADS} heads are known, no more are taken")
        self._heads[head.head_id] = head
        if self._rotation is not None:
            self._rotation.missing.discard(head.head_id)
        self.revision += 1

    def remove(self, head_id: str) -> bool:
        """Its owner revoked a head; returns whether it was known. One that was stopped stays so."""
        known = self._heads.pop(head_id, None) is not None
        if self._rotation is not None and head_id in self._rotation.missing:
            self._rotation.missing.discard(head_id)
            self._rotation.heads -= 1
        self.revision += 1
        return known

    def find(self, head_id: str) -> HeadNotice:
        """A head that is decided on.

        Raises:
            ProtocolError: REFUSED for one that is stopped or whose key is closed, NOT_INSTALLED for an unknown one.
            SchemeError: WRONG_KEY for one that a rotation still waits for.
        """
        head = self._heads.get(head_id)
        if head_id in self._stopped:
            raise ProtocolError(FailureCode.REFUSED, f"head {head_id[:64]!r} is closed: {self._stopped[head_id]}")
        if head is not None and head.encrypted and self._closed:
            raise ProtocolError(FailureCode.REFUSED, self._closed)
        if head is not None:
            return head
        if self._rotation is not None and head_id in self._rotation.missing:
            raise SchemeError(
                FailureCode.WRONG_KEY,
                f"head {head_id[:64]!r} was encrypted for key {self._rotation.old[:12]!r}, which was replaced; "
                "it is not installed anew",
            )
        raise ProtocolError(
            FailureCode.NOT_INSTALLED,
            f"head {head_id[:64]!r} is unknown to the key holder ({len(self._heads)} are known)",
        )

    def stop(self, head_id: str, reason: str) -> None:
        """Nothing more is decided on a head, under no key."""
        self._stopped[head_id] = reason
        self.revision += 1

    def close(self, reason: str) -> None:
        """Nothing more is decided on any encrypted head until its key is replaced."""
        self._closed = reason
        self.revision += 1

    @property
    def closures(self) -> dict[str, str]:
        """Why nothing is decided on a head, by its id, and under "" on any encrypted one."""
        return {**self._stopped, **({"": self._closed} if self._closed else {})}

    # ---- rotation ----------------------------------------------------------------------------------------------

    def replaced(self, old: str, asker: Asker | None) -> Asker | None:
        """The key `old` was replaced: all its heads are gone, and missing until they are known anew.

        Returns:
            who waited for an earlier rotation, which this one overtook.
        """
        missing = {head_id for head_id, head in self._heads.items() if head.encrypted}
        for head_id in missing:
            del self._heads[head_id]
        overtaken, self._closed = self._rotation, ""
        if overtaken is not None:
            missing |= overtaken.missing
        self._rotation = Rotation(asker, old, missing, len(missing))
        self.revision += 1
        return None if overtaken is None else overtaken.asker

    def renewed(self, head_ids: Iterable[str]) -> None:
        """The owner has these heads alone: others cannot be waited for."""
        if self._rotation is None:
            return
        gone = self._rotation.missing.difference(head_ids)
        self._rotation.missing -= gone
        self._rotation.heads -= len(gone)
        self.revision += 1

    def finished(self) -> Rotation | None:
        """The rotation, once, when it waits for nothing more."""
        if self._rotation is None or self._rotation.missing:
            return None
        rotation, self._rotation = self._rotation, None
        self.revision += 1
        return rotation

    # ---- kept while nothing is served --------------------------------------------------------------------------

    def state(self, run_id: str, fingerprint: str) -> KeyHolderState:
        """All of it as a value, for the key `fingerprint`."""
        rotation = self._rotation
        waiting = rotation.asker if rotation is not None else None
        return KeyHolderState(
            run_id,
            fingerprint,
            tuple(self._heads.values()),
            tuple(StoppedHead(head_id, reason) for head_id, reason in self._stopped.items()),
            self._closed,
            None
            if rotation is None
            else OpenRotation(
                "" if waiting is None else waiting.name,
                0 if waiting is None else waiting.sequence,
                rotation.old,
                tuple(sorted(rotation.missing)),
                rotation.heads,
            ),
        )

    def restore(self, state: KeyHolderState, fingerprint: str) -> None:
        """Take a state up under the key `fingerprint`.

        Where that is another key than the state's, it was replaced while nothing was served, or just before the end:
        the state's encrypted heads are missing then, and why the old key was closed concerns nobody.
        """
        self._heads = {head.head_id: head for head in state.heads}
        self._stopped = {head.head_id: head.reason for head in state.stopped}
        self._closed = state.closed
        self._rotation = None
        if (kept := state.rotation) is not None:
            asker = Asker(kept.asker, kept.asked) if kept.asker else None
            self._rotation = Rotation(asker, kept.old_fingerprint, set(kept.missing), kept.heads)
        if state.key_fingerprint != fingerprint:
            waiting = self._rotation.asker if self._rotation is not None else None
            self.replaced(state.key_fingerprint, waiting)
