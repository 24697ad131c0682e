"""What a host must not lose: the envelopes that installed its heads and the public keys, as files that are put before
it again when it starts. They hold nothing that the host may not know."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path

from rhe_parties.errors import DataError, FailureCode, ProtocolError
from rhe_parties.messages import Payload, decode
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.messages.payloads import (
    EncryptedHead,
    Failure,
    HeadInstalled,
    HeadRevoked,
    PlainHead,
    PublicMaterial,
    TwoLayerHead,
)
from rhe_parties.parties.base import Outgoing, Party

__all__ = ["Journal", "write_durably"]

_LOG = logging.getLogger("rhe.service")
_SUFFIX = ".envelope"
# Kinds of envelopes that change what a host serves.
_KEPT = ("public_material", "plain_head", "two_layer_head", "encrypted_head")
# Heads that wait for key material: as many as a host lets wait.
_MAX_WAITING = 64


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file by another, whole: after a crash at any moment either of the two is there.

    Raises:
        OSError: it cannot be written; the file is as it was.
    """
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(fresh, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    except OSError:
        with contextlib.suppress(OSError):
            fresh.unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Journal:
    """A keeper (`rhe_parties.service.turns.Keeper`) for a host.

    Args:
        folder: made where it is not there.

    Raises:
        DataError: it cannot be made or read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make folder {str(folder)!r}: {error.strerror}") from error
        # Heads that were sent and are not installed yet, by their fingerprints: one of the same name that is refused
        # must not be kept in the place of one that waits. And the key of each that is kept.
        self._coming: dict[tuple[str, str], bytes] = {}
        self._kept: dict[str, str] = {}

    def restore(self, party: Party) -> list[str]:
        """Put everything kept before `party`; returns the ids of the heads that it serves again.

        What it does not take, such as a head for another backbone, stays on disk and is named in the log.
        """
        for left in self._folder.glob(f".*{_SUFFIX}.new"):  # a crash came before it was in its place
            with contextlib.suppress(OSError):
                left.unlink()
        back = []
        material = self._folder / f"material{_SUFFIX}"
        for path in [material, *sorted(self._folder.glob(f"head-*{_SUFFIX}"))]:
            if not path.exists():
                continue
            try:
                data = path.read_bytes()
                payload = decode(data).payload
            except (OSError, ProtocolError) as error:
                _LOG.error("not restored", extra={"file": path.name, "error": str(error)})
                continue
            failures = [o.envelope.payload for o in party.respond(data) if isinstance(o.envelope.payload, Failure)]
            if failures and failures[0].code == FailureCode.WRONG_KEY:  # a crash came before it was forgotten
                path.unlink(missing_ok=True)
            elif failures:
                _LOG.error("not restored", extra={"file": path.name, "error": failures[0].text})
            elif isinstance(payload, PlainHead | TwoLayerHead | EncryptedHead):
                self._kept[payload.head_id] = _key_of(payload)
                back.append(payload.head_id)
        return back

    def together(self) -> AbstractContextManager[object]:
        """See `Keeper.together`: every file is kept for good by itself."""
        return contextlib.nullcontext()

    def keep(self, kind: str, received: bytes, outgoing: list[Outgoing]) -> None:
        """See `Keeper.keep`."""
        installed = [o.envelope.payload for o in outgoing if isinstance(o.envelope.payload, HeadInstalled)]
        revoked = [o.envelope.payload for o in outgoing if isinstance(o.envelope.payload, HeadRevoked)]
        try:
            if kind in _KEPT:
                self._note(received)
            for head in installed:
                data = self._coming.pop((head.head_id, head.fingerprint), b"")
                if data:
                    self._write(self._path(head.head_id), data)
                    self._kept[head.head_id] = _key_of(_payload(data))
            for gone in revoked:
                self._forget(gone.head_id)
        except OSError as error:
            text = f"the host cannot keep it: {error.strerror or error}"
            raise ProtocolError(FailureCode.REFUSED, text) from error

    def _note(self, received: bytes) -> None:
        payload = _payload(received)
        if isinstance(payload, PublicMaterial):
            self._write(self._folder / f"material{_SUFFIX}", received)
            for head_id, key in list(self._kept.items()):
                if key not in ("", payload.fingerprint):
                    self._forget(head_id)
        elif isinstance(payload, PlainHead | TwoLayerHead | EncryptedHead):
            self._coming[payload.head_id, head_fingerprint(payload)] = received
            while len(self._coming) > _MAX_WAITING:
                del self._coming[next(iter(self._coming))]

    def _forget(self, head_id: str) -> None:
        self._kept.pop(head_id, None)
        self._path(head_id).unlink(missing_ok=True)
        _sync(self._folder)

    def _write(self, path: Path, data: bytes) -> None:
        write_durably(path, data)

    def _path(self, head_id: str) -> Path:
        # An id may hold anything printable; a file's name may not.
        return self._folder / f"head-{hashlib.sha256(head_id.encode()).hexdigest()[:32]}{_SUFFIX}"


def _payload(received: bytes) -> Payload | None:
    try:
        return decode(received).payload
    except ProtocolError:  # the party refused it too
        return None


def _key_of(payload: Payload | None) -> str:
    return payload.key_fingerprint if isinstance(payload, EncryptedHead) else ""
