"""A sweep's folder, local or behind any fsspec URL: what is read from it is whole, or is not there.

On local disks a file is written under another name and then renamed. Object stores know no renaming, and other file
systems do not promise that it happens at once, so whatever the reading depends on is also sealed with its checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from rhe_parties.errors import DataError, RheError

__all__ = ["Store", "seal", "unseal"]

_READERS = 8  # files asked for at once; object stores answer each after tens of milliseconds


def seal(content: Any) -> bytes:
    """`content` as JSON (UTF-8), with the checksum that `unseal` looks at."""
    return json.dumps({"sha256": _checksum(content), "content": content}, indent=1).encode() + b"\n"


def unseal(data: bytes | None) -> Any:
    """What was sealed; None where it is missing, cut off or changed."""
    try:
        sealed = json.loads(data or b"")
    except ValueError:
        return None
    if not isinstance(sealed, dict) or sealed.get("sha256") != _checksum(sealed.get("content")):
        return None
    return sealed["content"]


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Store:
    """Files below one folder.

    Args:
        place: path of a local folder, or URL of a file system that fsspec knows.

    Raises:
        DataError: an unknown protocol, or one whose package is not installed.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        try:
            self._files, self._root = fsspec.core.url_to_fs(place)
        except (ValueError, ImportError, OSError) as error:
            raise DataError(f"cannot use output folder {place!r}: {_why(error)}") from error
        except Exception as error:  # every file system has errors of its own
            raise DataError(f"cannot reach output folder {place!r}: {_why(error)}") from error
        self._local = isinstance(self._files, LocalFileSystem)

    def where(self, name: str) -> str:
        """Path or URL of a file, as the user would write it."""
        return f"{self.place.rstrip('/')}/{name}"

    def write(self, name: str, data: bytes) -> None:
        """Put a file there, in place of what it was.

        Raises:
            DataError: disk full, no permission, unreachable; the path is named.
        """
        try:
            if self._local:
                _write_local(Path(self._root) / name, data)
            else:
                self._write_remote(f"{self._root.rstrip('/')}/{name}", data)
        except RheError:
            raise
        except Exception as error:
            raise DataError(f"cannot write {self.where(name)!r}: {_why(error)}") from error

    def _write_remote(self, path: str, data: bytes) -> None:
        try:
            self._files.pipe_file(path, data)
        except FileNotFoundError:  # of those file systems that have folders
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            self._files.pipe_file(path, data)

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where there is none.

        Raises:
            DataError: unreachable or not allowed.
        """
        try:
            data: bytes = self._files.cat_file(f"{self._root.rstrip('/')}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:
            raise DataError(f"cannot read {self.where(name)!r}: {_why(error)}") from error
        return data

    def read_all(self, names: Iterable[str]) -> list[bytes | None]:
        """Several files, in their order; see `read`."""
        with ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(self.read, names))

    def check_writable(self) -> None:
        """Find out now, not after the first cell, whether anything can be written.

        Raises:
            DataError: it cannot; the path is named.
        """
        self.write(".writable", b"")
        try:
            self._files.rm_file(f"{self._root.rstrip('/')}/.writable")
        except Exception as error:
            raise DataError(f"cannot write {self.where('.writable')!r}: {_why(error)}") from error


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # a name must never reach the disk before what it names
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk needs the room
            partial.unlink(missing_ok=True)
        raise


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
