"""Named random streams grown from one root seed.

A stream depends on (root seed, name, indices) alone, never on the order in which streams are made, so results are
the same with any number of workers and over any transport. Encryption randomness is *not* drawn here: SEAL takes it
from the operating system.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["numpy_stream", "stream_seed", "torch_stream"]


def stream_seed(root: int, name: str, *indices: int) -> int:
    """A 63-bit seed that is a function of its arguments only (SHA-256, so neighbouring indices are unrelated)."""
    text = "\x1f".join([str(root), name, *map(str, indices)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def numpy_stream(root: int, name: str, *indices: int) -> np.random.Generator:
    """A NumPy generator (Philox, counter-based) for the named purpose."""
    return np.random.Generator(np.random.Philox(stream_seed(root, name, *indices)))


def torch_stream(root: int, name: str, *indices: int) -> torch.Generator:
    """A CPU torch generator for the named purpose."""
    generator = torch.Generator(device="cpu")
    generator.manual_seed(stream_seed(root, name, *indices))
    return generator
