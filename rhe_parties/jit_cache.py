"""Where compiled kernels are kept: numba refuses to compile for its cache when it finds no folder to write to."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numba

__all__ = ["ensure_cache_folder"]


def ensure_cache_folder(package: Path) -> None:
    """Let numba cache in a temporary folder where neither the package, the home nor a given folder can be written."""
    config: Any = numba.config
    folders = (package / "__pycache__", package, _home())
    if config.CACHE_DIR or any(os.access(folder, os.W_OK) for folder in folders):
        return
    config.CACHE_DIR = tempfile.mkdtemp(prefix="rhe-kernels-")


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a user without a home
        return Path("/nonexistent")
