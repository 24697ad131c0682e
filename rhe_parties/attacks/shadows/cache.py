"""Shadow heads kept on disk under everything that they depend on; off unless somebody asks for it.

The folder's name is a hash of the factory's provenance (features, labels, sets, recipe, mechanism, seed, purpose,
block, version of the code), and the manifest in it repeats the provenance in words. A block is one safetensors file
with the SHA-256 of its arrays. What does not fit to the letter is refused, not trained again silently: a cache that
disagrees with its name has been tampered with or damaged, and the user should know.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from rhe_parties.attacks.shadows.sets import array_digest
from rhe_parties.attacks.shadows.stream import BlockSource
from rhe_parties.errors import DataError
from rhe_parties.types import AnyArray

__all__ = ["CachedSource"]

B = TypeVar("B", bound=tuple[Any, ...])
_MANIFEST = "provenance.json"


class CachedSource(BlockSource[B]):
    """A factory whose blocks are looked up in a folder first, and left there when they had to be made."""

    def __init__(self, source: BlockSource[B], kind: type[B], root: Path) -> None:
        """Open or begin the cache of a factory.

        Args:
            source: the factory.
            kind: its named tuple, `ShadowBlock` or `FlatBlock`.
            root: folder of caches, made where it is missing; each factory has a folder of its own below.

        Raises:
            DataError: the folder cannot be written, or its manifest is damaged or of another provenance.
            ParameterError: a factory whose provenance cannot be told (sets from a function).
        """
        self.source, self.kind = source, kind
        self.heads_per_block, self.limit = source.heads_per_block, source.limit
        manifest = json.dumps(source.provenance(), indent=1, sort_keys=True) + "\n"
        self.key = hashlib.sha256(manifest.encode()).hexdigest()
        self.folder = root / self.key
        path = self.folder / _MANIFEST
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                _write(path, manifest.encode())
            found = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cache of shadow heads {str(self.folder)!r} cannot be used: {error}") from error
        if found != manifest:
            raise DataError(
                f"cache of shadow heads {str(self.folder)!r} is refused: {_difference(found, source.provenance())}; "
                f"remove the folder to train anew"
            )

    def provenance(self) -> dict[str, str]:
        """That of the factory."""
        return self.source.provenance()

    def block(self, index: int) -> B:
        """Block `index` from the folder, or trained and left there.

        Raises:
            DataError: a file that is damaged, of another block or of another factory, or that cannot be written.
        """
        path = self.folder / f"block-{index:08d}.safetensors"
        if path.exists():
            return self._read(path, index)
        block = self.source.block(index)
        arrays: dict[str, AnyArray] = dict(zip(self.kind._fields, block, strict=True))  # type: ignore[attr-defined]
        digests = {name: array_digest(array) for name, array in arrays.items()}
        try:
            _write(path, save(arrays, metadata=digests | {"key": self.key, "index": str(index)}))
        except OSError as error:
            raise DataError(f"cache of shadow heads cannot write {str(path)!r}: {error}") from error
        return block

    def _read(self, path: Path, index: int) -> B:
        try:
            with safe_open(path, framework="numpy") as file:
                facts = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError, ValueError) as error:
            raise DataError(f"cached shadow heads {str(path)!r} are damaged ({error}); remove the file") from error
        names: tuple[str, ...] = self.kind._fields  # type: ignore[attr-defined]
        if (facts.get("key"), facts.get("index")) != (self.key, str(index)):
            raise DataError(f"cached shadow heads {str(path)!r} belong to another factory or block; remove the file")
        if set(arrays) != set(names) or any(array_digest(arrays[name]) != facts.get(name) for name in names):
            raise DataError(f"cached shadow heads {str(path)!r} are damaged (digest); remove the file")
        return self.kind(*(arrays[name] for name in names))


def _difference(found: str, expected: dict[str, str]) -> str:
    try:
        stored = json.loads(found)
        wrong = sorted(key for key in {*stored, *expected} if stored.get(key) != expected.get(key))
    except (ValueError, TypeError, AttributeError):
        return "its manifest is damaged"
    return f"its manifest differs in {', '.join(wrong)}" if wrong else "its manifest is written differently"


def _write(path: Path, data: bytes) -> None:
    """All or nothing: another process sees no file or the whole one."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.replace(file.name, path)
        except OSError:
            Path(file.name).unlink(missing_ok=True)
            raise
