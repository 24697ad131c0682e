"""Nameless files in memory, for libraries that read and write by path only."""

from __future__ import annotations

import os
from io import FileIO

__all__ = ["memory_file"]


def memory_file(name: str) -> tuple[FileIO, str] | None:
    """An empty file that lies on no disk, and the path under which this process alone opens it.

    The system frees its memory when the file is closed. As all memory it can be swapped out.

    Returns:
        None where the system has no such files (all but Linux) or does not show them below `/proc`.
    """
    if not hasattr(os, "memfd_create"):
        return None
    file = FileIO(os.memfd_create(name, os.MFD_CLOEXEC), "r+b")
    path = f"/proc/self/fd/{file.fileno()}"
    if os.path.exists(path):
        return file, path
    file.close()
    return None
