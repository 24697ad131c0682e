"""Sees secret keys as no code of the package can, so that tests can search for their bytes."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import tenseal.sealapi as sealapi

from rhe_parties.he import sealio


class KeySpy:
    """Stands in for SEAL's key generator and remembers the secret keys that it made."""

    seen: ClassVar[list[Any]] = []
    real = sealapi.KeyGenerator

    def __init__(self, context: Any) -> None:
        self._generator = KeySpy.real(context)

    def secret_key(self) -> Any:
        KeySpy.seen.append(self._generator.secret_key())
        return KeySpy.seen[-1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._generator, name)


def key_words(secret: Any, degree: int) -> bytes:
    """The secret polynomial's residues modulo the first prime, as little-endian words."""
    values = secret.data()
    return np.array([values.data(i) for i in range(degree)], dtype="<u8").tobytes()


def key_needles(secret: Any, degree: int) -> list[bytes]:
    """Stretches of the key's bytes, raw and as SEAL serialises them, long enough not to occur by chance."""
    words = key_words(secret, degree)
    return [sealio.to_bytes(secret)[48:112], words[:64], words[64:128], words[-64:]]
