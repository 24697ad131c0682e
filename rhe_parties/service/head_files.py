"""The owner's folder of one head: trained here, encrypted here, and what of it may go where.

    head.json            name, classes and backbone: for whoever asks for decisions
    head.safetensors     the weights in the clear, the seed of their training: for nobody else
    encrypted.binpb      the serialised `EncryptedHead`: for the host
    notice.binpb         the serialised `HeadNotice`, with secret scale and tag: for the key holder

Nothing in head.json follows from the training images but how many there were: a hash of the weights would tell a
guess at an image from a wrong one, as training is repeatable.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from rhe_parties.errors import DataError, ProtocolError
from rhe_parties.he.scheme import PublicMaterial
from rhe_parties.messages.alone import payload_from, payload_to
from rhe_parties.messages.fingerprints import head_fingerprint
from rhe_parties.messages.payloads import EncryptedHead, HeadNotice
from rhe_parties.messages.public import import_public
from rhe_parties.service.journal import write_durably

__all__ = [
    "CARD",
    "MAX_SIZE",
    "WEIGHTS",
    "EncryptedFiles",
    "HeadCard",
    "check_private",
    "load_card",
    "load_encrypted",
    "read_public",
    "save_encrypted",
    "write_file",
]

CARD, WEIGHTS, ENCRYPTED, NOTICE = "head.json", "head.safetensors", "encrypted.binpb", "notice.binpb"
#: Side of an image in pixels, at most.
MAX_SIZE = 4096

T = TypeVar("T")


@dataclass(frozen=True)
class HeadCard:
    """What may be told of a head (head.json).

    Attributes:
        name: id under which it is served.
        backbone, weights: as given to `load_backbone`; weights "" for the usual ones.
        backbone_fingerprint: of that backbone; the host's must be the same.
        image_size: side in pixels at which images are read.
        class_names: in the order of the classes' numbers.
        images_per_class: training images of each class.
        made: when it was trained, ISO 8601, UTC.
    """

    name: str
    backbone: str
    weights: str
    backbone_fingerprint: str
    image_size: int
    class_names: tuple[str, ...]
    images_per_class: tuple[int, ...]
    made: str


@dataclass(frozen=True)
class EncryptedFiles:
    """What goes to the host, and what goes to the key holder."""

    head: EncryptedHead
    notice: HeadNotice


def write_file(path: Path, data: bytes) -> None:
    """Replace a file, of mode 0600, as a whole.

    Raises:
        DataError: it cannot be written.
    """
    try:
        write_durably(path, data)
    except OSError as error:
        raise DataError(f"cannot write {str(path)!r}: {error.strerror or error}") from error


def check_private(path: Path) -> None:
    """Refuse a secret file that others than its owner may read.

    Raises:
        DataError: they may, or it is not there.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    if mode & 0o077:
        raise DataError(f"{str(path)!r} is secret and open to others (mode {mode:04o}; needed: 0600 or 0400)")


def load_card(path: Path) -> HeadCard:
    """Read a head.json.

    Raises:
        DataError: it is not there, or is none.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if set(values) != {field.name for field in fields(HeadCard)}:
            raise ValueError("its keys are not those of a head.json")
        names, counts = values.pop("class_names"), values.pop("images_per_class")
        card = HeadCard(**values, class_names=tuple(map(str, names)), images_per_class=tuple(map(int, counts)))
        if type(card.image_size) is not int or not 1 <= card.image_size <= MAX_SIZE or len(counts) != len(names):
            raise ValueError("its values do not fit together")
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise DataError(f"{str(path)!r} does not describe a head: {error}") from error
    return card


def read_public(path: Path) -> PublicMaterial:
    """Read what `rhe keys export-public` wrote.

    Raises:
        DataError: it is not there, or is none.
    """
    return _read(path, import_public)


def save_encrypted(folder: Path, files: EncryptedFiles) -> None:
    """Write both files.

    Raises:
        DataError: they cannot be written.
    """
    write_file(folder / ENCRYPTED, payload_to(files.head))
    write_file(folder / NOTICE, payload_to(files.notice))


def load_encrypted(folder: Path) -> EncryptedFiles:
    """Read what `encrypt` wrote.

    Raises:
        DataError: a file is missing or damaged, others may read the notice, or the two do not belong together.
    """
    check_private(folder / NOTICE)
    head = _read(folder / ENCRYPTED, lambda data: payload_from(data, EncryptedHead))
    notice = _read(folder / NOTICE, lambda data: payload_from(data, HeadNotice))
    if (notice.head_id, notice.fingerprint) != (head.head_id, head_fingerprint(head)):
        raise DataError(f"{ENCRYPTED} and {NOTICE} in {str(folder)!r} do not belong together; encrypt the head again")
    return EncryptedFiles(head, notice)


def _read(path: Path, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}: {error.strerror}") from error
    except ProtocolError as error:
        raise DataError(f"{str(path)!r} cannot be used: {error.text}") from error
